"""DiffusionNFT for image editors, on the shape of Flow-GRPO's loop: sample -> judge -> advantage -> update.

What differs (`algo.diffusion_nft` has the equation): edits are drawn by the deterministic sampler, each from a start of
its own, by the old policy, and the update is a regression on finished edits at random noise levels. Of the stage's
fields `trained_steps` is the number of noise levels an edit is trained at, `window_share` the share of the sampler's
path, from the noise on, that they are drawn from, `advantage_clip` is Z, `ema_schedule` and `ema_decay` are the decay
of the old policy, which follows once an iteration and whose weights are evaluated and saved (0: the old policy is the
present one; published code evaluates a second average, of decay 0.9), and `kl_beta` weighs |v - v_ref|^2, the paper's
KL. What they are when unset is `editor_stage.OWN`; fields without a counterpart are `editor_stage.UNUSED`.

As in the paper there is no classifier-free guidance unless `guided` asks for it: edits are drawn, learned from and
validated with the conditional velocity alone, and what guidance does for the untrained editor has to be learned.

An edit whose judgment failed is left out: an optimality of 1/2 would still pull towards the old policy. The edits of a
group share noise levels and noise (ours), so that what they have in common cancels in the gradient.

Legend: M edits, K noise levels, F = M K rows, L latent tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edit_r1.algo.diffusion_nft import nft_loss, optimality
from edit_r1.algo.group_advantage import GroupAdvantages
from edit_r1.editors.flow import E, FlowEditor, generator
from edit_r1.records import Context
from edit_r1.train.best_of_g import SIGMA_LEVELS
from edit_r1.train.editor_policy import EditorPolicy, step_metrics
from edit_r1.train.editor_rollout import Rollout
from edit_r1.train.editor_run import EditorTraining, Evaluation, TrainingRun, Turn
from edit_r1.train.editor_stage import EditorRLStage, Iteration, Reward, policy_of, settled
from edit_r1.train.guards import Guard

BETA = 1.0
"""Of the implicit policies."""


def train_nft(
    stage: EditorRLStage,
    editor: FlowEditor[E],
    contexts: Sequence[Context],
    reward: Reward,
    out: Path,
    resume: bool = False,
    evaluate: Evaluation | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
    guard: Guard | None = None,
) -> EditorTraining:
    """Train `editor` in place by DiffusionNFT; arguments and files as `train.editor.train_editor`.

    Raises ValueError for `ahead`: the old policy of edits drawn ahead is gone when they are learned from; and for an
    editor whose own edits have a guidance that is not trained (`editor_stage.policy_of`).
    """
    if stage.updates.ahead:
        raise ValueError("ahead=1 with DiffusionNFT, which needs the policy that drew the edits: set ahead=0")
    stage = policy_of(settled(stage, "diffusion-nft"), editor)
    run = TrainingRun(stage, editor, contexts, out, resume, evaluate, progress, guard)

    def learn(turn: Turn) -> dict[str, Any]:
        return update_by_contrast(stage, run.policy, turn.iteration, turn.rollouts, turn.advantages)

    return run.train(reward, learn, std_over=stage.loss.advantage_std, stochastic=False)


@dataclass(frozen=True)
class NoisyEdits:
    """M finished edits at K noise levels each, and what the old and the reference policy make of them."""

    rollout: Rollout[Any]
    rows_M: Tensor
    sigma_MK: Tensor
    timestep_MK: Tensor
    noisy_MKLC: Tensor
    counts: bool = True
    """False where it only keeps other processes company."""
    old_FLC: Tensor | None = None
    """v_old, F = M K rows; None: the old policy is the present one, and its velocity the trained one's."""
    reference_FLC: Tensor | None = None
    """v_ref; None without a KL."""


