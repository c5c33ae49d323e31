"""Numbers with their uncertainty: clustered bootstrap intervals, paired differences, GSB, rank correlation.

Values that share a source image (or an editor's group) are not independent, so every interval is made
by drawing whole clusters with replacement. All intervals are percentile intervals at 95 %.

Shapes: N values, K clusters, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal"]
"""Of measurement: whether categories have an order."""

RESAMPLES = 2000
_CHUNK = 200
"""Most resamples drawn at once: K = 10,000 clusters then take 16 MB."""
_CELLS = 4_000_000
"""Most draws held at once: with more clusters fewer resamples are drawn at a time, in the same order."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    low: float
    """Lower end of the 95 % interval; NaN when there is only one cluster to resample."""
    high: float
    n: int
    """Number of values."""
    clusters: int
    """Number of independent clusters."""

    @property
    def ci95(self) -> list[float] | None:
        """[low, high] for JSON; None when one cluster leaves nothing to resample."""
        return None if np.isnan(self.low) else [self.low, self.high]


@dataclass(frozen=True)
class GSB:
    """Good / same / bad counts and (good - bad) / all, -1 to 1."""

    good: int
    same: int
    bad: int
    gsb: float
    ci95: list[float]
    n: int


@dataclass(frozen=True)
class GroupCorrelation:
    """Mean rank correlation within groups."""

    mean: float | None
    """-1 to 1; None when no group had a spread on both sides."""
    ci95: list[float] | None
    """Over groups; None with fewer than two used groups."""
    used: int
    skipped: int
    """Groups without a correlation: fewer than two members, or one side constant."""


