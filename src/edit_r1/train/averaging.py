"""The mean of the last iterates of a training: what every update adds in noise averages out, its direction stays.

Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992). With the few pairs that a
generation of GCPO holds the noise of an update outweighs its signal; docs/results/demo.md has what the mean is worth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback


class TailAverage(TrainerCallback):
    """Keeps the mean of the trainable weights after every optimiser step from `first` on; in fp32, a copy of each.

    Every process keeps the mean of its own shard and writes it into the trainer's checkpoints, so that a resumed run
    ends with the same mean. Stands before the callback that marks a checkpoint as whole.
    """

    def __init__(self, first: int) -> None:
        """first: number of the first step that counts, from 1."""
        if first < 1:
            raise ValueError(f"first={first}: steps are counted from 1")
        self.first = first
        self.steps = 0
        """Steps in the mean so far."""
        self._mean: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.steps, self._mean = 0, {}
        if state.global_step >= self.first:
            saved = torch.load(self._path(args, state), weights_only=True, map_location="cpu")
            self.steps = saved["steps"]
            self._mean = {name: saved["mean"][name].to(value.device) for name, value in _trained(model).items()}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.global_step < self.first:
            return
        self.steps += 1
        for name, value in _trained(model).items():
            if self.steps == 1:
                self._mean[name] = value.float().clone()
            else:
                self._mean[name].lerp_(value.float(), 1 / self.steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.steps > 0:
            torch.save({"steps": self.steps, "mean": self._mean}, self._path(args, state))

    @torch.no_grad()
    def assign(self, model: nn.Module) -> None:
        """Puts the mean into the model; nothing is done when no step was counted."""
        if self.steps > 0:
            for name, value in _trained(model).items():
                value.copy_(self._mean[name])

    @staticmethod
    def _path(args: Any, state: Any) -> Path:
        rank = PartialState().process_index
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / f"average-{rank}.pt"


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of the weights that are trained."""
    return {
        name: value.to_local() if isinstance(value, DTensor) else value.detach()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
