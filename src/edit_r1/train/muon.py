"""Muon for weights of two or more dimensions, its work shared by the processes of a data-parallel training.

After K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the step scaled to
AdamW's root mean square (J. Liu et al., "Muon is scalable for LLM training", 2025), so that one learning rate serves
both. Beside torch.optim.Muon, which it equals bit for bit, for two reasons: that one takes two dimensions only, and in
several processes it orthogonalises every matrix in each of them. Here each matrix is orthogonalised by one process and
the results are summed with zeros, so that all have the same bits. On the tiny verifier, whose largest matrix is half of
the work, a step of two processes takes about half the time (`bench/muon.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration."""
ITERATIONS = 5
RMS = 0.2
"""Root mean square of an AdamW step in units of the learning rate, which Muon's steps are scaled to."""
EPS = 1e-7


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with all its singular values brought near 1 (within about 0.7 to 1.2), in bf16.

    bf16 is exact enough for it and halves its time.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.bfloat16()
    wide = wide.T if tall else wide
    wide = wide / wide.norm().clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if tall else wide


def shares(shapes: Sequence[tuple[int, int]], processes: int) -> list[int]:
    """The process of each matrix (rows, columns): the largest first, each to whom has the least work so far."""
    work = [0] * processes
    owners = [0] * len(shapes)

    def flops(place: int) -> int:
        short, long = sorted(shapes[place])
        return short * short * (2 * long + short)

    for place in sorted(range(len(shapes)), key=flops, reverse=True):
        owners[place] = work.index(min(work))
        work[owners[place]] += flops(place)
    return owners


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; weights of more than two dimensions are flattened after the first.

    In several processes every gradient must be the same in all of them, as after DDP's backward.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever used here
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            values = [value for value in group["params"] if value.grad is not None]
            pushes = orthogonalised_all([self._push(value, value.grad, group["momentum"]) for value in values])
            for value, push in zip(values, pushes, strict=True):
                scale = RMS * max(push.shape) ** 0.5
                value.mul_(1 - group["lr"] * group["weight_decay"])
                value.add_(push.reshape(value.shape), alpha=-group["lr"] * scale)

    def _push(self, value: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[value]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(value)
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum).flatten(1)


def orthogonalised_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalised` of each, the work shared by all processes of the default group, if there are several."""
    if not matrices or not dist.is_initialized() or dist.get_world_size() == 1:
        return [orthogonalised(matrix) for matrix in matrices]
    owners = shares([(matrix.shape[0], matrix.shape[1]) for matrix in matrices], dist.get_world_size())
    # float32: gloo sums no bf16. Sums with zeros are exact.
    flat = torch.zeros(sum(matrix.numel() for matrix in matrices), device=matrices[0].device)
    places = flat.split([matrix.numel() for matrix in matrices])
    for matrix, place, owner in zip(matrices, places, owners, strict=True):
        if owner == dist.get_rank():
            place.copy_(orthogonalised(matrix).flatten())
    dist.all_reduce(flat)
    return [place.view(matrix.shape) for matrix, place in zip(matrices, places, strict=True)]
