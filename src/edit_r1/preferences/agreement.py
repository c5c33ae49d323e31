"""How far annotators agree: raw agreement, Krippendorff's alpha, each annotator against the others.

A unit is a pair that was compared, its values the answers of different annotators. Only units with two values or more
say anything about agreement; the others are left out, as in Krippendorff's own definition.

Shapes: U units, C categories, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from edit_r1.records import Choice
from edit_r1.stats import Estimate, proportion

ORDER: tuple[Choice, ...] = ("first", "same", "second")
"""The answers of a comparison as an ordinal scale."""
Level = Literal["nominal", "ordinal"]
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

    o_u[c, k] = n_uc (n_uk - [c = k]) / (m_u - 1), with n_uc values of category c among the m_u of the unit
    (Krippendorff, Content Analysis, 4th edition, chapter 12). The entries of a unit's matrix sum to m_u.

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
    counts_UC = np.array(counts, dtype=np.float64).reshape(len(counts), len(place))
    products_UCC = counts_UC[:, :, None] * counts_UC[:, None, :] - counts_UC[:, :, None] * np.eye(len(place))
    return products_UCC / (counts_UC.sum(axis=1)[:, None, None] - 1)


def krippendorff(
    units: Sequence[Sequence[Hashable]],
    categories: Sequence[Hashable] = ORDER,
    level: Level = "nominal",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Alpha:
    """Krippendorff's alpha = 1 - D_o / D_e, with a percentile interval over resampled units.

    With n_c the values of category c in all units and n their number,
    D_o = sum_ck o_ck d(c, k) / n and D_e = sum_ck n_c n_k d(c, k) / (n (n - 1)), where d(c, k) is 1 for different
    categories at the nominal level, and (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2 at the ordinal one.

    Args:
        categories: every possible value; at the ordinal level in their order.

    Raises:
        ValueError: as `coincidences`.
    """
    each_UCC = coincidences(units, categories)
    u = len(each_UCC)
    whole = float(_alphas(each_UCC.sum(axis=0)[None], level)[0])
    alpha = None if np.isnan(whole) else whole
    values = round(float(each_UCC.sum()))
    if alpha is None or u < 2 or resamples < 1:
        return Alpha(alpha, None, u, values)
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for start in range(0, resamples, _CHUNK):
        weights_RU = rng.multinomial(u, np.full(u, 1 / u), size=min(_CHUNK, resamples - start))
        drawn.append(_alphas(np.tensordot(weights_RU, each_UCC, axes=1), level))
    alphas_R = np.concatenate(drawn)
    alphas_R = alphas_R[~np.isnan(alphas_R)]  # a resample in which all values are the same has none
    interval = [float(end) for end in np.quantile(alphas_R, [0.025, 0.975])] if alphas_R.size else None
    return Alpha(alpha, interval, u, values)


def _alphas(coincidences_RCC: np.ndarray, level: Level) -> np.ndarray:
    """Alpha of each coincidence matrix, float64 (R,); NaN where there is none."""
    counts_RC = coincidences_RCC.sum(axis=2)
    n_R = counts_RC.sum(axis=1)
    c = counts_RC.shape[1]
    if level == "nominal":
        distance_RCC = np.broadcast_to(1 - np.eye(c), coincidences_RCC.shape)
    else:
        below_RC = np.cumsum(counts_RC, axis=1) - counts_RC / 2  # rank of a category's middle
        distance_RCC = (below_RC[:, :, None] - below_RC[:, None, :]) ** 2
    observed_R = (coincidences_RCC * distance_RCC).sum(axis=(1, 2))
    expected_R = (counts_RC[:, :, None] * counts_RC[:, None, :] * distance_RCC).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas_R = 1 - (n_R - 1) * observed_R / expected_R
    alphas_R[~(expected_R > 0)] = np.nan
    return alphas_R


def raw_agreement(units: Sequence[Sequence[Hashable]], seed: int = 0) -> Estimate | None:
    """Share of the pairs of answers to one unit that are the same, 0 to 1, each unit's pairs being a cluster.

    A unit with m answers has m (m - 1) / 2 such pairs. None when no unit has two answers.
    """
    flags: list[bool] = []
    clusters: list[int] = []
    for number, unit in enumerate(units):
        same = [unit[a] == unit[b] for a in range(len(unit)) for b in range(a)]
        flags += same
        clusters += [number] * len(same)
    return proportion(flags, clusters, seed) if flags else None


def against_others(units: Sequence[Mapping[str, Hashable]], annotator: str, seed: int = 0) -> Estimate | None:
    """Share of the other annotators' answers that `annotator` gave too, over the units that both answered.

    Args:
        units: per unit, annotator to answer.

    Returns:
        The share, 0 to 1, its interval by drawing units; None when nobody else answered what `annotator` did.
    """
    flags: list[bool] = []
    clusters: list[int] = []
    for number, unit in enumerate(units):
        if annotator not in unit:
            continue
        same = [value == unit[annotator] for name, value in unit.items() if name != annotator]
        flags += same
        clusters += [number] * len(same)
    return proportion(flags, clusters, seed) if flags else None


def chance_of_guessing(right: int, asked: int, chance: float = 0.5) -> float:
    """Probability that a guesser has at least `right` of `asked` right: the upper tail of the binomial law.

    Raises:
        ValueError: for counts that are no counts, or a chance outside 0 to 1.
    """
    if not 0 <= right <= asked or not 0 <= chance <= 1:
        raise ValueError(f"right={right}, asked={asked}, chance={chance}: use 0 <= right <= asked, 0 <= chance <= 1")
    return sum(comb(asked, k) * chance**k * (1 - chance) ** (asked - k) for k in range(right, asked + 1))
