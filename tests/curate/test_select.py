"""The selector against a brute-force twin, for every rule."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.select import TieBreak, matches, select
from edit_r1.records import GoldVerdicts, PoolTrace, Trace, Unparsed, Verdict


def trace(index: int, values: list[int], score: float, average: float | None = None) -> PoolTrace:
    verdicts = tuple(Verdict(1 if value else 0) for value in values)
    return PoolTrace("c", f"judge {index % 2}", index, Trace(f"t{index}", score, verdicts, average))


def gold(values: list[int]) -> GoldVerdicts:
    return GoldVerdicts("c", tuple(Verdict(1 if value else 0) for value in values), "verifier")


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[PoolTrace], GoldVerdicts]:
    """Few principles and few scores, so that ties of every kind occur."""
    count = draw(st.integers(1, 4))
    lists = st.lists(st.integers(0, 1), min_size=count, max_size=count)
    traces = []
    for index in draw(st.lists(st.integers(0, 30), min_size=1, max_size=7, unique=True)):
        if draw(st.integers(0, 4)) == 0:
            traces.append(PoolTrace("c", "judge 0", index, Unparsed("?", "no score")))
        else:
            score = draw(st.sampled_from([0.0, 4.1, 4.4, 7.3, 7.9, 10.0]))
            traces.append(trace(index, draw(lists), score, draw(st.sampled_from([None, 0.0, 0.5, 1.0]))))
    return traces, gold(draw(lists))


def twin(traces: list[PoolTrace], truth: GoldVerdicts, rule: str) -> set[int]:
    """Indices that the rule allows, in exact arithmetic and without sorting: one by one against all others."""
    parsed = {t.index: t.outcome for t in traces if isinstance(t.outcome, Trace)}
    if rule == "off":
        return set(parsed)
    right = {}
    for index, outcome in parsed.items():
        right[index] = 0
        for place in range(len(truth.gold)):
            assert outcome.verdicts is not None
            right[index] += outcome.verdicts[place].value == truth.gold[place].value
    tied = [index for index in parsed if all(right[index] >= other for other in right.values())]
    if rule == "lenient":
        key = {i: (sum(v.value for v in parsed[i].verdicts or ()), parsed[i].score, -i) for i in tied}
        return {i for i in tied if all(key[i] >= other for other in key.values())}
    scores = sorted(Fraction(str(parsed[index].score)) for index in tied)
    half = len(scores) // 2
    middle = (scores[half] if len(scores) % 2 else (scores[half - 1] + scores[half]) / 2) if scores else Fraction(0)
    away = {index: abs(Fraction(str(parsed[index].score)) - middle) for index in tied}
    return {index for index in tied if all(away[index] <= other for other in away.values())}


@given(pools(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_rule_chooses_as_its_twin_allows(
    pool: tuple[list[PoolTrace], GoldVerdicts], seed: int, shuffler: random.Random
) -> None:
    traces, truth = pool
    rules: list[tuple[str, TieBreak, bool]] = [
        ("lenient", "lenient", True),
        ("neutral", "neutral", True),
        ("off", "neutral", False),
        ("off", "lenient", False),
    ]
    for rule, tie_break, filter_on in rules:
        selection = select(traces, truth, tie_break, filter_on, seed)
        allowed = twin(traces, truth, rule)
        assert (selection.selected is None) == (not allowed)
        if selection.selected is not None:
            assert selection.selected.index in allowed
        shuffled = list(traces)
        shuffler.shuffle(shuffled)
        assert select(shuffled, truth, tie_break, filter_on, seed) == selection


@given(pools())
def test_every_trace_gets_one_decision_with_its_reason(pool: tuple[list[PoolTrace], GoldVerdicts]) -> None:
    traces, truth = pool
    selection = select(traces, truth, "neutral", True, 0)
    assert [item.index for item in selection.decisions] == sorted(t.index for t in traces)
    kept = [item.index for item in selection.decisions if item.cause == "kept"]
    assert kept == ([] if selection.selected is None else [selection.selected.index])
    best = max((item.agreement for item in selection.decisions if item.agreement is not None), default=None)
    for item in selection.decisions:
        assert item.reason
        if item.cause == "unparsed":
            assert item.agreement is None
        elif item.cause == "less accurate":
            assert item.agreement is not None and best is not None and item.agreement < best
        else:
            assert item.agreement == best


@pytest.mark.parametrize(("low", "high"), [(4.1, 4.4), (0.1, 0.7), (2.3, 9.8), (6.9, 7.0)])
def test_the_two_scores_beside_the_median_are_drawn_evenly(low: float, high: float) -> None:
    """In binary fractions one of them is often nearer by 1e-16: the draw must not be decided by that."""
    pair = [trace(0, [1], low), trace(1, [1], high)]
    chosen = [select(pair, gold([1]), "neutral", True, seed).selected for seed in range(200)]
    assert 60 < sum(item is not None and item.index == 0 for item in chosen) < 140


def test_without_the_filter_every_parsed_trace_is_drawn_evenly() -> None:
    pool = [trace(0, [1, 1], 9.0), trace(1, [0, 0], 1.0), trace(2, [0, 1], 5.0)]
    chosen = [select(pool, gold([1, 1]), "neutral", False, seed).selected for seed in range(300)]
    for index in range(3):
        assert 60 < sum(item is not None and item.index == index for item in chosen) < 140


def test_lenient_looks_at_verdicts_then_score_then_index() -> None:
    # Each has 1 of 2 right.
    strict, lenient, lenient_high = trace(0, [0, 0], 9.9), trace(3, [1, 1], 3.0), trace(5, [1, 1], 4.0)
    truth = gold([1, 0])
    assert select([strict, lenient, lenient_high], truth, "lenient", True, 0).selected is lenient_high
    assert select([strict, lenient], truth, "lenient", True, 0).selected is lenient
    twin_trace = trace(1, [1, 1], 3.0)
    assert select([lenient, twin_trace], truth, "lenient", True, 0).selected is twin_trace


def test_no_gold_selects_nothing_with_the_filter_and_draws_without_it() -> None:
    pool = [trace(0, [1], 9.0), trace(1, [0], 1.0)]
    selection = select(pool, None, "neutral", True, 0)
    assert selection.selected is None and {item.cause for item in selection.decisions} == {"no gold"}
    assert select(pool, None, "neutral", False, 0).selected is not None


def test_accuracies_and_rejections_by_index() -> None:
    selection = select([trace(4, [1, 0], 9.0), trace(7, [1, 1], 1.0)], gold([1, 1]), "neutral", True, 0)
    assert selection.accuracies == {4: 0.5, 7: 1.0}
    assert selection.rejected == {4: "agrees with gold in 1 of 2, the kept one in 2"}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="1 verdicts cannot be scored against 2"):
        select([trace(0, [1], 5.0)], gold([1, 1]), "neutral", True, 0)
    with pytest.raises(ValueError, match="0 verdicts"):
        matches(Trace("t", 5.0, None), gold([1]))
    with pytest.raises(ValueError, match="each trace of a candidate needs its own"):
        select([trace(0, [1], 5.0), trace(0, [1], 6.0)], gold([1]), "neutral", True, 0)
    with pytest.raises(ValueError, match="of 2 candidates"):
        select([PoolTrace("other", "j", 0, Unparsed("", "x"))], gold([1]), "neutral", True, 0)