def update_by_contrast(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    advantages: GroupAdvantages,
) -> dict[str, Any]:
    """`inner_updates` optimiser steps, each at noise of its own, or a share of one; see `train.editor.update`.

    loss, kl: means over edits, levels and inner updates; None when no edit has an advantage. Others: `step_metrics`.
    """
    # All noise is drawn and every old velocity computed before the first step: later the old policy is gone.
    work: list[list[NoisyEdits]] = [
        list(_noisy_edits(stage, policy, iteration, rollouts, advantages, inner)) if advantages.trained else []
        for inner in range(stage.updates.inner_updates)
    ]
    terms = advantages.trained * stage.sde.trained_steps
    loss_sum, kl_sum = 0.0, 0.0
    norms: list[float | None] = []
    for inner, batches in enumerate(work, start=1):
        for batch in batches:
            velocity_FLC = _velocity(policy.editor, stage, batch)
            old_FLC = velocity_FLC.detach() if batch.old_FLC is None else batch.old_FLC
            values = [advantages.advantages_N[batch.rollout.edits_M[row]] for row in batch.rows_M.tolist()]
            good_F = optimality(torch.tensor(values, device=velocity_FLC.device), stage.loss.advantage_clip)
            clean_FLC = batch.rollout.final_MLC[batch.rows_M].repeat_interleave(stage.sde.trained_steps, 0)
            loss_F = nft_loss(
                velocity_FLC, old_FLC, batch.noisy_MKLC.flatten(0, 1), clean_FLC, batch.sigma_MK.flatten(),
                good_F.repeat_interleave(stage.sde.trained_steps), BETA,
            )  # fmt: skip
            # r weighs an advantage by 1 / (2 Z): undone, so that Z clips and does not scale.
            total = stage.loss.advantage_clip * loss_F.sum()
            if batch.reference_FLC is not None:
                kl_F = torch.square(velocity_FLC - batch.reference_FLC).mean(dim=(1, 2))
                total = total + stage.kl_beta * kl_F.sum()
                kl_sum += float(kl_F.detach().sum()) * batch.counts
            policy.learn(total * batch.counts / terms)
            loss_sum += float(loss_F.detach().sum()) * batch.counts
        if advantages.trained:
            policy.expect_update()
        if iteration.closes:
            norms.append(policy.update(average=inner == len(work)))
    measured: dict[str, Any] = {"loss": None, "kl": None}
    if advantages.trained:
        count = terms * stage.updates.inner_updates
        sums = policy.team.totals(loss=loss_sum, kl=kl_sum)
        measured["loss"] = sums["loss"] / count
        measured["kl"] = sums["kl"] / count if stage.kl_beta > 0 else None
    return {**measured, **step_metrics(norms)}


@torch.no_grad()
def _noisy_edits(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    advantages: GroupAdvantages,
    inner: int,
) -> Iterator[NoisyEdits]:
    present = stage.ema_decay == 0 and stage.updates.inner_updates == 1
    own = [
        (rollout, rows_M)
        for rollout in rollouts
        for rows_M in rollout.micro_batches(advantages.trained_N, stage.train_batch)
    ]
    spare = (rollouts[0], torch.zeros(1, dtype=torch.long, device=policy.editor.device))
    for (rollout, rows_M), counts in policy.team.evened(own, spare, policy.sharded):
        at = _noise(stage, policy.editor, iteration, rollout, rows_M, inner)
        share_MK11 = at.sigma_MK[..., None, None]
        noisy_MKLC = (1 - share_MK11) * rollout.final_MLC[rows_M][:, None] + share_MK11 * at.noise_MKLC
        batch = NoisyEdits(rollout, rows_M, at.sigma_MK, at.timestep_MK, noisy_MKLC, counts)
        if not present:
            with policy.averaged():
                batch = replace(batch, old_FLC=_velocity(policy.editor, stage, batch))
        if stage.kl_beta > 0:
            with policy.reference() as reference:
                batch = replace(batch, reference_FLC=_velocity(reference, stage, batch))
        yield batch


@dataclass(frozen=True)
class _Noise:
    sigma_MK: Tensor
    timestep_MK: Tensor
    noise_MKLC: Tensor


def _noise(
    stage: EditorRLStage, editor: FlowEditor[E], iteration: Iteration, rollout: Rollout[E], rows_M: Tensor, inner: int
) -> _Noise:
    """The same for all edits of a group; levels spread evenly over the first `window_share` of the sampler's path."""
    schedule = editor.schedule(rollout.contexts, SIGMA_LEVELS)
    room = max(1, round(stage.window_share * SIGMA_LEVELS))
    groups_M = [rollout.edits_M[row] // stage.group_size for row in rows_M.tolist()]
    levels, noises = {}, {}
    for group in set(groups_M):
        source = generator(iteration.seeds_N[group * stage.group_size] ^ (inner + 1))
        place_K = torch.arange(stage.sde.trained_steps) + torch.rand(stage.sde.trained_steps, generator=source)
        levels[group] = (place_K / stage.sde.trained_steps * room).long()
        noises[group] = torch.randn(stage.sde.trained_steps, *rollout.final_MLC.shape[1:], generator=source)
    level_MK = torch.stack([levels[group] for group in groups_M]).to(editor.device)
    noise_MKLC = torch.stack([noises[group] for group in groups_M]).to(editor.device)
    return _Noise(schedule.sigmas[level_MK], schedule.timesteps[level_MK], noise_MKLC)


def _velocity(editor: FlowEditor[E], stage: EditorRLStage, batch: NoisyEdits) -> Tensor:
    """v of all rows and levels in one forward, [M K, L, C]."""
    contexts = batch.rollout.contexts.rows(
        batch.rollout.rows_M[batch.rows_M].repeat_interleave(stage.sde.trained_steps)
    )
    return editor.velocity(batch.noisy_MKLC.flatten(0, 1), batch.timestep_MK.flatten(), contexts, stage.guidance)
