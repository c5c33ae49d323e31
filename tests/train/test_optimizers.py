from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edit_r1.train.optimizers import muon_and_adamw


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.lm_head = nn.Linear(6, 5, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.frozen(self.hidden(self.embed_tokens(ids)).tanh()))


def a_step(module: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(seed))
    nn.functional.cross_entropy(module(ids), (ids + 1) % 5).backward()
    optimiser.step()
    optimiser.zero_grad()


def test_each_weight_is_stepped_by_its_own_optimiser() -> None:
    """Twin: torch's Muon on the one hidden matrix, torch's AdamW on the rest, stepped apart."""
    torch.manual_seed(0)
    joined = Small()
    apart = copy.deepcopy(joined)
    optimiser = muon_and_adamw(joined, 1e-2)
    muon = torch.optim.Muon([apart.hidden.weight], 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    others = [apart.embed_tokens.weight, apart.hidden.bias, apart.lm_head.weight]
    adamw = torch.optim.AdamW(others, 1e-2, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    for seed in range(3):
        a_step(joined, optimiser, seed)
        ids = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(seed))
        nn.functional.cross_entropy(apart(ids), (ids + 1) % 5).backward()
        for part in (muon, adamw):
            part.step()
            part.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(joined.parameters(), apart.parameters(), strict=True))


def test_a_schedule_reaches_every_part_also_after_loading() -> None:
    module = Small()
    optimiser = muon_and_adamw(module, 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5**step)
    a_step(module, optimiser, 0)
    schedule.step()
    assert [part.param_groups[0]["lr"] for part in optimiser.parts] == [5e-3, 5e-3]
    state = copy.deepcopy(optimiser.state_dict())
    other = muon_and_adamw(copy.deepcopy(module), 1.0)
    other.load_state_dict(state)
    assert [group["lr"] for group in other.param_groups] == [5e-3, 5e-3]
    assert all(group is part.param_groups[0] for group, part in zip(other.param_groups, other.parts, strict=True))


def test_nothing_for_muon_to_train_is_said() -> None:
    with pytest.raises(ValueError, match="use optimizer='adamw'"):
        muon_and_adamw(Small().requires_grad_(False), 1e-2)
