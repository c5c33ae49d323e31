"""The control of editor training: fine-tune by flow matching on the best of G edits, at equal compute.

An iteration draws the same contexts and the same stochastic edits as Flow-GRPO would with the same stage,
asks the same reward, keeps the best edit of every group that has a spread, and takes as many optimiser
steps on as many sample-steps: a group of G edits with K trained steps becomes G K noisy versions of its
best edit. `clip_range`, `advantage_clip`, `kl_beta` and `kl_scale` have no counterpart and are not used.

    x_sigma = (1 - sigma) x_0 + sigma e,    minimise |v(x_sigma, sigma) - (e - x_0)|^2 averaged
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edit_r1.algo.group_advantage import GroupAdvantages, group_advantage
from edit_r1.editors.flow import E, FlowEditor, generator
from edit_r1.records import Context
from edit_r1.train.editor import Clock, EditorTraining, Evaluation, TrainingRun, judgment_metrics
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import Rollout, judge_edits, sample_edits
from edit_r1.train.editor_stage import EditorRLStage, Iteration, Reward, plan_iteration

SIGMA_LEVELS = 1000
"""Noise levels to draw from: a schedule this long, with the sampler's own shift."""


def train_best_of_g(
    stage: EditorRLStage,
    editor: FlowEditor[E],
    contexts: Sequence[Context],
    reward: Reward,
    out: Path,
    resume: bool = False,
    evaluate: Evaluation | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> EditorTraining:
    """Train `editor` in place on the best of its own edits; arguments and files as `train.editor.train_editor`."""
    stage = replace(stage, kl_beta=0.0)
    run = TrainingRun(stage, editor, contexts, out, resume, evaluate, progress)
    for step in run.iterations():
        clock = Clock()
        iteration = plan_iteration(stage, step, len(contexts))
        contexts_B = [contexts[position] for position in iteration.contexts_B]
        with clock.phase("sample"):
            rollouts = sample_edits(editor, stage, iteration, contexts_B)
        with clock.phase("judge"):
            rewards_N = judge_edits(reward, rollouts, contexts_B, stage.group_size)
        groups_N = [edit // stage.group_size for edit in range(len(rewards_N))]
        advantages = group_advantage(rewards_N, groups_N)
        with clock.phase("update"):
            changes = update_on_best(stage, run.policy, iteration, rollouts, rewards_N, advantages)
        run.finish(step, {**judgment_metrics(iteration, rewards_N, advantages), **changes, "seconds": clock.seconds})
    return run.close()


def best_of_groups(rewards_N: Sequence[float | None], advantages: GroupAdvantages, group_size: int) -> list[int]:
    """The best edit of every group that teaches something; the first of equals."""
    best = []
    for start in range(0, len(rewards_N), group_size):
        judged = [
            (reward, -edit)
            for edit in range(start, start + group_size)
            if advantages.trained_N[edit] and (reward := rewards_N[edit]) is not None
        ]
        if judged:
            best.append(-max(judged)[1])
    return best


def update_on_best(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    rewards_N: Sequence[float | None],
    advantages: GroupAdvantages,
) -> dict[str, Any]:
    """`inner_updates` optimiser steps of flow matching; none when no group has a spread."""
    best = set(best_of_groups(rewards_N, advantages, stage.group_size))
    if not best:
        return {"updated": False, "loss": None, "grad_norm": None}
    versions = stage.group_size * len(iteration.window)
    rows = stage.train_batch * len(iteration.window)
    loss_sum, norm = 0.0, 0.0
    for inner in range(stage.inner_updates):
        noise = generator(iteration.seeds_N[0] ^ (inner + 1))
        for rollout in rollouts:
            chosen = [row for row, edit in enumerate(rollout.edits_M) if edit in best for _ in range(versions)]
            for start in range(0, len(chosen), rows):
                rows_M = torch.as_tensor(chosen[start : start + rows], device=policy.editor.device)
                loss = flow_matching_loss(policy.editor, rollout, rows_M, stage.guidance, noise)
                share = len(rows_M) / (len(best) * versions)
                (loss * share).backward()
                loss_sum += float(loss.detach()) * share
        norm = policy.update()
    return {"updated": True, "loss": loss_sum / stage.inner_updates, "grad_norm": norm}


def flow_matching_loss(
    editor: FlowEditor[E], rollout: Rollout[E], rows_M: torch.Tensor, guidance: float, noise: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the velocity at random noise levels of finished edits, this module's equation."""
    clean_MLC = rollout.final_MLC[rows_M]
    levels = editor.schedule(rollout.contexts, SIGMA_LEVELS)
    index_M = torch.randint(SIGMA_LEVELS, (len(rows_M),), generator=noise).to(clean_MLC.device)
    noise_MLC = torch.randn(clean_MLC.shape, generator=noise).to(clean_MLC.device)
    sigma_M11 = levels.sigmas[index_M][:, None, None]
    noisy_MLC = (1 - sigma_M11) * clean_MLC + sigma_M11 * noise_MLC
    contexts = rollout.contexts.rows(rollout.rows_M[rows_M])
    velocity_MLC = editor.velocity(noisy_MLC, levels.timesteps[index_M], contexts, guidance)
    return (velocity_MLC - (noise_MLC - clean_MLC)).square().mean()
