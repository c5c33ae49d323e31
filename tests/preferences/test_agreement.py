"""Agreement against brute force, and against published figures."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.preferences.agreement import (
    ORDER,
    against_others,
    chance_of_guessing,
    coincidences,
    krippendorff,
    raw_agreement,
)
from edit_r1.stats import Level

UNITS = st.lists(st.lists(st.sampled_from(ORDER), max_size=4), max_size=8)


def brute_alpha(units: list[list[str]], level: Level) -> float | None:
    """Straight from the words: disagreement within units over disagreement of values drawn from all units."""
    pairable = [unit for unit in units if len(unit) > 1]
    values = [value for unit in pairable for value in unit]

    def distance(a: str, b: str) -> float:
        if level == "nominal":
            return float(a != b)
        low, high = sorted((ORDER.index(a), ORDER.index(b)))
        between = sum(low <= ORDER.index(value) <= high for value in values)
        return (between - (values.count(a) + values.count(b)) / 2) ** 2

    expected = sum(distance(a, b) for a, b in permutations(values, 2))
    if expected == 0:
        return None
    observed = sum(distance(a, b) / (len(unit) - 1) for unit in pairable for a, b in permutations(unit, 2))
    return 1 - (observed / len(values)) / (expected / (len(values) * (len(values) - 1)))


@given(units=UNITS, level=st.sampled_from(["nominal", "ordinal"]))
def test_alpha_is_its_definition(units: list[list[str]], level: Level) -> None:
    got, wanted = krippendorff(units, ORDER, level, resamples=20), brute_alpha(units, level)
    assert (got.alpha is None) == (wanted is None)
    if wanted is not None:
        assert got.alpha == pytest.approx(wanted, abs=1e-9)
        assert got.ci95 is None or got.ci95[0] <= got.ci95[1] <= 1 + 1e-9
    assert got.units == sum(len(unit) > 1 for unit in units)
    assert got.values == sum(len(unit) for unit in units if len(unit) > 1)


def test_alpha_of_the_published_example() -> None:
    """Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), the example with missing data: 4 observers,
    nominal 0.743, ordinal 0.815."""
    a, b, c, d = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    units = [
        [value for value in column if value != "."]
        for column in zip(*(row.split() for row in (a, b, c, d)), strict=True)
    ]
    assert krippendorff(units, "12345", "nominal").alpha == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(units, "12345", "ordinal").alpha == pytest.approx(0.815, abs=5e-4)


def test_perfect_and_opposite() -> None:
    alpha = krippendorff([["first"] * 3, ["second"] * 3] * 5)
    assert alpha.alpha == 1 and alpha.ci95 == [1, 1]
    assert (krippendorff([["first", "second"]] * 10).alpha or 0) < 0
    assert krippendorff([["same", "same"]] * 10).alpha is None  # nothing varied: agreement cannot be told from habit
    assert krippendorff([["first"], []]).alpha is None


def test_ordinal_forgives_neighbours() -> None:
    near = [["first", "same"], ["second", "second"], ["first", "first"], ["second", "same"]] * 4
    assert (krippendorff(near, level="ordinal").alpha or 0) > (krippendorff(near, level="nominal").alpha or 0)


def test_a_foreign_value_is_refused() -> None:
    with pytest.raises(ValueError, match="'left' is none of the categories"):
        coincidences([["left", "first"]], ORDER)


@given(units=UNITS)
def test_raw_agreement_counts_pairs(units: list[list[str]]) -> None:
    flags = [a == b for unit in units for a, b in combinations(unit, 2)]
    got = raw_agreement(units)
    assert (got is None) == (not flags)
    if got is not None:
        assert got.mean == pytest.approx(np.mean(flags)) and got.n == len(flags)


@given(units=st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(ORDER)), max_size=6))
def test_each_against_the_others_averages_to_the_whole(units: list[dict[str, str]]) -> None:
    each = [estimate for name in "abc" if (estimate := against_others(units, name)) is not None]
    whole = raw_agreement([list(unit.values()) for unit in units])
    assert (whole is None) == (not each)
    if whole is not None:  # every pair of answers is counted from both of its sides
        assert sum(estimate.n for estimate in each) == 2 * whole.n
        assert sum(estimate.mean * estimate.n for estimate in each) / (2 * whole.n) == pytest.approx(whole.mean)


@given(asked=st.integers(0, 12), data=st.data())
def test_guessing_is_the_binomial_tail(asked: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, asked))
    worlds = [bin(world).count("1") for world in range(2**asked)]
    assert chance_of_guessing(right, asked) == pytest.approx(sum(hits >= right for hits in worlds) / len(worlds))


def test_guessing_needs_counts() -> None:
    with pytest.raises(ValueError, match="right=3, asked=2"):
        chance_of_guessing(3, 2)
