"""Flow-GRPO for image editors (paper section 4): sample -> judge -> advantage -> update.

For every context a group of G edits is drawn through a stochastic sampler, the reward rates each, its
advantage is its distance from the group's mean in units of the group's std, and the clipped surrogate on
the per-step log-probability ratio is maximised, less beta times the KL to the editor before training.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Generic, cast

import torch

from edit_r1.algo.clipped_surrogate import clipped_surrogate
from edit_r1.algo.flow_sde import gaussian_kl, log_probability, normalised_log_ratio
from edit_r1.algo.group_advantage import GroupAdvantages, Spread
from edit_r1.editors.flow import E, FlowEditor, replay
from edit_r1.records import Context
from edit_r1.train.data_parallel import Team
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import Rollout, sample_edits
from edit_r1.train.editor_stage import EditorRLStage, Iteration, Reward, plan_iteration
from edit_r1.train.editor_state import has_state
from edit_r1.train.guards import FullEditor, Guard
from edit_r1.train.reward_queue import Judging
from edit_r1.train.rewards import edit_advantages, reward_metrics

__all__ = ["EditorRLStage", "EditorTraining", "Reward", "train_editor"]

Evaluation = Callable[[int], dict[str, float]]
"""Measures the editor after that many iterations; called with the averaged weights in place, in the first process, or
in every process when the transformer is sharded: then it samples alike in all of them."""


@dataclass(frozen=True)
class EditorTraining:
    """What a training run left behind."""

    result: Path
    """The trained editor: a pipeline in the Hugging Face layout, or the adapter's folder."""
    metrics: Path
    """JSON lines: kind "step" per iteration, "evaluation" per evaluation, "validation" per validation of a guard."""
    steps: int
    """Iterations done; fewer than the stage's when a guard stopped the run."""
    stopped: bool = False
    """Whether a guard did."""


@dataclass
class Clock:
    """Seconds per phase of one iteration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


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
    then ends with the same weights and metrics as an uninterrupted one. In several processes
    (`train.data_parallel`) each calls this with a reward and a guard of its own. Raises ValueError for unfit
    weights, contexts or saved states.
    """
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

    updated: whether the optimiser stepped. ratio_deviation: largest |rho - 1| before the first step, where rollout and
    replay should agree. clip_share, kl: means over edits, steps and inner updates; None, as that, when no edit has an
    advantage. grad_norm: of the last step, before clipping.
    """
    work = _batches(stage, policy, iteration, rollouts, advantages) if advantages.trained else []
    terms = advantages.trained * len(iteration.window)
    deviation, clipped, kl_sum = 0.0, 0.0, 0.0
    norm: float | None = None
    for inner in range(stage.updates.inner_updates):
        for batch in work:
            objective_MK, ratio_MK, clipped_MK, kl_MK = _losses(stage, policy, iteration, batch, advantages)
            loss = (stage.loss.kl_beta * kl_MK - objective_MK).sum() / terms
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
            norm = policy.update()
    measured: dict[str, Any] = {"ratio_deviation": None, "clip_share": None, "kl": None}
    if advantages.trained:
        total = terms * stage.updates.inner_updates
        sums = policy.team.totals(clipped=clipped, kl=kl_sum)
        measured = {
            "ratio_deviation": policy.team.largest(deviation),
            "clip_share": sums["clipped"] / total,
            "kl": sums["kl"] / total if stage.loss.kl_beta > 0 else None,
        }
    return {"updated": norm is not None, **measured, "grad_norm": norm}


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
    if stage.loss.kl_beta == 0:
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


def judgment_metrics(
    iteration: Iteration, rewards_N: Sequence[float | None], advantages: GroupAdvantages
) -> dict[str, Any]:
    """What the judge said of one iteration's edits; means are None when every judgment failed."""
    judged = [value for value in rewards_N if value is not None]
    return {
        "window": list(iteration.window),
        "reward_mean": fmean(judged) if judged else None,
        "reward_std": pstdev(judged) if judged else None,
        "edits": len(rewards_N),
        "failed_judgments": advantages.failed,
        "groups": advantages.groups,
        "groups_too_few": advantages.too_few,
        "groups_zero_spread": advantages.zero_spread,
        "trained_edits": advantages.trained,
    }


@dataclass(frozen=True)
class Turn:
    """One iteration, sampled and judged: what is learned from."""

    iteration: Iteration
    rollouts: Sequence[Rollout[Any]]
    """This process's."""
    rewards_N: Sequence[float | None]
    """Of all processes; None for a failed judgment."""
    advantages: GroupAdvantages


