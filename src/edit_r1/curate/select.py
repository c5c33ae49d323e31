"""Step 4b: the deterministic selector: the trace whose verdicts agree best with gold becomes the SFT target.

The draft's tie-break prefers the lenient trace among equally accurate ones (higher average score, then
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

Cause = Literal["kept", "unparsed", "less accurate", "lost the tie", "not drawn", "no gold"]


@dataclass(frozen=True)
class Decision:
    """What the selector did with one trace."""

    candidate_id: str
    judge: str
    index: int
    """As `PoolTrace.index`."""
    agreement: float | None
    """Share of the verdicts that agree with gold, 0 to 1; None for an unparsed trace or without gold."""
    cause: Cause
    reason: str
    """The cause in words, with its numbers, for a person."""
    simulated: bool = False
    """True when the judge is a simulation."""


@dataclass(frozen=True)
class Selection:
    """What the selector did with the traces of one quadruple."""

    selected: PoolTrace | None
    """The SFT target; None when no trace could be parsed, or there is no gold to select by."""
    decisions: tuple[Decision, ...]
    """One per trace, by index."""

    @property
    def accuracies(self) -> dict[int, float]:
        """By trace index: agreement with gold; traces that could be compared only."""
        return {item.index: item.agreement for item in self.decisions if item.agreement is not None}

    @property
    def rejected(self) -> dict[int, str]:
        """By trace index: why it was not kept."""
        return {item.index: item.reason for item in self.decisions if item.cause != "kept"}


def matches(trace: Trace, gold: GoldVerdicts) -> int:
    """Number of verdicts equal to gold.

    Raises:
        ValueError: for a trace without verdicts, or of another length than gold.
    """
    if trace.verdicts is None or len(trace.verdicts) != len(gold.gold):
        count = 0 if trace.verdicts is None else len(trace.verdicts)
        raise ValueError(f"a trace with {count} verdicts cannot be scored against {len(gold.gold)} gold verdicts")
    return sum(mine.value == truth.value for mine, truth in zip(trace.verdicts, gold.gold, strict=True))


def select(
    traces: Sequence[PoolTrace], gold: GoldVerdicts | None, tie_break: TieBreak, filter_on: bool, seed: int
) -> Selection:
    """Choose among one quadruple's traces; the order in which they are given does not matter.

    Args:
        gold: None when the verifier gave none: then the filter has nothing to select by, and nothing is.

    Raises:
        ValueError: for traces of several candidates, an index given twice, gold of another candidate, or a
            parsed trace without one verdict per principle.
    """
    ordered = sorted(traces, key=lambda trace: trace.index)
    _check(ordered, gold)
    parsed = [trace for trace in ordered if isinstance(trace.outcome, Trace)]
    right = {} if gold is None else {trace.index: matches(_outcome(trace), gold) for trace in parsed}
    count = 0 if gold is None else len(gold.gold)
    chosen: PoolTrace | None
    if not parsed or (filter_on and gold is None):
        chosen, best = None, 0
    elif not filter_on:
        chosen, best = min(parsed, key=lambda trace: _draw(trace, seed)), 0
    else:
        best = max(right.values())
        chosen = _break_tie([trace for trace in parsed if right[trace.index] == best], tie_break, seed)

    def decide(trace: PoolTrace) -> tuple[Cause, str]:
        if not isinstance(trace.outcome, Trace):
            return "unparsed", f"unparsed: {trace.outcome.reason}"
        if filter_on and gold is None:
            return "no gold", "the verifier gave no gold to select by"
        if trace is chosen:
            return "kept", f"agrees with gold in {right[trace.index]} of {count}" if filter_on else "drawn"
        if not filter_on:
            return "not drawn", "not drawn"
        if right[trace.index] < best:
            return "less accurate", f"agrees with gold in {right[trace.index]} of {count}, the kept one in {best}"
        return "lost the tie", f"agrees with gold in {best} of {count} like the kept one, lost the {tie_break} tie"

    decisions = []
    for trace in ordered:
        agreement = right[trace.index] / count if trace.index in right else None
        decisions.append(
            Decision(trace.candidate_id, trace.judge, trace.index, agreement, *decide(trace), trace.simulated)
        )
    return Selection(chosen, tuple(decisions))


def _break_tie(tied: Sequence[PoolTrace], tie_break: TieBreak, seed: int) -> PoolTrace:
    """One of the equally accurate."""
    if tie_break == "lenient":
        return min(tied, key=lambda trace: (-_mean_verdict(trace), -_outcome(trace).score, trace.index))
    middle = median(_outcome(trace).score for trace in tied)
    # Rounded: the two scores beside the median of an even number are equally near, but not in binary fractions.
    return min(tied, key=lambda trace: (round(abs(_outcome(trace).score - middle), 9), _draw(trace, seed)))


def _check(traces: Sequence[PoolTrace], gold: GoldVerdicts | None) -> None:
    names = {trace.candidate_id for trace in traces} | ({gold.candidate_id} if gold is not None else set())
    if len(names) > 1:
        raise ValueError(f"traces or gold of {len(names)} candidates ({', '.join(sorted(names))}): give those of one")
    if len({trace.index for trace in traces}) < len(traces):
        raise ValueError(f"indices {[trace.index for trace in traces]}: each trace of a candidate needs its own")


def _outcome(trace: PoolTrace) -> Trace:
    assert isinstance(trace.outcome, Trace)
    return trace.outcome


def _draw(trace: PoolTrace, seed: int) -> bytes:
    """A seeded order over traces that depends on nothing else."""
    return hashlib.sha256(f"{seed}|{trace.candidate_id}|{trace.index}".encode()).digest()


def _mean_verdict(trace: PoolTrace) -> float:
    """The mean of the verdicts themselves: what a model wrote as average_score may be rounded, wrong or missing."""
    verdicts = _outcome(trace).verdicts
    assert verdicts is not None
    return sum(verdict.value for verdict in verdicts) / len(verdicts)
