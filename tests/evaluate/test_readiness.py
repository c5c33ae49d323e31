"""Readiness in numbers: every formula beside a twin that computes it another way, and what must not matter."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from edit_r1.evaluate.probes import BLUR, COPY, NO_EDIT
from edit_r1.evaluate.readiness import (
    Lift,
    ProbeCost,
    Reliability,
    best_of_g_lift,
    near_pair_accuracy,
    no_spread,
    probe_cost,
    rank_correlation,
    reliability,
)
from edit_r1.evaluate.readiness_verdict import Measured, ReadinessThresholds, looser, verdict
from edit_r1.stats import Estimate

scores = st.floats(0, 10).map(lambda value: round(value, 2))


def _drawn(contexts: int, edits: int, traces: int, std_edit: float, std_trace: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 20, (contexts, 1, 1)) + rng.normal(0, std_edit, (contexts, edits, 1))
    return means + rng.normal(0, std_trace, (contexts, edits, traces))


def test_reliability_of_a_balanced_design_is_that_of_the_textbook() -> None:
    drawn_CGN = _drawn(7, 5, 3, 2.0, 1.0)
    found = reliability(drawn_CGN.tolist())
    var_traces = drawn_CGN.var(axis=2, ddof=1).mean()
    var_edits = drawn_CGN.mean(axis=2).var(axis=1, ddof=1).mean() - var_traces / 3
    assert found.var_traces == pytest.approx(var_traces)
    assert found.var_edits == pytest.approx(var_edits)
    assert found.single == pytest.approx(var_edits / (var_edits + var_traces))
    for n in (1, 2, 8):
        assert found.of_mean(n) == pytest.approx(var_edits / (var_edits + var_traces / n))
    assert found.single_ci95 is not None and found.single_ci95[0] < found.single < found.single_ci95[1]
    assert found.ci95_of_mean(1) == pytest.approx(found.single_ci95)
    assert (found.edits, found.traces) == (35, 105)


def test_reliability_of_ragged_groups_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    estimates = []
    for seed in range(60):
        whole = _drawn(30, 4, 4, 1.5, 1.0, seed)
        ragged = [[edit[: rng.integers(0, 5)].tolist() for edit in context] for context in whole]
        found = reliability(ragged, resamples=1)
        estimates.append((found.var_edits, found.var_traces))
    mean = np.mean(estimates, axis=0)
    assert mean[0] == pytest.approx(2.25, rel=0.06)
    assert mean[1] == pytest.approx(1.0, rel=0.06)


@given(st.lists(st.lists(st.lists(scores, max_size=3), max_size=4), max_size=4), st.floats(-5, 5))
def test_reliability_never_sees_a_shift_of_a_context(contexts: list[list[list[float]]], shift: float) -> None:
    found = reliability(contexts, resamples=20)
    moved = [[[x + shift * c for x in edit] for edit in context] for c, context in enumerate(contexts)]
    other = reliability(moved, resamples=20)
    assert found.var_traces == pytest.approx(other.var_traces, abs=1e-6)
    assert found.var_edits == pytest.approx(other.var_edits, abs=1e-6)
    assert found.single is None or 0 <= found.single <= 1


def test_reliability_is_absent_where_nothing_repeats_or_varies() -> None:
    assert reliability([]).single is None
    assert reliability([[[1.0], [2.0]]]).single is None
    assert reliability([[[3.0, 3.0], [3.0, 3.0]]]).single is None
    assert reliability([[[1.0, 1.0], [4.0, 4.0]]]).single == 1.0
    assert reliability([[[1.0, 1.0], [4.0, 4.0]]]).single_ci95 is None


def test_groups_without_spread_are_counted() -> None:
    assert no_spread([[1.0, 1.0], [1.0, 2.0], [3.0], [2.0, 2.0, 2.0]]).mean == pytest.approx(2 / 3)
    assert no_spread([[1.0], []]) is None


groups = st.integers(0, 4).flatmap(
    lambda size: st.tuples(*[st.lists(st.sampled_from([0.0, 2.5, 5.0, 9.0]), min_size=size, max_size=size)] * 2)
)


@given(st.lists(groups, max_size=4))
def test_lift_is_the_mean_over_ways_to_break_ties(pairs: list[tuple[list[float], list[float]]]) -> None:
    found = best_of_g_lift([judged for judged, _ in pairs], [truth for _, truth in pairs])
    used = [(judged, truth) for judged, truth in pairs if len(judged) > 1]
    if not used:
        assert found is None
        return
    gains = []
    for judged, truth in used:
        top = [g for g in range(len(judged)) if judged[g] == max(judged)]
        gains.append(sum(truth[g] for g in top) / len(top) - sum(truth) / len(truth))
    assert found.gain.mean == pytest.approx(sum(gains) / len(gains))
    assert found.gain.mean <= found.possible + 1e-9
    own = best_of_g_lift([truth for _, truth in used], [truth for _, truth in used])
    assert own.gain.mean == pytest.approx(found.possible)


def test_what_was_not_judged_on_both_sides_is_refused() -> None:
    for measure in (best_of_g_lift, rank_correlation, lambda a, b: near_pair_accuracy(a, b, 2.0)):
        with pytest.raises(ValueError, match="same edits"):
            measure([[1.0, 2.0]], [[1.0, 2.0, 3.0]])


def test_rank_correlation_is_scipys_and_a_flat_judge_counts_as_0() -> None:
    rng = np.random.default_rng(2)
    judged = [rng.integers(0, 5, 8).astype(float).tolist() for _ in range(6)]
    truths = [rng.integers(0, 5, 8).astype(float).tolist() for _ in range(6)]
    estimate, used, flat = rank_correlation(judged, truths)
    expected = [spearmanr(a, b).statistic for a, b in zip(judged, truths, strict=True)]
    assert estimate.mean == pytest.approx(np.mean(expected)) and (used, flat) == (6, 0)
    estimate, used, flat = rank_correlation([*judged, [4.0] * 8, judged[0]], [*truths, truths[0], [1.0] * 8])
    assert estimate.mean == pytest.approx(sum(expected) / 7) and (used, flat) == (7, 1)
    assert rank_correlation([[1.0, 2.0]], [[3.0, 3.0]]) == (None, 0, 0)


@given(st.lists(groups, max_size=3), st.sampled_from([2.5, 4.0, 10.0]))
def test_near_pairs_are_what_a_slow_count_says(pairs: list[tuple[list[float], list[float]]], near: float) -> None:
    found = near_pair_accuracy([judged for judged, _ in pairs], [truth for _, truth in pairs], near)
    credits = []
    for judged, truth in pairs:
        for (a, t), (b, u) in combinations(list(zip(judged, truth, strict=True)), 2):
            if t != u and abs(t - u) <= near:
                winner, loser = (a, b) if t > u else (b, a)
                credits.append(1.0 if winner > loser else 0.5 if winner == loser else 0.0)
    assert (found is None) == (not credits)
    if credits:
        assert found.mean == pytest.approx(np.mean(credits)) and found.n == len(credits)


def test_probe_cost_pairs_and_leaves_out_what_has_no_score() -> None:
    found = probe_cost(BLUR, [8.0, 6.0, None, 9.0, 7.0], [5.0, 6.0, 1.0, None, 9.0])
    assert found.cost.mean == pytest.approx((3 + 0 - 2) / 3)
    assert found.lower == pytest.approx(1 / 3) and found.unscored == 2 and found.mean == pytest.approx(20 / 3)
    assert probe_cost(BLUR, [None], [1.0]).cost is None


# --- the verdict ---------------------------------------------------------------------------------------------------


def _estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean, low, high, 20, 20)


def _measured(**changes: object) -> Measured:
    good = {
        "traces": 4,
        "unparsed": 0.01,
        "reliability": Reliability(0.6, [0.5, 0.7], 1.5, 1.0, 100, 400),
        "no_spread": _estimate(0.1, 0.0, 0.2),
        "lift": Lift(_estimate(1.0, 0.5, 1.5), 2.0),
        "lift_by": "people",
        "rank": _estimate(0.5, 0.3, 0.7),
        "rank_flat": 0,
        "near": _estimate(0.6, 0.53, 0.66),
        "near_points": 2.0,
        "reference": "people {of braces}",
        "probes": (
            ProbeCost(COPY, _estimate(6.0, 5.0, 7.0), 1.0, 1.0, 0),
            ProbeCost(BLUR, _estimate(1.0, 0.2, 2.0), 0.8, 7.0, 0),
        ),
        "probed": 20,
        "per_second": 3.0,
    }
    return Measured(**{**good, **changes})


def _missed(measured: Measured, thresholds: ReadinessThresholds | None = None) -> list[str]:
    checks = verdict(measured, thresholds or ReadinessThresholds(), NO_EDIT)
    assert all(check.told and check.asked and check.remedy for check in checks)
    return [check.name for check in checks if check.passed is False]


def test_a_good_judge_is_ready_and_every_check_can_be_missed_alone() -> None:
    assert _missed(_measured()) == []
    blur = ProbeCost(BLUR, _estimate(1.0, -0.2, 2.0), 0.5, 7.0, 0)
    copy = ProbeCost(COPY, _estimate(1.9, 1.5, 2.2), 1.0, 6.0, 0)
    for changes, name in (
        ({"unparsed": 0.2}, "unparsed traces"),
        ({"reliability": Reliability(0.1, [0.0, 0.2], 0.1, 0.9, 9, 9)}, "reliability"),
        ({"reliability": Reliability(None, None, 0.0, 0.0, 9, 9)}, "reliability"),
        ({"no_spread": _estimate(0.5, 0.4, 0.6)}, "groups without spread"),
        ({"lift": Lift(_estimate(0.4, -0.1, 0.9), 2.0)}, "lift of best of G"),
        ({"lift": None}, "lift of best of G"),
        ({"rank": _estimate(0.2, 0.1, 0.3)}, "rank correlation"),
        ({"rank": _estimate(0.4, -0.1, 0.9)}, "rank correlation"),
        ({"near": _estimate(0.6, 0.49, 0.7)}, "near-equal pairs"),
        ({"probes": (copy,)}, COPY),
        ({"probes": (blur,)}, BLUR),
        ({"probes": (ProbeCost(BLUR, None, None, None, 5),)}, BLUR),
    ):
        assert _missed(_measured(**changes)) == [name], changes


def test_too_few_probed_contexts_pass_nothing() -> None:
    assert _missed(_measured(probed=3)) == [COPY, BLUR]


def test_a_probe_that_few_answers_measured_passes_nothing() -> None:
    dear = ProbeCost(COPY, _estimate(9.0, 8.0, 10.0), 1.0, 0.0, 0)
    few = ProbeCost(COPY, Estimate(9.0, 8.0, 10.0, 3, 3), 1.0, 0.0, 17)
    assert _missed(_measured(probes=(dear,))) == [] and _missed(_measured(probes=(few,))) == [COPY]
    (check,) = [one for one in verdict(_measured(probes=(few,)), ReadinessThresholds(), NO_EDIT) if one.name == COPY]
    assert check.told == "3 of 20 have a score both with and without it, 8 are needed" and "token limit" in check.remedy
    (check,) = [
        one
        for one in verdict(_measured(probes=(replace(few, unscored=1),)), ReadinessThresholds(), NO_EDIT)
        if one.name == COPY
    ]
    assert "4 contexts have another one" in check.told and check.remedy == "give contexts of more sources"
    assert _missed(_measured(probes=(few,)), ReadinessThresholds(min_no_edit_cost=None)) == []
    some = replace(dear, unscored=5)
    told = [one.told for one in verdict(_measured(probes=(some,)), ReadinessThresholds(), NO_EDIT)]
    assert "costs 9.0 points of a good edit, something on 100% of 20, 5 more have no score" in told


def test_a_verdict_that_asked_less_is_told() -> None:
    asked = asdict(ReadinessThresholds())
    assert looser(asked, ReadinessThresholds()) == [] and looser({}, ReadinessThresholds()) == []
    for name, value, said in (
        ("max_unparsed", 0.06, "max_unparsed 0.06 there, 0.05 required"),
        ("max_unparsed", None, "max_unparsed off there, 0.05 required"),
        ("min_no_edit_cost", 3.5, "min_no_edit_cost 3.5 there, 4 required"),
        ("min_probed", 0, "min_probed 0 there, 8 required"),
        ("min_lift", float("nan"), "min_lift nan there, 0 required"),
    ):
        assert looser({**asked, name: value}, ReadinessThresholds()) == [said]
    assert looser({**asked, "max_unparsed": 0.01, "min_lift": 1.0}, ReadinessThresholds()) == []
    assert looser({**asked, "min_lift": None}, ReadinessThresholds(min_lift=None)) == []
    assert looser(asked, ReadinessThresholds(min_per_second=2.0)) == ["min_per_second off there, 2 required"]


def test_what_could_not_be_measured_is_no_fault_of_the_judge() -> None:
    flat = _measured(
        rank=None, near=None, no_spread=None, probed=2, reliability=Reliability(None, None, 0.0, 0.0, 9, 9)
    )
    checks = {one.name: one for one in verdict(flat, ReadinessThresholds(), NO_EDIT) if one.passed is False}
    assert len(checks) == 6 and all("give more contexts" in one.remedy for one in checks.values())
    assert "people {of braces} tells no two edits of a group apart" in checks["rank correlation"].remedy


def test_without_a_reference_nothing_is_asked_of_it() -> None:
    checks = verdict(_measured(reference=None, rank=None, near=None), ReadinessThresholds(), NO_EDIT)
    assert "rank correlation" not in {check.name for check in checks}
    assert all(check.passed in (True, None) for check in checks)


def test_thresholds_can_be_turned_off_and_speed_asked_for() -> None:
    off = ReadinessThresholds(min_reliability=None, max_unparsed=None)
    bad = _measured(unparsed=0.9, reliability=Reliability(0.0, [0.0, 0.1], 0.0, 1.0, 9, 9))
    assert _missed(bad, off) == []
    assert _missed(_measured(), ReadinessThresholds(min_per_second=4.0)) == ["speed"]
    assert _missed(_measured(), ReadinessThresholds(min_per_second=2.0)) == []


@pytest.mark.parametrize("n", [1, 2, 5])
def test_spearman_brown_keeps_its_bounds(n: int) -> None:
    for single, ends in product((0.0, 0.3, 1.0), ([0.0, 1.0],)):
        found = Reliability(single, list(ends), 1.0, 1.0, 4, 8)
        assert single <= found.of_mean(n) <= 1 and found.ci95_of_mean(n) == [0.0, 1.0]
