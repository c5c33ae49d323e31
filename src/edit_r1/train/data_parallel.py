"""Editor training on several processes: each has its share of an iteration's contexts, all take the same step.

A process samples and judges whole groups, the rewards are exchanged so that every process knows all advantages, and
the gradients are summed before the optimiser's step (by `train.sharding` where the weights are in parts). The plan of
an iteration is a function of (seed, iteration) and every draw one of its edit's seed, so that any number of processes
makes the same update, up to the rounding of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

Item = TypeVar("Item")
PATIENCE = timedelta(hours=2)
"""For the process that writes a result or judges while the others wait; torch gives NCCL 10 minutes, gloo 30."""


@dataclass(frozen=True)
class Team:
    """This process among those that train one editor."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls, device: str | torch.device | None = None) -> Team:
        """The team that `torchrun`, `accelerate launch` or `in_processes` has started, joined if need be.

        device: what the editor is trained on; a CPU's team leaves this machine's GPUs alone. None, where that is not
        known yet: GPUs, if there is one for each process. One process alone makes a GPU with a number its current one.
        Raises ValueError for a GPU that this machine does not have, and for what is no device.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            index = _gpu_index(device)
            if index is not None and torch.cuda.is_available():
                _take_gpu(index, f"device={str(device)!r}")
            return cls()
        if not dist.is_initialized():
            on_gpu = _gpu_each() if device is None else _named(device).type == "cuda"
            if on_gpu:
                local = os.environ.get("LOCAL_RANK", "0")
                _take_gpu(int(local), f"LOCAL_RANK={local}")
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def check_own_gpu(self, device: str | torch.device | None) -> None:
        """Raises ValueError, in all processes alike, for a GPU that several of them would train on.

        device: of this process's editor; a GPU without a number is its own.
        """
        index = _gpu_index(device)
        node = self.rank - int(os.environ.get("LOCAL_RANK", "0"))
        places = [place for place in self.gathered({self.rank: (node, index)}).values() if place[1] is not None]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(
                    f"device='cuda:{place[1]}' in {places.count(place)} processes of one machine, which would share "
                    "that GPU: write device='cuda', each process's own"
                )

    def share(self, contexts: int) -> range:
        """Places of this process among the contexts of an iteration.

        Raises ValueError when there are more processes than contexts.
        """
        if contexts < self.size:
            raise ValueError(
                f"contexts_per_step={contexts} on {self.size} processes leaves some without work: raise "
                "contexts_per_step or start fewer processes"
            )
        return range(self.rank, contexts, self.size)

    def gathered(self, own: Mapping[int, Any]) -> dict[int, Any]:
        """The union of what the processes hold; the keys of one are not those of another."""
        if self.size == 1:
            return dict(own)
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, dict(own))
        return {key: value for theirs in everyones for key, value in theirs.items()}

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In place; a process that had nothing to learn from counts as zero."""
        if self.size == 1:
            return
        works = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            works.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in works:
            work.wait()

    def evened(self, own: Sequence[Item], spare: Item, sharded: bool) -> list[tuple[Item, bool]]:
        """This process's pieces of work, each with True, and, when the transformer is sharded, as many times `spare`
        with False as make all processes' lists equally long: these only keep the others company and count nothing."""
        work = [(item, True) for item in own]
        if not sharded:
            return work
        longest = max(self.gathered({self.rank: len(work)}).values())
        return work + [(spare, False)] * (longest - len(work))

    def totals(self, **values: float) -> dict[str, float]:
        """The sum of each over the processes."""
        everyones = self.gathered({self.rank: values})
        return {name: sum(theirs[name] for theirs in everyones.values()) for name in values}

    def largest(self, value: float) -> float:
        return max(self.gathered({self.rank: value}).values())

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def _gpu_each() -> bool:
    return local_processes() <= torch.cuda.device_count()


def _gpu_index(device: str | torch.device | None) -> int | None:
    """The number of a GPU; None for one without, and for anything else."""
    named = _named(device or "cpu")
    return named.index if named.type == "cuda" else None


def _named(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: no device; use cpu, cuda or, of several, cuda:1") from error


def _take_gpu(index: int, told: str) -> None:
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"{told} and {count} GPUs: start one process a GPU, or load the editor on the cpu")
    torch.cuda.set_device(index)


def local_processes() -> int:
    """How many processes of this training run on this machine, by what their launcher has set."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1"))


ALONE = Team()
"""One process."""


def is_first() -> bool:
    """Whether this process is the one that talks to people, by what its launcher has set; joins nothing."""
    return os.environ.get("RANK", "0") == "0"


def leave_team() -> None:
    """Ends this process's part in the team that `Team.current` joined, if it did: nothing may follow it."""
    if dist.is_initialized():
        dist.destroy_process_group()
