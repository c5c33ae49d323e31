"""Is a judge fit to train an editor? What RL feels of it, on groups of one editor's edits: pure functions.

Group normalisation cancels what a judge says of a context as a whole. What is left is how it orders the edits of one
group, how much of that is noise, and what it does not see. Scores are 0 to 10.

Legend: C contexts, G edits of a context (a group), N repeated traces of an edit. Lists may be ragged: what was not
scored is left out by the caller and counted, never replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edit_r1.stats import RESAMPLES, Estimate, bootstrap_ci, spearman

Group = Sequence[float]
"""One value per edit of a context."""
SPREAD = 1e-9
"""A group whose values lie within this many points has no spread: all its advantages are 0."""


@dataclass(frozen=True)
class Reliability:
    """How much of the spread of scores within groups is between edits, and how much between repeated traces."""

    single: float | None
    """ICC(1) of one trace, var_edits / (var_edits + var_traces), 0 to 1; None when nothing varies or was repeated."""
    single_ci95: list[float] | None
    """Over contexts; None with one context."""
    var_edits: float
    """Between edits of one context, points^2; 0 where the estimate is negative."""
    var_traces: float
    """Between traces of one edit, points^2."""
    edits: int
    traces: int

    def of_mean(self, n: int) -> float | None:
        """Of the mean of n traces (Spearman-Brown): n r / (1 + (n - 1) r). None where `single` is."""
        return None if self.single is None else n * self.single / (1 + (n - 1) * self.single)

    def ci95_of_mean(self, n: int) -> list[float] | None:
        """The interval of `of_mean`, which grows with r."""
        return None if self.single_ci95 is None else [n * r / (1 + (n - 1) * r) for r in self.single_ci95]


def reliability(contexts: Sequence[Sequence[Group]], seed: int = 0, resamples: int = RESAMPLES) -> Reliability:
    """One-way random-effects ICC of scores[context][edit][trace], edits nested in contexts.

    With n_ce traces of edit e of context c, N_c = sum_e n_ce, and means m:
    SS_edits = sum_ce n_ce (m_ce - m_c)^2 with df_edits = sum_c (G_c - 1);
    SS_traces = sum_cet (x_cet - m_ce)^2 with df_traces = sum_ce (n_ce - 1);
    k = sum_c (N_c - sum_e n_ce^2 / N_c) / df_edits (the number of traces where it is the same everywhere);
    var_traces = SS_traces / df_traces; var_edits = max(0, (SS_edits / df_edits - var_traces) / k).
    Differences between contexts are no part of it: they cancel in every advantage. Edits without a trace and contexts
    with fewer than two edits are left out. (Searle, Casella, McCulloch: Variance Components, ch. 3.)
    """
    rows = [_sums([edit for edit in context if len(edit)]) for context in contexts]
    sums_C5 = np.array([row for row in rows if row is not None], dtype=np.float64).reshape(-1, 5)
    total_5 = sums_C5.sum(axis=0)
    edits = sum(len(edit) > 0 for context in contexts for edit in context)
    traces = sum(len(edit) for context in contexts for edit in context)
    single, var_edits, var_traces = _icc(total_5)
    if single is None or len(sums_C5) < 2:
        return Reliability(single, None, var_edits, var_traces, edits, traces)
    weights_RC = np.random.default_rng(seed).multinomial(
        len(sums_C5), np.full(len(sums_C5), 1 / len(sums_C5)), resamples
    )
    drawn = [value for row in weights_RC @ sums_C5 if (value := _icc(row)[0]) is not None]
    ci95 = None if len(drawn) < resamples / 2 else [float(end) for end in np.quantile(drawn, [0.025, 0.975])]
    return Reliability(single, ci95, var_edits, var_traces, edits, traces)


def _sums(edits: Sequence[Group]) -> tuple[float, ...] | None:
    """(SS_edits, df_edits, SS_traces, df_traces, numerator of k) of one context; None with fewer than two edits."""
    if len(edits) < 2:
        return None
    counts_G = np.array([len(edit) for edit in edits], dtype=np.float64)
    means_G = np.array([np.mean(edit) for edit in edits])
    n = counts_G.sum()
    middle = float(counts_G @ means_G / n)
    return (
        float(counts_G @ (means_G - middle) ** 2),
        len(edits) - 1.0,
        float(sum(((np.asarray(edit) - mean) ** 2).sum() for edit, mean in zip(edits, means_G, strict=True))),
        float(counts_G.sum() - len(edits)),
        float(n - (counts_G**2).sum() / n),
    )


def _icc(sums_5: np.ndarray) -> tuple[float | None, float, float]:
    ss_edits, df_edits, ss_traces, df_traces, k_sum = sums_5
    if df_edits <= 0 or df_traces <= 0:
        return None, 0.0, 0.0
    var_traces = ss_traces / df_traces
    var_edits = max(0.0, (ss_edits / df_edits - var_traces) / (k_sum / df_edits))
    both = var_edits + var_traces
    return (None if both < SPREAD**2 else float(var_edits / both)), float(var_edits), float(var_traces)


def no_spread(groups: Sequence[Group], seed: int = 0) -> Estimate | None:
    """Share of groups in which all edits have one reward, 0 to 1: they teach nothing. None without a group of two."""
    flags = [float(max(group) - min(group) <= SPREAD) for group in groups if len(group) >= 2]
    return bootstrap_ci(flags, seed=seed) if flags else None


@dataclass(frozen=True)
class Lift:
    """What choosing the best of a group by a judge gains, by another measure of the same edits."""

    gain: Estimate
    """Of the chosen edit over the group's mean, points, clustered by context."""
    possible: float
    """Mean gain of choosing by that measure itself, points."""

    @property
    def share(self) -> float | None:
        """gain / possible; None where there was nothing to gain."""
        return None if self.possible <= SPREAD else self.gain.mean / self.possible