class TrainingRun:
    """An editor's training loop, whatever is learned from its edits: resuming, metrics, evaluation, saving."""

    def __init__(
        self,
        stage: EditorRLStage,
        editor: FlowEditor[Any],
        contexts: Sequence[Context],
        out: Path,
        resume: bool,
        evaluate: Evaluation | None,
        progress: Callable[[dict[str, Any]], None] | None,
        guard: Guard | None = None,
    ) -> None:
        plan_iteration(stage, 0, len(contexts))  # refuses too few contexts before anything is written
        self.team = Team.current()
        self.team.share(stage.contexts_per_step)
        self.stage, self.contexts, self.out = stage, contexts, out
        self.evaluate, self.progress, self.guard = evaluate, progress, guard
        self.state, self.best, self.metrics = out / "state", out / "best", out / "metrics.jsonl"
        refuse_earlier_run(out, resume)
        self.policy: EditorPolicy[Any] = EditorPolicy(editor, stage, self.team)
        self.start = self.policy.load_state(self.state, contexts) if has_state(self.state) else 0
        self.team.wait()
        if self.team.first:
            out.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self.metrics, self.start)
            if guard is not None:
                guard.restore(_read_lines(self.metrics))
        self.done = self.start
        self.stopped = self._decided(guard is not None and guard.stopped)

    def train(
        self,
        reward: Reward,
        learn: Callable[[Turn], dict[str, Any]],
        clip: float = inf,
        std_over: Spread = "group",
        stochastic: bool = True,
    ) -> EditorTraining:
        """Sample, judge and `learn` (which returns its metrics) until the stage's steps are done; then save.

        clip, std_over: of the advantages. stochastic: False draws edits by the averaged weights with the deterministic
        sampler, each from a start of its own.
        """
        stage, policy = self.stage, self.policy
        if self.start == 0:
            self._evaluate(0)
            self._validate(0, last=False)
        while self.done < stage.steps and not self.stopped:
            clock, step = Clock(), self.done
            iteration = plan_iteration(stage, step, len(self.contexts))
            if not stochastic:
                iteration = replace(iteration, window=(), starts_N=None)
            contexts_B = [self.contexts[position] for position in iteration.contexts_B]
            judging = Judging(reward, contexts_B, stage.group_size, self.team)
            with clock.phase("sample"), nullcontext() if stochastic else policy.averaged():
                rollouts = sample_edits(policy.editor, stage, iteration, contexts_B, self.team, judging.put)
            with clock.phase("judge"):
                rewards_N = judging.rewards()
            # A context drawn twice in one iteration makes two groups: the key is the place, not the context.
            groups_N = [edit // stage.group_size for edit in range(len(rewards_N))]
            advantages = edit_advantages(reward, rewards_N, groups_N, clip, std_over)
            with clock.phase("update"):
                changes = learn(Turn(iteration, rollouts, rewards_N, advantages))
            metrics = {**judgment_metrics(iteration, rewards_N, advantages), **changes, "seconds": clock.seconds}
            self._finish(step, metrics, judging, rewards_N)
        return self._close()

    def _finish(self, step: int, metrics: dict[str, Any], judging: Judging, rewards_N: Sequence[float | None]) -> None:
        """After iteration `step`: write its metrics; validate, evaluate and save when it is time."""
        done = self.done = step + 1
        line = {"kind": "step", "step": step, **metrics, **reward_metrics(judging.reward, rewards_N)}
        line["seconds"] |= judging.seconds()
        if self.guard is not None:
            line["guard"] = self.guard.measure(judging, rewards_N, self.team)
            self.guard.after_step(line)
        self._write(line)
        self._validate(done, done == self.stage.steps)
        last = done == self.stage.steps or self.stopped
        if last or (self.stage.eval_every and done % self.stage.eval_every == 0):
            self._evaluate(done)
        if last or (self.stage.save_every and done % self.stage.save_every == 0):
            if self.team.first:
                with self.metrics.open("rb") as file:
                    os.fsync(file.fileno())  # the lines before a state are on the disk before it
            self.policy.save_state(self.state, done, self.contexts)

    def _close(self) -> EditorTraining:
        result = self.out / ("adapter" if self.stage.save_as == "adapter" else "editor")
        if self.stopped and self.guard is not None and self.guard.settings.keep_best and has_state(self.best):
            self.policy.load_state(self.best, self.contexts)
        self.policy.export(result)
        self.team.wait()
        return EditorTraining(result, self.metrics, self.done, self.stopped)

    def _evaluate(self, done: int) -> None:
        if self.evaluate is not None and (self.team.first or self.policy.sharded):
            with self.policy.averaged():
                self._write({"kind": "evaluation", "step": done, **self.evaluate(done)})

    def _validate(self, done: int, last: bool) -> None:
        """The guard's look at its validation contexts; what the first process decides holds for all."""
        if self.guard is None or not self.guard.due(done, last):
            return
        with self.policy.averaged():
            # Every flow editor is an Editor too.
            line = self.guard.validate(done, cast(FullEditor, self.policy.editor), self.out, self.team)
        if line is not None:
            self._write(line)
        best = self._decided(self.guard.settings.keep_best and self.guard.best_is_last)
        self.stopped = self._decided(self.guard.stopped)
        if best:
            self.policy.save_state(self.best, done, self.contexts)

    def _decided(self, decision: bool) -> bool:
        """The first process's decision, in every process."""
        return bool(self.team.gathered({self.team.rank: decision})[0])

    def _write(self, line: dict[str, Any]) -> None:
        if not self.team.first:
            return
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.progress is not None:
            self.progress(line)


def refuse_earlier_run(out: Path, resume: bool) -> None:
    """Raises ValueError for a folder that holds a run's state, unless that run is to be resumed."""
    if has_state(out / "state") and not resume:
        raise ValueError(f"{out} holds an earlier training run: continue it with --resume, or name another folder")


def _read_lines(metrics: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []


def _drop_lines_after(metrics: Path, done: int) -> None:
    """Remove what was logged after the saved state, so that a resumed run logs nothing twice."""
    if not metrics.exists():
        return
    kept = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break  # the line that was being written when the run was killed
        if line["step"] < done or (line["kind"] != "step" and line["step"] <= done and done > 0):
            kept.append(text + "\n")
    partial = metrics.with_name(metrics.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, metrics)
