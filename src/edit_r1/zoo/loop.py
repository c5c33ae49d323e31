"""The training loop of the zoo: resumable, seeded by the step, stopped by a count or by the clock.

Each step draws its batch from (seed, step) alone, so a run that was cut into pieces sees the same
batches in the same order as one that was not, and no generator's state has to be stored. The clock
decides only when a call pauses; the number of steps decides what the finished model is.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edit_r1.store import StoreError, writing


@dataclass(frozen=True)
class LoopConfig:
    """How a model is optimised: warm-up, then a constant rate with a final linear decay."""

    steps: int
    """Optimiser steps after which the model is finished."""
    batch_size: int
    """Samples a step; only counts and the report use it."""
    learning_rate: float
    warmup_steps: int = 200
    decay_share: float = 0.2
    """Share of `steps` at the end over which the rate falls linearly to a tenth; 0 keeps it constant."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = 1.0
    """Largest global gradient norm."""
    ema_decay: float = 0.999
    """Of the averaged weights; ramped up from (1 + step) / (10 + step), so that the start is forgotten."""
    save_every_s: float = 60.0
    report_every_s: float = 5.0


def rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the learning rate in step `step` (0-based), in (0, 1]."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    tail = config.decay_share * config.steps
    left = (config.steps - step) / tail if tail > 0 else 1.0
    return warm * min(1.0, max(0.1, left))


class Averaged:
    """An exponential moving average of a module's parameters, kept in fp32."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: value.detach().clone().float() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int, decay: float) -> None:
        """Move towards the module's weights; `step` is 0-based."""
        share = 1.0 - min(decay, (1 + step) / (10 + step))
        targets = [value.detach().float() for _, value in module.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), targets, share)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for name, value in module.named_parameters():
            value.copy_(self.weights[name])


@dataclass
class Run:
    """Where a training stands."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    average: Averaged
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Wall-clock seconds spent in all calls."""
    seed: int = 0
    """That the batches are drawn from."""

    def save(self, path: Path) -> None:
        """Write the state atomically: a reader finds the old file or the new one.

        Raises:
            StoreError: when the disk is full or read-only; the state that was there stays.
        """
        part = path.with_suffix(".part")
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.weights,
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,
        }
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)

    def restore(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            StoreError: when the file is damaged or of another model.
            ValueError: when it was trained from another seed.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            seed = state.get("seed", self.seed)  # states of before seeds were kept have none
            self.module.load_state_dict(state["module"])
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, AttributeError) as error:
            raise StoreError(
                f"{path}: damaged, or the state of another model: remove it to begin anew, or name another --state"
            ) from error
        if seed != self.seed:
            raise ValueError(f"{path}: a run of seed {seed}, not {self.seed}: give --seed {seed} or another --state")
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.weights = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]


def check_call(minutes: float, threads: int, seed: int) -> None:
    """Raises ValueError for a budget, a number of threads or a seed that no training can have."""
    if not minutes >= 0:
        raise ValueError(f"minutes={minutes}: must be 0 or more")
    if threads < 1:
        raise ValueError(f"threads={threads}: at least 1 is needed")
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")


def start(module: nn.Module, optimiser: torch.optim.Optimizer, path: Path, seed: int = 0) -> Run:
    """A run of `module`, continued from `path` when a state lies there. Raises as `Run.restore`."""
    run = Run(module, optimiser, Averaged(module), seed=seed)
    if path.exists():
        run.restore(path)
    return run


def train(
    run: Run, loss_of: Callable[[int], Tensor], config: LoopConfig, path: Path, deadline: float, label: str
) -> bool:
    """Train until `config.steps` are done or `time.monotonic()` passes `deadline`; save if a step was made.

    Args:
        loss_of: the scalar loss of step `step`; draws its batch from the step number alone.
        path: where the state lies.
        label: begins every printed line.

    Returns:
        True when all steps are done.

    Raises:
        ValueError: when a loss is not finite.
    """
    begin = last_save = last_report = time.monotonic()
    spent_before, first_step = run.seconds, run.step
    recent: float | None = None
    while run.step < config.steps and time.monotonic() < deadline:
        for group in run.optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_factor(run.step, config)
        loss = loss_of(run.step)
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{label}: loss {value} in step {run.step}: lower learning_rate={config.learning_rate}")
        loss.backward()
        nn.utils.clip_grad_norm_(run.module.parameters(), config.gradient_clip)
        run.optimiser.step()
        run.optimiser.zero_grad(set_to_none=True)
        run.average.update(run.module, run.step, config.ema_decay)
        run.step += 1
        recent = value if recent is None else 0.98 * recent + 0.02 * value
        now = time.monotonic()
        run.seconds = spent_before + now - begin
        if now - last_report > config.report_every_s:
            last_report = now
            _report(run, config, label, recent, (run.step - first_step) / (now - begin), deadline - now)
        if now - last_save > config.save_every_s:
            last_save = now
            run.save(path)
    if run.step > first_step:  # a call that only looks must not write over a training that goes on beside it
        run.save(path)
    return run.step >= config.steps


def _report(run: Run, config: LoopConfig, label: str, loss: float, steps_s: float, left_s: float) -> None:
    to_go = min(left_s, (config.steps - run.step) / steps_s)
    print(
        f"{label} step {run.step}/{config.steps} samples {run.step * config.batch_size} loss {loss:.4f} "
        f"{steps_s * config.batch_size:.1f} samples/s, {to_go / 60:.1f} min left ({run.seconds / 60:.1f} spent)",
        flush=True,
    )
