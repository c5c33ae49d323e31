"""What the checks of a decomposition (`curate.coverage`) found in a curation: a row per finding, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from edit_r1.curate.coverage import Finding, Kind, check_principles
from edit_r1.records import CATEGORIES, Context
from edit_r1.store import Features, Row, Table

KINDS: tuple[Kind, ...] = get_args(Kind)
FAULTS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "count")
"""What a decomposer is asked again for. A wrong count is none: a plain picture may have little to preserve."""


@dataclass(frozen=True)
class ContextFinding:
    """A finding in one context."""

    sample_id: str
    kind: Kind
    told: str
    """In words, for a person."""
    questions: tuple[str, ...]
    """The principles that it is about; empty for the decomposition as a whole."""


def context_findings(context: Context) -> list[ContextFinding]:
    """All findings in one context."""
    return [
        ContextFinding(
            context.sample.id, one.kind, one.told, tuple(context.principles[place].question for place in one.principles)
        )
        for one in check_principles(context.sample.instruction, context.principles)
    ]


def faults(context: Context) -> list[Finding]:
    """Those for which a decomposer is asked again."""
    found = check_principles(context.sample.instruction, context.principles)
    return [one for one in found if one.kind in FAULTS]


class FindingsTally:
    """Contexts and findings counted by kind, and principles by category."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        """"contexts", "faulty" (with any fault), "contexts KIND", "findings KIND", "edit CATEGORY", "faulty CATEGORY"
        of edit."""
        self._sizes: Counter[str] = Counter()
        """Contexts by "NUMBER CATEGORY" of principles."""

    def add(self, context: Context, found: Sequence[ContextFinding]) -> None:
        kinds = Counter(one.kind for one in found)
        faulty = any(kind in FAULTS for kind in kinds)
        edit = context.sample.category or "unknown"
        self._counts["contexts"] += 1
        self._counts["faulty"] += faulty
        self._counts[f"edit {edit}"] += 1
        self._counts[f"faulty {edit}"] += faulty
        for kind, number in kinds.items():
            self._counts[f"contexts {kind}"] += 1
            self._counts[f"findings {kind}"] += number
        sizes = Counter(principle.category for principle in context.principles)
        for category in CATEGORIES:
            self._sizes[f"{sizes[category]} {category}"] += 1

    def counts(self) -> dict[str, Any]:
        """Everything counted, as JSON that `add_counts` takes."""
        return {"counts": dict(self._counts), "sizes": dict(self._sizes)}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """What another tally counted."""
        self._counts.update(counts["counts"])
        self._sizes.update(counts["sizes"])

    def as_dict(self) -> dict[str, Any]:
        """{"contexts", "faulty", "kinds": {kind: {"contexts", "findings"}}, "edits": {category: {"contexts",
        "faulty"}}, "principles": {category: {number: contexts}}}; faulty are those with anything but a wrong count."""
        edits = {name.removeprefix("edit "): n for name, n in self._counts.items() if name.startswith("edit ")}
        most = sorted(edits.items(), key=lambda item: (-item[1], item[0]))[:50]
        return {
            "contexts": self._counts["contexts"],
            "faulty": self._counts["faulty"],
            "kinds": {
                kind: {"contexts": self._counts[f"contexts {kind}"], "findings": self._counts[f"findings {kind}"]}
                for kind in KINDS
            },
            "edits": {name: {"contexts": n, "faulty": self._counts[f"faulty {name}"]} for name, n in most},
            "principles": {category: self._histogram(category) for category in CATEGORIES},
        }

    def _histogram(self, category: str) -> dict[str, int]:
        found = [(int(name.split(" ", 1)[0]), n) for name, n in self._sizes.items() if name.endswith(f" {category}")]
        return {str(size): n for size, n in sorted(found)}


_FINDING: Features = {
    "sample_id": "string",
    "kind": "string",
    "told": "string",
    "questions": {"question": "string"},
}


def _to_row(finding: ContextFinding) -> Row:
    return {
        "sample_id": finding.sample_id,
        "kind": finding.kind,
        "told": finding.told,
        "questions": [{"question": question} for question in finding.questions],
    }


def _from_row(row: Row) -> ContextFinding:
    if row["kind"] not in KINDS:
        raise ValueError(f"column kind holds {row['kind']!r}: expected one of {', '.join(KINDS)}")
    questions = tuple(one["question"] for one in row["questions"])
    return ContextFinding(row["sample_id"], cast(Kind, row["kind"]), row["told"], questions)


FINDINGS: Table[ContextFinding] = Table(_FINDING, _to_row, _from_row)
