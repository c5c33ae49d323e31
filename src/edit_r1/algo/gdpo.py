"""Advantages from several rewards, each normalised apart: GDPO (Liu et al., arXiv 2601.05242), gated for image edits.

    A_ik = (r_ik - mean_k) / max(std_k, floor)      over the edits i of one context, for each reward k
    S_i  = sum_k w_k A_ik / sum_k w_k
    A_i  = S_i / max(std(S), batch_floor)           std over all trained edits of the batch

Normalising the sum of the rewards instead (GRPO) gives one advantage to different combinations. Deviations from the
published form (the paper, NVlabs/GDPO, TRL's "normalize_then_sum"), and why:

- stds are the population's and *floored*; published is the sample's + 1e-4, which blows one different verdict in a
  group of 24 up to 4.7 standard deviations.
- The batch's mean is not subtracted: it is 0, as every A_ik is centred over the same edits of its group. So the sign of
  an advantage never depends on other contexts.
- Weights are divided by their sum, so that floors keep their meaning.
- A missing reward is not 0 (published: `nan_to_num`): the edit is left out of its group.

`gated` is the paper's conditioned reward (an easy reward counts only where a hard one is met): an unedited copy
preserves everything and has no artefacts, so both count only as far as the instruction was followed. With r >= 0 a copy
(gate 0) has the smallest value of every gated reward, hence no A_ik above 0: it cannot profit, whatever the weights.

Legend: N edits, K rewards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import fsum, inf, isfinite, isnan, sqrt
from typing import Literal

from edit_r1.algo.group_advantage import GroupAdvantages

Gate = Literal["product", "threshold", "none"]
"""product: r * g; threshold: r where g reaches the threshold, else 0 (the paper's); none: r."""


def gated(reward: float, gate: float, kind: Gate = "product", threshold: float = 0.5) -> float:
    """A reward as far as the gate opens. reward: 0 or more, any unit. gate: share of the instruction followed, 0 to 1.

    Raises ValueError for a negative reward (closing the gate would improve it) or a gate outside 0 to 1.
    """
    if kind == "none":
        return reward
    if reward < 0:
        raise ValueError(f"reward={reward}: a gated reward is 0 or more, or a closed gate would improve it; shift it")
    if not 0 <= gate <= 1:
        raise ValueError(f"gate={gate}: give the share of the instruction that was followed, 0 to 1")
    if kind == "product":
        return reward * gate
    return reward if gate >= threshold else 0.0


def gdpo_advantage(
    rewards_NK: Sequence[Sequence[float | None] | None],
    groups_N: Sequence[int],
    weights_K: Sequence[float],
    std_floor: float = 1.0,
    batch_floor: float = 0.1,
    clip: float = inf,
    min_spread: float = 1e-6,
) -> GroupAdvantages:
    """Advantages of N edits with K rewards each; `groups_N` says which context each belongs to.

    rewards_NK: all rewards in one unit (here 0 to 10); None for a whole row is a failed judgment; None or NaN in a row
    is a missing reward. A reward that fewer than two edits of a group have does not count in that group (a context
    without principles of a category); an edit that misses one that counts is failed. A group in which none counts has
    too few edits. std_floor: in units of the reward. batch_floor: of the weighted mean S, whose std is at most 1. clip:
    cuts A_i to [-clip, clip]. min_spread: a reward that differs by no more in a group says nothing there; where none
    says anything the group is left out.
    Raises ValueError for unequal lengths, weights that are not above 0, floors or clip not above 0, an infinite reward,
    or a key that is not an int.
    """
    _check(rewards_NK, groups_N, weights_K, {"std_floor": std_floor, "batch_floor": batch_floor, "clip": clip})
    members: dict[int, list[int]] = defaultdict(list)
    for edit, key in enumerate(groups_N):
        members[key].append(edit)
    total = fsum(weights_K)
    sums: dict[int, float] = {}
    failed = too_few = zero_spread = 0
    for edits in members.values():
        rows = {edit: _row(rewards_NK[edit], edit, len(weights_K)) for edit in edits}
        counts = [k for k in range(len(weights_K)) if sum(row[k] is not None for row in rows.values()) >= 2]
        needed = counts or range(len(weights_K))
        judged = [edit for edit in edits if all(rows[edit][k] is not None for k in needed)]
        failed += len(edits) - len(judged)
        if len(judged) < 2:
            too_few += 1
            continue
        columns = [(k, [value for edit in judged if (value := rows[edit][k]) is not None]) for k in counts]
        telling = [(k, values) for k, values in columns if max(values) - min(values) > min_spread]
        if not telling:
            zero_spread += 1
            continue
        apart = [(weights_K[k] / total, _normalised(values, std_floor)) for k, values in telling]
        for place, edit in enumerate(judged):
            sums[edit] = fsum(weight * values[place] for weight, values in apart)
    scale = max(sqrt(fsum(value**2 for value in sums.values()) / len(sums)), batch_floor) if sums else 1.0
    count = len(groups_N)
    advantages = tuple(min(clip, max(-clip, sums.get(edit, 0.0) / scale)) for edit in range(count))
    trained = tuple(edit in sums for edit in range(count))
    return GroupAdvantages(advantages, trained, len(members), failed, too_few, zero_spread)


def _normalised(values: Sequence[float], floor: float) -> list[float]:
    mean = fsum(values) / len(values)
    std = sqrt(fsum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / max(std, floor) for value in values]


def _row(row: Sequence[float | None] | None, edit: int, count: int) -> list[float | None]:
    """One edit's rewards with NaN as None."""
    if row is None:
        return [None] * count
    if len(row) != count:
        raise ValueError(
            f"edit {edit} has {len(row)} rewards for {count} weights: give one of each, None where missing"
        )
    clean = [None if value is None or isnan(value) else float(value) for value in row]
    for value in clean:
        if value is not None and not isfinite(value):
            raise ValueError(f"reward {value} of edit {edit}: return None for a failed judgment")
    return clean


def _check(
    rewards_NK: Sequence[Sequence[float | None] | None],
    groups_N: Sequence[int],
    weights_K: Sequence[float],
    positive: dict[str, float],
) -> None:
    if len(rewards_NK) != len(groups_N):
        raise ValueError(f"{len(rewards_NK)} rows of rewards for {len(groups_N)} group keys: give one key per edit")
    if not weights_K or any(not 0 < weight < inf for weight in weights_K):
        raise ValueError(f"weights={list(weights_K)}: every weight must be above 0; leave a reward of weight 0 out")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be above 0")
    for key in groups_N:
        if type(key) is not int:
            raise ValueError(f"group key {key!r} is a {type(key).__name__}: keys must be int, other types lose digits")
