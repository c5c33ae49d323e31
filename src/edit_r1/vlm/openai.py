"""Any OpenAI-compatible server as a `VLM`: hosted models, vLLM, `transformers serve`, edit-r1's own.

How requests are sent, at once and again, is in `endpoint`; what is sent and read is in `openai_wire`. One request's
failure is one error completion.

n answers are n requests with the seeds seed, seed+1, ..., because `transformers serve` and others ignore n;
`server_n` asks for them in one. Greedy copies are one request. A server that refuses the request for the tokens'
probabilities is asked without, once and from then on.

The key is read from an environment variable, goes into one header, and stands in no message and no record.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from edit_r1.vlm.address import read_address, read_key
from edit_r1.vlm.endpoint import Endpoint, Patience, Served
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.openai_failures import OutOfRoom, Refused
from edit_r1.vlm.openai_wire import (
    OWN_KEYS,
    Answer,
    LimitKey,
    Messages,
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
        patience = Patience(concurrency, timeout_s, max_retries, backoff_s, max_wait_s)
        if taken := {*OWN_KEYS, limit_key} & (extra or {}).keys():
            raise ValueError(f"extra={sorted(taken)}: these keys are set by the sampling parameters")
        try:
            json.dumps(dict(extra or {}), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"extra={dict(extra or {})}: give what JSON has ({error})") from error
        self.name = model
        self.endpoint, host = read_address(endpoint)
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.server_n = server_n
        self._limit_key: LimitKey = limit_key
        self._server_sampling = server_sampling
        self._extra = dict(extra or {})
        self._prices = prices
        self._on_request = on_request
        self._usage = Usage(cost=None if prices is None else 0.0)
        self._usage_lock = threading.Lock()
        self._without_choices = False
        served = Served(
            self.endpoint,
            host,
            "/chat/completions",
            called=model,
            missing=f"is the model {model!r} served there, and does the address end in /v1?",
            key=read_key(api_key_env),
            key_place=api_key_env,
            most_bytes=MAX_RESPONSE_BYTES,
        )
        self._server = Endpoint(served, patience)

    @property
    def capacity(self) -> int:
        """Most requests in flight at once; calls with far fewer leave the server idle."""
        return self.concurrency

    @property
    def limit(self) -> int:
        """Requests that may be in flight at present, 1 to `capacity`: what the server was found to bear."""
        return self._server.limit

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
        yield from self._server.each(enumerate(calls), partial(self._answer, Messages()))

    def check(self) -> None:
        """Asks one short question. Raises ModelError, in one line, when address, key or model are wrong or silent."""
        self._server.run(self._check())

    def give_up(self) -> None:
        """See `PaidVLM.give_up`."""
        self._server.give_up()

    def close(self) -> None:
        """Gives up what is under way and closes the connections."""
        self._server.close()

    async def _answer(self, messages: Messages, job: tuple[int, Call]) -> Answered:
        """One call, which has a place; never raises for what a server does."""
        number, call = job
        try:
            conversation = messages.of(call.request)
        except ValueError as error:  # a picture that cannot be read
            self._server.leave()
            return Answered(number, (Completion("", 0, "error", str(error)),) * call.n, Usage())
        rows, usage = await self._ask(conversation, call.sampling, call.n)
        return Answered(number, rows, usage)

    async def _ask(self, messages: bytes, sampling: Sampling, n: int) -> tuple[tuple[Completion, ...], Usage]:
        """n answers by one request, and what it took."""
        if self._without_choices:
            sampling = replace(sampling, top_logprobs=0)
        answer, retries, problem = await self._post(self._encoded(messages, sampling, n), n)
        if sampling.top_logprobs and isinstance(problem, Refused):  # they break ties: an answer without is worth more
            await self._server.enter(again=True)
            plain = self._encoded(messages, replace(sampling, top_logprobs=0), n)
            answer, again, problem = await self._post(plain, n)
            self._without_choices |= answer is not None
            retries += 1 + again
        usage = self._count(retries, answer)
        if answer is None:
            return (Completion("", 0, "error", str(problem)),) * n, usage
        rows = (
            row if row.error is None else replace(row, error=self._server.told(row.error)) for row in answer.completions
        )
        return tuple(rows), usage

    def _encoded(self, messages: bytes, sampling: Sampling, n: int) -> bytes:
        free = self._server_sampling
        return encode_request(messages, sampling, self.name, n, self._limit_key, self._extra, server_sampling=free)

    async def _check(self) -> None:
        messages = encode_messages(Request(("Answer with one word: are you there?",)))
        await self._server.enter()
        answer, retries, problem = await self._post(self._encoded(messages, Sampling(16, temperature=0.0), 1), 1)
        self._count(retries, answer)
        if problem is not None:
            raise ModelError(str(problem)) from problem

    async def _post(self, content: bytes, n: int) -> tuple[Answer | None, int, Exception | None]:
        """As `Endpoint.post`; what was cut before it began is an answer too."""
        told = await self._server.post(content, "application/json", lambda payload: read_answer(payload, n))
        if isinstance(told[2], OutOfRoom):
            return Answer((Completion("", 0, "length"),) * n, None, None), told[1], None
        return told

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
