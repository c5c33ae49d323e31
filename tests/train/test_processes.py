"""Trainings in several processes: the same result as in one, and no way for a failure to go unheard."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edit_r1.records import Quadruple
from edit_r1.train.processes import in_processes
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.verifier_run import Progress


def _names(folder: Path, *, progress: Progress | None) -> Path:
    name = f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    (folder / name).write_text(str(torch.get_num_threads()))
    if progress is not None:
        progress(1, 2, {"loss": 3.0})
    return folder / name


def _refuses(*, progress: Progress | None) -> Path:
    raise ValueError("steps=0: must be above 0")


def _dies(*, progress: Progress | None) -> Path:
    if os.environ["RANK"] == "1":
        os._exit(7)
    time.sleep(60)
    return Path()


def test_each_process_knows_its_place_and_the_first_one_is_heard(tmp_path: Path) -> None:
    heard = []
    result = in_processes(2, partial(_names, tmp_path), lambda *line: heard.append(line))
    assert result == tmp_path / "0 of 2"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0 of 2": "1", "1 of 2": "1"}
    assert heard == [(1, 2, {"loss": 3.0})]


def test_what_a_training_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match="steps=0: must be above 0"):
        in_processes(2, _refuses)
    with pytest.raises(ValueError, match="count=0"):
        in_processes(0, _refuses)


def test_a_process_that_dies_ends_all() -> None:
    with pytest.raises(ChildProcessError, match="7"):
        in_processes(2, _dies)


def test_two_processes_train_as_one_with_the_whole_batch(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path: Path
) -> None:
    stage = SFTStage(str(checkpoint), str(tmp_path / "one"), variant="compact", steps=2, batch_size=4, warmup_steps=0,
                     learning_rate=1e-3, log_every=1, stored="fp32", cpu=True)  # fmt: skip
    one = load_file(train_sft(stage, quadruples) / "model.safetensors")
    shared = replace(stage, out=str(tmp_path / "two"), batch_size=2)
    steps: list[int] = []
    model = in_processes(2, partial(train_sft, shared, quadruples, resume=True), lambda done, *_: steps.append(done))
    two = load_file(model / "model.safetensors")
    assert steps == [1, 2]
    start = load_file(checkpoint / "model.safetensors")
    for name, weight in one.items():
        moved = (weight - start[name].float()).abs().max()
        assert (weight - two[name]).abs().max() <= 0.05 * moved + 1e-6, name
