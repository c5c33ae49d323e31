"""What stands beside the official number, by hand and against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.benchmarks.compass import COMPASS
from edit_r1.evaluate.benchmarks.pairs import PAIRS
from edit_r1.evaluate.benchmarks.vs import VS
from edit_r1.evaluate.judging import JudgedPair, pair_of, pair_row
from edit_r1.evaluate.judgment_cache import Grade
from edit_r1.evaluate.reward import PairScore
from edit_r1.evaluate.reward_report import Result, calibration, compare_results, report_benchmark, trace_consistency
from edit_r1.stats import macro_ci


def judged(number: int, first: float | None, second: float | None, **more: object) -> JudgedPair:
    given = {"label": "first", "task": "compose", "dimension": "overall", "group": "", "names": ("A", "B"),
             "candidates": 2} | more  # fmt: skip
    grades = [Grade(score, traces=(score,)) for score in (first, second)]
    return JudgedPair(id=f"p{number}", source=f"s{number // 2}", edits=(f"x{number}", f"y{number}"),
                      first=grades[0], second=grades[1], **given)  # type: ignore[arg-type]  # fmt: skip


def test_a_benchmark_of_ties_alone_has_no_half_credit() -> None:
    pairs = [judged(n, 5, 5, label="tie", dimension="IA", task="") for n in range(3)]
    report = report_benchmark(COMPASS, pairs)
    assert (report["official"], report["half_credit"], report["preferences"], report["pairs"]) == (1, None, 0, 3)


def test_our_own_pairs_keep_the_contract_of_the_command() -> None:
    """docs/commands.md: "same" counts nowhere, the interval is that of half credit."""
    pairs = [judged(0, 7, 3, dimension=""), judged(1, 5, 5, dimension=""), judged(2, 5, 5, label="tie", dimension="")]
    pairs += [judged(3, None, 5, label="second", dimension="")]
    report = report_benchmark(PAIRS, pairs)
    assert (report["pairs"], report["unparsed"], report["half_credit"]) == (3, 1, pytest.approx(0.5))
    assert report["official"] == pytest.approx(1 / 3)
    assert report["tasks"] == {"compose": pytest.approx(0.5)}
    assert set(report["at_margin"]) == {"0.5", "1.0"}


def test_the_first_dimension_that_is_there_is_the_main_one() -> None:
    pairs = [judged(0, 7, 3, dimension="consistency"), judged(1, 3, 7, dimension="prompt_following")]
    report = report_benchmark(VS, pairs)
    assert (report["dimension"], report["official"]) == ("prompt_following", 0)
    assert report["dimensions"]["consistency"]["official"] == 1
    assert report_benchmark(VS, pairs, "consistency")["official"] == 1


def test_pairs_survive_the_disk() -> None:
    pair = judged(0, 7, None, label="tie", names=("C", "D"), candidates=4, group="g")
    assert pair_of(pair_row(pair)) == pair


SCORES = st.sampled_from([0.0, 3.0, 3.4, 5.0, 9.0])


@given(st.lists(st.tuples(st.lists(SCORES, max_size=3), st.lists(SCORES, max_size=3)), min_size=1, max_size=5))
def test_trace_consistency_brute_force(scores: list[tuple[list[float], list[float]]]) -> None:
    pairs, expected = [], []
    for number, (first, second) in enumerate(scores):
        pair = judged(number, 1, 2)
        pairs.append(JudgedPair(**{**pair.__dict__, "first": Grade(1, traces=tuple(first)),
                                   "second": Grade(1, traces=tuple(second))}))  # fmt: skip
        if len(first) > 1 and len(second) > 1:
            draws = [np.sign(a - b) for a, b in product(first, second)]
            expected.append(np.mean([x == y for x, y in product(draws, draws)]))
    found = trace_consistency(pairs)
    assert found == (pytest.approx(np.mean(expected)) if expected else None)


@given(st.lists(st.tuples(st.one_of(st.none(), SCORES), SCORES), max_size=12))
def test_calibration_brute_force(scores: list[tuple[float | None, float]]) -> None:
    found = calibration([PairScore("s", "", "w", "l", winner, loser) for winner, loser in scores])
    gaps = [winner - loser for winner, loser in scores if winner is not None and winner != loser]
    for one in found["bins"]:
        own = [gap for gap in gaps if one["from"] < abs(gap) <= one["to"]]
        assert one["pairs"] == len(own)
        assert one["right"] == (pytest.approx(sum(gap > 0 for gap in own) / len(own)) if own else None)
    assert sum(one["pairs"] for one in found["bins"]) == len(gaps)
    good, bad = [gap for gap in gaps if gap > 0], [-gap for gap in gaps if gap < 0]
    if not good or not bad:
        assert found["gap_auc"] is None
    else:
        wins = sum((g > b) + 0.5 * (g == b) for g, b in product(good, bad))
        assert found["gap_auc"] == pytest.approx(wins / (len(good) * len(bad)))


def test_a_paired_difference_of_macro_means() -> None:
    a = [judged(0, 7, 3), judged(1, 7, 3), judged(2, 3, 7, task="extract"), judged(3, 8, 1, task="extract")]
    b = [judged(0, 7, 3), judged(1, 3, 7), judged(2, 3, 7, task="extract"), judged(3, 1, 8, task="extract")]
    found = compare_results(VS, Result("a", "vs", "h", a), Result("b", "vs", "h", b))
    assert found["difference"]["official"]["mean"] == pytest.approx(0.75 - 0.25)
    assert found["difference"]["half_credit"]["mean"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same rows"):
        compare_results(VS, Result("a", "vs", "h", a), Result("b", "vs", "other", b))
    # The rows' hash knows no order, so neither does the comparison.
    turned = compare_results(VS, Result("a", "vs", "h", a), Result("b", "vs", "h", b[::-1]))
    assert turned["difference"] == found["difference"]
    for other in (b[:-1], [*b, b[0]], [*b[:-1], b[0]], [*b[:-1], judged(9, 1, 2, task="extract")]):
        with pytest.raises(ValueError, match="other comparisons"):
            compare_results(VS, Result("a", "vs", "h", a), Result("b", "vs", "h", other))


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=20))
def test_macro_ci_brute_force(rows: list[tuple[str, int, float]]) -> None:
    groups, clusters, values = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    found = macro_ci(values, groups, clusters, resamples=50)
    means = [np.mean([v for v, g in zip(values, groups, strict=True) if g == one]) for one in set(groups)]
    assert found.mean == pytest.approx(np.mean(means))
    assert (found.ci95 is None) == (len(set(clusters)) == 1)
    if found.ci95 is not None:
        assert -1e-9 <= found.low <= found.high <= 1 + 1e-9


def test_macro_ci_of_one_group_is_the_plain_interval() -> None:
    from edit_r1.stats import bootstrap_ci

    rng = np.random.default_rng(0)
    values, clusters = rng.random(60), rng.integers(0, 20, 60)
    macro, plain = macro_ci(values, [""] * 60, clusters), bootstrap_ci(values, clusters)
    assert macro.ci95 == pytest.approx(plain.ci95)


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.integers(10**309, 10**310), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


@given(st.data(), ANY)
def test_no_value_in_a_result_becomes_a_comparison_that_was_not_written(data: st.DataObject, value: object) -> None:
    row = pair_row(judged(0, 7, None, names=("C", "D"), candidates=4, group="g"))
    side = data.draw(st.sampled_from(["", "first", "second"]))
    place = row[side] if side else row
    place[data.draw(st.sampled_from(sorted(place)))] = value
    try:
        found = pair_of(row)
    except (KeyError, TypeError, ValueError):
        return
    for grade in (found.first, found.second):
        numbers = [grade.score, grade.expected, *grade.traces]
        assert all(one is None or 0 <= one <= 10 for one in numbers)
        assert all(one is None or 0 <= one <= 1 for one in grade.categories)
    assert (
        hash((found.id, found.source, found.task, found.dimension, found.group, found.names, found.edits)) is not None
    )
    assert found.label in ("first", "second", "tie") and isinstance(found.candidates, int)
