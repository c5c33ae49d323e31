from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from edit_r1.stats import (
    bootstrap_ci,
    counted_proportion,
    gsb,
    mean_within_group_spearman,
    nested_ci,
    paired_difference,
    proportion,
    ranks,
    spearman,
)

few_levels = st.lists(st.integers(0, 4), min_size=2, max_size=30)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_rank_correlations_agree_with_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) is None
        return
    assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)


@given(few_levels)
def test_ranks_agree_with_scipy(values: list[int]) -> None:
    assert np.array_equal(ranks(values), scipy_stats.rankdata(values))


def test_correlation_needs_two_lists_of_one_length_without_nan() -> None:
    with pytest.raises(ValueError, match="one length"):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="NaN"):
        spearman([1, float("nan")], [1, 2])
    assert spearman([1.0], [2.0]) is None


def test_bootstrap_agrees_with_a_brute_force_twin() -> None:
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 40, 300)
    values = rng.normal(size=300) + clusters * 0.1
    twin_rng = np.random.default_rng(9)
    names = np.unique(clusters)
    means = []
    for _ in range(3000):
        drawn = twin_rng.choice(names, size=names.size, replace=True)
        means.append(np.concatenate([values[clusters == name] for name in drawn]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    estimate = bootstrap_ci(values, clusters, seed=1)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.clusters == 40
    assert estimate.low == pytest.approx(low, abs=0.06)
    assert estimate.high == pytest.approx(high, abs=0.06)


def test_interval_covers_the_truth_about_95_percent_of_the_time() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        centres = rng.normal(size=50)
        values = np.repeat(centres, 4) + rng.normal(size=200) * 0.3
        estimate = bootstrap_ci(values, np.repeat(np.arange(50), 4), seed=trial, resamples=400)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.98


def test_clusters_widen_the_interval_of_repeated_values() -> None:
    values = np.random.default_rng(0).normal(size=60)
    repeated, sources = np.tile(values, 5), np.tile(np.arange(60), 5)
    alone, clustered, naive = bootstrap_ci(values), bootstrap_ci(repeated, sources), bootstrap_ci(repeated)
    assert clustered.low == pytest.approx(alone.low)
    assert clustered.high - clustered.low > 1.8 * (naive.high - naive.low)


def test_bootstrap_is_seeded_and_blind_to_cluster_names() -> None:
    values = np.random.default_rng(0).normal(size=30)
    sources = [f"s{index % 7}" for index in range(30)]
    renamed = [f"t{(index % 7) * 3}" for index in range(30)]
    assert bootstrap_ci(values, sources, seed=5) == bootstrap_ci(values, renamed, seed=5)
    assert bootstrap_ci(values, sources, seed=5) != bootstrap_ci(values, sources, seed=6)


def test_one_cluster_gives_no_interval() -> None:
    estimate = bootstrap_ci([1.0, 2.0], ["a", "a"])
    assert estimate.mean == 1.5
    assert estimate.ci95 is None


def test_bootstrap_refuses_what_it_cannot_average() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_ci([])
    with pytest.raises(ValueError, match="not measured"):
        bootstrap_ci([1.0, float("nan")])
    with pytest.raises(ValueError, match="2 clusters for 3 values"):
        bootstrap_ci([1.0, 2.0, 3.0], ["a", "b"])
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_ci([1.0], resamples=0)


def test_paired_difference_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=80)
    b = a - 0.2 + rng.normal(size=80) * 0.05
    delta = paired_difference(a, b, seed=2)
    assert delta == bootstrap_ci(a - b, seed=2)
    assert delta.low > 0
    assert delta.high - delta.low < 0.1 * (bootstrap_ci(a).high - bootstrap_ci(a).low)
    turned = paired_difference(a, a[::-1], seed=2)
    assert turned.low < 0 < turned.high
    with pytest.raises(ValueError, match="80 values against 3"):
        paired_difference(a, [1, 2, 3])


def test_proportion() -> None:
    estimate = proportion([True] * 30 + [False] * 70)
    assert estimate.mean == pytest.approx(0.3)
    exact = scipy_stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    assert [estimate.low, estimate.high] == pytest.approx(exact, abs=0.015)


def test_counted_proportion_is_the_proportion_of_its_clusters() -> None:
    rng = np.random.default_rng(2)
    asked = rng.integers(0, 4, 400)
    right = rng.binomial(asked, 0.7)
    clusters = np.repeat(np.arange(asked.size), asked)
    flags = np.concatenate([[True] * r + [False] * (a - r) for r, a in zip(right, asked, strict=True)])
    twin = proportion(flags.astype(bool), clusters, seed=5)
    found = counted_proportion(right, asked, seed=6)
    assert found is not None
    assert (found.mean, found.n, found.clusters) == (twin.mean, twin.n, twin.clusters)
    assert (found.low, found.high) == (pytest.approx(twin.low, abs=0.004), pytest.approx(twin.high, abs=0.004))
    assert counted_proportion(right, asked, seed=6) == found


def test_counted_proportion_of_little() -> None:
    assert counted_proportion([], []) is None and counted_proportion([0, 0], [0, 0]) is None
    one = counted_proportion([2, 0], [3, 0])
    assert one is not None and (one.mean, one.ci95, one.n, one.clusters) == (2 / 3, None, 3, 1)
    for right, asked in (([2], [1]), ([-1], [1]), ([1, 1], [1])):
        with pytest.raises(ValueError, match=r"0 <= right <= asked|same shape"):
            counted_proportion(right, asked)


def test_gsb() -> None:
    result = gsb(50, 30, 20)
    assert result.gsb == pytest.approx(0.3)
    assert result.n == 100
    twin = bootstrap_ci([1] * 50 + [0] * 30 + [-1] * 20, seed=4)
    assert result.ci95 == pytest.approx([twin.low, twin.high], abs=0.03)
    assert gsb(0, 4, 0).ci95 == [0, 0]
    for counts in ((0, 0, 0), (1, -1, 1)):
        with pytest.raises(ValueError, match="counts are >= 0"):
            gsb(*counts)


def test_mean_within_group_spearman_leaves_out_groups_without_one() -> None:
    groups = [([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [3, 2, 1]), ([5, 5, 5], [1, 2, 3]), ([1], [1]), ([1, 2], [7, 9])]
    result = mean_within_group_spearman(groups)
    assert result.mean == pytest.approx(1 / 3)
    assert (result.used, result.skipped) == (3, 2)
    assert result.ci95 is not None
    assert mean_within_group_spearman([([1, 1], [1, 2])]).mean is None


def test_within_group_correlation_ignores_a_shift_of_a_whole_group() -> None:
    rng = np.random.default_rng(0)
    groups = []
    for shift in range(10):
        truth = rng.normal(size=8)
        groups.append(((truth + 100 * shift).tolist(), truth.tolist()))
    assert mean_within_group_spearman(groups).mean == pytest.approx(1)


def test_many_clusters_are_drawn_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=60)
    whole = bootstrap_ci(values, resamples=50)
    monkeypatch.setattr("edit_r1.stats._CELLS", 200)
    pieces = bootstrap_ci(values, resamples=50)
    assert (pieces.low, pieces.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


def test_nested_interval_agrees_with_a_brute_force_twin() -> None:
    rng = np.random.default_rng(4)
    runs = np.repeat([0, 1, 2], 80)
    sources = rng.integers(0, 15, 240)
    values = rng.normal(size=240) + 0.8 * runs + 0.3 * sources
    twin_rng = np.random.default_rng(11)
    means = []
    for _ in range(3000):
        drawn: list[float] = []
        for run in twin_rng.choice(3, size=3):
            names = np.unique(sources[runs == run])
            for name in twin_rng.choice(names, size=names.size):
                drawn += values[(runs == run) & (sources == name)].tolist()
        means.append(np.mean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    estimate = nested_ci(values, runs, sources, seed=1)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.clusters == len(set(zip(runs.tolist(), sources.tolist(), strict=True)))
    assert estimate.low == pytest.approx(low, abs=0.08)
    assert estimate.high == pytest.approx(high, abs=0.08)
    sources_alone = bootstrap_ci(values, list(zip(runs.tolist(), sources.tolist(), strict=True)), seed=1)
    assert estimate.high - estimate.low > sources_alone.high - sources_alone.low, "runs vary too"


def test_nested_interval_refuses_lists_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="one cluster per value"):
        nested_ci([1.0, 2.0], [0, 0], [0])
    with pytest.raises(ValueError, match="one cluster per value"):
        nested_ci([1.0, 2.0], [0], [0, 1])
    assert nested_ci([1.0, 3.0], [0, 0], ["a", "a"]).ci95 is None
