"""Pair accuracy and checklist reports against twins computed by hand, and what must not pass."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edit_r1.evaluate.reward import (
    PairScore,
    compare_pairs,
    pair_scores,
    report_checklist,
    report_pairs,
    task_intervals,
)
from edit_r1.records import Candidate, Context, Judgment, Preference, Sample, Trace, Unparsed, Verdict


def _pair(winner: float | None, loser: float | None, number: int = 0, category: str = "colour") -> PairScore:
    return PairScore(f"s{number}", category, f"w{number}", f"l{number}", winner, loser)


def test_strict_half_credit_ties_and_unparsed() -> None:
    scores = [_pair(7, 3, 0), _pair(5, 5, 1), _pair(2, 6, 2, "style"), _pair(None, 1, 3), _pair(8, 7.4, 4)]
    report = report_pairs("pairs", scores)
    assert report.official == pytest.approx(2 / 5)
    assert report.half_credit == pytest.approx(2.5 / 5)
    assert report.tie_rate == pytest.approx(1 / 5)
    assert report.unparsed == 1
    assert report.pairs == 5
    assert report.tasks == {"colour": pytest.approx(2.5 / 4), "style": 0.0}
    assert report.at_margin == {"0.5": pytest.approx(2 / 5), "1.0": pytest.approx(1 / 5)}
    assert report.ci95 is not None
    assert report.ci95[0] <= report.half_credit <= report.ci95[1]


def test_ties_broken_by_the_expected_score_by_hand() -> None:
    def pair(number: int, winner: float, loser: float, *expected: float | None) -> PairScore:
        return PairScore(f"s{number}", "colour", f"w{number}", f"l{number}", winner, loser, *expected)

    scores = [
        pair(0, 7, 3, 1.0, 9.0),  # won by score: the expected scores have no say
        pair(1, 5, 5, 5.4, 5.1),  # broken, rightly
        pair(2, 5, 5, 4.8, 5.1),  # broken, wrongly
        pair(3, 5, 5, 6.0, 5.1),
        pair(4, 5, 5, 5.1, 5.1),  # ties still
        pair(5, 5, 5, None, 5.1),
        pair(6, 2, 4, 4.0, 2.0),
    ]
    report = report_pairs("pairs", scores)
    assert (report.half_credit, report.tie_rate) == (pytest.approx(3.5 / 7), pytest.approx(5 / 7))
    broken = report.tie_break
    assert broken is not None
    assert (broken.broken, broken.right) == (3, 2)
    assert broken.half_credit == pytest.approx((1 + 1 + 0 + 1 + 0.5 + 0.5 + 0) / 7)
    assert broken.tie_rate == pytest.approx(2 / 7)
    assert broken.gain == pytest.approx(0.5 / 7)
    assert broken.gain_ci95 is not None and broken.gain_ci95[0] <= broken.gain <= broken.gain_ci95[1]
    assert report_pairs("pairs", [_pair(5, 5)]).tie_break is None


def test_without_pairs_there_is_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no strict pair"):
        report_pairs("pairs", [])


def test_breaking_ties_at_random_gains_nothing_in_half_credit() -> None:
    rng = random.Random(0)
    tied = [_pair(5, 5, n) for n in range(4000)]
    broken = [_pair(5 + rng.uniform(-0.01, 0.01), 5, n) for n in range(4000)]
    difference = compare_pairs(broken, tied)
    assert difference.low < 0 < difference.high
    assert report_pairs("p", broken).official > report_pairs("p", tied).official + 0.4


def test_two_results_are_compared_on_the_same_pairs_only() -> None:
    with pytest.raises(ValueError, match="same pairs"):
        compare_pairs([_pair(1, 0, 0)], [_pair(1, 0, 1)])
    better = compare_pairs([_pair(1, 0, n) for n in range(5)], [_pair(0, 1, n) for n in range(5)])
    assert better.mean == 1.0


def _judgment(*outcomes: Trace | Unparsed, score: float | None = None) -> Judgment:
    return Judgment(score, len(outcomes), 0, None, (), {}, "m", 0.0, outcomes=outcomes)


def test_same_pairs_are_left_out() -> None:
    context = Context(Sample("s", b"", "do", "colour"), (), "d")
    first, second = Candidate("a", "s", b"1", "e", 0), Candidate("b", "s", b"2", "e", 0)
    judgments = {"a": _judgment(score=3.0), "b": _judgment(score=None)}
    preferences = [Preference(context, first, second, choice, "x") for choice in ("first", "second", "same")]
    scores = pair_scores(preferences, judgments)
    assert [(s.winner, s.loser) for s in scores] == [(3.0, None), (None, 3.0)]
    assert all(score.half_credit == 0 and not score.parsed for score in scores)


def test_checklist_rates_by_hand() -> None:
    def trace(score: float, *values: int) -> Trace:
        return Trace("", score, tuple(Verdict(value) for value in values), tokens=10)  # type: ignore[arg-type]

    judgments = [
        _judgment(trace(8, 1, 1, 0), trace(6, 1, 0, 0)),
        _judgment(trace(2, 0, 0, 1), Unparsed("x", "cut")),
    ]
    report = report_checklist(judgments, [[1, 1, 0], [1, 0, 0]], [9.0, 2.0])
    # Fulfilled points: 1,1 and 1,0 of the first, 0 of the second: three of five passed.
    assert report.tpr == pytest.approx(3 / 5)
    # Failed points: 0, 0 of the first, 0, 1 of the second: three of four failed.
    assert report.tnr == pytest.approx(3 / 4)
    assert report.unparsed == 1
    assert report.traces == 4
    assert report.mean_score == pytest.approx(16 / 3)
    assert report.score_error == pytest.approx((1 + 3 + 0) / 3)
    assert report.mean_tokens == 10
    assert report.agreement is not None


def test_a_checklist_without_verdicts_has_no_rates() -> None:
    report = report_checklist([_judgment(Trace("", 5.0, None))], [[1, 0]])
    assert report.tpr is None
    assert report.tnr is None
    assert report.agreement is None
    assert report_checklist([_judgment(Unparsed("x", "cut"))], [[1, 0]]).mean_tokens is None


def test_score_and_verdicts_are_correlated_over_the_traces_that_have_both() -> None:
    traces = [Trace("", score, (Verdict(value),)) for score, value in ((9.0, 1), (2.0, 0), (7.0, 1))]
    report = report_checklist([_judgment(*traces, Trace("", 5.0, None))], [[1]])
    assert report.agreement == pytest.approx(np.corrcoef([9, 2, 7], [1, 0, 1])[0, 1])


def test_intervals_of_a_category_are_of_its_own_pairs() -> None:
    scores = [_pair(7, 3, number, "colour") for number in range(5)] + [_pair(2, 6, 9, "style"), _pair(8, 1, 9, "style")]
    scores += [_pair(7, 3 + 6 * (number % 2), number, "tone") for number in range(8)]
    found = task_intervals(scores)
    assert found["colour"] == [1.0, 1.0]
    assert found["style"] is None  # one source
    tone = found["tone"]
    assert tone is not None and 0 <= tone[0] < 0.5 < tone[1] <= 1
