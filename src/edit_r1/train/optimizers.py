"""Muon and AdamW as one optimiser: for training from little, where AdamW needs about twice as many steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edit_r1.train.muon import Muon


class Parts(torch.optim.Optimizer):
    """Several optimisers of disjoint parameters, stepped and stored as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.defaults = dict(parts[0].defaults)
        self.param_groups = [group for part in parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, object]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        states = state_dict["parts"]
        assert isinstance(states, list)
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_and_adamw(
    module: nn.Module, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
) -> Parts:
    """Muon for the hidden weight matrices, AdamW for embeddings, the head, norms, biases and convolutions.

    Only weights that require a gradient are taken. Raises ValueError when none of these is a hidden matrix.
    """
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    matrices = {
        name: value
        for name, value in trained.items()
        if value.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
    }
    if not matrices:
        raise ValueError("optimizer='muon': no hidden weight matrix is trained; use optimizer='adamw'")
    others = [value for name, value in trained.items() if name not in matrices]
    return Parts(
        Muon(matrices.values(), learning_rate, weight_decay),
        torch.optim.AdamW(others, learning_rate, betas=betas, weight_decay=weight_decay, fused=True),
    )


class MuonFactory:
    """In the form that transformers' Trainer takes as `optimizer_cls_and_kwargs`: made, then called with the model."""

    def __call__(self, model: nn.Module, learning_rate: float) -> Parts:
        return muon_and_adamw(model, learning_rate)


def trainer_optimizer(name: str, learning_rate: float) -> tuple[type[Any], dict[str, Any]] | None:
    """What a Trainer is given as `optimizer_cls_and_kwargs`; None leaves it to the Trainer's own arguments."""
    return (MuonFactory, {"learning_rate": learning_rate}) if name == "muon" else None
