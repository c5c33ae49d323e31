"""Every row once, updates of like length, and an order that needs no memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edit_r1.train.length_batches import POOL, LengthBatches


@given(st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 8), st.integers(0, 3))
def test_every_row_comes_once_an_epoch_in_an_order_of_seed_and_epoch(lengths: list[int], rows: int, seed: int) -> None:
    sampler = LengthBatches(lengths, rows, seed)
    first = list(sampler)
    assert sorted(first) == list(range(len(lengths))) and len(sampler) == len(lengths)
    assert list(sampler) == first == list(LengthBatches(lengths, rows, seed))
    sampler.set_epoch(1)
    later = list(sampler)
    assert sorted(later) == sorted(first)
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_rows_of_an_update_are_neighbours_in_length_and_updates_are_not_in_order() -> None:
    lengths = [(7919 * row) % 1000 for row in range(POOL * 8)]
    order = list(LengthBatches(lengths, 8, 0))
    updates = [[lengths[row] for row in order[start : start + 8]] for start in range(0, len(order), 8)]
    assert max(max(update) - min(update) for update in updates) < 40
    means = [sum(update) / 8 for update in updates]
    assert means != sorted(means) and means != sorted(means, reverse=True)
