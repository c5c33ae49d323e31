"""Saved states: a torn file is found out, and a run that was really killed ends as if it had not been."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.processes import process_context
from edit_r1.records import Context, Sample
from edit_r1.train import editor_state
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, LossSettings, UpdateSettings
from edit_r1.train.editor_state import drop_states_after, has_state, newest_state, write_state
from edit_r1.train.nft import train_nft

STAGE = EditorRLStage(
    steps=4, contexts_per_step=2, group_size=3, sampling_steps=4, lora_rank=2, train_batch=4, sample_batch=4,
    save_every=1, eval_every=2, updates=UpdateSettings(learning_rate=1e-3, ema_decay=0.5, ema_schedule="rising"),
    loss=LossSettings(kl_beta=0.1),
)  # fmt: skip


def _state(step: int) -> dict[str, Any]:
    return {"step": step, "weights": {"w": torch.full((1000,), float(step))}}


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    assert not has_state(tmp_path / "state")
    for step in (1, 2, 3):
        write_state(tmp_path / "state", step, _state(step))
    files = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert [name[:8] for name in files] == ["00000002", "00000003"]
    path, state = newest_state(tmp_path / "state")
    assert path.name == files[1] and state["step"] == 3
    assert torch.equal(state["weights"]["w"], _state(3)["weights"]["w"])


def test_states_of_later_iterations_are_dropped(tmp_path: Path) -> None:
    drop_states_after(tmp_path / "gone", 0)
    for step in (0, 4):
        write_state(tmp_path, step, {"step": step})
    drop_states_after(tmp_path, 4)
    assert newest_state(tmp_path)[1]["step"] == 4
    drop_states_after(tmp_path, 3)
    assert newest_state(tmp_path)[1]["step"] == 0
    drop_states_after(tmp_path, -1)
    assert not has_state(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "longer"])
def test_a_torn_state_is_found_out_and_the_one_before_it_used(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_state(tmp_path / "state", 1, _state(1))
    path = write_state(tmp_path / "state", 2, _state(2))
    data = bytearray(path.read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 4
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "one bit": data, "longer": data + b"0"}[damage])
    assert newest_state(tmp_path / "state")[1]["step"] == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and path.name in told and "state before it" in told
    newest_state(tmp_path / "state", tell=False)
    assert capsys.readouterr().err == ""
    for file in (tmp_path / "state").iterdir():
        file.write_bytes(b"0")
    with pytest.raises(ValueError, match="no state .* is whole: remove"):
        newest_state(tmp_path / "state")


def test_a_full_disk_leaves_the_states_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "state", 1, _state(1))

    def full(self: Any, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editor_state._Summed, "write", full)
    with pytest.raises(ValueError, match="No space left on device"):
        write_state(tmp_path / "state", 2, _state(2))
    assert [path.name[:8] for path in (tmp_path / "state").iterdir()] == ["00000001"]


def _contexts() -> list[Context]:
    rng = np.random.default_rng(0)
    sources = [encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    return [Context(Sample(f"s{i}", source, "make it red", ""), (), "test") for i, source in enumerate(sources)]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ALGORITHMS: dict[str, Callable[..., Any]] = {
    "flow-grpo": train_editor,
    "diffusion-nft": train_nft,
    "best of G": train_best_of_g,
}
KILLS = {
    "flow-grpo": [("judge", 2), ("write", 1), ("replace", 1), ("replaced", 2), ("export", 1)],
    "diffusion-nft": [("judge", 2), ("write", 2)],
    "best of G": [("judge", 2), ("replaced", 1)],
}


def _run(model: Path, out: Path, algorithm: str, killed: str, at: int) -> None:
    """A whole training, or one that kills itself: while judging, half-way through writing a state, before a state is
    in its place or right after, or while the result is written; at that occasion, counted from 1."""
    torch.set_num_threads(1)
    occasions = {"judge": 0, "write": 0, "replace": 0, "replaced": 0, "export": 0}

    def occasion(name: str) -> None:
        occasions[name] += 1
        if name == killed and occasions[name] == at:
            _die()

    def reward(contexts: Any, images: Any) -> list[float]:
        occasion("judge")
        return [float(decode_rgb(image).mean()) / 25.5 for image in images]

    write, put, save = editor_state._Summed.write, os.replace, FluxKontextEditor.save

    def writes(self: Any, data: Any) -> int:
        before = self.file.tell()
        written = write(self, data)
        if before < 10_000 <= self.file.tell():  # somewhere inside: a state here has about ten times as much
            self.file.flush()
            occasion("write")
        return written

    def puts(source: Any, target: Any) -> None:
        is_state = str(target).endswith(".pt")
        if is_state:
            occasion("replace")
        put(source, target)
        if is_state:
            occasion("replaced")

    def saves(self: FluxKontextEditor, path: Path) -> None:
        save(self, path)
        occasion("export")

    editor_state._Summed.write = writes  # type: ignore[method-assign]
    os.replace = puts  # type: ignore[assignment]
    FluxKontextEditor.save = saves  # type: ignore[method-assign]
    editor = FluxKontextEditor.from_pretrained(model, FluxKontextSettings(steps=2))

    def evaluate(step: int) -> dict[str, float]:
        [edit] = editor.edit([_contexts()[0].sample], [5])
        assert edit.image is not None
        return {"brightness": float(decode_rgb(edit.image).mean())}

    ALGORITHMS[algorithm](STAGE, editor, _contexts(), reward, out, resume=True, evaluate=evaluate)


def _process(*arguments: Any) -> int | None:
    process = process_context(["edit_r1.train.editor", "edit_r1.editors.flux_kontext"]).Process(  # type: ignore[attr-defined]
        target=_run, args=arguments
    )
    process.start()
    process.join(120)
    code: int | None = process.exitcode
    return code


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, algorithm: str) -> None:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parent.parent / "editors" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = tmp_path / "model"
    module.make_kontext_pipeline(False).save_pretrained(model)

    assert _process(model, tmp_path / "whole", algorithm, "", 0) == 0
    out = tmp_path / "killed"
    for name, at in KILLS[algorithm]:
        assert _process(model, out, algorithm, name, at) == -signal.SIGKILL, (name, at)
    newest, _ = newest_state(out / "state")
    newest.write_bytes(newest.read_bytes()[:-100])  # and its last state is torn besides
    assert _process(model, out, algorithm, "", 0) == 0

    whole, killed = (newest_state(folder / "state")[1] for folder in (tmp_path / "whole", out))
    assert whole["step"] == killed["step"] == STAGE.steps
    for part in ("weights", "average"):
        assert all(torch.equal(value, killed[part][name]) for name, value in whole[part].items())
    for index, values in whole["optimizer"]["state"].items():
        assert all(torch.equal(value, killed["optimizer"]["state"][index][name]) for name, value in values.items())

    def curve(folder: Path) -> list[dict[str, Any]]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert curve(tmp_path / "whole") == curve(out)
    one, other = (
        (folder / "editor/transformer/diffusion_pytorch_model.safetensors").read_bytes()
        for folder in (tmp_path / "whole", out)
    )
    assert one == other