def bootstrap_ci(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of N values with a percentile interval, drawing the K clusters with replacement.

    A resample's statistic is the mean over all values of its clusters, so larger clusters weigh more,
    as they do in the mean itself. Without clusters every value is its own.

    Raises:
        ValueError: when there are no values, a value is not finite, or clusters has another length.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or values_N.size == 0:
        raise ValueError(f"values of shape {values_N.shape}: a mean needs a list of at least one value")
    if not np.isfinite(values_N).all():
        raise ValueError("values hold NaN or infinity: leave out what was not measured before averaging")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: at least 1 is needed")
    member_N = _cluster_index(clusters, values_N.size)
    sums_K = np.bincount(member_N, weights=values_N)
    counts_K = np.bincount(member_N).astype(np.float64)
    mean = float(values_N.mean())
    if sums_K.size == 1:
        return Estimate(mean, float("nan"), float("nan"), values_N.size, 1)
    means_R = _resampled_means(sums_K, counts_K, np.random.default_rng(seed), resamples)
    low, high = np.quantile(means_R, [0.025, 0.975])
    return Estimate(mean, float(low), float(high), values_N.size, sums_K.size)


def macro_ci(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Unweighted mean over groups of each group's mean, with a percentile interval, drawing clusters with replacement.

    A group of which a resample holds no value is left out of that resample's mean. `n` counts values.

    Raises:
        ValueError: as `bootstrap_ci`, or when groups has another length.
    """
    plain = bootstrap_ci(values, clusters, seed, resamples=1)
    values_N = np.asarray(values, dtype=np.float64)
    group_N, member_N = _cluster_index(groups, values_N.size), _cluster_index(clusters, values_N.size)
    shape = (plain.clusters, int(group_N.max()) + 1)
    sums_KT, counts_KT = np.zeros(shape), np.zeros(shape)
    np.add.at(sums_KT, (member_N, group_N), values_N)
    np.add.at(counts_KT, (member_N, group_N), 1.0)
    mean = float((sums_KT.sum(axis=0) / counts_KT.sum(axis=0)).mean())
    if plain.clusters == 1:
        return Estimate(mean, float("nan"), float("nan"), values_N.size, 1)
    rng = np.random.default_rng(seed)
    k = plain.clusters
    means = []
    for start in range(0, resamples, _CHUNK):
        drawn_RK = rng.multinomial(k, np.full(k, 1 / k), size=min(_CHUNK, resamples - start))
        counts_RT = drawn_RK @ counts_KT
        accuracy_RT = np.where(counts_RT > 0, drawn_RK @ sums_KT / np.maximum(counts_RT, 1), np.nan)
        means.append(np.nanmean(accuracy_RT, axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(mean, float(low), float(high), values_N.size, k)


def nested_ci(
    values: Sequence[float] | np.ndarray,
    runs: Sequence[Hashable] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean over all values with a percentile interval that draws runs, then clusters within each drawn run.

    For a study over training seeds: `bootstrap_ci` over the sources of all seeds asks how much other sources would
    change the mean, this one how much other sources *and* other trainings would. A cluster belongs to one run, whatever
    it is called; with few runs the interval is a rough one. `clusters` of the result counts those of all runs.

    Raises:
        ValueError: as `bootstrap_ci`, or when runs has another length.
    """
    values_N = np.asarray(values, dtype=np.float64)
    run_N, named_N = _cluster_index(runs, values_N.size), _cluster_index(clusters, values_N.size)
    plain = bootstrap_ci(values_N, list(zip(run_N.tolist(), named_N.tolist(), strict=True)), seed, resamples=1)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for run in range(int(run_N.max()) + 1):
        inside = np.flatnonzero(run_N == run)
        member = _cluster_index(named_N[inside].tolist(), inside.size)
        parts.append((np.bincount(member, weights=values_N[inside]), np.bincount(member).astype(np.float64)))
    if plain.clusters == 1:
        return plain
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for place in range(resamples):
        total = count = 0.0
        for run in rng.integers(len(parts), size=len(parts)):
            sums_K, counts_K = parts[run]
            drawn_K = rng.integers(sums_K.size, size=sums_K.size)
            total += sums_K[drawn_K].sum()
            count += counts_K[drawn_K].sum()
        means[place] = total / count
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(plain.mean, float(low), float(high), values_N.size, plain.clusters)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of a - b, item by item, with a clustered interval: how much better `a` is than `b`.

    Raises:
        ValueError: when the two have different lengths, or as `bootstrap_ci`.
    """
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_N.shape != b_N.shape:
        raise ValueError(
            f"{a_N.size} values against {b_N.size}: a paired difference needs the same items on both sides"
        )
    return bootstrap_ci(a_N - b_N, clusters, seed, resamples)


def proportion(
    flags: Sequence[bool] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Share of true flags, 0 to 1, with a clustered interval. Raises ValueError as `bootstrap_ci`."""
    return bootstrap_ci(np.asarray(flags, dtype=bool).astype(np.float64), clusters, seed, resamples)


def counted_proportion(
    right_K: Sequence[int] | np.ndarray, asked_K: Sequence[int] | np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """`proportion` from each cluster's counts: `right_K` true flags of `asked_K`; None where nothing was asked.

    Clusters with the same counts are drawn together: how many of the K draws fall on each kind is multinomial too, so
    the law of the resamples is that of drawing clusters one by one, at the cost of the few kinds that there are.

    Raises:
        ValueError: for lists of different lengths, or counts that are none.
    """
    counts_K2 = np.stack([np.asarray(right_K, dtype=np.int64), np.asarray(asked_K, dtype=np.int64)], axis=-1)
    if ((counts_K2[:, 0] < 0) | (counts_K2[:, 0] > counts_K2[:, 1])).any():
        raise ValueError("right_K and asked_K: use 0 <= right <= asked in every cluster")
    asked_of = counts_K2[:, 1] > 0
    if not asked_of.any():
        return None
    kinds_T2, clusters_T = np.unique(counts_K2[asked_of], axis=0, return_counts=True)
    right, asked = (int(total) for total in counts_K2.sum(axis=0))
    k = int(clusters_T.sum())
    if k == 1:
        return Estimate(right / asked, float("nan"), float("nan"), asked, 1)
    drawn_RT = np.random.default_rng(seed).multinomial(k, clusters_T / k, size=resamples)
    low, high = np.quantile((drawn_RT @ kinds_T2[:, 0]) / (drawn_RT @ kinds_T2[:, 1]), [0.025, 0.975])
    return Estimate(right / asked, float(low), float(high), asked, k)


def gsb(good: int, same: int, bad: int, seed: int = 0, resamples: int = RESAMPLES) -> GSB:
    """GSB = (G - B) / (G + S + B) with a bootstrap interval over independent comparisons.

    For comparisons that share sources, call `bootstrap_ci` on their outcomes +1, 0, -1 with clusters.

    Raises:
        ValueError: for a negative count, or when all are 0.
    """
    if min(good, same, bad) < 0 or good + same + bad == 0:
        raise ValueError(f"good={good}, same={same}, bad={bad}: counts are >= 0 and at least one is above 0")
    n = good + same + bad
    drawn_R3 = np.random.default_rng(seed).multinomial(n, np.array([good, same, bad]) / n, size=resamples)
    low, high = np.quantile((drawn_R3[:, 0] - drawn_R3[:, 2]) / n, [0.025, 0.975])
    return GSB(good, same, bad, (good - bad) / n, [float(low), float(high)], n)


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Ranks 1..N as float64 (N,); ties share the mean of their ranks."""
    _, inverse_N, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse_N]


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rho, -1 to 1; None with fewer than two items or when one side is constant.

    Raises:
        ValueError: when the two have different lengths or hold NaN.
    """
    a_N, b_N = _pair(a, b)
    if a_N.size < 2 or np.ptp(a_N) == 0 or np.ptp(b_N) == 0:
        return None
    x_N, y_N = ranks(a_N), ranks(b_N)
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    return float(np.clip((x_N @ y_N) / np.sqrt((x_N @ x_N) * (y_N @ y_N)), -1, 1))


def mean_within_group_spearman(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0, resamples: int = RESAMPLES
) -> GroupCorrelation:
    """Mean over groups of Spearman's rho of (scores, truths) within the group, with an interval over groups.

    This is what an editor's training feels of a verifier: a shift common to a group cancels in its advantages.
    Groups without a rho (see `GroupCorrelation.skipped`) are counted and left out, never taken as 0.

    Raises:
        ValueError: as `spearman`.
    """
    rhos = [rho for scores, truths in groups if (rho := spearman(scores, truths)) is not None]
    skipped = len(groups) - len(rhos)
    if not rhos:
        return GroupCorrelation(None, None, 0, skipped)
    estimate = bootstrap_ci(rhos, seed=seed, resamples=resamples)
    return GroupCorrelation(estimate.mean, estimate.ci95, len(rhos), skipped)


def unit_coincidences(counts_UC: np.ndarray) -> np.ndarray:
    """The coincidence matrix of each unit, float64 (U, C, C), from how many of its values are of each category.

    o_u[c, k] = n_uc (n_uk - [c = k]) / (m_u - 1), with n_uc values of category c among the m_u >= 2 of the unit
    (Krippendorff, Content Analysis, 4th edition, chapter 12). The entries of a unit's matrix sum to m_u.
    """
    eye_CC = np.eye(counts_UC.shape[1])
    products_UCC = counts_UC[:, :, None] * counts_UC[:, None, :] - counts_UC[:, :, None] * eye_CC
    result: np.ndarray = products_UCC / (counts_UC.sum(axis=1)[:, None, None] - 1)
    return result


def alphas(coincidences_RCC: np.ndarray, level: Level = "nominal") -> np.ndarray:
    """Krippendorff's alpha = 1 - D_o / D_e of each summed coincidence matrix, float64 (R,); NaN where there is none.

    With n_c the values of category c in all units and n their number,
    D_o = sum_ck o_ck d(c, k) / n and D_e = sum_ck n_c n_k d(c, k) / (n (n - 1)), where d(c, k) is 1 for different
    categories at the nominal level, and (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2 at the ordinal one.
    """
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
        alphas_R: np.ndarray = 1 - (n_R - 1) * observed_R / expected_R
    alphas_R[~(expected_R > 0)] = np.nan
    return alphas_R


_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
          2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)  # fmt: skip
"""Student's t, 97.5 %, for 1, 2, ... degrees of freedom; beyond them the normal law's 1.96 is near enough."""


def jackknife_interval(whole: float, left_out: Sequence[float]) -> list[float] | None:
    """95 % interval of a statistic from its values with one of G groups of clusters left out each.

    Delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001): variance (G - 1) / G sum_g (t_g - t)^2
    about the whole's value t, times Student's t with G - 1 degrees of freedom. For counts that only add up, where no
    cluster can be drawn again; groups hold clusters by a hash, so values of one cluster never part.

    Returns:
        [low, high]; None with fewer than two groups.
    """
    g = len(left_out)
    if g < 2:
        return None
    spread = float(np.sqrt((g - 1) / g * np.sum((np.asarray(left_out, dtype=np.float64) - whole) ** 2)))
    times = _T_975[g - 2] if g - 2 < len(_T_975) else 1.96
    return [whole - times * spread, whole + times * spread]


def _pair(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_N.ndim != 1 or a_N.shape != b_N.shape:
        raise ValueError(f"shapes {a_N.shape} and {b_N.shape}: a correlation needs two lists of one length")
    if np.isnan(a_N).any() or np.isnan(b_N).any():
        raise ValueError("a correlation over NaN: leave out items that were not scored")
    return a_N, b_N


def _cluster_index(clusters: Sequence[Hashable] | np.ndarray | None, n: int) -> np.ndarray:
    """0..K-1 per value, in the order of first appearance: independent of what the cluster names are."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} values: give one cluster per value")
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(cluster, len(seen)) for cluster in clusters])


def _resampled_means(sums_K: np.ndarray, counts_K: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """R means; how often each cluster is drawn in K draws with replacement is multinomial."""
    k = sums_K.size
    means = []
    chunk = max(1, min(_CHUNK, _CELLS // k))
    for start in range(0, resamples, chunk):
        weights_RK = rng.multinomial(k, np.full(k, 1 / k), size=min(chunk, resamples - start))
        means.append((weights_RK @ sums_K) / (weights_RK @ counts_K))
    return np.concatenate(means)
