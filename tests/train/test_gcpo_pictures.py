"""A generation shows few pictures many times: they are asked for, prepared and held once, and stay off the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoProcessor
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from edit_r1.records import Preference
from edit_r1.train import gcpo
from edit_r1.train.gcpo import build_trainer, train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.rollout import held_once, pictures_once
from edit_r1.train.settings import changed
from edit_r1.train.shared_vision import share_vision
from edit_r1.train.verifier_run import RunFolder


def stage_for(model: Path, out: Path) -> GCPOStage:
    return GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=2, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(learning_rate=1e-3, micro_batch=4),
        stored="fp32", cpu=True,
    )  # fmt: skip


def picture(shade: int, width: int = 32) -> Image.Image:
    return Image.fromarray(np.full((32, width, 3), shade, np.uint8))


def test_a_generations_questions_are_put_together_once(
    checkpoint: Path, preferences: Sequence[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL reads a generation's rows again for each of its six forwards."""
    asked: list[str] = []
    write = gcpo.judge_messages

    def counted(context: Any, candidate: Any, *rest: Any) -> Any:
        asked.append(candidate.id)
        return write(context, candidate, *rest)

    monkeypatch.setattr(gcpo, "judge_messages", counted)
    train_gcpo(stage_for(checkpoint, tmp_path), preferences)
    candidates = 2 * 3
    assert 2 * candidates <= len(asked) <= 2 * candidates + 2  # TRL looks at a row when it starts


def test_a_picture_is_prepared_once_for_all_that_show_it(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint)
    dark, bright, wide = picture(20), picture(220), picture(90, width=64)
    shown = [[dark, bright], [dark, bright], [dark, wide], [wide, wide]]
    prepared: list[int] = []
    inner = type(processor.image_processor)._preprocess

    def counted(self: Any, images: list[Any], **options: Any) -> Any:
        prepared.append(len(images))
        return inner(self, images, **options)

    monkeypatch.setattr(type(processor.image_processor), "_preprocess", counted)
    plain = processor.image_processor(images=shown, return_tensors="pt")
    with pictures_once(processor.image_processor):
        once = processor.image_processor(images=shown, return_tensors="pt")
        text = processor(images=shown, text=["<|image_pad|><|image_pad|>"] * 4, return_tensors="pt", padding=True)
        processor.image_processor(images=[[dark], [wide]], return_tensors="pt")
    assert prepared == [8, 3, 3, 2]
    for name in ("pixel_values", "image_grid_thw"):
        assert torch.equal(plain[name], once[name])
        assert torch.equal(plain[name], text[name])
    with pytest.raises(ValueError, match="flat list"), pictures_once(processor.image_processor):
        processor.image_processor(images="nothing")
    assert "preprocess" not in vars(processor.image_processor)  # or it would be saved with the processor


def test_sampling_prepares_what_differs(
    checkpoint: Path, preferences: Sequence[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer(stage_for(checkpoint, tmp_path), pairs_of(preferences), RunFolder(tmp_path))
    kind = type(trainer.processing_class.image_processor)
    prepared: list[int] = []
    inner = kind._preprocess

    def counted(self: Any, images: list[Any], **options: Any) -> Any:
        prepared.append(len(images))
        return inner(self, images, **options)

    monkeypatch.setattr(kind, "_preprocess", counted)
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    output = trainer._generate_and_score_completions(batch)
    assert len(output["image_grid_thw"]) == 48
    assert sum(prepared) <= 2 * 3 * 3  # tokenised, then trained on: three pictures a pair, where 48 are shown


def test_rows_that_show_the_same_hold_it_once() -> None:
    pixels = torch.randn(3, 4, 5)[[0, 0, 1, 2, 2, 2]]
    generation = {
        "pixel_values": pixels.flatten(0, 1), "image_grid_thw": torch.tensor([[1, 2, 2]] * 6), "num_images": [1] * 6,
    }  # fmt: skip
    held = held_once(split_pixel_values_by_grid(generation))
    assert len({row.untyped_storage().data_ptr() for row in held["pixel_values"]}) == 3
    assert {row.untyped_storage().nbytes() for row in held["pixel_values"]} == {4 * 5 * 4}  # not a view of the whole
    assert torch.equal(unsplit_pixel_values_by_grid(held)["pixel_values"], generation["pixel_values"])


def test_pixels_wait_in_the_machines_memory_until_the_tower_reads_them(
    checkpoint: Path, preferences: Sequence[Preference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device without memory stands for a GPU."""
    trainer = build_trainer(stage_for(checkpoint, tmp_path), pairs_of(preferences), RunFolder(tmp_path))
    meta = torch.device("meta")
    monkeypatch.setattr(trainer, "args", SimpleNamespace(device=meta))
    given = trainer.processing_class(images=[[picture(20)]], text=["<|image_pad|>"], return_tensors="pt")
    moved = trainer._prepare_input(given)
    assert {name: value.device.type for name, value in moved.items()} == {
        name: "cpu" if name == "pixel_values" else "meta" for name in given
    }

    class Output(SimpleNamespace):
        def __contains__(self, name: str) -> bool:
            return hasattr(self, name)

    class Tower(nn.Module):
        spatial_merge_size = 2

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, device=meta))

        def forward(self, pixels: torch.Tensor, grid_thw: torch.Tensor) -> Output:
            seen.append((pixels.device.type, len(pixels)))
            tokens = torch.zeros(len(pixels), 2)
            return Output(last_hidden_state=tokens, pooler_output=tokens[::4])

    seen: list[tuple[str, int]] = []
    model = nn.Module()
    model.visual = Tower()
    share_vision(model)
    model.visual(torch.randn(8, 3), grid_thw=torch.tensor([[1, 2, 2]] * 2))
    model.visual(torch.ones(8, 3), grid_thw=torch.tensor([[1, 2, 2]] * 2))
    assert seen == [("meta", 8), ("meta", 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs_per_step": 9, "micro_batch": 8}, "8 pairs, pairs_per_step=9"),
        ({"engine": "vllm-colocated"}, "vLLM is not installed"),
    ],
)
def test_what_cannot_run_is_refused_before_a_model_is_opened(
    settings: dict[str, Any], message: str, preferences: Sequence[Preference], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train_gcpo(changed(stage_for(tmp_path / "no such model", tmp_path / "run"), **settings), preferences)
