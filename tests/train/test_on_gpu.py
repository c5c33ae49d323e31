"""What a GPU computes beside what the CPU computes; the CPU also runs every test, against itself.

pytest tests/train/test_on_gpu.py -m gpu
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edit_r1.editors.flux_kontext import FluxKontextEditor
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Preference, Principle, Quadruple, Sample
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.nft import train_nft
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.verifier_run import read_curves
from edit_r1.verifier.prompts import judge_request
from edit_r1.vlm.protocol import Request, Sampling
from edit_r1.vlm.transformers import TransformersVLM


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One GPU, and convolutions of pictures as exact as on the CPU: by default it rounds their factors to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if request.param == "cuda":
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    return request.param


def _requests(quadruples: list[Quadruple]) -> list[Request]:
    return [
        judge_request([q.context.sample.source], q.candidate.image, q.context.sample.instruction, q.context.principles,
                      "verify", "compact")
        for q in quadruples[:6]
    ]  # fmt: skip


@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
def test_a_verifier_gives_the_same_probabilities(
    device: str, attention: str | None, wavering: Path, quadruples: list[Quadruple]
) -> None:
    greedy = Sampling(max_new_tokens=1, temperature=0.0, top_logprobs=5)
    found = []
    for on in ("cpu", device):
        answers = TransformersVLM.load(wavering, on, attention=attention).generate(_requests(quadruples), greedy)
        found.append([dict(one.choices[0].alternatives) for (one,) in answers])
    for there, here in zip(*found, strict=True):
        shared = there.keys() & here.keys()
        assert len(shared) >= 3  # of the five likeliest, the last may change places
        assert all(there[token] == pytest.approx(here[token], abs=2e-3) for token in shared)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_answers_are_the_seeds(device: str, dtype: Any, wavering: Path, quadruples: list[Quadruple]) -> None:
    vlm = TransformersVLM.load(wavering, device, dtype)
    rows = [vlm.generate(_requests(quadruples), Sampling(12, 1.0, seed=seed), n=4) for seed in (3, 3, 4)]
    drawn = [[[one.text for one in row] for row in answers] for answers in rows]
    assert drawn[0] == drawn[1] != drawn[2]
    assert any(len(set(row)) > 1 for row in drawn[0])
    assert all(one.finish != "error" for answers in rows for row in answers for one in row)


def test_sft_learns_as_on_the_cpu(
    device: str, checkpoint: Path, quadruples: list[Quadruple], sft_settings: dict[str, Any], tmp_path: Path
) -> None:
    curves = []
    for on in ("cpu", device):
        changes = {**sft_settings, "steps": 6, "log_every": 1, "cpu": on == "cpu"}
        model = train_sft(SFTStage(str(checkpoint), str(tmp_path / f"{len(curves)}"), **changes), quadruples)
        curves.append([line["loss"] for line in read_curves(model.parent / "curves.jsonl")])
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
    assert curves[1][-1] < 0.9 * curves[1][0]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_gcpo_samples_and_learns(
    device: str, lora_rank: int, wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    stage = GCPOStage(
        str(wavering), str(tmp_path / "run"), mode="verify", variant="compact", steps=2, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8, decode_batch=8), lora_rank=lora_rank,
        updates=GCPOUpdates(learning_rate=3e-3, micro_batch=8), stored="fp32", cpu=device == "cpu",
    )  # fmt: skip
    model = train_gcpo(stage, preferences)
    before, after = (load_file(path / "model.safetensors") for path in (wavering, model))
    assert before.keys() == after.keys() and all(bool(weight.isfinite().all()) for weight in after.values())
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in after)
    lines = read_curves(tmp_path / "run" / "curves.jsonl")
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)


STAGE = changed(EditorRLStage(),
    steps=2, contexts_per_step=2, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0, learning_rate=1e-3,
    train_batch=4, sample_batch=4,
)  # fmt: skip


def _contexts() -> list[Context]:
    rng = np.random.default_rng(0)
    principles = (Principle("Is it red?", "Instruction Following"),)
    made = []
    for index in range(4):
        source = encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        made.append(Context(Sample(f"s{index}", source, "make it red", ""), principles, "test"))
    return made


def _brightness(contexts: Any, images: list[bytes]) -> list[float]:
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def _on(editor: FluxKontextEditor, device: str) -> FluxKontextEditor:
    editor.pipeline.to(device)
    return editor


@pytest.mark.parametrize("offload", [False, True])
def test_an_editor_paints_the_same(device: str, offload: bool, make_editor: Callable[..., Any]) -> None:
    """Noise is drawn on the CPU whatever the editor runs on."""
    samples = [context.sample for context in _contexts()]
    pictures = []
    for on in ("cpu", device):
        editor = _on(make_editor(), on)
        editor.settings = replace(editor.settings, offload_encoders=offload)
        pictures.append([decode_rgb(edit.image).astype(float) for edit in editor.edit(samples, [0, 1, 2, 3])])
    apart = [np.abs(one - other).max() for one, other in zip(*pictures, strict=True)]
    assert max(apart) <= 2  # of 255 levels


@pytest.mark.parametrize("train", [train_editor, train_nft, train_best_of_g])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_an_editor_learns_as_on_the_cpu(
    device: str, lora_rank: int, train: Callable[..., Any], make_editor: Callable[..., Any], tmp_path: Path
) -> None:
    stage = changed(STAGE, lora_rank=lora_rank, kl_beta=0.0 if train is train_best_of_g else STAGE.kl_beta)
    lines = []
    for name, on in enumerate(("cpu", device)):
        out = tmp_path / str(name)
        train(stage, _on(make_editor(), on), _contexts(), _brightness, out)
        lines.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    (there, *_), (here, *later) = ([line for line in run if line["kind"] == "step"] for run in lines)
    for key in ("reward_mean", "reward_std", "loss", "grad_norm"):
        if there.get(key) is not None:
            assert here[key] == pytest.approx(there[key], rel=0.05, abs=1e-3)
    assert len(later) == 1 and later[0]["lost_updates"] == 0
