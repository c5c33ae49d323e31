"""How much a verifier's scores depend on who wrote the principles.

The same edits are judged twice, by principles from A and from B. What a comparison of edits feels of it is whether
their order changes; what a threshold feels is the difference of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from edit_r1.records import Principle
from edit_r1.stats import GroupCorrelation, bootstrap_ci, mean_within_group_spearman
from edit_r1.verifier.scoring import ScoreItem, Verifier


@dataclass(frozen=True)
class Interval:
    """A mean over edits or pairs of edits with its 95 % interval, clustered by source."""

    mean: float
    ci95: list[float] | None
    """None with a single source."""
    n: int


@dataclass(frozen=True)
class Sensitivity:
    """The scores by principles from A against those from B."""

    edits: int
    """Judged by both."""
    unscored: int
    """Edits without a score by A or by B, left out of everything else."""
    difference: Interval
    """Of |score by A - score by B|, points."""
    shift: Interval
    """Of score by B - score by A, points."""
    correlation: GroupCorrelation
    """Rank correlation (Spearman) of the two within the edits of one source, its interval over sources."""
    reversed: Interval | None
    """Share of pairs of edits of one source, ordered strictly by A, that B orders the other way; None without one."""
    tied: Interval | None
    """Share of the same pairs that B does not order."""


def principles_sensitivity(
    verifier: Verifier,
    items: Sequence[ScoreItem],
    sources: Sequence[Hashable],
    a: Sequence[Sequence[Principle]],
    b: Sequence[Sequence[Principle]],
    traces: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Judges every item by `a` and by `b`.

    Args:
        sources: what names the source and instruction of each item: intervals are clustered by it, and only edits of
            one source are ordered.
        a, b: the principles of each item, by either writer.

    Raises:
        ValueError: for lists of different lengths, or when no edit has both scores.
    """
    lengths = {len(items), len(sources), len(a), len(b)}
    if len(lengths) > 1:
        raise ValueError(f"lists of {sorted(lengths)} entries: give a source and both lists of principles per item")
    asked = [replace(item, principles=tuple(written)) for item, written in zip(items, a, strict=True)]
    asked += [replace(item, principles=tuple(written)) for item, written in zip(items, b, strict=True)]
    scores = [judgment.score for judgment in verifier.score_many(asked, traces, seed=seed, progress=progress)]
    return compare_scores(scores[: len(items)], scores[len(items) :], sources, seed)


def compare_scores(
    a: Sequence[float | None], b: Sequence[float | None], sources: Sequence[Hashable], seed: int = 0
) -> Sensitivity:
    """The report from the scores, 0 to 10, None for an edit without one. ValueError when no edit has both."""
    both = [(x, y, source) for x, y, source in zip(a, b, sources, strict=True) if x is not None and y is not None]
    if not both:
        raise ValueError(f"{len(a)} edits and none has a score by both: there is nothing to compare")
    clusters = [source for _, _, source in both]
    groups: dict[Hashable, list[tuple[float, float]]] = {}
    for x, y, source in both:
        groups.setdefault(source, []).append((x, y))
    flips: list[tuple[float, float, Hashable]] = []
    for source, scores in groups.items():
        for place, (x, y) in enumerate(scores):
            for other_x, other_y in scores[place + 1 :]:
                if x != other_x:
                    turned = (x - other_x) * (y - other_y)
                    flips.append((float(turned < 0), float(y == other_y), source))
    pairs = [source for _, _, source in flips]
    return Sensitivity(
        edits=len(both),
        unscored=len(a) - len(both),
        difference=_interval([abs(x - y) for x, y, _ in both], clusters, seed),
        shift=_interval([y - x for x, y, _ in both], clusters, seed),
        correlation=mean_within_group_spearman(
            [([x for x, _ in scores], [y for _, y in scores]) for scores in groups.values()], seed
        ),
        reversed=_interval([flip for flip, _, _ in flips], pairs, seed) if flips else None,
        tied=_interval([tie for _, tie, _ in flips], pairs, seed) if flips else None,
    )


def _interval(values: Sequence[float], clusters: Sequence[Hashable], seed: int) -> Interval:
    estimate = bootstrap_ci(values, clusters, seed)
    return Interval(estimate.mean, estimate.ci95, estimate.n)
