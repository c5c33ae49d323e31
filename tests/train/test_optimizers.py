from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from edit_r1.train.muon import Muon, orthogonalised, shares
from edit_r1.train.optimizers import muon_and_adamw
from edit_r1.train.processes import in_processes
from edit_r1.train.verifier_run import Progress


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


def test_muon_steps_along_the_polar_factor_and_keeps_its_size() -> None:
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    for given in (matrix, matrix.T):
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        found = orthogonalised(given).float()
        assert torch.linalg.svdvals(found).sub(1).abs().max() < 0.35
        cosine = (found * (left @ right)).sum() / (found.norm() * (left @ right).norm())
        assert cosine > 0.97


def test_the_work_is_shared_evenly_and_each_matrix_once() -> None:
    shapes = [(512, 512), *[(128, 128)] * 12, *[(256, 128)] * 8, *[(352, 128)] * 8, (1, 7)]
    owners = shares(shapes, 3)
    assert len(owners) == len(shapes) and set(owners) == {0, 1, 2}
    assert owners.count(owners[0]) == 1  # the largest is more than a third of all
    work = [sum(min(s) ** 2 * (2 * max(s) + min(s)) for s, own in zip(shapes, owners, strict=True) if own == k)
            for k in range(3)]  # fmt: skip
    assert abs(work[1] - work[2]) <= 128**2 * (2 * 352 + 128)
    assert shares(shapes, 1) == [0] * len(shapes) and shares([], 2) == []


def _steps_of_two(out: Path, *, progress: Progress | None) -> Path:
    """Three steps in each of two processes; gradients are alike in both, as after DDP's backward."""
    torch.distributed.init_process_group("gloo")
    module, optimiser = _with_muon()
    for seed in range(3):
        a_step(module, optimiser, seed)
    mine = out / f"{torch.distributed.get_rank()}.pt"
    torch.save(module.state_dict(), mine)
    return mine


def _with_muon() -> tuple[Small, Muon]:
    torch.manual_seed(0)
    module = Small().requires_grad_(True)
    return module, Muon([value for value in module.parameters() if value.ndim == 2], 1e-2, 0.1)


def test_two_processes_step_as_one_bit_for_bit(tmp_path: Path) -> None:
    in_processes(2, partial(_steps_of_two, tmp_path))
    module, optimiser = _with_muon()
    for seed in range(3):
        a_step(module, optimiser, seed)
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(other[name], value) for name, value in module.state_dict().items())
