"""Several annotators on the same two candidates: one pair with a label in doubt, and how often annotators err."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from edit_r1.algo.label_noise import flip_rate
from edit_r1.records import Candidate, Context, Preference


@dataclass(frozen=True)
class VotedPair:
    """Two candidates that k annotators compared."""

    context: Context
    winner: Candidate
    loser: Candidate
    label: float
    """Share of the votes for the winner, (0.5, 1]; "same" is half a vote for each."""
    votes: int
    """k."""


@dataclass(frozen=True)
class Agreement:
    """What doubly judged pairs tell of their annotators."""

    comparisons: int
    """Two decided answers of different annotators on the same two candidates."""
    disagreeing: int
    flip_rate: float | None
    """`algo.label_noise.flip_rate` of their share; None without a comparison."""


def voted_pairs(preferences: Sequence[Preference]) -> list[VotedPair]:
    """A pair per two candidates, in the order in which they first appear; those with as many votes on both sides are
    left out."""
    pairs = []
    for answers in _by_candidates(preferences):
        first = answers[0]
        votes, against = (sum(_vote(answer, each) for answer in answers) for each in (first.first, first.second))
        if votes > against:
            pairs.append(VotedPair(first.context, first.first, first.second, votes / len(answers), len(answers)))
        elif against > votes:
            pairs.append(VotedPair(first.context, first.second, first.first, against / len(answers), len(answers)))
    return pairs


def agreement(preferences: Sequence[Preference]) -> Agreement:
    """How often two annotators disagree on the same two candidates, "same" answers aside."""
    comparisons = disagreeing = 0
    for answers in _by_candidates(preferences):
        for one, other in combinations([answer for answer in answers if answer.winner is not None], 2):
            if one.annotator != other.annotator:
                comparisons += 1
                disagreeing += _winner_id(one) != _winner_id(other)
    rate = flip_rate(disagreeing / comparisons) if comparisons else None
    return Agreement(comparisons, disagreeing, rate)


def _by_candidates(preferences: Sequence[Preference]) -> list[list[Preference]]:
    grouped: dict[tuple[str, frozenset[str]], list[Preference]] = defaultdict(list)
    for preference in preferences:
        key = (preference.context.sample.id, frozenset((preference.first.id, preference.second.id)))
        grouped[key].append(preference)
    return list(grouped.values())


def _vote(answer: Preference, candidate: Candidate) -> float:
    winner = _winner_id(answer)
    return 0.5 if winner is None else float(winner == candidate.id)


def _winner_id(answer: Preference) -> str | None:
    return None if answer.winner is None else answer.winner.id
