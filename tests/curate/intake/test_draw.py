"""Which rows are looked at and which are kept: uniform, in equal shares, with limits; against brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.intake.draw import Draw, Waves, shares, take


def run(rows: int, draw: Draw, good: Callable[[int], bool], category: Callable[[int], str]) -> tuple[list[int], int]:
    """(what is kept, how many were looked at) by the loop that a pass runs."""
    waves = Waves(rows, draw, category)
    kept: Counter[str] = Counter()
    by_category: Counter[str] = Counter()
    found: list[int] = []
    looked: list[int] = []
    while len((wave := waves.next(kept, len(found) / len(looked) if looked else 1.0)).numbers):
        numbers = wave.numbers.tolist()
        assert numbers == sorted(numbers)
        looked += numbers
        passed = [(number, category(number)) for number in numbers if good(number)]
        places = take(passed, wave, kept, by_category, draw.most_per_category).places
        found += [passed[place][0] for place in places]
    assert len(looked) == len(set(looked))
    return sorted(found), len(looked)


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)), st.integers(0, 30))
def test_shares_are_dealt_in_turns(available: dict[str, int], count: int) -> None:
    expected = dict.fromkeys(available, 0)
    while sum(expected.values()) < min(count, sum(available.values())):
        for name in available:
            if expected[name] < available[name] and sum(expected.values()) < count:
                expected[name] += 1
    assert shares(available, count) == expected


@given(st.integers(0, 60), st.integers(1, 40), st.sets(st.integers(0, 59)), st.integers(0, 3), st.booleans())
def test_a_draw_has_what_it_can(rows: int, count: int, bad: set[int], seed: int, equal: bool) -> None:
    def category(number: int) -> str:
        return "abc"[number % 7 % 3]

    draw = Draw(count, seed, equal_shares=equal)
    found, _ = run(rows, draw, lambda number: number not in bad, category)
    usable = [number for number in range(rows) if number not in bad]
    assert set(found) <= set(usable)
    assert len(found) == min(count, len(usable))
    if equal:
        got, there = Counter(map(category, found)), Counter(map(category, usable))
        short = [name for name in there if got[name] < there[name]]
        assert all(got[name] >= max(got.values()) - 1 for name in short)
    assert found == run(rows, draw, lambda number: number not in bad, category)[0]


def test_a_draw_is_uniform_over_the_rows_that_pass() -> None:
    counts: Counter[int] = Counter()
    for seed in range(600):
        counts.update(run(30, Draw(5, seed), lambda number: number % 3 > 0, lambda _: "")[0])
    assert counts.keys() == {number for number in range(30) if number % 3}
    assert all(110 < count < 195 for count in counts.values())  # 150 expected, standard deviation 11


def test_a_larger_draw_holds_the_smaller_one() -> None:
    def good(number: int) -> bool:
        return number % 4 > 0

    small, looked = run(400, Draw(20, 1), good, lambda _: "")
    large, _ = run(400, Draw(60, 1), good, lambda _: "")
    assert set(small) < set(large)
    assert looked < 60


def test_most_per_category_and_all_rows_in_order() -> None:
    found, looked = run(20, Draw(most_per_category=3), lambda number: number != 4, lambda number: "ab"[number % 2])
    assert found == [0, 1, 2, 3, 5, 6] and looked == 20
    found, _ = run(50, Draw(20, most_per_category=4), lambda _: True, lambda number: "abc"[number % 3])
    assert Counter("abc"[number % 3] for number in found) == {"a": 4, "b": 4, "c": 4}


def test_settings_that_cannot_be_are_told() -> None:
    with pytest.raises(ValueError, match="count=-1"):
        Draw(-1)
    with pytest.raises(ValueError, match="without a count"):
        Draw(equal_shares=True)
