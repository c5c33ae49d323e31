"""The configuration of editor training, and which contexts, seeds and steps an iteration takes.

Everything random is a function of (seed, iteration): nothing has to be remembered to resume exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edit_r1.algo.flow_sde import KLScale
from edit_r1.records import Context

Reward = Callable[[Sequence[Context], Sequence[bytes]], Sequence[float | None]]
"""Rates edited images (encoded), one per context, in order. None is a failed judgment, never a score."""


@dataclass(frozen=True)
class EditorRLStage:
    """Flow-GRPO on an editor; `train.best_of_g` reads the same fields, so that both cost the same."""

    steps: int = 90
    """Iterations of sample, judge, advantage, update."""
    contexts_per_step: int = 4
    group_size: int = 12
    """G, edits per context; the paper: 24."""
    sampling_steps: int = 10
    """Steps of a rollout; evaluation uses the editor's own number."""
    trained_steps: int = 2
    """K, stochastic steps of a rollout, all trained on; ignored with window "all"."""
    window: Literal["random", "sliding", "all"] = "random"
    """Which steps are stochastic, the same for every edit of an iteration: a random run of K, a run of K that
    moves on by one each iteration, or every step but the last."""
    window_share: float = 0.5
    """The window lies in this first share of the steps, (0, 1]; ignored with window "all"."""
    same_start: bool = False
    """The edits of a group start from one noise and part in the stochastic steps, so that what is rewarded is what is
    trained (Flow-GRPO's "fast" variants do so). False: every edit has a start of its own, as in the paper."""
    eta: float = 0.7
    """Noise level of the stochastic steps, above 0."""
    guidance: float = 2.5
    """Embedded guidance of the rollouts; without effect when the transformer has no guidance embedding."""
    learning_rate: float = 3e-4
    """Of AdamW without weight decay. 3e-4 suits LoRA; full training wants less (2e-4 at 5 M parameters)."""
    clip_range: float = 1e-4
    """eps of the clipped surrogate. With one inner update the ratio is 1 and the clip never acts."""
    advantage_clip: float = 5.0
    kl_beta: float = 0.04
    """Weight of the KL to the reference model; 0 computes none. The paper: 0.04."""
    kl_scale: KLScale = "with_dt"
    """Which published KL `kl_beta` belongs to."""
    lora_rank: int = 64
    """0 trains every weight of the transformer. alpha is twice the rank, as everywhere for these editors."""
    inner_updates: int = 1
    """Optimiser steps per iteration, each over all trained edits."""
    sample_batch: int = 64
    """Most edits sampled in one forward."""
    train_batch: int = 24
    """Most edits replayed in one forward; the forward holds K times as many rows."""
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    """Of the averaged weights that are evaluated and saved; 0 averages nothing."""
    seed: int = 0
    eval_every: int = 0
    """Iterations between evaluations; 0 evaluates only before the first and after the last."""
    save_every: int = 10
    """Iterations between saved states; 0 saves only the last."""
    save_as: Literal["merged", "adapter"] = "merged"
    """The result: a full pipeline with LoRA merged in, or the adapter alone (needs lora_rank > 0)."""

    def __post_init__(self) -> None:
        positive = {
            "steps": self.steps, "contexts_per_step": self.contexts_per_step, "trained_steps": self.trained_steps,
            "eta": self.eta, "learning_rate": self.learning_rate, "inner_updates": self.inner_updates,
            "sample_batch": self.sample_batch, "train_batch": self.train_batch, "max_grad_norm": self.max_grad_norm,
            "advantage_clip": self.advantage_clip,
        }  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        counts = {
            "kl_beta": self.kl_beta, "lora_rank": self.lora_rank, "eval_every": self.eval_every,
            "save_every": self.save_every, "seed": self.seed,
        }  # fmt: skip
        for name, value in counts.items():
            if value < 0:
                raise ValueError(f"{name}={value}: must be 0 or more")
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group needs at least 2 edits to have an advantage")
        if self.sampling_steps < 2:
            raise ValueError(f"sampling_steps={self.sampling_steps}: the last step is never trained on; use at least 2")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must lie in [0, 1); 0 averages nothing")
        if not 0 < self.clip_range < 1:
            raise ValueError(f"clip_range={self.clip_range}: must lie in (0, 1), usually 1e-4")
        if self.save_as == "adapter" and self.lora_rank == 0:
            raise ValueError("save_as='adapter' with lora_rank=0: there is no adapter; use save_as='merged'")
        _window_positions(self)


@dataclass(frozen=True)
class Iteration:
    """What one iteration works on: B contexts, G edits each, edit n belonging to context n // G."""

    contexts_B: tuple[int, ...]
    """Positions in the list of training contexts."""
    seeds_N: tuple[int, ...]
    """One per edit."""
    window: tuple[int, ...]
    """Stochastic steps, ascending, shared by all edits."""
    starts_N: tuple[int, ...] | None = None
    """Seed of each edit's first latents where its group shares them; None when `seeds_N` gives those too."""


def plan_iteration(stage: EditorRLStage, step: int, contexts: int) -> Iteration:
    """The work of iteration `step` (from 0) on a list of `contexts` contexts.

    Contexts come in a new order every time round, so that none is seen twice before all are seen once.
    """
    if contexts < stage.contexts_per_step:
        raise ValueError(
            f"{contexts} training contexts and contexts_per_step={stage.contexts_per_step}: give more "
            "contexts or lower contexts_per_step"
        )
    first = step * stage.contexts_per_step
    order: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + stage.contexts_per_step):
        epoch = position // contexts
        if epoch not in order:
            order[epoch] = np.random.default_rng((stage.seed, 1, epoch)).permutation(contexts)
        chosen.append(int(order[epoch][position % contexts]))
    edits = stage.contexts_per_step * stage.group_size
    seeds = np.random.default_rng((stage.seed, 2, step)).integers(0, 2**63 - 1, size=edits)
    starts = None
    if stage.same_start:
        drawn = np.random.default_rng((stage.seed, 4, step)).integers(0, 2**63 - 1, size=stage.contexts_per_step)
        starts = tuple(int(drawn[edit // stage.group_size]) for edit in range(edits))
    return Iteration(tuple(chosen), tuple(int(seed) for seed in seeds), choose_window(stage, step), starts)


def choose_window(stage: EditorRLStage, step: int) -> tuple[int, ...]:
    """The stochastic steps of iteration `step`; never the last step of the sampler."""
    positions = _window_positions(stage)
    length = stage.sampling_steps - 1 if stage.window == "all" else stage.trained_steps
    start = step % positions
    if stage.window == "random":
        start = int(np.random.default_rng((stage.seed, 3, step)).integers(positions))
    return tuple(range(start, start + length))


def _window_positions(stage: EditorRLStage) -> int:
    """How many places the window can start at; 1 for "all"."""
    if stage.window == "all":
        return 1
    if not 0 < stage.window_share <= 1:
        raise ValueError(f"window_share={stage.window_share}: must lie in (0, 1]")
    room = min(round(stage.window_share * stage.sampling_steps), stage.sampling_steps - 1)
    if stage.trained_steps > room:
        raise ValueError(
            f"trained_steps={stage.trained_steps}: only {room} of {stage.sampling_steps} sampling steps "
            "may be trained on (window_share, and never the last); lower it or raise sampling_steps"
        )
    return room - stage.trained_steps + 1
