"""Trainings in several processes: the same result as in one, and no way for a failure to go unheard."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from edit_r1.records import Preference, Quadruple
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.processes import in_processes
from edit_r1.train.rollout import rows_that_teach
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


def _gpus(folder: Path, *, progress: Progress | None) -> Path:
    (folder / os.environ["RANK"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    return folder


def test_processes_of_the_cpu_leave_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    in_processes(2, partial(_gpus, tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "", "1": ""}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


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


def _rows_kept(folder: Path, *, progress: Progress | None) -> Path:
    accelerator = Accelerator(cpu=True)
    teaching = (1, 5)[accelerator.process_index]
    inputs = {"advantages": torch.tensor([0.0] * (8 - teaching) + [0.5] * teaching), "names": list("abcdefgh")}
    kept, share = rows_that_teach(inputs)
    name = f"{accelerator.process_index} {''.join(kept['names'])} {share}"
    (folder / name).touch()
    return folder


def test_every_process_keeps_as_many_rows_as_the_one_that_needs_most(tmp_path: Path) -> None:
    in_processes(2, partial(_rows_kept, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 abcdh 0.625", "1 defgh 0.625"]


def test_gcpo_in_two_processes(checkpoint: Path, preferences: list[Preference], tmp_path: Path) -> None:
    """Three pairs on two processes: one is torn between them, and each has its own silent rows."""
    stage = GCPOStage(
        str(checkpoint), str(tmp_path / "run"), mode="verify", variant="compact", steps=2, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(learning_rate=1e-3, micro_batch=4), cpu=True,
    )  # fmt: skip
    steps: list[Mapping[str, float]] = []
    model = in_processes(2, partial(train_gcpo, stage, preferences), lambda _, __, logged: steps.append(logged))
    assert (model / "model.safetensors").exists()
    assert len(steps) == 2
    assert all(0 <= step["unparsed"] <= 1 for step in steps)
