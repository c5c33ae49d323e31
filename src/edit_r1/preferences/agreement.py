"""How far annotators agree: raw agreement, Krippendorff's alpha, each annotator against the others.

A unit is a pair that was compared, its values the answers of different annotators. Only units with two values or more
say anything about agreement; the others are left out, as in Krippendorff's own definition.

Shapes: U units, T kinds of equal units, C categories, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from edit_r1.records import Choice
from edit_r1.stats import Estimate, Level, alphas, counted_proportion, unit_coincidences

ORDER: tuple[Choice, ...] = ("first", "same", "second")
"""The answers of a comparison as an ordinal scale."""
RESAMPLES = 1000
_CHUNK = 100


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with its interval."""

    alpha: float | None
    """1: perfect; 0: as by chance; below 0: systematic disagreement. None when no unit has two values, or all values
    are the same."""
    ci95: list[float] | None
    """Percentile interval over resampled units; None when it cannot be had (fewer than two units)."""
    units: int
    """Units with two values or more."""
    values: int
    """Their values."""


def coincidences(units: Sequence[Sequence[Hashable]], categories: Sequence[Hashable]) -> np.ndarray:
    """The coincidence matrix of each unit, float64 (U, C, C), units with fewer than two values left out.

    As `stats.unit_coincidences`, from the values themselves.

    Raises:
        ValueError: for a value that is none of the categories.
    """
    place = {category: index for index, category in enumerate(categories)}
    counts = []
    for unit in units:
        if odd := [value for value in unit if value not in place]:
            raise ValueError(f"value {odd[0]!r} is none of the categories {list(categories)}")
        if len(unit) > 1:
            counts.append(np.bincount([place[value] for value in unit], minlength=len(place)))
    return unit_coincidences(np.array(counts, dtype=np.float64).reshape(len(counts), len(place)))


def krippendorff(
    units: Sequence[Sequence[Hashable]],
    categories: Sequence[Hashable] = ORDER,
    level: Level = "nominal",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Alpha:
    """Krippendorff's alpha (`stats.alphas`) with a percentile interval over resampled units.

    Args:
        categories: every possible value; at the ordinal level in their order.

    Raises:
        ValueError: as `coincidences`.
    """
    each_UCC = coincidences(units, categories)
    u = len(each_UCC)
    whole = float(alphas(each_UCC.sum(axis=0)[None], level)[0])
    alpha = None if np.isnan(whole) else whole
    values = round(float(each_UCC.sum()))
    if alpha is None or u < 2 or resamples < 1:
        return Alpha(alpha, None, u, values)
    # Units with the same matrix are drawn together, as in `stats.counted_proportion`.
    kinds_TCC, units_T = np.unique(each_UCC, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for start in range(0, resamples, _CHUNK):
        weights_RT = rng.multinomial(u, units_T / u, size=min(_CHUNK, resamples - start))
        drawn.append(alphas(np.tensordot(weights_RT, kinds_TCC, axes=1), level))
    alphas_R = np.concatenate(drawn)
    alphas_R = alphas_R[~np.isnan(alphas_R)]  # a resample in which all values are the same has none
    interval = [float(end) for end in np.quantile(alphas_R, [0.025, 0.975])] if alphas_R.size else None
    return Alpha(alpha, interval, u, values)


def raw_agreement(units: Sequence[Sequence[Hashable]], seed: int = 0) -> Estimate | None:
    """Share of the pairs of answers to one unit that are the same, 0 to 1, each unit's pairs being a cluster.

    A unit with m answers has m (m - 1) / 2 such pairs. None when no unit has two answers.
    """
    same = [[unit[a] == unit[b] for a in range(len(unit)) for b in range(a)] for unit in units]
    return counted_proportion([sum(flags) for flags in same], [len(flags) for flags in same], seed)


def against_others(units: Sequence[Mapping[str, Hashable]], annotator: str, seed: int = 0) -> Estimate | None:
    """Share of the other annotators' answers that `annotator` gave too, over the units that both answered.

    Args:
        units: per unit, annotator to answer.

    Returns:
        The share, 0 to 1, its interval by drawing units; None when nobody else answered what `annotator` did.
    """
    same = [
        [value == unit[annotator] for name, value in unit.items() if name != annotator]
        for unit in units
        if annotator in unit
    ]
    return counted_proportion([sum(flags) for flags in same], [len(flags) for flags in same], seed)


def chance_of_guessing(right: int, asked: int, chance: float = 0.5) -> float:
    """Probability that a guesser has at least `right` of `asked` right: the upper tail of the binomial law.

    Raises:
        ValueError: for counts that are no counts, or a chance outside 0 to 1.
    """
    if not 0 <= right <= asked or not 0 <= chance <= 1:
        raise ValueError(f"right={right}, asked={asked}, chance={chance}: use 0 <= right <= asked, 0 <= chance <= 1")
    return sum(comb(asked, k) * chance**k * (1 - chance) ** (asked - k) for k in range(right, asked + 1))
