"""Which pairs are compared, in which order, and what is trained on."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.preferences.pairs import collect, training_pairs
from edit_r1.records import Candidate, Choice, Context, Preference, Principle, Sample


class ByFirstByte:
    """Prefers the picture with the greater first byte; "same" within a band."""

    def __init__(self, name: str, simulated: bool = False, band: int = 0) -> None:
        self.name, self.simulated, self._band = name, simulated, band

    def choose(self, context: Context, first: Candidate, second: Candidate) -> Choice:
        assert first.sample_id == second.sample_id == context.sample.id
        difference = first.image[0] - second.image[0]
        if abs(difference) <= self._band:
            return "same"
        return "first" if difference > 0 else "second"


def context(number: int, split: str = "train") -> Context:
    sample = Sample(f"row-{number}", b"source", "Make it blue.", "colour alteration", split=split)
    return Context(sample, (Principle("Is it blue?", "Instruction Following"),), "decomposer")


def candidates(owner: Context, pictures: list[int]) -> list[Candidate]:
    return [
        Candidate(f"{owner.sample.id}-{place}", owner.sample.id, bytes([value]), f"editor {place}", place)
        for place, value in enumerate(pictures)
    ]


@given(
    pictures=st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=4),
    pairs=st.integers(1, 7),
    people=st.integers(1, 3),
    each=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_pairs_are_distinct_balanced_and_as_many_as_there_are(
    pictures: list[list[int]], pairs: int, people: int, each: int, seed: int
) -> None:
    each = min(each, people)
    contexts = [context(number) for number in range(len(pictures))]
    made = [c for owner, values in zip(contexts, pictures, strict=True) for c in candidates(owner, values)]
    annotators = [ByFirstByte(f"person {number}") for number in range(people)]
    preferences = collect(contexts, made, annotators, pairs, seed, each)
    for owner, values in zip(contexts, pictures, strict=True):
        mine = [p for p in preferences if p.context is owner]
        possible = {frozenset(pair) for pair in combinations(values, 2) if pair[0] != pair[1]}
        shown = Counter(frozenset((p.first.image, p.second.image)) for p in mine)
        assert len(shown) == min(pairs, len(possible))
        assert set(shown.values()) <= {each}
        for pair in shown:
            people_asked = [p.annotator for p in mine if {p.first.image, p.second.image} == pair]
            assert len(set(people_asked)) == each
        in_order = sum(p.first.seed < p.second.seed for p in mine)
        assert abs(2 * in_order - len(mine)) <= 1
        for p in mine:
            winner = p.winner
            assert winner is not None and winner.image == max(p.first.image, p.second.image)


def test_draws_depend_on_the_context_and_the_seed_alone() -> None:
    contexts = [context(number) for number in range(6)]
    made = [c for owner in contexts for c in candidates(owner, [1, 2, 3, 4, 5])]
    people = [ByFirstByte("a"), ByFirstByte("b", simulated=True)]
    together = collect(contexts, made, people, 3, seed=0)
    assert collect(contexts[4:5], made, people, 3, seed=0) == together[12:15]
    assert collect(contexts, made, people, 3, seed=1) != together
    assert all(p.simulated == (p.annotator == "b") for p in together)


def test_sides_and_annotators_are_drawn_evenly() -> None:
    contexts = [context(number) for number in range(400)]
    made = [c for owner in contexts for c in candidates(owner, [1, 9])]
    preferences = collect(contexts, made, [ByFirstByte("a"), ByFirstByte("b")], 1, seed=0)
    assert 160 < sum(p.choice == "first" for p in preferences) < 240
    assert 160 < sum(p.annotator == "a" for p in preferences) < 240


def test_same_is_counted_and_left_out() -> None:
    owner = context(0)
    preferences = collect([owner], candidates(owner, [1, 2, 9]), [ByFirstByte("a", band=1)], 3, seed=0)
    chosen = training_pairs(preferences)
    assert len(preferences) == 3 and chosen.same == 1
    assert all(p.winner is not None and p.winner.image == b"\x09" for p in chosen.pairs)


def test_held_out_and_foreign_pairs_are_not_trained_on() -> None:
    held_out = context(0, "test")
    preferences = collect([held_out], candidates(held_out, [1, 9]), [ByFirstByte("a")], 1, seed=0)
    with pytest.raises(ValueError, match="row-0 is of split 'test', not 'train'"):
        training_pairs(preferences)
    assert len(training_pairs(preferences, "test").pairs) == 1
    mine, foreign = candidates(context(1), [1])[0], candidates(context(2), [9])[0]
    with pytest.raises(ValueError, match="candidates of another one"):
        training_pairs([Preference(context(1), mine, foreign, "first", "a")])


def test_impossible_requests_are_refused() -> None:
    people = [ByFirstByte("a"), ByFirstByte("b")]
    for annotators, pairs, each in (([], 1, 1), (people, 0, 1), (people, 1, 3), (people, 1, 0)):
        with pytest.raises(ValueError, match="different annotators"):
            collect([context(0)], [], annotators, pairs, 0, each)
    with pytest.raises(ValueError, match="name of its own"):
        collect([context(0)], [], [people[0], people[0]], 1, 0)
