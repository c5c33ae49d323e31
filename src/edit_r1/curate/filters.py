"""What each filter of step 4 keeps, and how what is kept differs from what was there before it.

A trace passes the gates in this order; what it is at is told by the selector's decision on it (`curate.select`):

| gate | what it leaves out |
| --- | --- |
| written | nothing: every trace that was asked for |
| parsed | what no score could be read from, calls that failed among it |
| gold | traces of candidates that the verifier gave no gold |
| accurate | traces that agree with gold less than the candidate's best |
| kept | all but one of the equally accurate: the tie-break |

Without the filter (`filter_on=False`) there are written, parsed and kept. Everything counted is an integer (scores in
thousandths), so that counts of chunks add up to the same sums in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edit_r1.curate.select import Cause, Decision
from edit_r1.records import Candidate, Context, PoolTrace, Trace

GATES = ("written", "parsed", "gold", "accurate", "kept")
_LAST: dict[Cause, str] = {
    "unparsed": "written",
    "no gold": "parsed",
    "not drawn": "parsed",
    "less accurate": "gold",
    "lost the tie": "accurate",
    "kept": "kept",
}
"""By cause, the last gate that a trace passed."""
_WITHOUT_FILTER = ("written", "parsed", "kept")


@dataclass
class GateCount:
    """The traces that passed one gate."""

    counts: Counter[str] = field(default_factory=Counter)
    """"traces", "quadruples" with at least one of them, "parsed" and, of these, "score" in thousandths of a point and
    "tokens"."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """Verdicts by "VALUE PRINCIPLE CATEGORY"."""
    shares: dict[str, Counter[str]] = field(
        default_factory=lambda: {"edits": Counter(), "editors": Counter(), "judges": Counter()}
    )
    """Traces by category of edit, by editor, by judge."""

    def add(self, context: Context, candidate: Candidate, trace: PoolTrace) -> None:
        self.counts["traces"] += 1
        self.shares["edits"][context.sample.category or "unknown"] += 1
        self.shares["editors"][candidate.editor] += 1
        self.shares["judges"][trace.judge] += 1
        outcome = trace.outcome
        if not isinstance(outcome, Trace):
            return
        self.counts["parsed"] += 1
        self.counts["score"] += round(1000 * outcome.score)
        self.counts["tokens"] += outcome.tokens
        for principle, verdict in zip(context.principles, outcome.verdicts or (), strict=False):
            self.verdicts[f"{verdict.value} {principle.category}"] += 1

    def row(self, before: GateCount | None) -> dict[str, Any]:
        """Counts, means over the parsed traces, shares of yes, and how far the shares moved since `before`.

        {"traces", "quadruples", "of_before": 0..1|null, "mean_score": 0..10|null, "yes": 0..1|null, "mean_tokens":
        x|null, "yes_by_category": {category: 0..1}, "moved": {"edits": 0..1|null, "editors", "judges"}, "judges":
        {judge: share}}; `moved` is the total variation distance, half the sum of the differences of all shares.
        """
        parsed = self.counts["parsed"]
        categories = sorted({name.split(" ", 1)[1] for name in self.verdicts})
        yes = {name: (self.verdicts[f"1 {name}"], self.verdicts[f"0 {name}"]) for name in categories}
        ones, zeros = sum(one for one, _ in yes.values()), sum(zero for _, zero in yes.values())
        return {
            "traces": self.counts["traces"],
            "quadruples": self.counts["quadruples"],
            "of_before": None if before is None else _share(self.counts["traces"], before.counts["traces"]),
            "mean_score": _share(self.counts["score"] / 1000, parsed),
            "yes": _share(ones, ones + zeros),
            "mean_tokens": _share(self.counts["tokens"], parsed),
            "yes_by_category": {name: _share(one, one + zero) for name, (one, zero) in yes.items()},
            "moved": {
                name: None if before is None else distance(before.shares[name], own)
                for name, own in self.shares.items()
            },
            "judges": {
                name: _share(count, self.counts["traces"]) for name, count in sorted(self.shares["judges"].items())
            },
        }


class FilterTally:
    """Counts of every gate."""

    def __init__(self) -> None:
        self.gates = {gate: GateCount() for gate in GATES}
        self.filter_on = True

    def add(
        self,
        context: Context,
        candidate: Candidate,
        traces: Sequence[PoolTrace],
        decisions: Sequence[Decision],
        filter_on: bool,
    ) -> None:
        """One candidate: its traces, and the selector's decision on each."""
        self.filter_on = filter_on
        gates = GATES if filter_on else _WITHOUT_FILTER
        by_index = {trace.index: trace for trace in traces}
        passed: set[str] = set()
        for decision in decisions:
            last = gates.index(_LAST[decision.cause])
            for gate in gates[: last + 1]:
                self.gates[gate].add(context, candidate, by_index[decision.index])
                passed.add(gate)
        for gate in passed:
            self.gates[gate].counts["quadruples"] += 1

    def counts(self) -> dict[str, Any]:
        """Everything counted, as JSON that `add_counts` takes."""
        gates = {
            name: {
                "counts": dict(gate.counts),
                "verdicts": dict(gate.verdicts),
                "shares": {share: dict(own) for share, own in gate.shares.items()},
            }
            for name, gate in self.gates.items()
        }
        return {"filter_on": self.filter_on, "gates": gates}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """What another tally counted."""
        self.filter_on = counts["filter_on"]
        for name, own in counts["gates"].items():
            gate = self.gates[name]
            gate.counts.update(own["counts"])
            gate.verdicts.update(own["verdicts"])
            for share, values in own["shares"].items():
                gate.shares[share].update(values)

    def as_dict(self) -> dict[str, Any]:
        """By gate, `GateCount.row`."""
        rows: dict[str, Any] = {}
        before: GateCount | None = None
        for name in GATES if self.filter_on else _WITHOUT_FILTER:
            rows[name] = self.gates[name].row(before)
            before = self.gates[name]
        return rows


def distance(before: Mapping[str, int], after: Mapping[str, int]) -> float | None:
    """Total variation distance of two distributions given as counts, 0 to 1; None when one is empty."""
    n, m = sum(before.values()), sum(after.values())
    if not n or not m:
        return None
    names = before.keys() | after.keys()
    return round(sum(abs(before.get(name, 0) * m - after.get(name, 0) * n) for name in names) / (2 * n * m), 4)


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
