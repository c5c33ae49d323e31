"""Judgments of the same two candidates: one pair, and how often annotators err."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.label_noise import flip_rate
from edit_r1.preferences.votes import agreement, voted_pairs
from edit_r1.records import Candidate, Context, Preference, Principle, Sample

CONTEXTS = [
    Context(Sample(f"s{i}", b"source", "do it", "colour"), (Principle("Is it?", "Image Quality"),), "test", True)
    for i in range(2)
]
CANDIDATES = [[Candidate(f"c{i}{n}", f"s{i}", bytes([n]), "test", seed=n) for n in range(3)] for i in range(2)]
JUDGMENTS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from([(0, 1), (1, 0), (1, 2)]), st.sampled_from(["first", "second", "same"]),
        st.sampled_from("abc"),
    ),
    max_size=12,
)  # fmt: skip


def preferences_of(judgments: list[tuple]) -> list[Preference]:
    return [
        Preference(CONTEXTS[i], CANDIDATES[i][first], CANDIDATES[i][second], choice, name)
        for i, (first, second), choice, name in judgments
    ]


@given(JUDGMENTS)
def test_votes_are_counted_whichever_way_round_the_pair_was_shown(judgments: list[tuple]) -> None:
    found = {frozenset((pair.winner.id, pair.loser.id)): pair for pair in voted_pairs(preferences_of(judgments))}
    votes: dict[frozenset[str], Counter[str]] = {}
    for i, shown, choice, _ in judgments:
        names = [CANDIDATES[i][n].id for n in shown]
        counted = votes.setdefault(frozenset(names), Counter())
        if choice == "same":
            counted.update(dict.fromkeys(names, 0.5))
        else:
            counted[names[choice == "second"]] += 1
    decided = {key for key, counted in votes.items() if max(counted.values()) > sum(counted.values()) / 2}
    assert set(found) == decided
    for key in decided:
        (winner, most), total = votes[key].most_common(1)[0], sum(votes[key].values())
        assert found[key].winner.id == winner
        assert found[key].label == pytest.approx(most / total)
        assert found[key].votes == total


@given(JUDGMENTS)
def test_agreement_equals_the_brute_force_count(judgments: list[tuple]) -> None:
    given_ = preferences_of(judgments)
    both = [
        (one, other)
        for one, other in combinations(given_, 2)
        if {one.first.id, one.second.id} == {other.first.id, other.second.id}
        and one.annotator != other.annotator
        and "same" not in (one.choice, other.choice)
    ]
    disagreeing = sum(one.winner != other.winner for one, other in both)
    found = agreement(given_)
    assert (found.comparisons, found.disagreeing) == (len(both), disagreeing)
    assert found.flip_rate == (flip_rate(disagreeing / len(both)) if both else None)
