"""Any OpenAI-compatible server as a `VLM`: hosted models, vLLM, `transformers serve`, edit-r1's own.

The calls of a program are synchronous, from any thread, also from inside a running event loop; inside, one
`httpx.AsyncClient` works on a private event-loop thread. At most `concurrency` requests are in flight over all calls,
and fewer while the server refuses for load (`openai_pace`). What failed for want of luck (429, 408, 5xx, a time-out, a
dropped connection, a body that is no JSON from a server that has answered before) is sent again, after the pause the
server asks for by Retry-After, which all requests keep, else after a growing pause with jitter; everything else fails
at once. A request that pauses for long holds no place of another. A server that was never reached is not waited for, so
a wrong address is told at once. One request's failure is one error completion.

n answers are n requests with the seeds seed, seed+1, ..., because `transformers serve` and others ignore n;
`server_n` asks for them in one. Greedy copies are one request. A server that refuses the request for the tokens'
probabilities is asked without, once and from then on. What is sent and read is in `openai_wire`.

The key is read from an environment variable, goes into one header, and stands in no message and no record.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx

from edit_r1.vlm.address import is_loopback, read_address, read_key
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.lanes import Lanes
from edit_r1.vlm.openai_failures import Asked, Failed, Refused, Unlucky, status_problem
from edit_r1.vlm.openai_pace import Pace
from edit_r1.vlm.openai_wire import (
    OWN_KEYS,
    Answer,
    LimitKey,
    Messages,
    NoAnswer,
    encode_messages,
    encode_request,
    read_answer,
)
from edit_r1.vlm.paid import Answered, Call, rows_of
from edit_r1.vlm.protocol import Completion, Request, Sampling, check_sampling
from edit_r1.vlm.usage import Prices, Usage

__all__ = ["LimitKey", "OpenAIVLM", "Prices", "Usage"]

MAX_RESPONSE_BYTES = 64 * 2**20
"""Largest response that is read: 4,096 tokens with 20 alternatives each are some 10 MB."""

QUEUED = 0.1
"""What a refusal with Retry-After counts as of a failed attempt, where others were answered since the last one: such a
request has to queue and is not broken. Above 0, because a server may refuse one request for ever."""

Result = TypeVar("Result")


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
        server_sampling: bool = False,
        prices: Prices | None = None,
        extra: Mapping[str, Any] | None = None,
        on_request: Callable[[Usage], None] | None = None,
    ) -> None:
        """Opens no connection yet; `check` asks a first question.

        Args:
            endpoint: the address up to and with its version, "http://127.0.0.1:8000/v1"; a bare host gets "/v1".
            model: as the server names it; what judgments record.
            api_key_env: environment variable that holds the key; no key is sent when it is not set.
            concurrency: most requests in flight at once.
            timeout_s: seconds for one attempt, from sending to the last byte. A request that stalls holds a place of
                `concurrency` for so long.
            max_retries: how often a request is sent again; to queue while others are answered hardly counts (`QUEUED`).
            backoff_s: the pause before the first retry is up to this, then doubles; each is drawn anew.
            max_wait_s: longest pause, seconds; a server that asks for a longer one has failed.
            server_n: the server honours n (vLLM, api.openai.com): n answers are one request.
            limit_key: how the longest answer is named; hosted reasoning models want "max_completion_tokens".
            server_sampling: temperature, top_p, top_k, repetition_penalty and seed are not sent, for models that take
                none (hosted reasoning models): they sample as they like, and a greedy answer is not greedy.
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
        self.endpoint, host = read_address(endpoint)
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.server_n = server_n
        self._limit_key: LimitKey = limit_key
        self._server_sampling = server_sampling
        self._extra = dict(extra or {})
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._backoff_s, self._max_wait_s = backoff_s, max_wait_s
        self._prices = prices
        self._on_request = on_request
        self._usage = Usage(cost=None if prices is None else 0.0)
        self._usage_lock = threading.Lock()
        self._key = read_key(api_key_env)
        self._reached = False
        self._without_choices = False
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        self._lanes = Lanes(
            headers,
            httpx.Timeout(timeout_s, connect=min(10.0, timeout_s), pool=None),
            trust_env=not is_loopback(host),  # a proxy for the world is none for this machine
        )
        self._pace = Pace(concurrency)
        self._open = asyncio.Semaphore(2 * concurrency)  # calls begun, those that wait to be sent again included
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"edit-r1 {model}", daemon=True)
        self._thread.start()
        self._closed = False

    @property
    def capacity(self) -> int:
        """Most requests in flight at once; calls with far fewer leave the server idle."""
        return self.concurrency

    @property
    def limit(self) -> int:
        """Requests that may be in flight at present, 1 to `capacity`: what the server was found to bear."""
        return self._pace.limit

    @property
    def settings(self) -> str:
        """What shapes an answer beside the model's name and the request. Not the address: models move."""
        told = self._extra | ({"server_sampling": True} if self._server_sampling else {})
        return json.dumps(told, sort_keys=True) if told else ""

    @property
    def priced(self) -> bool:
        return self._prices is not None

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
        each = [self.calls(request, sampling, n) for request in requests]
        calls = [call for own in each for call in own]
        answers = {one.number: one.completions for one in self.answer_each(calls)}
        ordered = iter([answers[number] for number in range(len(calls))])
        return [rows_of([next(ordered) for _ in own], n) for own in each]

    def calls(self, request: Request, sampling: Sampling, n: int) -> list[Call]:
        """See `PaidVLM.calls`."""
        if sampling.temperature == 0:
            return [Call(request, sampling)]
        if self.server_n:
            return [Call(request, sampling, n)]
        return [Call(request, replace(sampling, seed=seed)) for seed in range(sampling.seed, sampling.seed + n)]

    def answer_each(self, calls: Iterable[Call]) -> Iterator[Answered]:
        """See `PaidVLM.answer_each`. Giving it up cancels what is under way. Raises ModelError after `close`."""
        arrived: SimpleQueue[Answered | None] = SimpleQueue()
        future = self._start(self._deal(iter(calls), arrived))
        try:
            while (one := arrived.get()) is not None:
                yield one
            future.result()
        finally:
            future.cancel()

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

    def _start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        if self._closed:
            work.close()
            raise ModelError(f"{self.endpoint}: this connection was closed: make a new one")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = self._start(work)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting
            future.cancel()
            raise

    async def _shut(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lanes.close()

    async def _deal(self, calls: Iterator[Call], arrived: SimpleQueue[Answered | None]) -> None:
        """Sends each call when there is a place for it, and hands over what comes; None is the end."""
        problem: Exception | None = None
        number, messages = 0, Messages()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._open.acquire()
                    await self._pace.enter()
                    call: Call | None = None
                    try:
                        call = next(calls, None)
                    except Exception as error:  # the caller's: told to it when what is under way has ended
                        problem = error
                    if call is None:
                        self._pace.leave()
                        self._open.release()
                        break
                    group.create_task(self._answer(number, call, messages, arrived))
                    number += 1
            if problem is not None:
                raise problem
        except ExceptionGroup as group:  # of `on_request`, the caller's too
            raise group.exceptions[0] from None
        finally:
            arrived.put(None)

    async def _answer(self, number: int, call: Call, messages: Messages, arrived: SimpleQueue[Answered | None]) -> None:
        """One call, which has a place; never raises for what a server does."""
        try:
            try:
                conversation = messages.of(call.request)
            except ValueError as error:  # a picture that cannot be read
                self._pace.leave()
                rows, usage = (Completion("", 0, "error", str(error)),) * call.n, Usage()
            else:
                rows, usage = await self._ask(conversation, call.sampling, call.n)
            arrived.put(Answered(number, rows, usage))
        finally:
            self._open.release()

    async def _ask(self, messages: bytes, sampling: Sampling, n: int) -> tuple[tuple[Completion, ...], Usage]:
        """n answers by one request, and what it took."""
        if self._without_choices:
            sampling = replace(sampling, top_logprobs=0)
        answer, retries, problem = await self._post(self._encoded(messages, sampling, n), n)
        if sampling.top_logprobs and isinstance(problem, Refused):  # they break ties: an answer without is worth more
            await self._pace.enter(again=True)
            plain = self._encoded(messages, replace(sampling, top_logprobs=0), n)
            answer, again, problem = await self._post(plain, n)
            self._without_choices |= answer is not None
            retries += 1 + again
        usage = self._count(retries, answer)
        if answer is None:
            return (Completion("", 0, "error", str(problem)),) * n, usage
        rows = (row if row.error is None else replace(row, error=self._told(row.error)) for row in answer.completions)
        return tuple(rows), usage

    def _encoded(self, messages: bytes, sampling: Sampling, n: int) -> bytes:
        free = self._server_sampling
        return encode_request(messages, sampling, self.name, n, self._limit_key, self._extra, server_sampling=free)

    async def _check(self) -> None:
        messages = encode_messages(Request(("Answer with one word: are you there?",)))
        await self._pace.enter()
        answer, retries, problem = await self._post(self._encoded(messages, Sampling(16, temperature=0.0), 1), 1)
        self._count(retries, answer)
        if problem is not None:
            raise ModelError(str(problem)) from problem

    async def _post(self, content: bytes, n: int) -> tuple[Answer | None, int, Exception | None]:
        """One request, which has a place, with its retries: (its answer, or None; how often it was sent again; why
        there is no answer)."""
        sent, failed, answered = 0, 0.0, self._pace.answered
        while True:
            if sent:
                await self._pace.enter(again=True)
            sent += 1
            try:
                answer = self._read_answer(await self._once(content), n)
                self._pace.note("answered")
                return answer, sent - 1, None
            except Unlucky as error:
                self._pace.note("refused" if error.load else "other")
                queued = error.after is not None and error.load and self._pace.answered > answered
                failed += QUEUED if queued else 1
                if failed > self._max_retries:
                    return None, sent - 1, error
                pause, answered = self._pause(error, failed), self._pace.answered
                if error.after is not None:
                    self._pace.close_for(error.after)
                elif error.load:  # keeping its place for a while: another one would only be refused too
                    kept = min(pause, self._backoff_s)
                    await asyncio.sleep(kept)
                    pause -= kept
            except (Failed, NoAnswer) as error:
                return None, sent - 1, error
            finally:
                self._pace.leave()
            await asyncio.sleep(pause)

    def _pause(self, error: Unlucky, failed: float) -> float:
        """Seconds until a request is sent again: what the server asks for and a little more, else up to a growing
        bound."""
        jitter = random.random()  # so that many clients do not come back at the same instant
        if error.after is not None:
            return error.after + jitter * self._backoff_s
        return jitter * min(self._max_wait_s, self._backoff_s * 2 ** (math.ceil(failed) - 1))

    def _read_answer(self, payload: bytes, n: int) -> Answer:
        """Raises NoAnswer for what is none, Unlucky instead where the server has answered before."""
        try:
            return read_answer(payload, n)
        except NoAnswer as error:
            told = self._told(str(error))
            raise (Unlucky if self._pace.answered else NoAnswer)(told) from None

    async def _once(self, content: bytes) -> bytes:
        """One attempt: the body of a response with status 200."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._lanes.one() as client,
                client.stream("POST", f"{self.endpoint}/chat/completions", content=content) as response,
            ):
                payload = await self._read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise Unlucky(self._told(f"no answer within {self._timeout_s:g} s"), load=True) from None
        except httpx.ConnectError as error:
            reason = self._told(f"cannot be reached ({error}): is the server running there?")
            raise (Unlucky if self._reached else Failed)(reason) from None
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Unlucky(self._told(f"the connection broke ({error or type(error).__name__})")) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Failed(self._told(f"{type(error).__name__} {error}")) from None
        self._reached = True
        asked = Asked(self.name, self.api_key_env, self._key is not None, self._max_wait_s)
        if problem := status_problem(response, payload, asked):
            problem.args = (self._told(str(problem)),)
            raise problem
        return payload

    async def _read(self, response: httpx.Response) -> bytes:
        payload = bytearray()
        async for piece in response.aiter_bytes():
            payload += piece
            if len(payload) > MAX_RESPONSE_BYTES:
                raise Failed(self._told(f"the response is longer than {MAX_RESPONSE_BYTES} bytes"))
        return bytes(payload)

    def _told(self, reason: str) -> str:
        """One line that begins with the address and never holds the key."""
        line = f"{self.endpoint}: {' '.join(reason.split())}"
        return line.replace(self._key, "***") if self._key else line

    def _count(self, retries: int, answer: Answer | None) -> Usage:
        """What one request took, noted."""
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
        return one
