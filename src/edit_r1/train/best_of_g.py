"""The control of editor training: fine-tune by flow matching on the best of G edits, at equal compute.

An iteration draws the same contexts and the same edits as the algorithm that it is the control of would with the same
stage, asks the same reward, keeps the best edit of every group that has a spread, and takes as many optimiser steps on
as many sample-steps: a group of G edits with K trained steps becomes G K noisy versions of its best edit. For Flow-GRPO
the edits are stochastic and the noise levels those of the whole path; for DiffusionNFT the edits are deterministic and
the levels those of the path's first `window_share`, as there. The fields of `loss` have no counterpart.

    x_sigma = (1 - sigma) x_0 + sigma e,    minimise |v(x_sigma, sigma) - (e - x_0)|^2 averaged
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edit_r1.algo.group_advantage import GroupAdvantages
from edit_r1.editors.flow import E, FlowEditor, generator
from edit_r1.records import Context
from edit_r1.train.editor_policy import EditorPolicy, step_metrics
from edit_r1.train.editor_rollout import Rollout
from edit_r1.train.editor_run import EditorTraining, Evaluation, TrainingRun, Turn
from edit_r1.train.editor_stage import Algorithm, EditorRLStage, Iteration, Reward, policy_of, settled
from edit_r1.train.guards import Guard

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
    guard: Guard | None = None,
    like: Algorithm = "flow-grpo",
) -> EditorTraining:
    """Train `editor` in place on the best of its own edits; arguments and files as `train.editor.train_editor`.

    like: the algorithm that it is the control of.
    """
    stage = policy_of(settled(replace(stage, loss=replace(stage.loss, kl_beta=0.0)), like), editor)
    run = TrainingRun(stage, editor, contexts, out, resume, evaluate, progress, guard)

    def learn(turn: Turn) -> dict[str, Any]:
        return update_on_best(stage, run.policy, turn.iteration, turn.rollouts, turn.rewards_N, turn.advantages)

    return run.train(reward, learn, stochastic=like == "flow-grpo")


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
    """`inner_updates` optimiser steps of flow matching, or a share of one; nothing is learned without a spread."""
    best = set(best_of_groups(rewards_N, advantages, stage.group_size))
    loss_sum = 0.0
    norms: list[float | None] = []
    for inner in range(stage.updates.inner_updates):
        for rollout, noisy, counts in _noisy_parts(stage, policy, iteration, rollouts, best, inner) if best else []:
            loss = flow_matching_loss(policy.editor, rollout, noisy, stage.guidance)
            share = counts * len(noisy.rows_F) / (len(best) * stage.group_size * _trained_steps(stage, iteration))
            policy.learn(loss * share)
            loss_sum += float(loss.detach()) * share
        if best:
            policy.expect_update()
        if iteration.closes:
            norms.append(policy.update())
    mean = policy.team.totals(loss=loss_sum)["loss"] / stage.updates.inner_updates if best else None
    return {"loss": mean, **step_metrics(norms)}


def _trained_steps(stage: EditorRLStage, iteration: Iteration) -> int:
    """Of an edit: those of the window, or without one (edits are deterministic) DiffusionNFT's number of levels."""
    return len(iteration.window) or stage.sde.trained_steps


def _noisy_parts(
    stage: EditorRLStage,
    policy: EditorPolicy[E],
    iteration: Iteration,
    rollouts: Sequence[Rollout[E]],
    best: set[int],
    inner: int,
) -> list[tuple[Rollout[E], NoisyVersions, bool]]:
    """This process's noisy versions of its best edits, as many a forward as the other algorithm would compute."""
    steps = _trained_steps(stage, iteration)
    versions, rows = stage.group_size * steps, stage.train_batch * steps
    path = 1.0 if iteration.window else stage.window_share
    own = []
    for rollout in rollouts:
        chosen = [row for row, edit in enumerate(rollout.edits_M) if edit in best]
        seeds = [iteration.seeds_N[rollout.edits_M[row]] ^ (inner + 1) for row in chosen]
        noisy = NoisyVersions.draw(policy.editor, rollout, chosen, seeds, versions, path)
        own += [(rollout, noisy.part(slice(start, start + rows))) for start in range(0, len(noisy.rows_F), rows)]
    spare = (rollouts[0], NoisyVersions.draw(policy.editor, rollouts[0], [0], [0], 1))
    return [(*item, counts) for item, counts in policy.team.evened(own, spare, policy.sharded)]


@dataclass(frozen=True)
class NoisyVersions:
    """F = (best edits of a rollout) x (versions of each) rows: which edit, at which level, under which noise."""

    rows_F: torch.Tensor
    sigma_F: torch.Tensor
    timestep_F: torch.Tensor
    noise_FLC: torch.Tensor

    @classmethod
    def draw(
        cls,
        editor: FlowEditor[E],
        rollout: Rollout[E],
        rows: Sequence[int],
        seeds: Sequence[int],
        versions: int,
        path: float = 1.0,
    ) -> NoisyVersions:
        """Levels over the first share `path` of the sampler's path; an edit's draws are its seed's, whatever else is in
        the batch."""
        schedule, room = editor.schedule(rollout.contexts, SIGMA_LEVELS), max(1, round(path * SIGMA_LEVELS))
        shape = (versions, *rollout.final_MLC.shape[1:])
        sources = [generator(seed) for seed in seeds]
        levels = [torch.randint(room, (versions,), generator=source) for source in sources]
        noises = [torch.randn(shape, generator=source) for source in sources]
        level_F = torch.cat(levels or [torch.zeros(0, dtype=torch.long)]).to(editor.device)
        noise_FLC = torch.cat(noises or [torch.zeros(0, *shape[1:])]).to(editor.device)
        rows_F = torch.tensor(rows, dtype=torch.long, device=editor.device).repeat_interleave(versions)
        return cls(rows_F, schedule.sigmas[level_F], schedule.timesteps[level_F], noise_FLC)

    def part(self, rows: slice) -> NoisyVersions:
        return NoisyVersions(self.rows_F[rows], self.sigma_F[rows], self.timestep_F[rows], self.noise_FLC[rows])


def flow_matching_loss(
    editor: FlowEditor[E], rollout: Rollout[E], versions: NoisyVersions, guidance: float
) -> torch.Tensor:
    """Mean squared error of the velocity at noise levels of finished edits, this module's equation."""
    clean_FLC = rollout.final_MLC[versions.rows_F]
    sigma_F11 = versions.sigma_F[:, None, None]
    noisy_FLC = (1 - sigma_F11) * clean_FLC + sigma_F11 * versions.noise_FLC
    contexts = rollout.contexts.rows(rollout.rows_M[versions.rows_F])
    velocity_FLC = editor.velocity(noisy_FLC, versions.timestep_F, contexts, guidance)
    return (velocity_FLC - (versions.noise_FLC - clean_FLC)).square().mean()
