"""The batcher alone: who shares a call, in which order, and what happens to the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.serve.batching import Batcher, BatchLimits, Busy, CallFailed, Job
from edit_r1.serve.metrics import Metrics

LIMITS = BatchLimits(sequences=4, pixels=1000, seconds=0.01, queue=20)


def doing(
    test: Callable[[Batcher, list[tuple[Any, list[Any]]]], Awaitable[None]], limits: BatchLimits = LIMITS
) -> None:
    """Runs a test with a batcher that records its calls and answers (key, payload); payload "bad" raises."""
    calls: list[tuple[Any, list[Any]]] = []

    def work(key: Any, payloads: Sequence[Any]) -> list[Any]:
        calls.append((key, list(payloads)))
        if "bad" in payloads:
            raise MemoryError("no room")
        return [(key, payload) for payload in payloads] if "short" not in payloads else []

    async def main() -> None:
        batcher = Batcher(work, limits, Metrics())
        running = asyncio.create_task(batcher.run())
        await asyncio.wait_for(test(batcher, calls), 20)
        running.cancel()
        batcher.close()

    asyncio.run(main())


def job(key: Any, payload: Any, sequences: int = 1, pixels: int = 1) -> Job:
    return Job(key, payload, sequences, pixels)


def test_what_arrives_together_is_done_together() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        futures = batcher.submit([job("a", 1), job("a", 2)]) + batcher.submit([job("a", 3)])
        assert await asyncio.gather(*futures) == [("a", 1), ("a", 2), ("a", 3)]
        assert calls == [("a", [1, 2, 3])]
        assert batcher.idle and batcher.queued == 0

    doing(test)


def test_keys_never_share_a_call_and_the_oldest_goes_first() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        await asyncio.gather(*batcher.submit([job(key, n) for n, key in enumerate("abacbca")]))
        assert calls == [("a", [0, 2, 6]), ("b", [1, 4]), ("c", [3, 5])]

    doing(test)


def test_a_batch_is_full_by_texts_and_by_pixels() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        await asyncio.gather(*batcher.submit([job("a", n, sequences=3) for n in range(2)]))
        await asyncio.gather(*batcher.submit([job("b", n, pixels=600) for n in range(2)]))
        await asyncio.gather(*batcher.submit([job("c", 0, sequences=9, pixels=9000)]))
        assert [len(payloads) for _, payloads in calls] == [1, 1, 1, 1, 1]

    doing(test)


def test_a_call_that_fails_fails_its_batch_only() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        jobs = [job("a", 1), job("b", "bad"), job("b", 2), job("c", 3), job("d", "short")]
        one, bad, with_bad, three, short = await asyncio.gather(*batcher.submit(jobs))
        assert one == ("a", 1) and three == ("c", 3)
        assert bad == with_bad == CallFailed("the model failed: MemoryError: no room")
        assert short == CallFailed("the model failed: RuntimeError: 0 results for 1 items")
        for failures in (2, 3):
            await asyncio.gather(*batcher.submit([job("b", "bad")]))
            assert batcher.failures_in_a_row == failures
            assert batcher.degraded == (failures == 3)
        await asyncio.gather(*batcher.submit([job("a", 1)]))
        assert not batcher.degraded

    doing(test)


def test_the_queue_is_bounded_and_takes_a_request_whole_or_not_at_all() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        futures = batcher.submit([job("a", n) for n in range(18)])
        with pytest.raises(Busy) as full:
            batcher.submit([job("a", n) for n in range(3)])
        assert (full.value.refusal.status, full.value.refusal.kind) == (503, "queue_full")
        assert full.value.refusal.retry_after is not None and full.value.refusal.retry_after >= 1
        futures += batcher.submit([job("a", n) for n in range(18, 20)])
        assert [payload for _, payload in await asyncio.gather(*futures)] == list(range(20))

    doing(test)


def test_stopping_refuses_new_jobs_and_finishes_the_old_without_waiting_for_company() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        futures = batcher.submit([job("a", 1)])
        await asyncio.sleep(0)
        batcher.stop_accepting()
        with pytest.raises(Busy, match="stopping"):
            batcher.submit([job("a", 2)])
        again = batcher.submit([job("a", 3)], accepted=True)
        assert not batcher.idle
        assert await asyncio.gather(*futures, *again) == [("a", 1), ("a", 3)]
        assert batcher.idle

    doing(test, BatchLimits(4, 1000, 3600.0, 20))


def test_jobs_of_a_client_that_has_gone_are_dropped() -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        kept, gone = batcher.submit([job("a", "kept")]), batcher.submit([job("a", "gone"), job("b", "gone")])
        batcher.forget(gone)
        assert batcher.queued == 1
        assert await kept[0] == ("a", "kept")
        batcher.forget(batcher.submit([job("a", "gone")]))
        await asyncio.sleep(0.05)
        assert await batcher.submit([job("a", "next")])[0] == ("a", "next")
        assert [payloads for _, payloads in calls] == [["kept"], ["next"]]
        assert batcher.idle

    doing(test)


def test_while_a_call_runs_the_next_batch_gathers() -> None:
    started, go = threading.Event(), threading.Event()
    calls: list[list[Any]] = []

    def work(key: Any, payloads: Sequence[Any]) -> Sequence[Any]:
        calls.append(list(payloads))
        started.set()
        go.wait(10)
        return payloads

    async def main() -> None:
        batcher = Batcher(work, BatchLimits(64, 1000, 0.0, 100), Metrics())
        running = asyncio.create_task(batcher.run())
        futures = batcher.submit([job("a", 0)])
        await asyncio.to_thread(started.wait, 10)
        for number in range(1, 6):
            futures += batcher.submit([job("a", number)])
        go.set()
        assert await asyncio.gather(*futures) == list(range(6))
        running.cancel()
        batcher.close()

    asyncio.run(main())
    assert calls == [[0], [1, 2, 3, 4, 5]]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(1, 700)), min_size=1, max_size=20))
def test_every_job_gets_its_own_answer_and_no_batch_is_too_large(jobs: list[tuple[str, int, int]]) -> None:
    async def test(batcher: Batcher, calls: list) -> None:
        submitted = [job(key, number, texts, pixels) for number, (key, texts, pixels) in enumerate(jobs)]
        answers = await asyncio.gather(*batcher.submit(submitted))
        assert answers == [(one.key, one.payload) for one in submitted]
        for key, payloads in calls:
            batch = [submitted[payload] for payload in payloads]
            assert {one.key for one in batch} == {key}
            assert len(batch) == 1 or sum(one.sequences for one in batch) <= LIMITS.sequences
            assert len(batch) == 1 or sum(one.pixels for one in batch) <= LIMITS.pixels

    doing(test)


def test_as_many_calls_as_may_run_at_once() -> None:
    together = threading.Barrier(2)

    def work(key: Any, payloads: Sequence[Any]) -> list[Any]:
        together.wait(10)  # broken unless two calls are under way
        return list(payloads)

    async def main() -> None:
        batcher = Batcher(work, BatchLimits(2, 1000, 0.0, 100), Metrics(), calls=2)
        running = asyncio.create_task(batcher.run())
        answers = await asyncio.gather(*batcher.submit([job("a", n) for n in range(4)]))
        assert answers == [0, 1, 2, 3] and batcher.idle
        running.cancel()
        batcher.close()

    asyncio.run(main())
