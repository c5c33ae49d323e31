from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.algo.group_advantage import group_advantage

rewards = st.one_of(st.none(), st.just(float("nan")), st.sampled_from([0.0, 2.5, 5.0, 7.3, 10.0]), st.floats(0, 10))


def _twin(rewards_N, groups_N, eps, clip, min_spread, std_over="group"):
    """Straight from the definition, one edit at a time."""
    out = []
    everyone = [r for r in rewards_N if r is not None and r == r]
    for reward, key in zip(rewards_N, groups_N, strict=True):
        group = [r for r, k in zip(rewards_N, groups_N, strict=True) if k == key and r is not None and r == r]
        if reward is None or reward != reward or len(group) < 2 or max(group) - min(group) <= min_spread:
            out.append((0.0, False))
            continue
        mean = sum(group) / len(group)
        spread = group if std_over == "group" else everyone
        centre = sum(spread) / len(spread)
        std = math.sqrt(sum((r - centre) ** 2 for r in spread) / len(spread))
        out.append((max(-clip, min(clip, (reward - mean) / (std + eps))), True))
    return out


@given(
    st.lists(st.tuples(rewards, st.integers(0, 4)), max_size=30),
    st.sampled_from([0.5, 1.2, math.inf]),
    st.sampled_from(["group", "batch"]),
)
def test_against_the_brute_force_twin(pairs, clip, std_over):
    rewards_N, groups_N = [reward for reward, _ in pairs], [key for _, key in pairs]
    result = group_advantage(rewards_N, groups_N, clip=clip, std_over=std_over)
    for (value, trained), got, got_trained in zip(
        _twin(rewards_N, groups_N, 1e-4, clip, 1e-6, std_over), result.advantages_N, result.trained_N, strict=True
    ):
        assert got == pytest.approx(value, rel=1e-6, abs=1e-6)
        assert got_trained == trained
    assert result.groups == len(set(groups_N))
    assert result.failed == sum(reward is None or reward != reward for reward in rewards_N)
    trained_groups = {key for key, trained in zip(groups_N, result.trained_N, strict=True) if trained}
    assert len(trained_groups) + result.too_few + result.zero_spread == result.groups


def test_keys_are_exact():
    """Fault 4: ids that are one float32 apart are two groups."""
    first, second = 2**62, 2**62 + 1
    result = group_advantage([1.0, 3.0, 5.0, 9.0], [first, first, second, second], eps=0.0)
    assert result.advantages_N == (-1.0, 1.0, -1.0, 1.0)
    assert result.groups == 2
    with pytest.raises(ValueError, match="must be int"):
        group_advantage([1.0], [float(first)])


def test_failed_judgments_neither_move_the_mean_nor_get_a_gradient():
    with_failure = group_advantage([1.0, None, 3.0, float("nan")], [0, 0, 0, 0])
    without = group_advantage([1.0, 3.0], [0, 0])
    assert with_failure.advantages_N == (without.advantages_N[0], 0.0, without.advantages_N[1], 0.0)
    assert with_failure.trained_N == (True, False, True, False)
    assert with_failure.failed == 2


def test_groups_that_teach_nothing_are_counted():
    result = group_advantage([1.0, None, 4.0, 4.0, None, None], [0, 0, 1, 1, 2, 2])
    assert (result.too_few, result.zero_spread, result.trained) == (2, 1, 0)
    assert set(result.advantages_N) == {0.0}


def test_bad_input_raises():
    with pytest.raises(ValueError, match="one key per reward"):
        group_advantage([1.0], [])
    with pytest.raises(ValueError, match="failed judgment"):
        group_advantage([math.inf], [0])
    with pytest.raises(ValueError, match="clip"):
        group_advantage([1.0], [0], clip=0)


def test_the_std_of_the_batch_keeps_a_quiet_group_quiet():
    rewards, groups = [5.0, 5.2, 0.0, 10.0], [0, 0, 1, 1]
    by_group = group_advantage(rewards, groups).advantages_N
    by_batch = group_advantage(rewards, groups, std_over="batch").advantages_N
    assert abs(by_group[0]) == pytest.approx(abs(by_group[2]), rel=1e-2)
    assert abs(by_batch[0]) < 0.05 * abs(by_batch[2])
    assert by_batch[3] == pytest.approx(5 / (math.sqrt(sum((r - 5.05) ** 2 for r in rewards) / 4) + 1e-4))
