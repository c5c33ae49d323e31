"""The training loop that all editor algorithms share: sample, judge, learn; resuming, metrics, evaluation, saving.

With `ahead` the next iteration's edits are drawn while this one's are judged, and judged while the optimiser works: a
judge that computes elsewhere never waits for the trainer. The edits are then one update older than the weights that
learn from them, which the probability ratio accounts for. Before a state is saved nothing is drawn ahead, so that a
resumed run is the uninterrupted one: bit for bit on a CPU, on a GPU up to kernels that sum in no fixed order.
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
from typing import Any, cast

from edit_r1.algo.group_advantage import GroupAdvantages, Spread
from edit_r1.editors.flow import FlowEditor
from edit_r1.records import Context
from edit_r1.train.data_parallel import Team
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import Rollout, sample_edits
from edit_r1.train.editor_stage import EditorRLStage, Iteration, Reward, plan_iteration
from edit_r1.train.editor_state import drop_states_after, has_state
from edit_r1.train.guards import FullEditor, Guard
from edit_r1.train.reward_queue import Judging
from edit_r1.train.rewards import CombinedReward, edit_advantages, reward_metrics

Evaluation = Callable[[int], dict[str, float]]
"""Measures the editor after that many iterations; called with the averaged weights in place, in the first process, or
in every process when the transformer is sharded: then it samples alike in all of them."""


SILENT = 3
"""Iterations in a row without a single judgment that end a run: one may be a server that starts again, more learn
nothing while they cost as much as any."""


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


@dataclass(frozen=True)
class _Drawn:
    """One iteration's edits, on their way to the judge."""

    clock: Clock
    iteration: Iteration
    rollouts: Sequence[Rollout[Any]]
    judging: Judging


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
        self.team = Team.current(editor.device)
        self.team.check_own_gpu(editor.device)
        self.team.share(stage.contexts_per_step)
        self.stage, self.contexts, self.out = stage, contexts, out
        self.evaluate, self.progress, self.guard = evaluate, progress, guard
        if guard is not None:
            guard.check_rhythm(stage.updates.accumulate)
        self.state, self.best, self.metrics = out / "state", out / "best", out / "metrics.jsonl"
        refuse_earlier_run(out, resume)
        self.policy: EditorPolicy[Any] = EditorPolicy(editor, stage, self.team)
        self.start = self.policy.load_state(self.state, contexts) if has_state(self.state) else 0
        self.team.wait()
        if self.team.first:
            out.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self.metrics, self.start)
            # Another run's, or of validations that come again; without a state they all do.
            drop_states_after(self.best, self.start if self.start else -1)
            if guard is not None:
                guard.restore(_read_lines(self.metrics))
        self.done = self.start
        self.stopped = self._decided(guard is not None and guard.stopped)
        self._asked: list[Judging] = []

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
        self._check_ahead(reward)
        try:
            self._train(reward, learn, clip, std_over, stochastic)
        finally:
            # Whatever ended the run: nobody asks for these any more, and a process waits for its threads.
            for judging in self._asked:
                judging.cancel()
        return self._close()

    def _train(
        self,
        reward: Reward,
        learn: Callable[[Turn], dict[str, Any]],
        clip: float,
        std_over: Spread,
        stochastic: bool,
    ) -> None:
        if self.start == 0:
            self._evaluate(0)
            self._validate(0, last=False)
        drawn: _Drawn | None = None
        silent = self._silent()
        while self.done < self.stage.steps and not self.stopped:
            turn = drawn or self._draw(self.done, reward, stochastic)
            clock, looks_ahead = turn.clock, self.stage.updates.ahead and not self._saves(self.done + 1)
            drawn = self._draw(self.done + 1, reward, stochastic) if looks_ahead else None
            with clock.phase("judge"):
                rewards_N = turn.judging.rewards(publish=drawn is None)
            self._asked.remove(turn.judging)
            # A context drawn twice in one iteration makes two groups: the key is the place, not the context.
            groups_N = [edit // self.stage.group_size for edit in range(len(rewards_N))]
            advantages = edit_advantages(reward, rewards_N, groups_N, clip, std_over)
            with clock.phase("update"):
                changes = learn(Turn(turn.iteration, turn.rollouts, rewards_N, advantages))
            metrics = {**judgment_metrics(turn.iteration, rewards_N, advantages), **changes, "seconds": clock.seconds}
            silent = silent + 1 if advantages.failed == len(rewards_N) else 0
            ends, too_long = self.done + 1 == self.stage.steps, silent >= SILENT
            if not (ends and too_long):  # no state says that a run was done whose end nobody judged
                self._finish(self.done, metrics, turn.judging, rewards_N)
            if too_long:
                raise ValueError(
                    f"no edit of the last {silent} iterations was judged, so nothing was learned: see that the judge "
                    "runs and that its answers can be read, then continue with --resume"
                )

    def _silent(self) -> int:
        """The last iterations without a judgment before this process began."""
        count = 0
        for line in reversed(_read_lines(self.metrics) if self.team.first else []):
            if line["kind"] == "step":
                if line["failed_judgments"] < line["edits"]:
                    break
                count += 1
        return int(self.team.gathered({self.team.rank: count})[0])

    def _draw(self, step: int, reward: Reward, stochastic: bool) -> _Drawn:
        """The edits of an iteration; a judge elsewhere begins with them."""
        stage, clock = self.stage, Clock()
        iteration = plan_iteration(stage, step, len(self.contexts))
        if not stochastic:
            iteration = replace(iteration, window=(), starts_N=None)
        contexts_B = [self.contexts[position] for position in iteration.contexts_B]
        judging = Judging(reward, contexts_B, stage.group_size, self.team)
        self._asked.append(judging)
        with clock.phase("sample"), nullcontext() if stochastic else self.policy.averaged():
            rollouts = sample_edits(self.policy.editor, stage, iteration, contexts_B, self.team, judging.put)
        return _Drawn(clock, iteration, rollouts, judging)

    def _check_ahead(self, reward: Reward) -> None:
        if self.stage.updates.ahead and not (isinstance(reward, CombinedReward) and reward.overlaps):
            raise ValueError(
                "ahead=1 with a judge in this process, or overlap='off': nothing would be judged meanwhile; set ahead=0"
            )

    def _saves(self, done: int) -> bool:
        """Whether a state is saved after `done` iterations: also where a validation may keep the best one, so that the
        best one is never younger than what a resumed run starts from."""
        last = done == self.stage.steps
        kept = self.guard is not None and self.guard.settings.keep_best and self.guard.due(done, last)
        return last or kept or bool(self.stage.save_every and done % self.stage.save_every == 0)

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
        if last or self._saves(done):
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
