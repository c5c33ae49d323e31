"""Flow-GRPO for image editors (paper section 4): sample -> judge -> advantage -> update.

For every context a group of G edits is drawn through a stochastic sampler, the reward rates each, its
advantage is its distance from the group's mean in units of the group's std, and the clipped surrogate on
the per-step log-probability ratio is maximised, less beta times the KL to the editor before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from edit_r1.algo.clipped_surrogate import clipped_surrogate
from edit_r1.algo.flow_sde import gaussian_kl, log_probability, normalised_log_ratio
from edit_r1.algo.group_advantage import GroupAdvantages
from edit_r1.editors.flow import E, FlowEditor, replay
from edit_r1.records import Context
from edit_r1.train.editor_policy import EditorPolicy, step_metrics
from edit_r1.train.editor_rollout import Rollout
from edit_r1.train.editor_run import EditorTraining, Evaluation, TrainingRun, Turn
from edit_r1.train.editor_stage import EditorRLStage, Iteration, Reward, policy_of, settled
from edit_r1.train.guards import Guard

__all__ = ["EditorRLStage", "EditorTraining", "Reward", "train_editor"]


def train_editor(
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
    """Train `editor` in place by Flow-GRPO and save it under `out`.

    contexts: what to train on; their principles reach the reward. evaluate: see `Evaluation`; it should
    sample with the full number of steps, which the editor's own `edit` does. progress: gets every line of
    the metrics, in the first process. guard: watches for reward hacking and may stop the run
    (`train.guards`). resume: continue from the newest whole state in `out/state`, if there is one; the run
    then ends with the same weights and metrics as an uninterrupted one, on a CPU bit for bit. In several processes
    (`train.data_parallel`) each calls this with a reward and a guard of its own. Raises ValueError for unfit
    weights, contexts or saved states, and when several iterations in a row have no judgment at all.
    """
    stage = policy_of(settled(stage, "flow-grpo"), editor)
    run = TrainingRun(stage, editor, contexts, out, resume, evaluate, progress, guard)

    def learn(turn: Turn) -> dict[str, Any]:
        return update(stage, run.policy, turn.iteration, turn.rollouts, turn.advantages)

    return run.train(reward, learn, clip=stage.loss.advantage_clip, std_over=stage.loss.advantage_std)


@dataclass
class _Batch(Generic[E]):
    """M edits of a rollout that are replayed in one forward."""

    rollout: Rollout[E]
    rows_M: torch.Tensor
    counts: bool
    """False where it only keeps other processes company."""
    reference_MKLC: torch.Tensor | None = None
    old_FLC: torch.Tensor | None = None
    """Means of the policy that drew the edits, F = M K; those of the first pass, which has its weights."""


def update(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    advantages: GroupAdvantages,
) -> dict[str, Any]:
    """Learn from the edits that have an advantage, by `inner_updates` optimiser steps or a share of one.

    rollouts: this process's; advantages: of all edits. The loss is a mean over trained edits and steps, summed over
    micro-batches and processes.

    ratio_deviation: largest |rho - 1| before the first step, where rollout and replay should agree. clip_share, kl:
    means over edits, steps and inner updates; None, as that, when no edit has an advantage. Others: `step_metrics`.
    """
    work = _batches(stage, policy, iteration, rollouts, advantages) if advantages.trained else []
    terms = advantages.trained * len(iteration.window)
    deviation, clipped, kl_sum = 0.0, 0.0, 0.0
    norms: list[float | None] = []
    for inner in range(stage.updates.inner_updates):
        for batch in work:
            objective_MK, ratio_MK, clipped_MK, kl_MK = _losses(stage, policy, iteration, batch, advantages)
            loss = (stage.kl_beta * kl_MK - objective_MK).sum() / terms
            policy.learn(loss * batch.counts)
            if not batch.counts:
                continue
            if inner == 0:
                deviation = max(deviation, float((ratio_MK - 1).abs().max()))
            clipped += float(clipped_MK.sum())
            kl_sum += float(kl_MK.detach().sum())
        if advantages.trained:
            policy.expect_update()
        if iteration.closes:
            norms.append(policy.update())
    measured: dict[str, Any] = {"ratio_deviation": None, "clip_share": None, "kl": None}
    if advantages.trained:
        total = terms * stage.updates.inner_updates
        sums = policy.team.totals(clipped=clipped, kl=kl_sum)
        measured = {
            "ratio_deviation": policy.team.largest(deviation),
            "clip_share": sums["clipped"] / total,
            "kl": sums["kl"] / total if stage.kl_beta > 0 else None,
        }
    return {**measured, **step_metrics(norms)}


def _batches(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    advantages: GroupAdvantages,
) -> list[_Batch[E]]:
    own = [
        (rollout, rows_M)
        for rollout in rollouts
        for rows_M in rollout.micro_batches(advantages.trained_N, stage.train_batch)
    ]
    spare = (rollouts[0], torch.zeros(1, dtype=torch.long, device=rollouts[0].rows_M.device))
    return [
        _Batch(rollout, rows_M, counts, _reference_means(stage, policy, iteration, rollout, rows_M))
        for (rollout, rows_M), counts in policy.team.evened(own, spare, policy.sharded)
    ]


def _losses(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    batch: _Batch[E],
    advantages: GroupAdvantages,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Surrogate, plain ratio, clipped and KL, each [M, K], of a micro-batch replayed in one forward."""
    rollout, rows_M = batch.rollout, batch.rows_M
    mean_MKLC, std_K, dt_K = _replay_rows(stage, policy.editor, iteration, rollout, rows_M)
    count, steps = mean_MKLC.shape[:2]
    std_F, dt_F = std_K.repeat(count), dt_K.repeat(count)
    mean_FLC, next_FLC = mean_MKLC.flatten(0, 1), rollout.next_MKLC[rows_M].flatten(0, 1)
    log_prob_MK = log_probability(next_FLC, mean_FLC, std_F).unflatten(0, (count, steps))
    old_MK = rollout.log_prob_MK[rows_M]
    values = [advantages.advantages_N[rollout.edits_M[row]] for row in rows_M.tolist()]
    advantage_M1 = torch.tensor(values, device=mean_MKLC.device)[:, None]
    if stage.loss.ratio == "guard":
        old_FLC = mean_FLC.detach() if batch.old_FLC is None else batch.old_FLC
        if stage.updates.inner_updates > 1:
            batch.old_FLC = old_FLC
        log_ratio_MK = normalised_log_ratio(next_FLC, mean_FLC, old_FLC, std_F).unflatten(0, (count, steps))
        unit_MK = torch.zeros_like(old_MK)
        surrogate = clipped_surrogate(log_ratio_MK, unit_MK, advantage_M1, stage.loss.clip_range)
        objective_MK = surrogate.objective / -dt_K
    else:
        surrogate = clipped_surrogate(log_prob_MK, old_MK, advantage_M1, stage.loss.clip_range)
        objective_MK = surrogate.objective
    ratio_MK = torch.exp(log_prob_MK.detach() - old_MK)
    kl_MK = torch.zeros_like(log_prob_MK)
    if batch.reference_MKLC is not None:
        kl_F = gaussian_kl(mean_FLC, batch.reference_MKLC.flatten(0, 1), std_F, dt_F, stage.loss.kl_scale)
        kl_MK = kl_F.unflatten(0, (count, steps))
    return objective_MK, ratio_MK, surrogate.clipped, kl_MK


@torch.no_grad()
def _reference_means(
    stage: EditorRLStage, policy: EditorPolicy[E], iteration: Iteration, rollout: Rollout[E], rows_M: torch.Tensor
) -> torch.Tensor | None:
    """Means [M, K, L, C] of the reference; only these are without a gradient, the KL itself has one."""
    if stage.kl_beta == 0:
        return None
    with policy.reference() as reference:
        return _replay_rows(stage, reference, iteration, rollout, rows_M)[0]


def _replay_rows(
    stage: EditorRLStage, editor: FlowEditor[E], iteration: Iteration, rollout: Rollout[E], rows_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    contexts = rollout.contexts.rows(rollout.rows_M[rows_M])
    latents_MKLC = rollout.latents_MKLC[rows_M]
    return replay(
        editor,
        contexts,
        latents_MKLC,
        rollout.schedule,
        stage.guidance,
        stage.sde.eta,
        iteration.window,
        stage.sde.kind,
    )
