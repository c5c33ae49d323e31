"""What a curation came to does not depend on how it was cut into chunks."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from edit_r1.curate.select import Decision, select
from edit_r1.curate.summary import Tally
from edit_r1.records import GoldVerdicts, PoolTrace, Trace, Verdict


def quadruples(count: int) -> list[tuple[list[PoolTrace], GoldVerdicts, tuple[Decision, ...]]]:
    """Traces of three to nine principles, with scores that no binary fraction is equal to."""
    draw, found = random.Random(0), []
    for number in range(count):
        points = range(draw.randint(3, 9))

        def verdicts(points: range = points) -> tuple[Verdict, ...]:
            return tuple(Verdict(1 if draw.random() < 0.6 else 0) for _ in points)

        traces = [
            PoolTrace(f"c{number}", "j", index, Trace("t", draw.randint(0, 1000) / 100, verdicts(), None, 1))
            for index in range(3)
        ]
        gold = GoldVerdicts(f"c{number}", verdicts(), "v")
        found.append((traces, gold, select(traces, gold, "neutral", True, 0).decisions))
    return found


def counted(rows: list[Any], chunk: int) -> dict[str, Any]:
    """Merged of chunks, each through JSON, as a run does it."""
    merged = Tally(0)
    for start in range(0, len(rows), chunk):
        own = Tally(0)
        for traces, gold, decisions in rows[start : start + chunk]:
            own.add_decisions(decisions)
            own.add_quadruple(traces, gold)
        merged.add_counts(json.loads(json.dumps(own.counts())))
    return merged.counts()


def test_the_cut_into_chunks_and_the_order_change_no_count() -> None:
    rows = quadruples(200)
    whole = counted(rows, 200)
    assert all(counted(rows, chunk) == whole for chunk in (1, 7, 64)) and counted(rows[::-1], 10) == whole


def test_means_are_those_of_the_shares_and_scores() -> None:
    rows = quadruples(50)
    tally = Tally(0)
    tally.add_counts(counted(rows, 8))
    told: dict[str, Any] = tally.as_dict()
    shares = [one.agreement for *_, decisions in rows for one in decisions]
    kept = [one.index for *_, decisions in rows for one in decisions if one.cause == "kept"]
    scores = [traces[index].outcome.score for (traces, *_), index in zip(rows, kept, strict=True)]
    assert told["judges"]["j"]["agreement"] == pytest.approx(sum(shares) / len(shares), abs=6e-5)
    assert told["selectors"]["neutral"]["mean_score"] == pytest.approx(sum(scores) / len(scores), abs=6e-5)
