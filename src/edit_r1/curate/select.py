"""Step 4b: the deterministic selector: the trace whose verdicts agree best with gold becomes the SFT target.

The draft's tie-break prefers the lenient trace among equally accurate ones (higher average_score, then
higher score, then smaller index). The neutral one (ours) takes the trace nearest to the median score of
the tied, then a seeded draw. With the filter off, gold plays no part: a seeded draw among the parsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edit_r1.records import GoldVerdicts, PoolTrace, Trace

TieBreak = Literal["lenient", "neutral"]


@dataclass(frozen=True)
class Choice:
    """What the selector did with the traces of one quadruple."""

    selected: PoolTrace | None
    """None when no trace could be parsed."""
    accuracies: dict[int, float]
    """By trace index: share of its verdicts that agree with gold; parsed traces only."""
    rejected: dict[int, str]
    """By trace index: why it was not chosen."""


def accuracy(trace: Trace, gold: GoldVerdicts) -> float:
    """Share of verdicts equal to gold, 0 to 1.

    Raises:
        ValueError: for a trace without verdicts, or of another length than gold.
    """
    if trace.verdicts is None or len(trace.verdicts) != len(gold.gold):
        count = 0 if trace.verdicts is None else len(trace.verdicts)
        raise ValueError(f"a trace with {count} verdicts cannot be scored against {len(gold.gold)} gold verdicts")
    right = [mine.value == truth.value for mine, truth in zip(trace.verdicts, gold.gold, strict=True)]
    return sum(right) / len(right)


def _draw(candidate_id: str, index: int, seed: int) -> bytes:
    """A seeded order over traces that depends on nothing else."""
    return hashlib.sha256(f"{seed}|{candidate_id}|{index}".encode()).digest()


def _mean_verdict(trace: Trace) -> float:
    """The mean of the verdicts themselves: what a model wrote as average_score may be wrong or missing."""
    assert trace.verdicts is not None
    return sum(verdict.value for verdict in trace.verdicts) / len(trace.verdicts)


def select(traces: Sequence[PoolTrace], gold: GoldVerdicts, tie_break: TieBreak, filter_on: bool, seed: int) -> Choice:
    """Choose among one quadruple's traces; the order in which they are given does not matter."""
    parsed = [(trace, trace.outcome) for trace in traces if isinstance(trace.outcome, Trace)]
    rejected = {t.index: f"unparsed: {t.outcome.reason}" for t in traces if not isinstance(t.outcome, Trace)}
    if not parsed:
        return Choice(None, {}, rejected)
    accuracies = {trace.index: accuracy(outcome, gold) for trace, outcome in parsed}
    if not filter_on:
        chosen = min(parsed, key=lambda item: _draw(gold.candidate_id, item[0].index, seed))[0]
        rejected |= {trace.index: "not drawn" for trace, _ in parsed if trace is not chosen}
        return Choice(chosen, accuracies, rejected)
    best = max(accuracies.values())
    tied = [(trace, outcome) for trace, outcome in parsed if accuracies[trace.index] == best]
    if tie_break == "lenient":
        chosen = min(tied, key=lambda item: (-_mean_verdict(item[1]), -item[1].score, item[0].index))[0]
    else:
        middle = median(outcome.score for _, outcome in tied)
        chosen = min(
            tied, key=lambda item: (abs(item[1].score - middle), _draw(gold.candidate_id, item[0].index, seed))
        )[0]
    for trace, _ in parsed:
        if trace is not chosen:
            share = accuracies[trace.index]
            rejected[trace.index] = (
                f"agrees with gold in {share:.0%}, the best in {best:.0%}"
                if share < best
                else f"lost the {tie_break} tie"
            )
    return Choice(chosen, accuracies, rejected)
