from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.gdpo import gated, gdpo_advantage
from edit_r1.algo.group_advantage import group_advantage

value = st.one_of(st.none(), st.just(float("nan")), st.sampled_from([0.0, 10 / 3, 5.0, 10.0]), st.floats(0, 10))
row = st.one_of(st.none(), st.lists(value, min_size=3, max_size=3))
WEIGHTS = (0.5, 0.3, 0.2)


def _twin(rewards_NK, groups_N, weights_K, std_floor, batch_floor, clip, min_spread=1e-6):
    """Published GDPO with our masks and floors, by arrays, the batch's mean subtracted."""
    table = np.array([[math.nan] * 3 if r is None else [math.nan if v is None else v for v in r] for r in rewards_NK])
    table = table.reshape(-1, 3)
    groups = np.array(groups_N, dtype=np.int64)
    sums, trained = np.zeros(len(groups)), np.zeros(len(groups), bool)
    for key in set(groups_N):
        inside = groups == key
        counts = [k for k in range(3) if np.isfinite(table[inside, k]).sum() >= 2]
        if not counts:
            continue
        judged = inside & np.isfinite(table[:, counts]).all(axis=1)
        if judged.sum() < 2 or all(np.ptp(table[judged, k]) <= min_spread for k in counts):
            continue
        trained |= judged
        for k in counts:
            column = table[judged, k]
            if np.ptp(column) > min_spread:
                sums[judged] += weights_K[k] / sum(weights_K) * (column - column.mean()) / max(column.std(), std_floor)
    out = np.zeros(len(groups))
    if trained.any():
        out[trained] = (sums[trained] - sums[trained].mean()) / max(sums[trained].std(), batch_floor)
    return np.clip(out, -clip, clip), trained


@given(
    st.lists(st.tuples(row, st.integers(0, 3)), max_size=24),
    st.sampled_from([0.01, 1.0, 4.0]),
    st.sampled_from([1e-3, 0.1, 2.0]),
    st.sampled_from([0.5, math.inf]),
)
def test_against_the_brute_force_twin(pairs, std_floor, batch_floor, clip):
    rewards_NK, groups_N = [rewards for rewards, _ in pairs], [key for _, key in pairs]
    got = gdpo_advantage(rewards_NK, groups_N, WEIGHTS, std_floor, batch_floor, clip)
    advantages, trained = _twin(rewards_NK, groups_N, WEIGHTS, std_floor, batch_floor, clip)
    assert got.trained_N == tuple(trained)
    # Far below a floor the twin's subtracted mean is rounding of the same size as everything else.
    assert got.advantages_N == pytest.approx(advantages, rel=1e-6, abs=1e-6)
    assert got.groups == len(set(groups_N))
    lost = set(groups_N) - {key for key, used in zip(groups_N, got.trained_N, strict=True) if used}
    assert got.too_few + got.zero_spread == len(lost)


def test_one_reward_alone_is_the_group_advantage_up_to_scale():
    rewards, groups = [1.0, 4.0, 7.0, 2.0, 9.0, 5.0], [0, 0, 0, 1, 1, 1]
    apart = gdpo_advantage([[value] for value in rewards], groups, [1.0], std_floor=1e-9, batch_floor=1e-9)
    assert apart.advantages_N == pytest.approx(group_advantage(rewards, groups, eps=0.0).advantages_N, rel=1e-12)


def test_different_combinations_keep_different_advantages():
    """What GDPO is for: their sums are equal, 10, so that GRPO sees no spread at all."""
    rows = [[10.0, 0.0], [0.0, 10.0], [10.0, 0.0], [10.0, 0.0]]
    assert group_advantage([sum(row) for row in rows], [0] * 4).trained == 0
    got = gdpo_advantage(rows, [0] * 4, [2.0, 1.0])
    assert got.advantages_N[0] > 0 > got.advantages_N[1] and got.trained == 4


edit_row = st.tuples(*[st.sampled_from([0.0, 2.5, 10 / 3, 5.0, 7.5, 10.0])] * 3)


