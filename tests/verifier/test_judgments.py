"""Traces to a judgment: pure, against numbers worked out by hand and a brute-force twin."""

from __future__ import annotations

import json
import statistics
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Judgment,
    Principle,
    Trace,
    Unparsed,
    Verdict,
)
from edit_r1.verifier.judgments import (
    TieRates,
    aggregate,
    best_first,
    failed,
    judgment_json,
    tie_rates,
    weighted_verdicts,
)

PRINCIPLES = (
    Principle("Is the shirt red?", INSTRUCTION_FOLLOWING),
    Principle("Is the hat still black?", FEATURE_PRESERVATION),
    Principle("Is the face the same?", FEATURE_PRESERVATION),
)


def trace(score: float, *values: int, evidence: str = "seen") -> Trace:
    return Trace("...", score, tuple(Verdict(value, evidence) for value in values) or None)


def test_worked_example() -> None:
    outcomes = [
        trace(8, 1, 1, 1, evidence="a"),
        Unparsed("?", "no score"),
        trace(5, 1, 0, 1, evidence="b"),
        trace(2, 0, 0, 1),
    ]
    judgment = aggregate(outcomes, PRINCIPLES, "m", 1.5)
    assert (judgment.score, judgment.traces, judgment.unparsed) == (5, 4, 1)
    assert judgment.score_std == pytest.approx(6**0.5)
    assert [result.verdict for result in judgment.principles] == pytest.approx([2 / 3, 1 / 3, 1])
    assert {result.evidence for result in judgment.principles} == {"b"}
    assert judgment.categories == pytest.approx(
        {INSTRUCTION_FOLLOWING: 2 / 3, FEATURE_PRESERVATION: 2 / 3, IMAGE_QUALITY: None}
    )
    assert judgment.outcomes == tuple(outcomes)
    # Image Quality has no principle: weights 0.5 and 0.3 remain.
    assert weighted_verdicts(judgment) == pytest.approx(10 * 2 / 3)


def test_unparsed_traces_never_become_a_number() -> None:
    judgment = aggregate([Unparsed("", "x"), Unparsed("", "y")], PRINCIPLES, "m", 0.0)
    assert (judgment.score, judgment.score_std, judgment.unparsed) == (None, None, 2)
    assert all(result.verdict is None and result.evidence is None for result in judgment.principles)
    assert judgment.categories == dict.fromkeys(CATEGORIES)
    assert weighted_verdicts(judgment) is None
    with_good = aggregate([Unparsed("", "x"), trace(7, 1, 1, 0)], PRINCIPLES, "m", 0.0)
    assert with_good.score == 7
    assert with_good.score_std is None


def test_traces_without_verdicts_have_a_score_alone() -> None:
    judgment = aggregate([trace(4), trace(6)], PRINCIPLES, "m", 0.0)
    assert (judgment.score, judgment.score_std) == (5, 1)
    assert all(result.verdict is None for result in judgment.principles)


def test_failed() -> None:
    judgment = failed(Unparsed("", "broken image", failed_call=True), 3, PRINCIPLES, "m", simulated=True)
    assert (judgment.score, judgment.traces, judgment.unparsed, judgment.simulated) == (None, 3, 3, True)
    assert all(isinstance(outcome, Unparsed) and outcome.failed_call for outcome in judgment.outcomes)


def test_json_is_exactly_the_contract() -> None:
    document = judgment_json(aggregate([trace(8, 1, 1, 0)], PRINCIPLES, "m", 0.25))
    assert json.loads(json.dumps(document, allow_nan=False)) == {
        "score": 8,
        "traces": 1,
        "unparsed": 0,
        "score_std": None,
        "expected_score": None,
        "principles": [
            {"question": p.question, "category": p.category, "verdict": v, "evidence": "seen"}
            for p, v in zip(PRINCIPLES, (1, 1, 0), strict=True)
        ],
        "categories": {INSTRUCTION_FOLLOWING: 1, FEATURE_PRESERVATION: 0.5, IMAGE_QUALITY: None},
        "model": "m",
        "prompts": "",
        "seconds": 0.25,
    }


