"""What an editor benchmark says: means as its paper defines them, beside them what published tables leave out.

The official number is the unweighted mean over task types of each type's mean (GEdit-Bench and ImgEdit-Bench alike).
Beside it stand the mean over edits with its interval, and how many edits have no picture, no answer or no readable
answer. None of those enters a mean, and none is replaced by a number; an edit of which some of several traces never
came has the mean of the others and is counted too. Numbers are in the judge's own range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any

from edit_r1.evaluate.editor import SAME_BAND, EditScore, compare_by_category, compare_editors
from edit_r1.evaluate.editor_judges import EditJudge, Scale
from edit_r1.evaluate.editor_runs import EditKey, GradedEdit
from edit_r1.stats import bootstrap_ci, macro_ci


@dataclass(frozen=True)
class GroupTable:
    """Some of a benchmark's edits."""

    official: dict[str, float | None]
    """By part of the scale: mean over task types of their means; None where no edit has the part."""
    mean: dict[str, float | None]
    """Over edits."""
    ci95: list[float] | None
    """Of the main number's mean, clustered by task; None with fewer than two tasks."""
    official_ci95: list[float] | None
    """Of the main number's `official`, in the same way."""
    edits: int
    scored: int


def group_table(graded: Sequence[GradedEdit], scale: Scale, seed: int = 0) -> GroupTable:
    """Means of these edits."""
    official: dict[str, float | None] = {}
    mean: dict[str, float | None] = {}
    for part in scale.parts:
        by_type: dict[str, list[float]] = {}
        for one in graded:
            value = None if one.grade is None else one.grade.parts.get(part)
            if value is not None:
                by_type.setdefault(one.edit.task.sample.category, []).append(value)
        values = [value for group in by_type.values() for value in group]
        official[part] = _mean([fsum(group) / len(group) for group in by_type.values()])
        mean[part] = _mean(values)
    scored = [one for one in graded if one.grade is not None and one.grade.score is not None]
    scores = [one.grade.score for one in scored if one.grade is not None and one.grade.score is not None]
    if not scores:
        return GroupTable(official, mean, None, None, len(graded), 0)
    ids, kinds = _tasks(scored)
    ci95, official_ci95 = bootstrap_ci(scores, ids, seed).ci95, macro_ci(scores, kinds, ids, seed).ci95
    return GroupTable(official, mean, ci95, official_ci95, len(graded), len(scored))


def _tasks(graded: Sequence[GradedEdit]) -> tuple[list[str], list[str]]:
    """Id and kind of edit of each edit's task."""
    samples = [one.edit.task.sample for one in graded]
    return [sample.id for sample in samples], [sample.category for sample in samples]


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None


def editor_document(
    benchmark: str,
    revision: str,
    editor: str,
    judge: EditJudge,
    graded: Sequence[GradedEdit],
    retries: int,
    seed: int = 0,
) -> dict[str, Any]:
    """The JSON of `evaluate editor`, without a comparison."""
    whole = group_table(graded, judge.scale, seed)
    languages = _split(graded, lambda one: one.edit.task.language or None)
    inside = [one for one in graded if one.edit.task.intersection]
    return {
        "benchmark": benchmark,
        "revision": revision,
        "editor": editor,
        "judge": {"kind": judge.kind, "model": judge.name, "settings": judge.settings, "note": judge.note},
        "main": judge.scale.main,
        "range": [judge.scale.low, judge.scale.high],
        **asdict(whole),
        "no_picture": sum(one.edit.path is None for one in graded),
        "no_answer": sum(one.edit.path is not None and one.grade is None for one in graded),
        "partly_answered": sum(one.grade is not None and one.grade.failed_call for one in graded),
        "unparsed": sum(one.grade is not None and one.grade.score is None for one in graded),
        "unparsed_answers": sum(one.grade.unparsed for one in graded if one.grade is not None),
        "retries": retries,
        "categories": _categories(graded, judge.scale, seed),
        "languages": {
            name: {**asdict(group_table(part, judge.scale, seed)), "categories": _categories(part, judge.scale, seed)}
            for name, part in sorted(languages.items())
        },
        "intersection": asdict(group_table(inside, judge.scale, seed)) if inside else None,
        "comparison": None,
    }


