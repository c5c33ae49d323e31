from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.editors.batching import batches, check_batching, padding_share

SQUARE, WIDE, TALL, LARGE = ((32, 32), (32, 32)), ((24, 40), (24, 40)), ((40, 24), (40, 24)), ((64, 64), (64, 64))


def test_full_batches_of_one_layout_come_first_and_the_rest_is_joined():
    layouts = dict(enumerate([SQUARE, WIDE, SQUARE, TALL, SQUARE, SQUARE, LARGE, SQUARE]))
    assert batches(layouts, 4, 0.25) == [[0, 2, 4, 5], [6], [7, 1, 3]]
    assert batches(layouts, 4, 0.0) == [[0, 2, 4, 5], [6], [7], [1], [3]]
    assert batches({5: SQUARE, 6: LARGE}, 4, 0.9) == [[6, 5]]
    assert batches({}, 4, 0.25) == []


def test_padding_is_counted_over_edit_and_sources():
    assert padding_share([SQUARE, SQUARE]) == 0
    # Edit 4 and 1 blocks, sources 1 and 1 + 1: rows of 4 + 2, 8 of 12 are real.
    one, two = ((64, 64), (32, 32)), ((32, 32), (32, 32), (32, 32))
    assert padding_share([one, two]) == pytest.approx(4 / 12)


side = st.integers(1, 6).map(lambda n: 8 * n)
layout = st.lists(st.tuples(side, side), min_size=2, max_size=4).map(tuple)


@given(st.lists(layout, max_size=20), st.integers(1, 6), st.sampled_from([0.0, 0.2, 0.7]))
def test_every_edit_is_in_one_batch_within_the_bounds(layouts, batch_size, padding):
    found = batches(dict(enumerate(layouts)), batch_size, padding)
    assert sorted(key for batch in found for key in batch) == list(range(len(layouts)))
    for batch in found:
        assert 1 <= len(batch) <= batch_size
        assert padding_share([layouts[key] for key in batch]) <= padding


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        check_batching(0, 0.25)
    with pytest.raises(ValueError, match="padding=1"):
        check_batching(4, 1.0)
