"""Preference pairs: which candidates are compared, by whom, and what of it is trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import numpy as np

from edit_r1.records import Candidate, Choice, Context, Preference


class Annotator(Protocol):
    """Somebody who compares two edits."""

    @property
    def name(self) -> str: ...

    @property
    def simulated(self) -> bool: ...

    def choose(self, context: Context, first: Candidate, second: Candidate) -> Choice:
        """Which edit is better."""


def collect(
    contexts: Sequence[Context],
    candidates: Sequence[Candidate],
    annotators: Sequence[Annotator],
    pairs_per_context: int,
    seed: int,
) -> list[Preference]:
    """`pairs_per_context` comparisons of each context, one annotator each, in turn.

    Pairs are drawn without replacement; candidates whose pictures are the same are never compared. Who
    stands first is drawn, so a preference for a side cannot become one for an editor. Which pairs a
    context gets depends on its own id and `seed` alone.

    Raises:
        ValueError: without annotators, or for `pairs_per_context` below 1.
    """
    if not annotators or pairs_per_context < 1:
        raise ValueError(
            f"{len(annotators)} annotators, pairs_per_context={pairs_per_context}: both must be at least 1"
        )
    by_sample: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_sample[candidate.sample_id].append(candidate)
    preferences = []
    for context in contexts:
        own = int.from_bytes(hashlib.sha256(context.sample.id.encode()).digest()[:6], "big")
        rng = np.random.default_rng([seed, own])
        possible = [pair for pair in combinations(by_sample[context.sample.id], 2) if pair[0].image != pair[1].image]
        drawn = rng.permutation(len(possible))[:pairs_per_context]
        for number in drawn:
            first, second = possible[int(number)]
            if rng.random() < 0.5:
                first, second = second, first
            annotator = annotators[int(rng.integers(len(annotators)))]
            choice = annotator.choose(context, first, second)
            preferences.append(Preference(context, first, second, choice, annotator.name, annotator.simulated))
    return preferences
