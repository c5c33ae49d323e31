"""What a curation came to: per judge, and per rule by which a trace could have been selected.

Everything counted is an integer (agreement in millionths, scores in thousandths of a point, as in `curate.filters`), so
that counts of chunks add up to the same sums in any order and any cut.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edit_r1.curate.agreement import AgreementTally
from edit_r1.curate.filters import FilterTally
from edit_r1.curate.findings import FindingsTally
from edit_r1.curate.select import Decision, TieBreak, matches, select
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Trace

RULES: dict[str, tuple[TieBreak, bool]] = {
    "lenient": ("lenient", True),
    "neutral": ("neutral", True),
    "no filter": ("neutral", False),
}
"""Name to (tie-break, filter on). All three are measured on the same traces, whichever a curation uses."""
COUNTED = 7
"""Version of what is counted of a chunk: one that was counted by an older one is counted anew."""


@dataclass
class JudgeCount:
    """A judge of the pool over all its traces."""

    traces: int = 0
    unparsed: int = 0
    compared: int = 0
    """Traces that could be compared with gold."""
    agreement: int = 0
    """Of these with gold, in millionths."""
    selected: int = 0

    def add(self, decision: Decision) -> None:
        self.traces += 1
        self.unparsed += decision.cause == "unparsed"
        self.selected += decision.cause == "kept"
        if decision.agreement is not None:
            self.compared += 1
            self.agreement += round(1_000_000 * decision.agreement)

    def row(self) -> dict[str, float | None]:
        """Counts, and the mean agreement with gold, 0 to 1; None when nothing could be compared."""
        return {
            "traces": self.traces,
            "unparsed": self.unparsed,
            "agreement": _share(self.agreement / 1_000_000, self.compared),
            "selected": self.selected,
        }


@dataclass
class RuleCount:
    """What one rule would select."""

    selected: int = 0
    score: int = 0
    """Of these, in thousandths of a point."""
    verdicts: int = 0
    yes: int = 0
    right: int = 0
    passed_failed: int = 0
    """Verdicts of 1 where gold has 0: what a model trained on the selection learns to forgive."""
    gold_failed: int = 0

    def add(self, chosen: Trace, gold: GoldVerdicts) -> None:
        assert chosen.verdicts is not None
        self.selected += 1
        self.score += round(1000 * chosen.score)
        self.verdicts += len(gold.gold)
        self.yes += sum(verdict.value for verdict in chosen.verdicts)
        self.right += matches(chosen, gold)
        pairs = list(zip(chosen.verdicts, gold.gold, strict=True))
        self.gold_failed += sum(truth.value == 0 for _, truth in pairs)
        self.passed_failed += sum(mine.value == 1 and truth.value == 0 for mine, truth in pairs)

    def row(self) -> dict[str, float | None]:
        """Mean score (0 to 10) and shares (0 to 1); None without anything to divide by."""
        return {
            "selected": self.selected,
            "mean_score": _share(self.score / 1000, self.selected),
            "yes": _share(self.yes, self.verdicts),
            "agreement": _share(self.right, self.verdicts),
            "failed_points_passed": _share(self.passed_failed, self.gold_failed),
        }


@dataclass
class Tally:
    """Everything counted over the quadruples of a curation, one after the other."""

    seed: int
    judges: dict[str, JudgeCount] = field(default_factory=dict)
    rules: dict[str, RuleCount] = field(default_factory=lambda: {name: RuleCount() for name in RULES})
    decisions: Counter[str] = field(default_factory=Counter)
    """Traces by the cause of the decision on them."""
    agreement: AgreementTally = field(default_factory=AgreementTally)
    filters: FilterTally = field(default_factory=FilterTally)
    findings: FindingsTally = field(default_factory=FindingsTally)
    verifiers: AgreementTally = field(default_factory=AgreementTally)
    """Of an ensemble's members, with each other and with the gold that they made."""
    contents: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Contexts by "category", "subset", "split" and "licence" of their sample, and edits by "editor"."""

    def add_candidate(
        self,
        context: Context,
        candidate: Candidate,
        traces: Sequence[PoolTrace],
        gold: GoldVerdicts | None,
        decisions: Sequence[Decision],
        filter_on: bool,
    ) -> None:
        """One candidate, with or without gold: decisions on its traces, agreement, filters, and every rule."""
        self.add_decisions(decisions)
        self.agreement.add(context, traces, gold)
        self.filters.add(context, candidate, traces, decisions, filter_on)
        if gold is not None:
            self.add_quadruple(traces, gold)

    def add_context(self, context: Context, editors: Iterable[str]) -> None:
        """One context, and the editors of its edits."""
        sample = context.sample
        values = {
            "category": sample.category or "unknown", "subset": sample.subset, "split": sample.split,
            "licence": sample.licence or "unknown",
        }  # fmt: skip
        for part, value in values.items():
            self.contents[part][value] += 1
        self.contents["editor"].update(editors)

    def add_decisions(self, decisions: Iterable[Decision]) -> None:
        """Each trace once."""
        for decision in decisions:
            self.judges.setdefault(decision.judge, JudgeCount()).add(decision)
            self.decisions[decision.cause] += 1

    def add_quadruple(self, traces: Sequence[PoolTrace], gold: GoldVerdicts) -> None:
        """One quadruple that has gold, selected by every rule."""
        for name, (tie_break, filter_on) in RULES.items():
            chosen = select(traces, gold, tie_break, filter_on, self.seed).selected
            if chosen is not None and isinstance(chosen.outcome, Trace):
                self.rules[name].add(chosen.outcome, gold)

    def counts(self) -> dict[str, Any]:
        """Everything counted, as JSON that `add_counts` takes."""
        return {
            "judges": {name: asdict(count) for name, count in self.judges.items()},
            "rules": {name: asdict(count) for name, count in self.rules.items()},
            "decisions": dict(self.decisions),
            "agreement": self.agreement.counts(),
            "filters": self.filters.counts(),
            "findings": self.findings.counts(),
            "verifiers": self.verifiers.counts(),
            "contents": {part: dict(own) for part, own in self.contents.items()},
            "counted": COUNTED,
        }

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """What another tally counted."""
        for name, own in counts["judges"].items():
            _add(self.judges.setdefault(name, JudgeCount()), own)
        for name, own in counts["rules"].items():
            _add(self.rules[name], own)
        self.decisions.update(counts["decisions"])
        self.agreement.add_counts(counts["agreement"])
        self.filters.add_counts(counts["filters"])
        self.findings.add_counts(counts["findings"])
        self.verifiers.add_counts(counts["verifiers"])
        for part, values in counts["contents"].items():
            self.contents[part].update(values)

    def as_dict(self) -> dict[str, object]:
        return {
            "judges": {name: count.row() for name, count in sorted(self.judges.items())},
            "decisions": dict(sorted(self.decisions.items())),
            "selectors": {name: count.row() for name, count in self.rules.items()},
            "agreement": self.agreement.as_dict(),
            "filters": self.filters.as_dict(),
            "findings": self.findings.as_dict(),
            "verifiers": self.verifiers.as_dict(),
            "contents": {part: dict(sorted(own.items())) for part, own in sorted(self.contents.items())},
        }


def _add(count: JudgeCount | RuleCount, more: Mapping[str, int]) -> None:
    for name, value in more.items():
        setattr(count, name, getattr(count, name) + value)


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
