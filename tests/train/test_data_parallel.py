"""Editor training on two processes makes the update that one process makes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from torch.distributed.tensor import DTensor

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.processes import process_context
from edit_r1.records import Context, Principle, Sample
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.data_parallel import Team
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.editor_state import newest_state
from edit_r1.train.nft import train_nft
from edit_r1.train.processes import in_processes
from edit_r1.train.verifier_run import Progress

STAGE = changed(EditorRLStage(),
    steps=2, contexts_per_step=3, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0, learning_rate=1e-3,
    train_batch=3, sample_batch=3, kl_beta=0.1, max_grad_norm=1e9, save_every=1,
)  # fmt: skip


def _contexts() -> list[Context]:
    rng = np.random.default_rng(0)
    contexts = []
    for index, (height, width) in enumerate([(16, 16), (16, 24), (16, 16), (16, 16)]):
        source = encode_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        sample = Sample(f"s{index}", source, ["make it red", "add a star"][index % 2], "")
        contexts.append(Context(sample, (Principle("Is it red?", "Instruction Following"),), "test"))
    return contexts


def _reward(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
    """Brightness; every edit of s0 is worth the same, and of s1 the first is never judged."""
    first = {context.sample.id: place for place, context in reversed(list(enumerate(contexts)))}
    values: list[float | None] = []
    for place, (context, image) in enumerate(zip(contexts, images, strict=True)):
        fails = context.sample.id == "s1" and place == first["s1"]
        values.append(None if fails else 5.0 if context.sample.id == "s0" else float(decode_rgb(image).mean()))
    return values


def _train(
    train: Callable[..., Any],
    stage: EditorRLStage,
    model: Path,
    out: Path,
    dtype: torch.dtype = torch.float32,
    *,
    progress: Progress | None,
) -> Path:
    editor = FluxKontextEditor.from_pretrained(model, FluxKontextSettings(steps=4), dtype=dtype)

    def parts(step: int) -> dict[str, Any]:
        """How the weights lie, and an edit; sharded, every process is asked."""
        weights = [value for value in editor.transformer.parameters() if value.requires_grad]
        parted = [value for value in weights if isinstance(value, DTensor)]
        edited = editor.edit([context.sample for context in _contexts()[:1]], [0])[0].image
        assert edited is not None
        return {
            "dtensors": len(parted) / len(weights),
            "held": sum(value.to_local().numel() for value in parted) / max(1, sum(value.numel() for value in parted)),
            "brightness": float(decode_rgb(edited).mean()),
        }

    def tick(line: dict[str, Any]) -> None:
        if progress is not None:
            progress(line["step"] + 1, stage.steps, {})

    evaluate = parts if stage.eval_every else None
    done = train(stage, editor, _contexts(), _reward, out, resume=True, evaluate=evaluate, progress=tick)
    return Path(done.result)


@pytest.fixture(scope="module", autouse=True)
def _imported_once() -> None:
    """The server that processes are forked from imports what they need before the first of them starts."""
    process_context(["edit_r1.train.nft", "edit_r1.train.best_of_g", "edit_r1.editors.flux_kontext"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location(
        "tiny_kontext", Path(__file__).parent.parent / "editors" / "conftest.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("model")
    module.make_kontext_pipeline(False).save_pretrained(path)
    return path


@pytest.mark.parametrize("train", [train_editor, train_best_of_g, train_nft])
def test_two_processes_make_the_update_of_one(tmp_path: Path, model: Path, train: Callable[..., Any]) -> None:
    stage = STAGE if train is not train_best_of_g else changed(STAGE, kl_beta=0.0)
    in_processes(1, partial(_train, train, stage, model, tmp_path / "one"))
    heard: list[int] = []
    in_processes(2, partial(_train, train, stage, model, tmp_path / "two"), lambda done, *_: heard.append(done))
    assert heard == [1, 2]
    one, two = (newest_state(tmp_path / name / "state")[1]["weights"] for name in ("one", "two"))
    start = FluxKontextEditor.from_pretrained(model, FluxKontextSettings(steps=4)).transformer.state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert moved > 1e-3
    # Adam turns a gradient near zero into a whole step either way: compared where it is not near zero.
    shares = [float(((one[name] - two[name]).abs() < 1e-5).float().mean()) for name in one]
    assert apart < 2.1 * moved and min(shares) > 0.9
    for kind in ("one", "two"):
        assert len((tmp_path / kind / "metrics.jsonl").read_text().splitlines()) == 2
    lines = [
        [json.loads(text) for text in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for alone, together in zip(*lines, strict=True):
        for key in ("edits", "failed_judgments", "groups_zero_spread", "groups_too_few", "trained_edits", "window"):
            assert alone[key] == together[key]
        assert together.keys() == alone.keys()
        for key in {"reward_mean", "reward_std", "kl", "loss", "clip_share", "grad_norm"} & alone.keys():
            if alone[key] is not None:
                assert together[key] == pytest.approx(alone[key], rel=1e-3, abs=1e-6)


def test_two_processes_resume_exactly(tmp_path: Path, model: Path) -> None:
    for steps in (1, 2):
        in_processes(2, partial(_train, train_nft, changed(STAGE, steps=steps), model, tmp_path / "stopped"))
    in_processes(2, partial(_train, train_nft, STAGE, model, tmp_path / "whole"))
    stopped, whole = (newest_state(tmp_path / name / "state")[1] for name in ("stopped", "whole"))
    assert all(torch.equal(whole["weights"][name], value) for name, value in stopped["weights"].items())


def test_a_process_without_a_context_is_refused() -> None:
    assert list(Team(1, 2).share(3)) == [1]
    assert [place for rank in range(3) for place in Team(rank, 3).share(7)] == [0, 3, 6, 1, 4, 2, 5]
    with pytest.raises(ValueError, match="contexts_per_step=3 on 4 processes"):
        Team(0, 4).share(3)


@pytest.mark.parametrize(
    ("train", "lora_rank", "dtype"),
    [
        (train_editor, 0, torch.float32),
        (train_editor, 2, torch.bfloat16),
        (train_nft, 2, torch.float32),
        (train_best_of_g, 0, torch.float32),
    ],
)
def test_two_processes_with_a_part_each_make_the_update_of_one(
    tmp_path: Path, model: Path, train: Callable[..., Any], lora_rank: int, dtype: torch.dtype
) -> None:
    """FSDP2: one process has two contexts of two sizes and the other one, so that they have unequal work."""
    beta = 0.0 if train is train_best_of_g else 0.1
    stage = changed(
        STAGE, kl_beta=beta, lora_rank=lora_rank, shard=True, ema_decay=0.5, eval_every=1, max_grad_norm=0.1
    )
    in_processes(1, partial(_train, train, stage, model, tmp_path / "one", dtype))
    in_processes(2, partial(_train, train, stage, model, tmp_path / "two", dtype))
    # The second iteration again, from the saved state, by one process: what was saved from parts is whole.
    first = changed(stage, steps=1)
    in_processes(2, partial(_train, train, first, model, tmp_path / "mixed", dtype))
    in_processes(1, partial(_train, train, stage, model, tmp_path / "mixed", dtype))
    lines = {
        name: [json.loads(text) for text in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two", "mixed")
    }
    for line in lines["two"]:
        if line["kind"] == "evaluation":
            assert line["dtensors"] == 1.0 and 0.3 < line["held"] < 0.7
    assert all(line["dtensors"] == 0.0 for line in lines["one"] if line["kind"] == "evaluation")
    states = {name: newest_state(tmp_path / name / "state")[1] for name in lines}
    rounding = 1e-3 if dtype == torch.float32 else 2e-2
    for name in ("two", "mixed"):
        for alone, together in zip(lines["one"], lines[name], strict=True):
            for key in {"reward_mean", "kl", "loss", "grad_norm", "brightness"} & alone.keys():
                if alone[key] is not None:
                    assert together[key] == pytest.approx(alone[key], rel=rounding, abs=1e-5), (name, key)
        for part in ("weights", "average"):
            one, other = states["one"][part], states[name][part]
            assert one.keys() == other.keys()
            if dtype == torch.float32:
                shares = [float(((one[key] - other[key]).abs() < 1e-5).float().mean()) for key in one]
                assert min(shares) > 0.9
    results = [FluxKontextPipeline.from_pretrained(tmp_path / name / "editor").transformer for name in ("one", "two")]
    start = FluxKontextPipeline.from_pretrained(model).transformer.state_dict()
    one, two = (result.state_dict() for result in results)
    assert one.keys() == two.keys() == start.keys()
    assert any(not torch.allclose(one[key].float(), start[key].float(), atol=1e-4) for key in one)
    assert min(float(((one[key] - two[key]).abs() < 1e-2).float().mean()) for key in one) > 0.9


def test_the_adapter_is_saved_from_parts(tmp_path: Path, model: Path) -> None:
    stage = changed(STAGE, lora_rank=2, shard=True, steps=1, save_as="adapter", learning_rate=0.05)
    for count, name in ((1, "one"), (2, "two")):
        in_processes(count, partial(_train, train_editor, stage, model, tmp_path / name))
    edits = []
    for name in ("one", "two"):
        pipeline = FluxKontextPipeline.from_pretrained(model)
        pipeline.load_lora_weights(tmp_path / name / "adapter")
        editor = FluxKontextEditor(pipeline, FluxKontextSettings(steps=4))
        edits.append(decode_rgb(editor.edit([_contexts()[0].sample], [1])[0].image or b"").astype(int))
    untouched = FluxKontextEditor.from_pretrained(model, FluxKontextSettings(steps=4))
    before = decode_rgb(untouched.edit([_contexts()[0].sample], [1])[0].image or b"").astype(int)
    assert np.abs(edits[0] - edits[1]).mean() < 0.1 * np.abs(edits[0] - before).mean()


@pytest.mark.parametrize(
    ("device", "gpus", "backend", "taken"),
    [("cpu", 1, "gloo", None), ("cuda", 2, "cpu:gloo,cuda:nccl", 1), (None, 2, "cpu:gloo,cuda:nccl", 1),
     (None, 1, "gloo", None), (torch.device("cpu"), 2, "gloo", None)],
)  # fmt: skip
def test_a_team_exchanges_by_what_its_editor_is_on(
    device: str | torch.device | None, gpus: int, backend: str, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of a CPU on a machine with one GPU must not ask for a second one."""
    joined: list[str] = []
    used: list[int] = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    waits: list[timedelta] = []
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda kind, timeout: (joined.append(kind), waits.append(timeout))
    )
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert Team.current(device) == Team(1, 2)
    assert (joined, used) == ([backend], [] if taken is None else [taken])
    assert waits == [timedelta(hours=2)]


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="LOCAL_RANK=1 and 1 GPUs: start one process a GPU"):
        Team.current("cuda")


