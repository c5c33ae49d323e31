"""The mean of the last iterates: what counts, what it is, and what survives a restart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edit_r1.train.averaging import TailAverage


def model_with(value: float) -> nn.Module:
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, -value)
    model.bias.requires_grad_(False)
    return model


def run(average: TailAverage, model: nn.Module, steps: range, folder: Path, save_at: int = 0) -> None:
    """Steps as the trainer tells of them; the weights after step n are n squared."""
    args: Any = SimpleNamespace(output_dir=str(folder))
    state = SimpleNamespace(global_step=steps.start - 1)
    average.on_train_begin(args, state, None, model=model)
    for step in steps:
        nn.init.constant_(model.weight, float(step**2))
        state.global_step = step
        average.on_step_end(args, state, None, model=model)
        if step == save_at:
            (folder / f"checkpoint-{step}").mkdir()
            average.on_save(args, state, None)


def test_the_result_is_the_mean_of_the_last_iterates_of_what_is_trained(tmp_path: Path) -> None:
    average, model = TailAverage(3), model_with(1.0)
    run(average, model, range(1, 7), tmp_path)
    average.assign(model)
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 2), (9 + 16 + 25 + 36) / 4))
    assert float(model.bias) == -1.0  # frozen: left as it is


def test_a_restart_goes_on_with_the_mean_so_far(tmp_path: Path) -> None:
    run(TailAverage(3), model_with(1.0), range(1, 6), tmp_path, save_at=4)
    average, model = TailAverage(3), model_with(0.0)
    run(average, model, range(5, 7), tmp_path)
    average.assign(model)
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 2), (9 + 16 + 25 + 36) / 4))


def test_without_a_step_that_counts_the_weights_stay(tmp_path: Path) -> None:
    average, model = TailAverage(9), model_with(1.0)
    run(average, model, range(1, 4), tmp_path, save_at=2)
    average.assign(model)
    assert float(model.weight[0, 0]) == 9.0
    assert not list((tmp_path / "checkpoint-2").iterdir())
    with pytest.raises(ValueError, match="first=0"):
        TailAverage(0)
