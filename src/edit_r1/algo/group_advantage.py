"""Advantages within groups of edits of one context, as Flow-GRPO uses them (paper section 4).

    A_i = (r_i - mean(r)) / (std(r) + eps),   over the edits of the same context

std is the population's (divided by the count), over the group or, as flow_grpo's `global_std`, over all rewards of
the batch: then a group whose edits differ little gets small advantages and not large ones. Ours, where the paper is
silent: an edit whose judgment failed has no reward; it is left out of every mean and std and gets no gradient. A group
with fewer than two rewards, or with rewards all equal, teaches nothing: it is left out and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import fsum, inf, isfinite, isnan, sqrt
from typing import Literal

Spread = Literal["group", "batch"]
"""Whose std advantages are divided by."""


@dataclass(frozen=True)
class GroupAdvantages:
    """One entry per edit, in the order of the rewards, and what was left out."""

    advantages_N: tuple[float, ...]
    """0.0 where the edit is not trained on."""
    trained_N: tuple[bool, ...]
    """False for a failed judgment and for every edit of a group that was left out."""
    groups: int
    failed: int
    """Edits without a reward."""
    too_few: int
    """Groups with fewer than two rewards."""
    zero_spread: int
    """Groups whose rewards (two or more) differ by no more than `min_spread`."""

    @property
    def trained(self) -> int:
        """Number of edits that carry a gradient."""
        return sum(self.trained_N)


def group_advantage(
    rewards_N: Sequence[float | None],
    groups_N: Sequence[int],
    eps: float = 1e-4,
    clip: float = inf,
    min_spread: float = 1e-6,
    std_over: Spread = "group",
) -> GroupAdvantages:
    """Advantages of N edits; `groups_N` says which context each belongs to.

    rewards_N: a number, or None or NaN for a failed judgment. groups_N: Python integers, compared
    exactly (a float32 key merges groups whose ids differ in their low bits). clip: advantages are cut
    to [-clip, clip] after the normalisation. min_spread: in units of the reward.
    std_over: "batch" takes the std of every reward of the batch, of groups that are left out too.
    Raises ValueError for unequal lengths, an infinite reward, a key that is not an int, or clip <= 0.
    """
    if len(rewards_N) != len(groups_N):
        raise ValueError(f"{len(rewards_N)} rewards for {len(groups_N)} group keys: give one key per reward")
    if clip <= 0:
        raise ValueError(f"clip={clip}: advantages are cut to [-clip, clip]; pass a positive number, usually 5")
    members: dict[int, list[int]] = defaultdict(list)
    values: dict[int, float] = {}
    for index, (reward, key) in enumerate(zip(rewards_N, groups_N, strict=True)):
        if type(key) is not int:
            raise ValueError(f"group key {key!r} is a {type(key).__name__}: keys must be int, other types lose digits")
        members[key].append(index)
        if reward is None or isnan(reward):
            continue
        if not isfinite(reward):
            raise ValueError(f"reward {reward} of edit {index}: return None for a failed judgment")
        values[index] = float(reward)

    advantages = [0.0] * len(rewards_N)
    trained = [False] * len(rewards_N)
    too_few = zero_spread = 0
    batch_std = _std(values.values())
    for indices in members.values():
        judged = [index for index in indices if index in values]
        if len(judged) < 2:
            too_few += 1
            continue
        rewards = [values[index] for index in judged]
        if max(rewards) - min(rewards) <= min_spread:
            zero_spread += 1
            continue
        mean = fsum(rewards) / len(rewards)
        std = _std(rewards) if std_over == "group" else batch_std
        for index, reward in zip(judged, rewards, strict=True):
            advantages[index] = min(clip, max(-clip, (reward - mean) / (std + eps)))
            trained[index] = True
    return GroupAdvantages(
        tuple(advantages), tuple(trained), len(members), len(rewards_N) - len(values), too_few, zero_spread
    )


def _std(rewards: Collection[float]) -> float:
    """Of the population; 0 of nothing."""
    if not rewards:
        return 0.0
    mean = fsum(rewards) / len(rewards)
    return sqrt(fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