@pytest.mark.parametrize(("device", "taken"), [("cuda:1", [1]), ("cuda", []), ("cpu", []), (None, [])])
def test_one_process_works_on_the_gpu_that_it_is_given(
    device: str | None, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    assert Team.current(device) == Team() and used == taken
    with pytest.raises(ValueError, match="device='cuda:2' and 2 GPUs"):
        Team.current("cuda:2")
    with pytest.raises(ValueError, match="device='gpu': no device"):
        Team.current("gpu")


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all of them alike; the first of two nodes has ranks 0 and 1."""

    def found(*devices: str) -> list[str]:
        """What each rank says, two on a node."""
        everyone: dict[int, Any] = {}
        said: list[str] = []
        unheard: list[str] = []
        monkeypatch.setattr(Team, "gathered", lambda team, own: everyone.update(own) or dict(everyone))
        for told in (unheard, said):  # the first time round each only tells where it is
            for rank, device in enumerate(devices):
                monkeypatch.setenv("LOCAL_RANK", str(rank % 2))
                try:
                    Team(rank, len(devices)).check_own_gpu(device)
                    told.append("")
                except ValueError as error:
                    told.append(str(error))
        return said

    assert found("cuda", "cuda") == found("cpu", "cpu") == ["", ""]
    assert found("cuda:0", "cuda:1", "cuda:0", "cuda:1") == [""] * 4
    for message in found("cuda:0", "cuda:0", "cuda:0", "cuda:1"):
        assert "device='cuda:0' in 2 processes of one machine" in message and "device='cuda'" in message