@given(st.lists(edit_row, min_size=1, max_size=11), st.sampled_from(["product", "threshold"]), st.floats(0.01, 10))
def test_trap_15_an_unedited_copy_never_profits(edits, kind, weight):
    """Full marks in Feature Preservation and Image Quality, nothing followed: no advantage above 0, in any company."""
    rows = [(0.0, 10.0, 10.0), *edits]
    closed = [[follow, *(gated(part, follow / 10, kind) for part in rest)] for follow, *rest in rows]
    other = [[5.0, 5.0, 5.0], [10.0, 10.0, 0.0]]  # a second context: it must not lift the copy either
    got = gdpo_advantage([*closed, *other], [0] * len(rows) + [1, 1], (1.0, weight, weight))
    assert got.advantages_N[0] <= 0


def test_trap_15_without_the_gate_the_copy_would_profit():
    rows = [[0.0, 10.0, 10.0], [10.0, 0.0, 5.0], [10.0, 5.0, 0.0]]
    assert gdpo_advantage(rows, [0] * 3, (1.0, 1.0, 1.0)).advantages_N[0] > 0
    closed = [[follow, *(gated(part, follow / 10) for part in rest)] for follow, *rest in rows]
    got = gdpo_advantage(closed, [0] * 3, (1.0, 1.0, 1.0)).advantages_N
    assert got[0] == min(got) < 0


def test_copies_alone_teach_nothing():
    closed = [[0.0, gated(10.0, 0.0), gated(value, 0.0)] for value in (10.0, 5.0, 0.0)]
    got = gdpo_advantage(closed, [0] * 3, WEIGHTS)
    assert (got.trained, got.zero_spread) == (0, 1)


def test_the_floor_keeps_one_verdict_from_being_everything():
    rows = [[10.0]] * 23 + [[9.5]]
    assert gdpo_advantage(rows, [0] * 24, [1.0], std_floor=1.0, batch_floor=1.0).advantages_N[-1] > -0.5
    assert gdpo_advantage(rows, [0] * 24, [1.0], std_floor=1e-9).advantages_N[-1] < -4.7


def test_failed_and_missing_rewards():
    rows = [None, [4.0, None], [6.0, 1.0], [8.0, 3.0], [1.0, None], [2.0, None]]
    got = gdpo_advantage(rows, [0, 0, 0, 0, 1, 1], [1.0, 1.0])
    # Of the first context the edits without the second reward are out; the second context has no such reward at all.
    assert got.trained_N == (False, False, True, True, True, True)
    assert (got.failed, got.too_few, got.zero_spread) == (2, 0, 0)
    few = gdpo_advantage([None, [1.0], None, None], [0, 0, 1, 1], [1.0])
    assert (few.trained, few.failed, few.too_few) == (0, 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gdpo_advantage([[1.0]], [0, 1], [1.0]), "one key per edit"),
        (lambda: gdpo_advantage([[1.0]], [0], [0.0]), "leave a reward of weight 0 out"),
        (lambda: gdpo_advantage([[1.0]], [0], []), "weights="),
        (lambda: gdpo_advantage([[1.0, 2.0]], [0], [1.0]), "2 rewards for 1 weights"),
        (lambda: gdpo_advantage([[math.inf]], [0], [1.0]), "failed judgment"),
        (lambda: gdpo_advantage([[1.0]], [0.0], [1.0]), "must be int"),
        (lambda: gdpo_advantage([[1.0]], [0], [1.0], std_floor=0.0), "std_floor=0.0"),
        (lambda: gated(-1.0, 0.5), "shift it"),
        (lambda: gated(1.0, 1.5), "gate=1.5"),
    ],
)
def test_errors_name_value_and_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gates():
    assert gated(8.0, 0.25) == 2.0
    assert gated(8.0, 0.5, "threshold") == 8.0 and gated(8.0, 0.4, "threshold") == 0.0
    assert gated(-8.0, 0.0, "none") == -8.0
