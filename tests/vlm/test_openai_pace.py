"""The limit of requests in flight, driven by hand and against a simulated endpoint."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.vlm.openai_pace import CALM, CUT, FAST, GROWTH, LOADED, SHORTEST, START, Outcome, Pace


def play(pace: Pace, outcomes: Sequence[str], waiting: bool = True) -> int:
    """As many requests as are allowed, of which one ends after the other; the limit afterwards.

    waiting: another one wants a place.
    """

    async def work() -> None:
        for outcome in outcomes:
            while pace.in_flight < pace.limit:
                await pace.enter()
            waiter = asyncio.create_task(pace.enter()) if waiting else None
            await asyncio.sleep(0)
            pace.note(cast(Outcome, outcome))
            pace.leave()
            if waiter is not None:
                waiter.cancel()
                await asyncio.gather(waiter, return_exceptions=True)
        while pace.in_flight:
            pace.leave()

    asyncio.run(work())
    assert pace.in_flight == 0
    return pace.limit


def test_it_doubles_every_round_to_begin_with_and_never_exceeds_what_is_allowed() -> None:
    pace = Pace(100)
    assert play(pace, ["answered"] * START) == 2 * START
    assert play(pace, ["answered"] * 2 * START) == 4 * START
    assert play(pace, ["answered"] * 200) == 100
    assert Pace(3).limit == 3


def test_refusals_by_chance_do_not_end_the_beginning_and_those_for_load_do() -> None:
    pace = Pace(1000)
    one_in_ten = [*["answered"] * 9, "refused"] * 20
    before = play(pace, one_in_ten[:100])
    assert before == START + 90 - 5  # 10 refused
    refused = 0
    while pace._starting:
        limit, refused = play(pace, ["refused"]), refused + 1
    assert refused < 0.25 * before
    assert play(pace, ["answered"]) <= limit + 1
    assert play(pace, [*["answered"] * 3, "refused"] * 5) < limit + 15 * (FAST + 0.05)
    # After an outage it doubles again.
    row = play(pace, ["answered"] * pace.limit)
    assert play(pace, ["answered"] * row) >= 1.7 * row


def test_a_round_that_is_refused_halves_it() -> None:
    pace = Pace(64)
    assert play(pace, ["refused"] * START) == START // 2
    assert play(pace, ["refused"] * 100) == 1


def test_the_rule_is_the_one_that_is_stated() -> None:
    pace, limit, row, lately, starting = Pace(1000), float(START), 0, 0.0, True
    seen = set()
    draws = random.Random(0)
    for number in range(900):
        outcome = draws.choices(["answered", "refused", "other"], [8, 1 + number // 150 % 3 * 2, 1])[0]
        if outcome != "other":
            share = 1 / max(SHORTEST, limit)
            lately = lately * (1 - share) + share * (outcome == "refused")
            starting = starting and lately < LOADED
        if outcome == "answered":
            row += 1
            rate = FAST if lately < CALM else GROWTH
            seen.add("start" if starting else "row" if row > limit else rate)
            limit += 1 if starting or row > limit else 1 / limit + rate
        elif outcome == "refused":
            row, limit = 0, max(1.0, limit - CUT)
        play(pace, [outcome])
        assert pace._limit == pytest.approx(limit)
    assert seen >= {"start", FAST, GROWTH}


def test_it_does_not_grow_unused_and_broken_connections_say_nothing() -> None:
    pace = Pace(64)
    assert play(pace, ["answered"] * 200, waiting=False) == START
    assert play(pace, ["other"] * 200) == START


@given(st.lists(st.sampled_from(["answered", "refused", "other"]), max_size=300), st.integers(1, 40))
def test_whatever_happens_the_limit_stays_in_its_range(outcomes: list[Outcome], most: int) -> None:
    async def work() -> None:
        pace, held = Pace(most), 0
        rng = random.Random(len(outcomes))
        for outcome in outcomes:
            while held < pace.limit and rng.random() < 0.8:
                await pace.enter()
                held += 1
            if held:
                pace.note(outcome)
                pace.leave()
                held -= 1
            assert 1 <= pace.limit <= most and pace.in_flight == held

    asyncio.run(work())


def test_retries_go_first_and_the_cancelled_take_no_place() -> None:
    async def work() -> None:
        pace = Pace(1)
        await pace.enter()
        order: list[str] = []

        async def one(name: str, again: bool) -> None:
            await pace.enter(again)
            order.append(name)
            pace.leave()

        tasks = [asyncio.create_task(one(name, name == "again")) for name in ("new", "gone", "again")]
        await asyncio.sleep(0)
        tasks[1].cancel()
        pace.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["again", "new"] and pace.in_flight == 0

    asyncio.run(work())


def test_a_request_cancelled_as_it_is_let_in_gives_its_place_back() -> None:
    async def work() -> None:
        pace = Pace(1)
        await pace.enter()
        task = asyncio.create_task(pace.enter())
        await asyncio.sleep(0)
        pace.leave()  # lets the other in, which has not run yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pace.in_flight == 0

    asyncio.run(work())


def test_a_closed_endpoint_is_asked_nothing() -> None:
    async def work() -> None:
        pace, loop = Pace(8), asyncio.get_running_loop()
        start = loop.time()
        pace.close_for(0.15)
        pace.close_for(0.05)  # the longer pause holds
        await pace.enter()
        assert loop.time() - start >= 0.15

    asyncio.run(work())


class Endpoint:
    """So many answers a second and a bucket of tokens, on a clock of its own: nothing sleeps."""

    def __init__(self, rate: float, latency: float, faults: float, seed: int) -> None:
        self.rate, self.latency, self.faults, self.random = rate, latency, faults, random.Random(seed)
        self.tokens, self.at, self.taken = rate, 0.0, 0

    def ask(self, now: float) -> tuple[Outcome, float]:
        """(what comes, after how many seconds)."""
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.random.random() < self.faults:
            return "refused", 0.01
        if self.tokens < 1:
            return "refused", 0.01
        self.tokens -= 1
        self.taken += 1
        return "answered", self.latency * (0.5 + self.random.random())


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next thing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def on_clock(work: Coroutine[Any, Any, float]) -> float:
    loop = Clock()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def used(rate: float, latency: float, faults: float, after: float | None, start: float, stop: float) -> float:
    """The share of what an endpoint allows that is used from `start` to `stop`, seconds of three minutes. Pauses are as
    `OpenAIVLM` makes them; after: what Retry-After says."""
    sent, seconds = 0, 180.0

    async def one(pace: Pace, endpoint: Endpoint, jitter: random.Random) -> None:
        nonlocal sent
        loop = asyncio.get_running_loop()
        while loop.time() < seconds:
            for failed in itertools.count():
                await pace.enter(failed > 0)
                sent += 1
                outcome, took = endpoint.ask(loop.time())
                await asyncio.sleep(took)
                pace.note(outcome)
                pause = held = 0.0
                if outcome == "refused" and after is None:
                    pause = jitter.random() * min(60.0, 0.5 * 2**failed)
                    held = min(pause, 0.5)
                elif outcome == "refused" and after is not None:
                    pause = after + 0.5 * jitter.random()
                    pace.close_for(after)
                await asyncio.sleep(held)
                pace.leave()
                if outcome == "answered":
                    break
                await asyncio.sleep(pause - held)

    async def work() -> float:
        pace, endpoint, jitter = Pace(128), Endpoint(rate, latency, faults, 1), random.Random(2)
        tasks = [asyncio.create_task(one(pace, endpoint, jitter)) for _ in range(200)]
        await asyncio.sleep(start)
        before = endpoint.taken
        await asyncio.sleep(stop - start)
        taken = endpoint.taken - before
        await asyncio.gather(*tasks)
        assert sent < 1.8 * endpoint.taken  # it does not hammer
        return taken / (rate * (stop - start))

    return on_clock(work())


@pytest.mark.parametrize(
    ("rate", "latency", "faults", "after"),
    [
        (10, 0.5, 0.0, None),
        (10, 0.5, 0.15, None),
        (30, 0.2, 0.15, None),
        (5, 8.0, 0.0, None),
        (5, 8.0, 0.05, None),
        (10, 0.5, 0.12, 1.0),
        (60, 0.5, 0.1, 1.0),
    ],
)
def test_most_of_what_an_endpoint_allows_is_used(
    rate: float, latency: float, faults: float, after: float | None
) -> None:
    share = used(rate, latency, faults, after, 60.0, 120.0)
    assert share > (0.85 if latency > 1 and faults else 0.9)  # slow answers tell little


@pytest.mark.parametrize(
    ("rate", "latency", "faults", "after", "least"),
    [(60, 0.5, 0.13, 1.0, 0.75), (100, 0.5, 0.13, 1.0, 0.7), (20, 2.0, 0.1, 1.0, 0.65), (10, 0.5, 0.12, 1.0, 0.85)],
)
def test_the_beginning_costs_a_few_seconds(
    rate: float, latency: float, faults: float, after: float | None, least: float
) -> None:
    """In the first ten seconds."""
    assert used(rate, latency, faults, after, 0.0, 10.0) > least
