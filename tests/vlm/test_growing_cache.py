"""The in-place cache against transformers' own, through growth, repeating and selecting."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from edit_r1.vlm.growing_cache import GrowingCache


def test_it_holds_what_the_copying_cache_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    grown, copied = GrowingCache(), DynamicCache()

    def append(rows: int, length: int) -> None:
        for layer in range(2):
            keys, values = torch.randn(2, rows, 3, length, 4, generator=generator)
            got, wanted = grown.update(keys, values, layer), copied.update(keys, values, layer)
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])
        assert grown.get_seq_length() == copied.get_seq_length()

    append(2, 70)
    append(2, 1)
    for cache in (grown, copied):
        cache.batch_repeat_interleave(3)
    for _ in range(200):  # past the room that is left, twice
        append(6, 1)
    for cache in (grown, copied):
        cache.batch_select_indices(torch.tensor([4, 1]))
    append(2, 5)
    for cache in (grown, copied):
        cache.crop(-7)
    append(2, 1)
    assert grown.layers[0].keys.shape == (2, 3, 270, 4)


def test_a_repeated_cache_does_not_write_into_the_first() -> None:
    first = GrowingCache()
    first.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    before = first.layers[0].keys
    first.batch_repeat_interleave(2)
    first.update(torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2), 0)
    assert torch.equal(before, torch.zeros(1, 1, 3, 2))
