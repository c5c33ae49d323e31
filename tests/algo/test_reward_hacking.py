from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.reward_hacking import change_since_start, divergence

value = st.one_of(st.none(), st.floats(0, 10))


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(value, min_size=n, max_size=n), min_size=2, max_size=8)))
def test_divergence_against_the_brute_force_twin(rows):
    half = len(rows) // 2
    trained, heldout = rows[:half], rows[half : 2 * half]
    got = divergence(trained, heldout)
    t, h = (np.array([[np.nan if v is None else v for v in row] for row in part], float) for part in (trained, heldout))
    judged = [e for e in range(half - 1) if np.isfinite(h[e]).any()]
    if not judged:
        assert got is None
        return
    best = max(judged, key=lambda e: (np.nanmean(h[e]), -e)) if got is None else got.best
    fall, rise = h[-1] - h[best], t[-1] - t[best]
    fall, rise = fall[np.isfinite(fall)], rise[np.isfinite(rise)]
    if got is None:
        assert len(fall) < 2 or not len(rise)
        return
    assert np.nanmean(h[best]) == pytest.approx(max(np.nanmean(h[e]) for e in judged), abs=1e-9)
    assert got.fall == pytest.approx(fall.mean(), abs=1e-9) and got.rise == pytest.approx(rise.mean(), abs=1e-9)
    assert got.error == pytest.approx(fall.std(ddof=1) / np.sqrt(len(fall)), abs=1e-9)


def test_a_reward_that_rises_while_the_held_out_one_falls_alarms():
    trained = [[5.0] * 4, [6.0] * 4, [7.0, 7.5, 7.0, 7.5]]
    heldout = [[5.0] * 4, [5.5] * 4, [4.5, 4.7, 4.4, 4.6]]
    found = divergence(trained, heldout)
    assert found.best == 1 and found.rise == pytest.approx(1.25) and found.fall == pytest.approx(-0.95)
    assert found.alarming(0.1, 0.5, 2.0)
    assert not found.alarming(2.0, 0.5, 2.0) and not found.alarming(0.1, 1.0, 2.0)
    # Both fall: a bad run, no hack. Both rise: what one wants.
    assert not divergence([[5.0] * 3, [4.0] * 3], [[5.0] * 3, [3.0] * 3]).alarming(0.1, 0.5, 2.0)
    assert not divergence([[5.0] * 3, [6.0] * 3], [[5.0] * 3, [6.0] * 3]).alarming(0.1, 0.5, 2.0)


def test_noise_does_not_alarm():
    found = divergence([[5.0] * 4, [6.0] * 4], [[5.0] * 4, [9.0, 0.0, 8.0, 0.0]])
    assert found.fall == pytest.approx(-0.75) and found.error > 2 and not found.alarming(0.1, 0.5, 2.0)


def test_change_since_start():
    assert change_since_start([1.0, 3.0, None, 9.0, 11.0], 2) == 8.0
    assert change_since_start([1.0, 3.0, None, 9.0], 2) is None
    assert change_since_start([2.0, 5.0], 1) == 3.0
    with pytest.raises(ValueError, match="window=0"):
        change_since_start([1.0], 0)


def test_errors():
    with pytest.raises(ValueError, match="give as many"):
        divergence([[1.0]], [])
    with pytest.raises(ValueError, match="the same ones"):
        divergence([[1.0]], [[1.0, 2.0]])