def _categories(graded: Sequence[GradedEdit], scale: Scale, seed: int) -> dict[str, Any]:
    parts = _split(graded, lambda one: one.edit.task.sample.category)
    return {name: asdict(group_table(part, scale, seed)) for name, part in sorted(parts.items())}


def _split(graded: Sequence[GradedEdit], key: Callable[[GradedEdit], str | None]) -> dict[str, list[GradedEdit]]:
    groups: dict[str, list[GradedEdit]] = {}
    for one in graded:
        name = key(one)
        if name is not None:
            groups.setdefault(name, []).append(one)
    return groups


def paired(after: Sequence[GradedEdit], before: Sequence[GradedEdit]) -> list[tuple[GradedEdit, GradedEdit]]:
    """(after, before) of every task and seed on which both editors have a score, in the order of `after`."""
    other: dict[EditKey, GradedEdit] = {one.edit.key: one for one in before if _score(one) is not None}
    return [(one, other[one.edit.key]) for one in after if _score(one) is not None and one.edit.key in other]


def _score(one: GradedEdit) -> float | None:
    return None if one.grade is None else one.grade.score


def same_band(scale: Scale) -> float:
    """`SAME_BAND`, which is for 0 to 10, in the points of another range."""
    return SAME_BAND * (scale.high - scale.low) / 10


def comparison(
    after: Sequence[GradedEdit], before: Sequence[GradedEdit], names: tuple[str, str], scale: Scale, seed: int = 0
) -> dict[str, Any]:
    """`after` minus `before` by the main number: differences and GSB with intervals, also per kind; the unpaired.

    Everything is over the edits of which both have a score, `official_difference` too: where a side lacks some, that is
    not the difference of the two official numbers.

    Raises ValueError when no task has a score of both.
    """
    pairs = paired(after, before)
    if not pairs:
        raise ValueError(f"{names[0]} and {names[1]} have no task with a score of both: judge the same tasks and seeds")
    first, second = ([_edit_score(pair[side]) for pair in pairs] for side in (0, 1))
    band = same_band(scale)
    result = compare_editors(first, second, seed, band)
    ids, kinds = _tasks([pair[0] for pair in pairs])
    gaps = [a.score - b.score for a, b in zip(first, second, strict=True)]
    official = macro_ci(gaps, kinds, ids, seed)
    return {
        "editor": names[0],
        "against": names[1],
        "pairs": len(pairs),
        "unpaired": len({one.edit.key for one in (*after, *before)}) - len(pairs),
        "difference": result.mean,
        "ci95": result.ci95,
        "official_difference": official.mean,
        "official_ci95": official.ci95,
        "good": result.good,
        "same": result.same,
        "bad": result.bad,
        "same_band": band,
        "gsb": result.gsb,
        "gsb_ci95": result.gsb_ci95,
        "categories": result.categories,
        "kinds": _kinds(first, second, seed, band),
    }


def _edit_score(one: GradedEdit) -> EditScore:
    score = _score(one)
    assert score is not None, "pairs have both scores"
    sample = one.edit.task.sample
    return EditScore(sample.id, sample.category, one.edit.seed, b"", score)


def _kinds(
    after: Sequence[EditScore], before: Sequence[EditScore], seed: int, band: float
) -> dict[str, dict[str, Any]]:
    """The comparison within each kind of edit: both means, difference and GSB with their intervals."""
    found = {}
    for name, one in compare_by_category(after, before, seed, band).items():
        means = [_mean([score.score for score in side if score.category == name]) for side in (after, before)]
        found[name] = {
            "pairs": one.good + one.same + one.bad, "editor": means[0], "against": means[1], "difference": one.mean,
            "ci95": one.ci95, "good": one.good, "same": one.same, "bad": one.bad, "gsb": one.gsb,
            "gsb_ci95": one.gsb_ci95,
        }  # fmt: skip
    return found
