"""The flip rate that a disagreement tells of."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.label_noise import after_flips, flip_rate


@given(st.floats(0, 0.5))
def test_it_undoes_the_disagreement_of_two_such_annotators(rate: float) -> None:
    assert flip_rate(2 * rate * (1 - rate)) == pytest.approx(rate, abs=1e-7)


def test_simulated_annotators_are_found_out() -> None:
    rng = random.Random(0)
    rate, pairs = 0.15, 40_000
    disagreeing = sum((rng.random() < rate) != (rng.random() < rate) for _ in range(pairs))
    assert flip_rate(disagreeing / pairs) == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_coins_have_a_rate_of_half(share: float) -> None:
    assert flip_rate(share) == 0.5


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_disagreement_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="disagreement"):
        flip_rate(share)


@given(st.floats(0, 1), st.floats(0, 0.5))
def test_flips_pull_a_label_towards_half(label: float, rate: float) -> None:
    after = after_flips(label, rate)
    assert abs(after - 0.5) <= abs(label - 0.5) + 1e-12
    assert after_flips(label, 0.0) == label
    assert after_flips(label, 0.5) == pytest.approx(0.5)
