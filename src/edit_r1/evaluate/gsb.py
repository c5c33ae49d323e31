"""Good, same, bad: two editors compared by people, from preferences or from a file of answers.

GSB = (G - B) / (G + S + B), -1 to 1, over comparisons of a new editor with another one (Edit-R1, arXiv 2604.27505).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edit_r1.evaluate.reference import json_rows
from edit_r1.records import Preference
from edit_r1.stats import bootstrap_ci, gsb

OUTCOMES = {"good": 1, "same": 0, "bad": -1}
"""Of a comparison, as the new editor has it."""


def gsb_document(outcomes: Sequence[int], clusters: Sequence[Hashable] | None = None, seed: int = 0) -> dict[str, Any]:
    """The JSON of `evaluate gsb` from outcomes 1, 0 and -1; the interval draws whole clusters, None for a single one.

    Raises ValueError without a comparison.
    """
    if not outcomes:
        raise ValueError("no comparison to count")
    estimate = bootstrap_ci(outcomes, clusters, seed)
    counts = {name: outcomes.count(value) for name, value in OUTCOMES.items()}
    return {**counts, "gsb": estimate.mean, "ci95": estimate.ci95, "n": len(outcomes)}


def gsb_of_counts(good: int, same: int, bad: int, seed: int = 0) -> dict[str, Any]:
    """The same of independent comparisons that are known by their counts. Raises ValueError as `stats.gsb`."""
    return asdict(gsb(good, same, bad, seed))


def gsb_of_preferences(
    preferences: Iterable[Preference], new: str, other: str = "", leave_out: Collection[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Of the preferences between edits of `new` and of `other` ("": of every other editor); by source image.

    leave_out: names of annotators whose answers do not count.
    Raises ValueError, naming the editors there are, when no preference compares these.
    """
    outcomes: list[int] = []
    sources: list[bytes] = []
    seen: Counter[str] = Counter()
    for preference in preferences:
        editors = (preference.first.editor, preference.second.editor)
        seen.update(set(editors))
        rivals = [name for name in editors if name != new]
        if len(rivals) != 1 or (other and rivals[0] != other) or preference.annotator in leave_out:
            continue
        winner = preference.winner
        outcomes.append(0 if winner is None else 1 if winner.editor == new else -1)
        sources.append(hashlib.sha256(preference.context.sample.source).digest())
    if not outcomes:
        there = ", ".join(repr(name) for name, _ in seen.most_common(8)) or "none"
        raise ValueError(f"no answer compares {new!r} with {repr(other) if other else 'another editor'}; has {there}")
    return {"new": new, "other": other or None, **gsb_document(outcomes, sources, seed)}


def read_outcomes(path: Path) -> tuple[list[int], list[Hashable]]:
    """(outcomes, what each is about) of a JSON list, or JSON lines, of {"choice": "good"|"same"|"bad", "id"}.

    Rows of one id are about one comparison and are drawn together; a row without an id stands alone. Raises ValueError
    that names file, row and remedy.
    """
    outcomes: list[int] = []
    clusters: list[Hashable] = []
    for number, row in enumerate(json_rows(path), start=1):
        choice = row.get("choice") if isinstance(row, dict) else None
        if not isinstance(choice, str) or choice not in OUTCOMES:
            raise ValueError(
                f'{path}: row {number}: write {{"choice": "good", "same" or "bad"}}, and "id" if it has one'
            )
        name = row.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise ValueError(f"{path}: row {number}: the id is of type {type(name).__name__}: write a text")
        outcomes.append(OUTCOMES[choice])
        clusters.append(("row", number) if name is None else ("id", str(name)))
    if not outcomes:
        raise ValueError(f'{path}: holds no answer: write a row {{"choice": "good", "same" or "bad"}} each')
    return outcomes, clusters