def test_the_expected_score_is_over_the_parsed_traces_and_all_of_them() -> None:
    outcomes = [trace(8), Unparsed("", "x"), trace(6)]

    def expected(*values: float | None) -> float | None:
        return aggregate(outcomes, PRINCIPLES, "m", 0.0, expected=values).expected_score

    assert expected(7.5, None, 6.5) == expected(7.5, 0.0, 6.5) == 7
    assert expected(7.5, 7.0, None) is None
    assert aggregate(outcomes, PRINCIPLES, "m", 0.0).expected_score is None
    assert aggregate([Unparsed("", "x")], PRINCIPLES, "m", 0.0, expected=[None]).expected_score is None
    assert aggregate(outcomes, PRINCIPLES, "m", 0.0, expected=[1.0, None, 1.0]).score == 7


def test_the_expected_score_breaks_ties_and_does_no_more() -> None:
    def judged(score: float | None, expected: float | None) -> Judgment:
        outcomes = [Unparsed("", "x") if score is None else trace(score)]
        return aggregate(outcomes, PRINCIPLES, "m", 0.0, expected=[expected])

    pairs = [(5, 9.0), (8, 7.0), (None, None), (8, 7.9), (5, 9.5), (9, 1.0), (None, None)]
    assert best_first([judged(*pair) for pair in pairs]) == [5, 3, 1, 4, 0, 2, 6]
    # One of the tied has none: their order is the caller's.
    assert best_first([judged(8, 7.0), judged(8, None), judged(8, 7.9), judged(9, None)]) == [3, 0, 1, 2]
    assert best_first([judged(8, 7.0), judged(8, 7.0)]) == [0, 1]
    assert best_first([]) == []


@given(
    rows=st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.integers(0, 100), st.lists(st.integers(0, 1), min_size=3, max_size=3)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_brute_force_twin(rows: list[tuple[int, list[int]] | None]) -> None:
    outcomes = [Unparsed("", "x") if row is None else trace(row[0] / 10, *row[1]) for row in rows]
    judgment = aggregate(outcomes, PRINCIPLES, "m", 0.0)
    good = [(row[0] / 10, row[1]) for row in rows if row is not None]
    assert judgment.unparsed == len(rows) - len(good)
    if not good:
        assert judgment.score is None
        return
    scores = [score for score, _ in good]
    assert judgment.score == pytest.approx(statistics.fmean(scores))
    assert judgment.score_std == (pytest.approx(statistics.pstdev(scores)) if len(good) > 1 else None)
    for index, result in enumerate(judgment.principles):
        assert result.verdict == pytest.approx(statistics.fmean(values[index] for _, values in good))


def test_tie_rates_worked_example() -> None:
    group = [(8.0, 7.9), (8.0, 7.9), (8.0, 7.1), (5.0, 5.0), (None, None)]
    assert tie_rates([group]) == TieRates(1, 6, 3 / 6, 1 / 6)
    # One edit of a score without an expected one leaves all of that score in the order they came.
    assert tie_rates([[*group[:3], (8.0, None)]]) == TieRates(1, 6, 1.0, 1.0)
    assert tie_rates([[(8.0, None), (8.0, None)], [(8.0, None)]]) == TieRates(1, 1, 1.0, None)
    assert tie_rates([[(8.0, 1.0)], [(8.0, 1.0)], []]) == TieRates(0, 0, None, None)


SCORES = st.sampled_from([None, 0.0, 5.0, 8.0])


@given(st.lists(st.lists(st.tuples(SCORES, SCORES), max_size=6), max_size=4))
def test_ties_are_the_pairs_that_the_ranking_leaves_in_their_order(
    contexts: list[list[tuple[float | None, float | None]]],
) -> None:
    """A pair ties when `best_first` keeps the caller's order of it, whichever comes first."""
    pairs = tied = left = 0
    for edits in contexts:
        scored = [edit for edit in edits if edit[0] is not None]
        pairs += len(list(combinations(scored, 2)))
        tied += sum(a[0] == b[0] for a, b in combinations(scored, 2))
        judgments = [Judgment(s, 1, 0, None, (), {}, "m", 0.0, expected_score=e) for s, e in scored]
        forth = best_first(judgments)
        back = [len(scored) - 1 - place for place in best_first(judgments[::-1])]
        left += sum(
            (forth.index(a) < forth.index(b)) != (back.index(a) < back.index(b))
            for a, b in combinations(range(len(scored)), 2)
        )
    rates = tie_rates(contexts)
    assert rates.pairs == pairs
    assert rates.tie_rate == (pytest.approx(tied / pairs) if pairs else None)
    if rates.tie_rate_expected is None:
        assert left == tied
    else:
        assert rates.tie_rate_expected == pytest.approx(left / pairs)
