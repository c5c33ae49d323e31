"""What every protocol asks for: judgments of items, and completions of chats, through one batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest

from edit_r1.images import Limits
from edit_r1.records import Judgment, Unparsed
from edit_r1.serve.batching import Batcher, BatchLimits, Busy, CallFailed, Job
from edit_r1.serve.intake import Incoming, Reader, Ready
from edit_r1.serve.metrics import Metrics
from edit_r1.serve.settings import ServeSettings
from edit_r1.verifier.judgments import failed
from edit_r1.verifier.parsing import NO_ANSWER
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.vlm.paid import PaidVLM
from edit_r1.vlm.protocol import Completion, Request, Sampling

Accepts = Callable[[ScoreItem], str | None]
"""Why the model must not be asked about an item; None when it may be."""


@dataclass(frozen=True)
class Judging:
    """How items are judged; those judged in one call share it."""

    traces: int
    temperature: float
    seed: int
    expected: bool = False
    """Whether the model is asked for the probabilities of its tokens too."""
    alone: int | None = None
    """A number of its own keeps an item out of others' calls; None lets it share them."""


@dataclass(frozen=True)
class Chatting:
    """How chats are answered; those answered in one call share it."""

    sampling: Sampling
    n: int


class Service:
    """A verifier behind a batcher. Lives in one event loop."""

    def __init__(self, verifier: Verifier, settings: ServeSettings, accepts: Accepts | None = None) -> None:
        self.verifier = verifier
        self.settings = settings
        self.metrics = Metrics()
        limits = BatchLimits(
            settings.batch_size, int(settings.batch_megapixels * 1e6), settings.max_wait_ms / 1000, settings.queue
        )
        self.batcher = Batcher(self._work, limits, self.metrics, settings.calls or 1, self._lost)
        self._accepts = accepts
        self._images = Limits(settings.max_image_mb * 2**20, int(settings.max_megapixels * 1e6))
        self._numbers = count()
        self._open = 0

    @property
    def idle(self) -> bool:
        """True when no request waits for the model, not even for a second judgment."""
        return self._open == 0

    def judging(
        self, traces: int | None = None, temperature: float | None = None, seed: int = 0, expected: bool = False
    ) -> Judging:
        """The caller's wishes with the server's defaults: one trace is greedy, several are sampled at 1."""
        asked = self.settings.traces if traces is None else traces
        default = 0.0 if asked == 1 else 1.0
        return Judging(asked, default if temperature is None else temperature, seed, expected)

    async def judge(
        self, items: Sequence[Incoming], asked: Judging, http: HTTPRequest, again: bool = False
    ) -> list[Judgment]:
        """One judgment per item, in order; an item that cannot be judged has no score, and `reason` says why.

        Items whose call failed are judged once more, by themselves: one that breaks a call costs its neighbours
        nothing. again: so are items whose answer was unusable, by a sampled trace of another seed (a greedy one
        would be the same). Items that were refused unread are not.

        Raises HTTPException for too many items, a full or a stopping server.
        """
        if len(items) > self.settings.max_items:
            raise HTTPException(413, f"{len(items)} items, at most {self.settings.max_items} in one request: split it")
        with self._counted():
            return await self._judge(items, asked, http, again)

    async def chat(self, request: Request, pixels: int, asked: Chatting, http: HTTPRequest) -> list[Completion] | None:
        """The completions of one chat; None when the call of the model failed twice."""
        job = Job(asked, request, asked.n, pixels)
        with self._counted():
            for accepted in (False, True):
                (answer,) = await self._answers([job], http, accepted)
                if not isinstance(answer, CallFailed):
                    completions: list[Completion] = answer
                    return completions
        return None

    def read_image(self, text: str, label: str) -> tuple[bytes, int]:
        """The encoded image in a base64 text, and its pixels. Raises ValueError."""
        return Reader(self._images).image(text, label)

    # --- steps --------------------------------------------------------------------------------------------------

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _judge(self, items: Sequence[Incoming], asked: Judging, http: HTTPRequest, again: bool) -> list[Judgment]:
        read = await run_in_threadpool(self._read, items)
        ready = {place: one for place, one in enumerate(read) if isinstance(one, Ready)}
        judgments = {
            place: self._failed(one, asked.traces) for place, one in enumerate(read) if not isinstance(one, Ready)
        }
        self.metrics.items.labels("refused").inc(len(judgments))
        judged = await self._judge_ready(ready, dict.fromkeys(ready, asked), http)
        tries = {
            place: self._second_try(asked, one)
            for place, one in judged.items()
            if one.score is None and (again or _failed_call(one))
        }
        once_more = {place: ready[place] for place in tries}
        judged |= await self._judge_ready(once_more, tries, http, accepted=True)
        for one in judged.values():
            self._count(one)
        judgments |= judged
        return [judgments[place] for place in range(len(items))]

    def _read(self, items: Sequence[Incoming]) -> list[Ready | str]:
        reader = Reader(self._images)
        read: list[Ready | str] = []
        for item in items:
            try:
                read.append(reader.read(item))
            except ValueError as error:
                read.append(" ".join(str(error).split()))
        return read

    async def _judge_ready(
        self, ready: dict[int, Ready], asked: dict[int, Judging], http: HTTPRequest, accepted: bool = False
    ) -> dict[int, Judgment]:
        """Judgments by place."""
        jobs = [Job(asked[place], one.item, asked[place].traces, one.pixels) for place, one in ready.items()]
        answers = await self._answers(jobs, http, accepted)
        return {
            place: self._failed(answer.reason, asked[place].traces) if isinstance(answer, CallFailed) else answer
            for place, answer in zip(ready, answers, strict=True)
        }

    async def _answers(self, jobs: Sequence[Job], http: HTTPRequest, accepted: bool) -> list[Any]:
        """The batcher's answers; the jobs are dropped when the client goes away."""
        if not jobs:
            return []
        try:
            futures = self.batcher.submit(jobs, accepted)
        except Busy as busy:
            self.metrics.rejected.labels(busy.refusal.kind).inc()
            headers = {"Retry-After": str(busy.refusal.retry_after)}
            raise HTTPException(busy.refusal.status, busy.refusal.reason, headers) from None
        gone = asyncio.ensure_future(_gone(http))
        try:
            while open_ := [future for future in futures if not future.done()]:
                await asyncio.wait([*open_, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not all(future.done() for future in futures):
                    raise HTTPException(499, "the client has gone")
            return [future.result() for future in futures]
        finally:
            gone.cancel()
            self.batcher.forget([future for future in futures if not future.done()])

    def _second_try(self, asked: Judging, first: Judgment) -> Judging:
        if any(isinstance(outcome, Unparsed) and not outcome.failed_call for outcome in first.outcomes):
            return replace(asked, temperature=asked.temperature or 1.0, seed=asked.seed + 1)
        return replace(asked, alone=next(self._numbers))

    def _count(self, judgment: Judgment) -> None:
        self.metrics.unparsed_traces.inc(judgment.unparsed)
        if judgment.score is not None:
            outcome = "scored"
        elif _failed_call(judgment):
            outcome = "failed"
        else:
            outcome = "unparsed"
        self.metrics.items.labels(outcome).inc()

    def _failed(self, reason: str, traces: int) -> Judgment:
        vlm = self.verifier.vlm
        return failed(Unparsed("", reason, failed_call=True), traces, (), vlm.name, vlm.simulated)

    # --- on a worker thread -------------------------------------------------------------------------------------

    def _work(self, key: Judging | Chatting, payloads: Sequence[Any]) -> Sequence[Any]:
        if isinstance(key, Chatting):
            return self.verifier.vlm.generate(payloads, key.sampling, key.n)
        reasons = [self._reason_not_to_ask(item) for item in payloads]
        asked = [item for item, reason in zip(payloads, reasons, strict=True) if reason is None]
        judged = iter(self.verifier.score_many(asked, key.traces, key.temperature, key.seed, expected=key.expected))
        return [next(judged) if reason is None else self._failed(reason, key.traces) for reason in reasons]

    def _lost(self, results: Sequence[Any]) -> bool:
        """A call of an endpoint that is gone does not raise: it comes back without an answer to anything."""
        return isinstance(self.verifier.vlm, PaidVLM) and bool(results) and all(map(_unanswered, results))

    def _reason_not_to_ask(self, item: ScoreItem) -> str | None:
        if self._accepts is None:
            return None
        try:
            return self._accepts(item)
        except ValueError as error:  # an image whose header was fine and whose pixels are not
            return " ".join(str(error).split())


def _failed_call(judgment: Judgment) -> bool:
    return all(isinstance(one, Unparsed) and one.failed_call for one in judgment.outcomes)


def _unanswered(result: Judgment | Sequence[Completion]) -> bool:
    """Whether the model was asked and said nothing; False for an item that was not sent to it."""
    if isinstance(result, Judgment):
        return _failed_call(result) and NO_ANSWER in (reason(result) or "")
    return all(one.finish == "error" for one in result)


def reason(judgment: Judgment) -> str | None:
    """Why a judgment has no score; None when it has one."""
    if judgment.score is not None:
        return None
    return next(one.reason for one in judgment.outcomes if isinstance(one, Unparsed))


async def _gone(http: HTTPRequest) -> None:
    """Returns when the client has disconnected; to be called after the body was read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
