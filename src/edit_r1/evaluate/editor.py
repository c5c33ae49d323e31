"""What training did to an editor: paired scores on the same contexts, and Good / Same / Bad.

The judge is a function of (samples, their edited images); EditWorld's oracle, a held-out verifier or a person
fits. Scores are 0 to 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edit_r1.editors.protocol import Editor
from edit_r1.records import Sample
from edit_r1.stats import bootstrap_ci, paired_difference

Judge = Callable[[Sequence[Sample], Sequence[bytes]], Sequence[float]]


@dataclass(frozen=True)
class EditScore:
    """One edit of one context under an editor; seeds are the same for every editor that is compared."""

    sample_id: str
    category: str
    seed: int
    image: bytes
    score: float
    """0 to 10."""


@dataclass(frozen=True)
class EditorReport:
    """Mean score of one editor."""

    oracle: float
    ci95: list[float] | None
    """Clustered by context."""
    contexts: int
    edits: int
    categories: dict[str, float]


@dataclass(frozen=True)
class EditorComparison:
    """One editor against another on the same contexts and seeds."""

    mean: float
    """Difference of the mean scores, points."""
    ci95: list[float] | None
    good: int
    same: int
    bad: int
    gsb: float
    """(G - B) / (G + S + B)."""
    categories: dict[str, float]
    gsb_ci95: list[float] | None = None
    """Clustered by context; None with a single one."""


SAME_BAND = 0.5
"""Differences of at most this many points count as Same."""


def edit_and_judge(editor: Editor, judge: Judge, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditScore]:
    """Every sample edited with every seed and judged.

    Raises:
        ValueError: when the editor fails on an item; a missing picture never becomes a score.
    """
    repeated = [sample for sample in samples for _ in seeds]
    edits = editor.edit(repeated, [seed for _ in samples for seed in seeds])
    images = []
    for sample, edit in zip(repeated, edits, strict=True):
        if edit.image is None:
            raise ValueError(f"{editor.name} made no picture for sample {sample.id}: {edit.error}")
        images.append(edit.image)
    scores = judge(repeated, images)
    return [
        EditScore(sample.id, sample.category, seeds[number % len(seeds)], image, score)
        for number, (sample, image, score) in enumerate(zip(repeated, images, scores, strict=True))
    ]


def report_editor(scores: Sequence[EditScore], seed: int = 0) -> EditorReport:
    """Mean score with an interval clustered by context, and per category."""
    values = np.array([score.score for score in scores])
    clusters = [score.sample_id for score in scores]
    return EditorReport(
        float(values.mean()),
        bootstrap_ci(values, clusters, seed).ci95,
        len(set(clusters)),
        len(values),
        _by(scores, values),
    )


def _by(scores: Sequence[EditScore], values: np.ndarray) -> dict[str, float]:
    categories = sorted({score.category for score in scores})
    return {
        category: float(
            np.mean([value for score, value in zip(scores, values, strict=True) if score.category == category])
        )
        for category in categories
    }


def compare_editors(
    after: Sequence[EditScore], before: Sequence[EditScore], seed: int = 0, same_band: float = SAME_BAND
) -> EditorComparison:
    """`after` minus `before`, paired by context and seed, with GSB.

    same_band: largest difference that counts as Same, in the judge's points (`SAME_BAND` suits 0 to 10).

    Raises:
        ValueError: when the two were not made on the same contexts and seeds in the same order.
    """
    if [(s.sample_id, s.seed) for s in after] != [(s.sample_id, s.seed) for s in before]:
        raise ValueError("the two editors were not run on the same contexts and seeds")
    first, second = np.array([s.score for s in after]), np.array([s.score for s in before])
    delta = paired_difference(first, second, [s.sample_id for s in after], seed)
    differences = first - second
    outcomes = np.where(np.abs(differences) <= same_band, 0.0, np.sign(differences))
    good, bad = int((outcomes > 0).sum()), int((outcomes < 0).sum())
    share = bootstrap_ci(outcomes, [s.sample_id for s in after], seed)
    return EditorComparison(
        delta.mean, delta.ci95, good, len(outcomes) - good - bad, bad, share.mean, _by(after, differences), share.ci95
    )


def compare_by_category(
    after: Sequence[EditScore], before: Sequence[EditScore], seed: int = 0, same_band: float = SAME_BAND
) -> dict[str, EditorComparison]:
    """`compare_editors` within each category of edit. Raises ValueError as it does."""
    found: dict[str, EditorComparison] = {}
    for category in sorted({score.category for score in (*after, *before)}):
        own = [[score for score in scores if score.category == category] for scores in (after, before)]
        found[category] = compare_editors(own[0], own[1], seed, same_band)
    return found