def best_of_g_lift(chosen_by: Sequence[Group], measured_by: Sequence[Group], seed: int = 0) -> Lift | None:
    """Best of G: by group, mean of `measured_by` over the edits with the highest `chosen_by`, less the group's mean.

    Equals share the choice, which is what choosing among them at random gives on average. None without a group of two.
    Raises ValueError for groups of different sizes on the two sides.
    """
    gains, possible = [], []
    for judged, measured in _pairs(chosen_by, measured_by):
        top = max(judged)
        best = [value for score, value in zip(judged, measured, strict=True) if score >= top - SPREAD]
        gains.append(float(np.mean(best) - np.mean(measured)))
        possible.append(float(max(measured) - np.mean(measured)))
    return Lift(bootstrap_ci(gains, seed=seed), float(np.mean(possible))) if gains else None


def rank_correlation(
    judged: Sequence[Group], reference: Sequence[Group], seed: int = 0
) -> tuple[Estimate | None, int, int]:
    """Mean within-group Spearman's rho of judge and reference, -1 to 1; groups used; groups of a flat judge.

    A group in which the reference has no spread has nothing to order and is left out. One in which the judge has none
    while the reference has some counts as 0: there the judge orders nothing. (`stats.mean_within_group_spearman` leaves
    it out; a judge that is silent wherever it is unsure would then gain.) Raises ValueError as `best_of_g_lift`.
    """
    rhos: list[float] = []
    flat = 0
    for scores, truths in _pairs(judged, reference):
        if max(truths) - min(truths) <= SPREAD:
            continue
        rho = None if max(scores) - min(scores) <= SPREAD else spearman(scores, truths)
        flat += rho is None
        rhos.append(0.0 if rho is None else rho)
    return (bootstrap_ci(rhos, seed=seed) if rhos else None), len(rhos), flat


def near_pair_accuracy(
    judged: Sequence[Group], reference: Sequence[Group], near: float, seed: int = 0
) -> Estimate | None:
    """Accuracy on pairs of one group whose reference scores differ, by at most `near` points; a tie is worth 0.5.

    This is what the edits of one policy look like; pairs of public benchmarks lie further apart. Clustered by group.
    None without such a pair. Raises ValueError as `best_of_g_lift`.
    """
    credits: list[float] = []
    clusters: list[int] = []
    for number, (scores, truths) in enumerate(_pairs(judged, reference)):
        for i in range(len(scores)):
            for j in range(i):
                gap = truths[i] - truths[j]
                if SPREAD < abs(gap) <= near + SPREAD:
                    difference = scores[i] - scores[j]
                    sign = 0.0 if abs(difference) <= SPREAD else float(np.sign(difference))
                    credits.append(0.5 + 0.5 * sign * float(np.sign(gap)))
                    clusters.append(number)
    return bootstrap_ci(credits, clusters, seed) if credits else None


@dataclass(frozen=True)
class ProbeCost:
    """What one probe (`evaluate.probes`) costs under the judge."""

    name: str
    cost: Estimate | None
    """Score of the true edit less the probe's, points; None when no pair has both scores."""
    lower: float | None
    """Share of the probes that have fewer points than their edit, 0 to 1."""
    mean: float | None
    """Mean score of the probe, 0 to 10."""
    unscored: int
    """Pairs without both scores."""


def probe_cost(
    name: str, edits_C: Sequence[float | None], probes_C: Sequence[float | None], seed: int = 0
) -> ProbeCost:
    """Paired by context. Raises ValueError for lists of different lengths."""
    pairs = [(a, b) for a, b in zip(edits_C, probes_C, strict=True) if a is not None and b is not None]
    unscored = len(edits_C) - len(pairs)
    if not pairs:
        return ProbeCost(name, None, None, None, unscored)
    costs = [edit - probe for edit, probe in pairs]
    lower = float(np.mean([cost > SPREAD for cost in costs]))
    return ProbeCost(name, bootstrap_ci(costs, seed=seed), lower, float(np.mean([b for _, b in pairs])), unscored)


def _pairs(first: Sequence[Group], second: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups of at least two edits, both sides. Raises ValueError where they do not fit."""
    sizes = [(len(a), len(b)) for a, b in zip(first, second, strict=True)]
    odd = [size for size in sizes if size[0] != size[1]]
    if odd:
        raise ValueError(f"groups of {odd[0][0]} and {odd[0][1]} edits: give both measures of the same edits")
    return [(a, b) for a, b in zip(first, second, strict=True) if len(a) >= 2]
