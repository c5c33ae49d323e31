"""Preference pairs: which candidates are compared, by whom, and what of it is trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np

from edit_r1.records import Candidate, Choice, Context, Preference


class Annotator(Protocol):
    """Somebody who compares two edits."""

    @property
    def name(self) -> str:
        """What preferences record as their annotator."""

    @property
    def simulated(self) -> bool:
        """True for a simulation."""

    def choose(self, context: Context, first: Candidate, second: Candidate) -> Choice:
        """Which edit is better, judged by fidelity to the instruction and overall quality."""


@dataclass(frozen=True)
class TrainingPairs:
    """What GCPO trains on."""

    pairs: tuple[Preference, ...]
    """Those with a winner."""
    same: int
    """Number of "same" answers left out; they stay in the data."""


def collect(
    contexts: Sequence[Context],
    candidates: Sequence[Candidate],
    annotators: Sequence[Annotator],
    pairs_per_context: int,
    seed: int,
    annotators_per_pair: int = 1,
) -> list[Preference]:
    """`pairs_per_context` pairs of each context, or as many as it has, each compared by `annotators_per_pair`.

    Pairs are drawn without replacement; candidates whose pictures are the same are never compared, and a
    pair of pictures is compared only once however many candidates show it. Who stands first is drawn, and
    of a context's comparisons half show the pair one way round and half the other (to within one), so a
    preference for a side cannot become one for an editor. Everything drawn for a context depends on its
    own id and `seed` alone.

    Raises:
        ValueError: for too few annotators, annotators of one name, or a number of pairs below 1.
    """
    names = [annotator.name for annotator in annotators]
    if pairs_per_context < 1 or not 1 <= annotators_per_pair <= len(annotators):
        raise ValueError(
            f"{len(annotators)} annotators, annotators_per_pair={annotators_per_pair}, "
            f"pairs_per_context={pairs_per_context}: each pair needs that many different annotators, and all at least 1"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"annotators {names}: give each a name of its own")
    by_sample: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_sample[candidate.sample_id].append(candidate)
    preferences: list[Preference] = []
    for context in contexts:
        rng = _rng(context.sample.id, seed)
        possible = list(_distinct_pairs(by_sample[context.sample.id]))
        drawn = [possible[int(place)] for place in rng.permutation(len(possible))[:pairs_per_context]]
        turned = bool(rng.random() < 0.5)
        for pair in drawn:
            for place in rng.permutation(len(annotators))[:annotators_per_pair]:
                # `combinations` puts the earlier candidate first: turned every other time, neither side is favoured.
                first, second = pair[::-1] if turned else pair
                turned = not turned
                annotator = annotators[int(place)]
                choice = annotator.choose(context, first, second)
                preferences.append(Preference(context, first, second, choice, annotator.name, annotator.simulated))
    return preferences


def training_pairs(preferences: Sequence[Preference], split: str = "train") -> TrainingPairs:
    """The decided pairs, in order, with the number of "same" answers that are left out.

    Raises:
        ValueError: for a preference of another split than `split`, or whose candidates are not of its context.
    """
    for preference in preferences:
        sample = preference.context.sample
        if sample.split != split:
            raise ValueError(
                f"a preference on sample {sample.id} is of split {sample.split!r}, not {split!r}: leave it out, or "
                "held-out pairs would be trained on"
            )
        if {preference.first.sample_id, preference.second.sample_id} != {sample.id}:
            raise ValueError(f"a preference on sample {sample.id} compares candidates of another one: mend the data")
    decided = tuple(preference for preference in preferences if preference.choice != "same")
    return TrainingPairs(decided, len(preferences) - len(decided))


def _distinct_pairs(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
    """Pairs of different pictures, each pair of pictures once."""
    seen: set[frozenset[bytes]] = set()
    for first, second in combinations(candidates, 2):
        pictures = frozenset((first.image, second.image))
        if len(pictures) == 2 and pictures not in seen:
            seen.add(pictures)
            yield first, second


def _rng(sample_id: str, seed: int) -> np.random.Generator:
    """Draws for one context; ids of public data sets are not hexadecimal, so any text will do."""
    own = int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:6], "big")
    return np.random.default_rng([seed, own])


def distinct_candidates(preferences: Sequence[Preference]) -> dict[str, tuple[Preference, Candidate]]:
    """Every candidate once, by its id, with a preference that shows it."""
    return {
        candidate.id: (preference, candidate)
        for preference in preferences
        for candidate in (preference.first, preference.second)
    }
