"""Muon for the weight matrices of the editor's models, convolutions included, AdamW for everything else.

After K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the step
scaled to AdamW's root mean square (J. Liu et al., "Muon is scalable for LLM training", 2025), so that one
learning rate serves both. torch.optim.Muon takes two-dimensional parameters only, and most of the
autoencoder is convolutions. Measured on the autoencoder, 260 steps of 8 pictures: 20.6 dB against AdamW's
17.9 dB for the same CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edit_r1.train.optimizers import Parts

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration."""
ITERATIONS = 5
RMS = 0.2
"""Root mean square of an AdamW step in units of the learning rate, which Muon's steps are scaled to."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with all its singular values brought near 1 (within about 0.7 to 1.2).

    In bf16, which is exact enough for it and halves its time.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for parameters of two or more dimensions (flattened after the first)."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever used here
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is None:
                    continue
                state = self.state[value]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(value)
                state["momentum"].lerp_(value.grad, 1 - group["momentum"])
                push = value.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                scale = RMS * max(push.shape) ** 0.5
                value.mul_(1 - group["lr"] * group["weight_decay"])
                value.add_(orthogonalised(push).reshape(value.shape), alpha=-group["lr"] * scale)


class MatrixOptimiser(Parts):
    """Muon for hidden matrices, AdamW for what is left: biases, norms, embeddings, first and last layers."""

    def __init__(
        self, module: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], outer: tuple[str, ...]
    ) -> None:
        """`outer`: parts of the names of matrices that are not hidden."""
        hidden = {
            name: value
            for name, value in module.named_parameters()
            if value.ndim >= 2 and not any(part in name for part in outer)
        }
        rest = [value for name, value in module.named_parameters() if name not in hidden]
        super().__init__(
            Muon(hidden.values(), lr, weight_decay),
            torch.optim.AdamW(rest, lr, betas=betas, weight_decay=weight_decay, fused=True),
        )
