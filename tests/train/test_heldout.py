from __future__ import annotations

import pytest

from edit_r1.records import CATEGORIES, Context, Principle, Sample
from edit_r1.train.heldout import hold_out


def _context(number: int, counts: tuple[int, int, int]) -> Context:
    principles = [
        Principle(f"{category} {index}?", category)
        for category, count in zip(CATEGORIES, counts, strict=True)
        for index in range(count)
    ]
    return Context(Sample(f"s{number}", b"x", "do", ""), tuple(principles[::2] + principles[1::2]), "test")


def test_a_share_of_every_category_is_held_out_and_the_order_stays():
    context = _context(0, (4, 3, 2))
    [kept], [held] = hold_out([context], 0.25)
    assert [sum(p.category == c for p in held.principles) for c in CATEGORIES] == [1, 1, 1]
    assert not set(kept.principles) & set(held.principles)
    merged = [p for p in context.principles if p in kept.principles]
    assert merged == list(kept.principles)
    assert len(kept.principles) + len(held.principles) == 9


def test_the_split_is_the_sample_s_own():
    contexts = [_context(number, (4, 4, 2)) for number in range(20)]
    _, together = hold_out(contexts, 0.25)
    _, alone = hold_out(contexts[7:8], 0.25)
    assert together[7] == alone[0]
    assert len({held.principles for held in together}) > 5  # not the same questions everywhere
    assert hold_out(contexts, 0.25, seed=1)[1] != together


def test_single_principles_are_trained_on():
    [kept], [held] = hold_out([_context(0, (1, 1, 0))], 0.5)
    assert len(kept.principles) == 2 and held is None
    assert hold_out([_context(0, (4, 4, 2))], 0.0)[1] == [None]
    with pytest.raises(ValueError, match=r"share=1\.0"):
        hold_out([], 1.0)
