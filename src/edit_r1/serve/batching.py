"""Dynamic batching: jobs that arrive together are done together, in one call on a worker thread.

Jobs of different keys never share a call. The oldest job decides which key is next, so none starves. A batch closes
when it is full or when its oldest job has waited long enough; while as many calls run as may, the next batch gathers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edit_r1.serve.metrics import Metrics
from edit_r1.web.guard import Refusal

LOG = logging.getLogger("edit_r1.serve")

DEGRADED_AFTER = 3
"""Failed calls in a row after which the server calls itself degraded."""


@dataclass(frozen=True)
class Job:
    """One thing to be done."""

    key: Hashable
    """Jobs may share a call when their keys are equal."""
    payload: Any
    sequences: int
    """Texts the model writes for it."""
    pixels: int
    """Pixels that are decoded for it."""


@dataclass(frozen=True)
class BatchLimits:
    """When a batch is full, and when the queue is."""

    sequences: int
    pixels: int
    seconds: float
    """Longest wait for company."""
    queue: int
    """Most jobs waiting."""


@dataclass(frozen=True)
class CallFailed:
    """In place of a result: the call raised."""

    reason: str


class Busy(Exception):
    """The jobs were not taken; `refusal` says why and when to come again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: Job
    future: asyncio.Future[Any]
    since: float
    """On the loop's clock."""


class Batcher:
    """A bounded queue before worker threads. All methods but `_call` belong to the event loop's thread."""

    def __init__(
        self,
        work: Callable[[Any, Sequence[Any]], Sequence[Any]],
        limits: BatchLimits,
        metrics: Metrics,
        calls: int = 1,
        lost: Callable[[Sequence[Any]], bool] = lambda results: False,
    ) -> None:
        """
        Args:
            work: (key, payloads) to one result per payload, in order; called on `calls` threads at once.
            lost: whether the results of a call say that the model gave no answer to any of them.
        """
        self._work = work
        self._lost = lost
        self._limits = limits
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._calls = calls
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="judge")
        self._under_way: set[asyncio.Task[None]] = set()
        self._accepting = True
        self._unanswered = 0
        self._seconds_per_job = 0.1
        self.failures_in_a_row = 0

    @property
    def queued(self) -> int:
        """Jobs waiting."""
        return len(self._waiting)

    @property
    def calling(self) -> bool:
        """True while a worker thread is inside a call."""
        return bool(self._under_way)

    @property
    def accepting(self) -> bool:
        return self._accepting

    @property
    def idle(self) -> bool:
        """True when every accepted job has its result."""
        return self._unanswered == 0

    @property
    def degraded(self) -> bool:
        return self.failures_in_a_row >= DEGRADED_AFTER

    def stop_accepting(self) -> None:
        """From now on only accepted jobs are done, and batches no longer wait for company."""
        self._accepting = False
        self._arrived.set()

    def refusal(self, jobs: int = 1) -> Refusal | None:
        """Why `jobs` more jobs would not be taken now; None when they would."""
        if not self._accepting:
            return Refusal(503, "the server is stopping: try another one, or this one later", "stopping", 5)
        if len(self._waiting) + jobs > self._limits.queue:
            wait = math.ceil(len(self._waiting) * self._seconds_per_job)
            reason = f"{len(self._waiting)} items are waiting, at most {self._limits.queue} may: try again"
            return Refusal(503, reason, "queue_full", min(60, max(1, wait)))
        return None

    def submit(self, jobs: Sequence[Job], accepted: bool = False) -> list[asyncio.Future[Any]]:
        """A future per job, in order, for its result or `CallFailed`; a cancelled future's job is dropped.

        accepted: the jobs belong to a request that was taken before, and are not refused. Raises `Busy`.
        """
        if not accepted and (refusal := self.refusal(len(jobs))) is not None:
            raise Busy(refusal)
        loop = asyncio.get_running_loop()
        new = [_Waiting(job, loop.create_future(), loop.time()) for job in jobs]
        for one in new:
            one.future.add_done_callback(self._answered)
        self._unanswered += len(new)
        self._waiting.extend(new)
        self._metrics.queued.set(len(self._waiting))
        self._arrived.set()
        return [one.future for one in new]

    def forget(self, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Drops jobs whose client has gone."""
        if futures:
            for future in futures:
                future.cancel()
            self._drop_cancelled()

    async def run(self) -> None:
        """Does the jobs until cancelled."""
        free = asyncio.Semaphore(self._calls)

        def ended(task: asyncio.Task[None]) -> None:
            self._under_way.discard(task)
            free.release()

        while True:
            await free.acquire()
            while not (batch := await self._next_batch()):
                pass
            task = asyncio.create_task(self._do(batch))
            self._under_way.add(task)
            task.add_done_callback(ended)

    async def _do(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for one in batch:
            self._metrics.waiting_seconds.observe(start - one.since)
        self._metrics.batch_items.observe(len(batch))
        results = await loop.run_in_executor(self._threads, self._call, batch)
        self._seconds_per_job += 0.2 * ((loop.time() - start) / len(batch) / self._calls - self._seconds_per_job)
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)

    def close(self) -> None:
        """Ends the worker threads after their present calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _next_batch(self) -> list[_Waiting]:
        loop = asyncio.get_running_loop()
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        first = self._waiting[0]
        closes = first.since + self._limits.seconds
        while self._accepting and not self._is_full(first.job.key) and (left := closes - loop.time()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)
        self._drop_cancelled()
        return self._take(first.job.key)

    def _is_full(self, key: Hashable) -> bool:
        same = [one.job for one in self._waiting if one.job.key == key]
        return (
            sum(job.sequences for job in same) >= self._limits.sequences
            or sum(job.pixels for job in same) >= self._limits.pixels
        )

    def _take(self, key: Hashable) -> list[_Waiting]:
        """Removes the oldest jobs of `key` that fit into one batch; at least one, however large it is."""
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        sequences = pixels = 0
        open_ = True
        for one in self._waiting:
            job = one.job
            if open_ and job.key == key:
                sequences, pixels = sequences + job.sequences, pixels + job.pixels
                open_ = not batch or (sequences <= self._limits.sequences and pixels <= self._limits.pixels)
            if open_ and job.key == key:
                batch.append(one)
            else:
                left.append(one)
        self._waiting = left
        self._metrics.queued.set(len(left))
        return batch

    def _drop_cancelled(self) -> None:
        self._waiting = deque(one for one in self._waiting if not one.future.cancelled())
        self._metrics.queued.set(len(self._waiting))

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._unanswered -= 1

    def _call(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        """On a worker thread. Whatever the model raises fails this batch, and nothing else."""
        start = time.monotonic()
        try:
            results = self._work(batch[0].job.key, [one.job.payload for one in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception as error:
            LOG.exception("a call of the model failed; its %d items are answered as failed", len(batch))
            self.failures_in_a_row += 1
            self._metrics.batch_failures.inc()
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return [CallFailed(f"the model failed: {text[:300]}")] * len(batch)
        else:
            lost = self._lost(results)
            self.failures_in_a_row = self.failures_in_a_row + 1 if lost else 0
            self._metrics.batch_failures.inc(int(lost))
            return results
        finally:
            self._metrics.judging_seconds.observe(time.monotonic() - start)
