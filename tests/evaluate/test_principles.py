"""The report of how much scores depend on the principles, by hand and at its edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.principles import compare_scores, principles_sensitivity
from edit_r1.records import IMAGE_QUALITY, Principle
from edit_r1.verifier.scoring import ScoreItem, Verifier


def test_by_hand() -> None:
    a = [8.0, 5.0, 2.0, 6.0, 6.0, None, 4.0]
    b = [7.0, 7.5, 2.0, 6.0, 3.0, 9.0, None]
    report = compare_scores(a, b, ["s", "s", "s", "t", "t", "t", "u"])
    assert (report.edits, report.unscored) == (5, 2)
    assert report.difference.mean == pytest.approx((1 + 2.5 + 0 + 0 + 3) / 5)
    assert report.shift.mean == pytest.approx((-1 + 2.5 + 0 + 0 - 3) / 5)
    # Of s, ordered by A: 8 > 5 is turned round, 8 > 2 and 5 > 2 stay; t is not ordered by A.
    assert report.reversed is not None and report.tied is not None
    assert (report.reversed.mean, report.reversed.n) == (pytest.approx(1 / 3), 3)
    assert report.tied.mean == 0
    assert (report.correlation.mean, report.correlation.used, report.correlation.skipped) == (pytest.approx(0.5), 1, 1)
    assert report.difference.ci95 is not None
    assert report.difference.ci95[0] <= report.difference.mean <= report.difference.ci95[1]


def test_a_tie_is_neither_order() -> None:
    report = compare_scores([8.0, 5.0], [6.0, 6.0], ["s", "s"])
    assert report.reversed is not None and report.tied is not None
    assert (report.reversed.mean, report.tied.mean) == (0.0, 1.0)
    assert report.correlation.mean is None
    alone = compare_scores([8.0, 5.0], [6.0, 6.0], ["s", "t"])
    assert alone.reversed is None


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="2 edits and none"):
        compare_scores([None, 1.0], [1.0, None], ["s", "s"])


@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 3)), min_size=2, max_size=12),
)
def test_brute_force_twin(rows: list[tuple[int, int, int]]) -> None:
    a, b, sources = ([row[k] / 2 for row in rows] for k in range(3))
    report = compare_scores(a, b, sources)
    same = compare_scores(a, a, sources)
    assert same.difference.mean == same.shift.mean == 0
    pairs = [
        (a[i] - a[j], b[i] - b[j])
        for i in range(len(rows))
        for j in range(i)
        if sources[i] == sources[j] and a[i] != a[j]
    ]
    if not pairs:
        assert report.reversed is None
        return
    assert report.reversed is not None and report.tied is not None and same.reversed is not None
    assert report.reversed.n == len(pairs)
    assert report.reversed.mean == pytest.approx(sum(x * y < 0 for x, y in pairs) / len(pairs))
    assert report.tied.mean == pytest.approx(sum(y == 0 for _, y in pairs) / len(pairs))
    assert same.reversed.mean == 0


def test_lists_of_different_lengths_are_refused() -> None:
    item = ScoreItem((b"s",), b"e", "x")
    one = (Principle("Is it sharp?", IMAGE_QUALITY),)
    with pytest.raises(ValueError, match="give a source and both lists"):
        principles_sensitivity(Verifier(None), [item], ["s"], [one], [])  # type: ignore[arg-type]
