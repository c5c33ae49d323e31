"""Principles that an editor is never rewarded for: whether they are met too shows whether the reward is earned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edit_r1.records import CATEGORIES, Context, Principle


def hold_out(contexts: Sequence[Context], share: float, seed: int = 0) -> tuple[list[Context], list[Context | None]]:
    """Contexts with the principles to train on, and with those held out; the same split for a sample in every run.

    Of each category `share` of the principles (rounded, at least one where there are two or more) is held out, drawn by
    (seed, sample id); a category with a single principle keeps it for training. A context of which nothing is held out
    is None in the second list. share: 0 to below 1; 0 holds nothing out. Raises ValueError outside that range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share}: hold out 0 to below 1 of the principles")
    split = [_split(context, share, seed) for context in contexts]
    trained = [replace(context, principles=kept) for context, (kept, _) in zip(contexts, split, strict=True)]
    heldout = [
        replace(context, principles=held) if held else None for context, (_, held) in zip(contexts, split, strict=True)
    ]
    return trained, heldout


def _split(context: Context, share: float, seed: int) -> tuple[tuple[Principle, ...], tuple[Principle, ...]]:
    digest = hashlib.sha256(f"{seed}|{context.sample.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    held: set[int] = set()
    for category in CATEGORIES:
        places = [place for place, one in enumerate(context.principles) if one.category == category]
        if share > 0 and len(places) > 1:
            count = min(len(places) - 1, max(1, round(share * len(places))))
            held.update(int(place) for place in rng.permutation(places)[:count])
    everything = list(enumerate(context.principles))
    return tuple(one for place, one in everything if place not in held), tuple(
        one for place, one in everything if place in held
    )
