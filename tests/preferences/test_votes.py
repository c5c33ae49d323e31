"""Flip rates against enumeration and simulation; soft labels and pooled rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.label_noise import flip_rate as wrong_share
from edit_r1.preferences.votes import disagreement, flip_rate, gather_votes, pair_key, pool, pooled_rows
from edit_r1.records import Preference, Rating
from edit_r1.store import PREFERENCES, read_dataset

Make = Callable[..., Preference]


@given(first=st.integers(0, 6), second=st.integers(0, 6))
def test_disagreement_is_the_share_of_pairs_of_votes_that_differ(first: int, second: int) -> None:
    if first + second < 2:
        assert flip_rate([(first, second)]) is None
        return
    votes = list(combinations("f" * first + "s" * second, 2))
    assert disagreement(first, second) == pytest.approx(sum(a != b for a, b in votes) / len(votes))


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.2, 0.35])
def test_the_estimate_finds_the_rate_that_was_simulated(epsilon: float) -> None:
    rng = np.random.default_rng(1)
    votes, sources = [], []
    for pair in range(3000):
        asked = int(rng.integers(1, 5))
        wrong = int(rng.binomial(asked, epsilon))
        votes.append((asked - wrong, wrong) if rng.random() < 0.5 else (wrong, asked - wrong))
        sources.append(pair // 3)
    found = flip_rate(votes, sources)
    assert found is not None and found.ci95 is not None
    assert found.rate == pytest.approx(epsilon, abs=0.03)
    assert found.ci95[0] <= epsilon <= found.ci95[1]
    assert found.pairs == sum(sum(pair) >= 2 for pair in votes)


def test_harder_pairs_make_the_estimate_too_low_and_never_too_high() -> None:
    """Half of the pairs are flipped at 0, half at 0.4: the mean is 0.2, and the estimate stays below."""
    disagree = (0 + 2 * 0.4 * 0.6) / 2
    assert wrong_share(disagree) < 0.2


def test_without_two_votes_nothing_is_known() -> None:
    assert flip_rate([]) is None and flip_rate([(1, 0), (0, 1), (0, 0)]) is None
    one = flip_rate([(1, 1)])
    assert one is not None and one.ci95 is None and one.rate == 0.5
    with pytest.raises(ValueError, match="negative"):
        flip_rate([(-1, 3)])
    with pytest.raises(ValueError, match="one cluster per pair"):
        flip_rate([(1, 1)], ["a", "b"])


def test_a_pair_is_the_same_whichever_stood_first(prefer: Make) -> None:
    one = prefer(1, 2, "first")
    keys = pair_key(one), pair_key(one.swap())
    assert keys[0].digest == keys[1].digest and keys[0].turned != keys[1].turned
    assert pair_key(prefer(1, 3)).digest != keys[0].digest
    assert pair_key(prefer(1, 2, context=1001)).digest != keys[0].digest
    assert pair_key(prefer(1, 2, aspect="VQ")).digest != keys[0].digest


@given(
    answers=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["first", "second", "same"]), st.booleans()))
)
def test_shares_are_those_of_a_count_by_hand(prefer: Make, answers: list[tuple[str, str, bool]]) -> None:
    if not answers:
        return
    rows = [prefer(1, 2, choice, annotator=name) for name, choice, _ in answers]
    given_rows = [row.swap() if turned else row for row, (_, _, turned) in zip(rows, answers, strict=True)]
    (votes,) = gather_votes(given_rows).values()
    value = {"first": 1.0, "same": 0.5, "second": 0.0}
    people = {name: [value[choice] for who, choice, _ in answers if who == name] for name, _, _ in answers}
    means = [sum(marks) / len(marks) for marks in people.values()]
    share, number = votes.share()
    share = 1 - share if pair_key(rows[0]).turned else share
    assert number == len(people) and share == pytest.approx(sum(means) / len(means))
    decided = votes.decided()
    assert sorted(decided) == sorted((sum(m > 0.5 for m in means), sum(m < 0.5 for m in means)))


def test_pooling_makes_a_row_a_pair_with_the_share_as_its_label(
    tmp_path: Path, prefer: Make, dataset: Callable[..., Path]
) -> None:
    rated = (Rating("overall", 3, 2),)
    one = dataset(
        prefer(1, 2, "first", "ann", ratings=rated), prefer(1, 2, "second", "ann").swap(), prefer(1, 2, "same", "bob"),
        prefer(3, 4, "second", "ann", ratings=rated), prefer(1, 2, "second", "cay", context=1001), name="one",
    )  # fmt: skip
    two = dataset(
        prefer(1, 2, "second", "bob", context=1001).swap(), prefer(1, 2, "first", "dan", context=1001), name="two"
    )
    told: list[tuple[int, int]] = []
    summary = pool([one, two], tmp_path / "pooled", lambda *rows: told.append(rows))
    assert told == [(read, 14) for read in range(1, 15)], "every row is read twice"
    rows = read_dataset(tmp_path, "pooled", PREFERENCES)
    assert (summary.rows, summary.pairs, summary.several, summary.same) == (7, 3, 2, 1)
    assert (
        pooled_rows(
            [*read_dataset(one.parent, one.name, PREFERENCES), *read_dataset(two.parent, two.name, PREFERENCES)]
        )
        == rows
    )
    first, single, third = rows
    # ann chose picture 1 once and picture 2 once, which is one vote of a half, as is bob's "same".
    assert (first.choice, first.soft_label, first.votes) == ("same", 0.5, 2)
    assert (single.choice, single.soft_label, single.votes, single.annotator) == ("second", None, None, "ann")
    assert single.ratings == rated and first.ratings == ()
    assert third.votes == 3 and third.soft_label == pytest.approx(1 / 3) and third.choice == "second"
    assert third.annotator == "3 annotators"
    assert summary.flip_rate is not None and summary.flip_rate.pairs == 1
    again = pool([tmp_path / "pooled"], tmp_path / "again")
    assert again.flip_rate is None, "a pooled row has no single votes"
    repeated = read_dataset(tmp_path, "again", PREFERENCES)
    assert [(row.soft_label, row.votes) for row in repeated] == [(row.soft_label, row.votes) for row in rows]
    with pytest.raises(ValueError, match="exists already"):
        pool([one], tmp_path / "pooled", lambda *rows: pytest.fail("told before anything is read"))
    with pytest.raises(ValueError, match="not finished"):
        pool([tmp_path / "none"], tmp_path / "other")
