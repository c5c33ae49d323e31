"""Any OpenAI-compatible server as a `VLM`: hosted models, vLLM, `transformers serve`, edit-r1's own.

The calls of a program are synchronous, from any thread, also from inside a running event loop; inside, one
`httpx.AsyncClient` works on a private event-loop thread, with at most `concurrency` requests in flight over all
calls. What failed for want of luck (429, 408, 5xx, a time-out, a dropped connection) is sent again, after the pause the
server asks for by Retry-After, else after a growing pause with jitter; everything else fails at once. A server that was
never reached is not waited for, so a wrong address is told at once. One request's failure is one error completion.

n answers are n requests with the seeds seed, seed+1, ..., because `transformers serve` and others ignore n;
`server_n` asks for them in one. Greedy copies are one request. What is sent and read is in `openai_wire`.

The key is read from an environment variable, goes into one header, and stands in no message and no record.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import tenacity

from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.openai_wire import (
    OWN_KEYS,
    Answer,
    LimitKey,
    NoAnswer,
    error_code,
    one_line,
    read_answer,
    request_body,
    retry_after,
    server_words,
)
from edit_r1.vlm.protocol import Completion, Request, Sampling, check_sampling

__all__ = ["OpenAIVLM", "Prices", "Usage"]

MAX_RESPONSE_BYTES = 64 * 2**20
"""Largest response that is read: 4,096 tokens with 20 alternatives each are some 10 MB."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prices:
    """What a provider asks, in any currency, per million tokens; discounts for cached prompts are not known here."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.completion >= 0):
            raise ValueError(
                f"prices {self.prompt} and {self.completion}: give amounts of 0 or more per million tokens"
            )


@dataclass(frozen=True)
class Usage:
    """What requests have taken; of one request, or the sum of many."""

    requests: int = 0
    """Requests, answered or given up; what was sent again is not counted anew."""
    retries: int = 0
    """How often a request was sent again."""
    failures: int = 0
    """Requests of which at least one answer is an error."""
    unmetered: int = 0
    """Answers for which the server told no token counts: they are missing in the sums below."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Generated tokens, those of reasoning included where the server counts them."""
    cost: float | None = None
    """In the currency of `Prices`, of the counted tokens; None without prices."""

    def __add__(self, other: Usage) -> Usage:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            self.requests + other.requests,
            self.retries + other.retries,
            self.failures + other.failures,
            self.unmetered + other.unmetered,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(known) if known else None,
        )


class _Failed(Exception):
    """A request that failed; the message is one line without the key."""


class _Unlucky(_Failed):
    """A failure that may pass."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after
        """Seconds that the server asks to wait; None when it asks for none."""


class OpenAIVLM:
    """A served model as a `VLM`. Calls from several threads share the connections and the limit of requests."""

    simulated = False

    def __init__(
        self,
        endpoint: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        backoff_s: float = 0.5,
        max_wait_s: float = 60.0,
        server_n: bool = False,
        limit_key: LimitKey = "max_tokens",
        prices: Prices | None = None,
        extra: Mapping[str, Any] | None = None,
        on_request: Callable[[Usage], None] | None = None,
    ) -> None:
        """Opens no connection yet; `check` asks a first question.

        Args:
            endpoint: the address up to and with its version, "http://127.0.0.1:8000/v1"; a bare host gets "/v1".
            model: as the server names it; what judgments record.
            api_key_env: environment variable that holds the key; no key is sent when it is not set.
            concurrency: requests in flight at once.
            timeout_s: seconds for one attempt, from sending to the last byte.
            max_retries: how often a request is sent again.
            backoff_s: the pause before the first retry is up to this, then doubles; each is drawn anew.
            max_wait_s: longest pause, seconds; a server that asks for a longer one has failed.
            server_n: the server honours n (vLLM, api.openai.com): n answers are one request.
            prices: for `Usage.cost`.
            extra: further keys of the request's JSON, such as {"chat_template_kwargs": {"enable_thinking": False}}.
            on_request: called with the usage of every request as it ends, on a thread of this object.

        Raises ModelError for an address or a key that cannot be one, ValueError for a number out of range.
        """
        for name, value, least in (("concurrency", concurrency, 1), ("max_retries", max_retries, 0)):
            if value < least:
                raise ValueError(f"{name}={value}: use {least} or more")
        for name, seconds in (("timeout_s", timeout_s), ("backoff_s", backoff_s), ("max_wait_s", max_wait_s)):
            if not seconds > 0:
                raise ValueError(f"{name}={seconds}: use seconds above 0")
        if taken := {*OWN_KEYS, limit_key} & (extra or {}).keys():
            raise ValueError(f"extra={sorted(taken)}: these keys are set by the sampling parameters")
        self.name = model
        self.endpoint, host = _address(endpoint)
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.server_n = server_n
        self._limit_key = limit_key
        self._extra = dict(extra or {})
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._backoff_s, self._max_wait_s = backoff_s, max_wait_s
        self._prices = prices
        self._on_request = on_request
        self._usage = Usage(cost=None if prices is None else 0.0)
        self._usage_lock = threading.Lock()
        self._key = _key(api_key_env)
        self._reached = False
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s), pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=not _is_loopback(host),  # a proxy for the world is none for this machine
        )
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"edit-r1 {model}", daemon=True)
        self._thread.start()
        self._closed = False

    @property
    def capacity(self) -> int:
        """Requests in flight at once; calls with far fewer leave the server idle."""
        return self.concurrency

    @property
    def usage(self) -> Usage:
        """The sum over all requests so far."""
        with self._usage_lock:
            return self._usage

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """n answers per request, in the order of the requests; see `VLM.generate`.

        Raises ValueError for sampling parameters out of range, ModelError after `close`.
        """
        check_sampling(sampling, n)
        return self._run(self._all(requests, sampling, n))

    def check(self) -> None:
        """Asks one short question. Raises ModelError, in one line, when address, key or model are wrong or silent."""
        self._run(self._check())

    def close(self) -> None:
        """Gives up what is under way and closes the connections."""
        if self._closed:
            return
        self._run(self._shut())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._closed:
            work.close()
            raise ModelError(f"{self.endpoint}: this connection was closed: make a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting
            future.cancel()
            raise

    async def _shut(self) -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
        await self._client.aclose()

    async def _all(self, requests: Sequence[Request], sampling: Sampling, n: int) -> list[list[Completion]]:
        return list(await asyncio.gather(*(self._row(request, sampling, n) for request in requests)))

    async def _row(self, request: Request, sampling: Sampling, n: int) -> list[Completion]:
        """The n answers of one request."""
        if sampling.temperature == 0:
            return await self._ask(request, sampling, 1) * n
        if self.server_n:
            return await self._ask(request, sampling, n)
        seeds = range(sampling.seed, sampling.seed + n)
        rows = await asyncio.gather(*(self._ask(request, replace(sampling, seed=seed), 1) for seed in seeds))
        return [completion for row in rows for completion in row]

    async def _ask(self, request: Request, sampling: Sampling, n: int) -> list[Completion]:
        """n answers by one request; never raises for what a server does."""
        async with self._slots:
            try:
                body = request_body(request, sampling, self.name, n, self._limit_key, self._extra)
                answer = await self._post(body, n)
                return [row if row.error is None else replace(row, error=self._told(row.error))
                        for row in answer.completions]  # fmt: skip
            except (ValueError, _Failed) as error:  # a picture that cannot be read, or no answer
                return [Completion("", 0, "error", str(error))] * n

    async def _check(self) -> None:
        question = Request(("Answer with one word: are you there?",))
        async with self._slots:
            try:
                body = request_body(question, Sampling(16, temperature=0.0), self.name, 1, self._limit_key, self._extra)
                await self._post(body, 1)
            except (_Failed, NoAnswer) as error:
                raise ModelError(str(error)) from error

    async def _post(self, body: Mapping[str, Any], n: int) -> Answer:
        """One request with its retries, counted. Raises _Failed, or NoAnswer for a response that is none."""
        content = json.dumps(body).encode()
        tries = 0
        answer: Answer | None = None
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._max_retries + 1),
            retry=tenacity.retry_if_exception_type(_Unlucky),
            wait=self._pause,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    tries += 1
                    payload = await self._once(content)
            try:
                answer = read_answer(payload, n)
            except NoAnswer as error:
                raise NoAnswer(self._told(str(error))) from None
            return answer
        finally:
            self._count(max(0, tries - 1), answer)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the next attempt: what the server asks for and a little more, else up to a growing bound."""
        error = state.outcome.exception() if state.outcome is not None else None
        jitter = random.random()  # so that many clients do not come back at the same instant
        if isinstance(error, _Unlucky) and error.after is not None:
            return error.after + jitter * self._backoff_s
        return jitter * min(self._max_wait_s, self._backoff_s * 2 ** (state.attempt_number - 1))

    async def _once(self, content: bytes) -> bytes:
        """One attempt: the body of a response with status 200."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", f"{self.endpoint}/chat/completions", content=content) as response,
            ):
                payload = await self._read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise _Unlucky(self._told(f"no answer within {self._timeout_s:g} s")) from None
        except httpx.ConnectError as error:
            reason = self._told(f"cannot be reached ({error}): is the server running there?")
            raise (_Unlucky if self._reached else _Failed)(reason) from None
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise _Unlucky(self._told(f"the connection broke ({error or type(error).__name__})")) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise _Failed(self._told(f"{type(error).__name__} {error}")) from None
        self._reached = True
        self._check_status(response, payload)
        return payload

    async def _read(self, response: httpx.Response) -> bytes:
        payload = bytearray()
        async for piece in response.aiter_bytes():
            payload += piece
            if len(payload) > MAX_RESPONSE_BYTES:
                raise _Failed(self._told(f"the response is longer than {MAX_RESPONSE_BYTES} bytes"))
        return bytes(payload)

    def _check_status(self, response: httpx.Response, payload: bytes) -> None:
        """Raises for every status but 200: _Unlucky for what may pass."""
        status = response.status_code
        if status == 200:
            return
        if status in (401, 403):  # the server's own words may quote the key
            refused = f"refuses the key in {self.api_key_env}" if self._key else f"wants a key: set {self.api_key_env}"
            raise _Failed(self._told(f"{refused} ({status})"))
        words = server_words(payload)
        told = self._told(f"{status} {response.reason_phrase}".strip() + (f": {words}" if words else ""))
        if status == 404:
            raise _Failed(f"{told}; is the model {self.name!r} served there, and does the address end in /v1?")
        if 300 <= status < 400:
            target = one_line(response.headers.get("location", "?"))
            raise _Failed(self._told(f"redirects to {target}: give that address"))
        if (status not in (408, 429) and status < 500) or error_code(payload) == "insufficient_quota":
            raise _Failed(told)
        after = retry_after(response.headers.get("retry-after"))
        if after is not None and after > self._max_wait_s:
            raise _Failed(f"{told}; asks to come back in {after:.0f} s")
        raise _Unlucky(told, after)

    def _told(self, reason: str) -> str:
        """One line that begins with the address and never holds the key."""
        line = f"{self.endpoint}: {' '.join(reason.split())}"
        return line.replace(self._key, "***") if self._key else line

    def _count(self, retries: int, answer: Answer | None) -> None:
        prompt = completion = 0
        if answer is not None:
            prompt, completion = answer.prompt_tokens or 0, answer.completion_tokens or 0
        cost = None
        if self._prices is not None:
            cost = (prompt * self._prices.prompt + completion * self._prices.completion) / 1e6
        one = Usage(
            requests=1,
            retries=retries,
            failures=int(answer is None or any(row.finish == "error" for row in answer.completions)),
            unmetered=int(answer is not None and None in (answer.prompt_tokens, answer.completion_tokens)),
            prompt_tokens=prompt,
            completion_tokens=completion,
            cost=cost,
        )
        with self._usage_lock:
            self._usage += one
        if self._on_request is not None:
            self._on_request(one)


def _address(endpoint: str) -> tuple[str, str]:
    """(address up to "/chat/completions", host). Raises ModelError for what is no such address."""
    remedy = "give an address such as http://127.0.0.1:8000/v1"
    try:
        url = httpx.URL(endpoint.strip())
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ModelError(f"endpoint {endpoint!r}: not an address ({error}); {remedy}") from error
    if url.userinfo:  # said without quoting it
        raise ModelError(f"the endpoint at {url.host} holds a user or password: put a key into an environment variable")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ModelError(f"endpoint {endpoint!r}: {remedy}")
    path = url.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return str(url.copy_with(path=path)).rstrip("/"), url.host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(variable: str) -> str | None:
    """The key in an environment variable, None for no key. Raises ModelError, not quoting it, for a malformed one."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= sign <= "~" for sign in key):
        raise ModelError(f"{variable}: holds spaces or signs that no key has: set it anew")
    return key or None
