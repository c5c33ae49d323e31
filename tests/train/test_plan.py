"""A plan of a tiny pipeline on disk, against what its training allocates and calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from edit_r1.editors.architecture import architecture_of
from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux_kontext import FluxKontextSettings
from edit_r1.images import encode_png
from edit_r1.records import Context, Sample
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_stage import Algorithm, EditorRLStage, LossSettings, SDESettings, UpdateSettings
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.nft import train_nft
from edit_r1.train.plan import plan, plan_text, shape_of
from edit_r1.train.plan_parts import GIB, DeviceOptions, plan_json

STAGE = EditorRLStage(
    steps=1, contexts_per_step=2, group_size=3, sampling_steps=4, lora_rank=4, sample_batch=4, train_batch=2,
    sde=SDESettings(trained_steps=2, window_share=0.8), updates=UpdateSettings(ema_decay=0.9),
)  # fmt: skip
OPTIONS = DeviceOptions(pixels=32, tflops=1.0)


@pytest.fixture
def source(make_editor, tmp_path: Path) -> EditorCheckpoint:
    make_editor(guidance_embeds=True).save(tmp_path / "tiny")
    settings = FluxKontextSettings(max_text_tokens=24)
    return EditorCheckpoint(str(tmp_path / "tiny"), settings, device="cpu", dtype="float32")


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("rank", [0, 4])
def test_memory_is_that_of_the_tensors(source: EditorCheckpoint, rank: int) -> None:
    stage = replace(STAGE, lora_rank=rank)
    told = plan(stage, source, JudgeSettings(), OPTIONS).resident
    editor = source()
    weights = nbytes(editor.transformer.parameters())
    policy = EditorPolicy(editor, stage)
    for parameter in policy.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    policy.expect_update()
    policy.update()
    moments = [state[key] for state in policy.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    encoders = [editor.pipeline.text_encoder, editor.pipeline.text_encoder_2]
    assert told["transformer"] * GIB == pytest.approx(weights)
    assert told["LoRA"] * GIB == pytest.approx(nbytes(policy.parameters.values()) if rank else 0)
    assert told["reference"] * GIB == pytest.approx(0 if rank else weights)
    assert told["optimiser"] * GIB == pytest.approx(nbytes(moments))
    assert told["average"] * GIB == pytest.approx(nbytes(policy.parameters.values()))
    assert told["encoders"] * GIB == pytest.approx(sum(nbytes(each.parameters()) for each in encoders))
    assert told["VAE"] * GIB == pytest.approx(nbytes(editor.pipeline.vae.parameters()))


@pytest.mark.parametrize(("inner", "kl", "decay"), [(1, 0.04, 0.0), (2, 0.04, 0.0), (1, 0.0, 0.9), (2, 0.04, 0.9)])
@pytest.mark.parametrize("algorithm", ["flow-grpo", "diffusion-nft"])
def test_forwards_are_those_of_an_iteration(
    source: EditorCheckpoint, tmp_path: Path, algorithm: Algorithm, inner: int, kl: float, decay: float
) -> None:
    stage = replace(STAGE, updates=UpdateSettings(inner_updates=inner, ema_decay=decay), loss=LossSettings(kl_beta=kl))
    made = plan(stage, source, JudgeSettings(), OPTIONS, algorithm)
    editor = source()
    rows: list[tuple[bool, int]] = []
    editor.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append((torch.is_grad_enabled(), len(kwargs["hidden_states"]))),
        with_kwargs=True,
    )
    picture = encode_png(np.full((32, 32, 3), 99, dtype=np.uint8))
    contexts = [Context(Sample(str(index), picture, "abc", ""), (), "test") for index in range(2)]
    train = {"flow-grpo": train_editor, "diffusion-nft": train_nft}[algorithm]
    train(stage, editor, contexts, lambda _, images: [float(i % 3) for i in range(len(images))], tmp_path / "run")
    work = made.work
    assert sum(count for learns, count in rows if learns) == work.trained_forwards
    assert sum(count for learns, count in rows if not learns) == work.sampling_forwards + work.reference_forwards


@pytest.mark.parametrize(
    ("ratio", "inner", "kl", "kept"),
    [("plain", 1, 0.0, 2), ("plain", 1, 0.04, 3), ("guard", 1, 0.04, 3), ("guard", 2, 0.04, 4)],
)
def test_flow_grpo_keeps_its_steps_and_the_means_of_other_policies(
    source: EditorCheckpoint, ratio: Literal["plain", "guard"], inner: int, kl: float, kept: int
) -> None:
    """A finished edit, and by trained step its two ends and what update() holds for all micro-batches."""
    stage = replace(STAGE, updates=UpdateSettings(inner_updates=inner), loss=LossSettings(ratio=ratio, kl_beta=kl))
    made = plan(stage, source, JudgeSettings(), OPTIONS)
    latents = 6 * (1 + kept * STAGE.sde.trained_steps)
    assert made.resident["rollouts"] * GIB == latents * made.shape.tokens * 16 * 4


def test_nft_keeps_what_it_learns_from(source: EditorCheckpoint) -> None:
    """A finished edit, and by level and inner update what is noisy and the velocities of old and reference policy."""
    stage = replace(STAGE, updates=UpdateSettings(inner_updates=2), loss=LossSettings(kl_beta=0.04))
    made = plan(stage, source, JudgeSettings(), OPTIONS, "diffusion-nft")
    latents = 6 * (1 + 2 * 2 * 3)
    assert made.resident["rollouts"] * GIB == latents * made.shape.tokens * 16 * 4


def test_shards_and_processes_share_memory_and_work(source: EditorCheckpoint) -> None:
    alone = plan(STAGE, source, JudgeSettings(), OPTIONS)
    shared = plan(replace(STAGE, shard=True), source, JudgeSettings(), replace(OPTIONS, processes=2))
    assert shared.resident["transformer"] == alone.resident["transformer"] / 2
    assert shared.resident["optimiser"] == alone.resident["optimiser"] / 2
    assert shared.work.edits * 2 == alone.work.edits
    assert shared.samples_per_step == alone.samples_per_step == 6
    assert (
        plan(STAGE, source, JudgeSettings(), replace(OPTIONS, processes=2)).resident["LoRA"] == alone.resident["LoRA"]
    )
    small = replace(STAGE, lora_rank=1)
    held = plan(small, source, JudgeSettings(), OPTIONS).resident
    states = 4 * held["LoRA"]  # weights, two moments, average
    for save_as, result in (("adapter", held["LoRA"]), ("merged", held["transformer"] + held["LoRA"])):
        stage = replace(small, shard=True, save_as=save_as)
        host = plan(stage, source, JudgeSettings(), replace(OPTIONS, processes=2)).host
        assert host["first process, while saving"] == pytest.approx(max(states, result))
    assert result > states


def test_what_does_not_fit_is_told_with_a_remedy(source: EditorCheckpoint) -> None:
    generous = plan(STAGE, source, JudgeSettings(traces=3), OPTIONS)
    assert plan_json(generous)["fits"] is None and generous.judgments_per_step == 18
    held = sum(generous.resident.values())
    none = plan(STAGE, source, JudgeSettings(), replace(OPTIONS, device_memory=held / 2))
    assert "offload_encoders=True" in none.misfits[0]
    tight = plan(STAGE, source, JudgeSettings(), replace(OPTIONS, device_memory=held * 1.001))
    assert any(text.startswith("update") and "checkpointing=True" in text for text in tight.misfits)
    assert "does not fit" in plan_text(tight)
    assert plan_json(plan(STAGE, source, JudgeSettings(), replace(OPTIONS, device_memory=1.0)))["fits"] is True


def test_seconds_come_from_this_processor_or_a_given_rate(source: EditorCheckpoint) -> None:
    here = plan(STAGE, source, JudgeSettings(), DeviceOptions(pixels=32))
    assert "this processor" in here.rate.source and here.rate.sample > 0
    given = plan(STAGE, source, JudgeSettings(), OPTIONS)
    assert given.seconds["sample"] == pytest.approx(given.petaflops["sample"] * 1e3)


def test_a_kontext_of_its_own_tokenizers_length_is_counted_with_that(source: EditorCheckpoint) -> None:
    architecture = architecture_of(source.path)
    own = replace(source, settings=FluxKontextSettings())
    assert shape_of(own, architecture, 2.5, 32)[0].text == 24
    released = EditorCheckpoint("black-forest-labs/FLUX.1-Kontext-dev", FluxKontextSettings())
    assert shape_of(released, architecture_of(released.path), 2.5, 512)[0].text == 512


def test_what_cannot_run_is_refused(source: EditorCheckpoint) -> None:
    for stage, other, message in (
        (STAGE, replace(source, quantise="nf4"), "4-bit weights train as LoRA"),
        (replace(STAGE, lora_rank=0), replace(source, dtype="bfloat16"), "full training needs"),
        (STAGE, replace(source, waits=True), "without shard=True"),
        (replace(STAGE, shard=True), replace(source, waits=True), "waits=True in one process"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(stage, other, JudgeSettings(), OPTIONS)
    with pytest.raises(ValueError, match="need a CUDA device"):
        replace(source, quantise="nf4")()
    with pytest.raises(ValueError, match="pixels=4"):
        plan(STAGE, source, JudgeSettings(), DeviceOptions(pixels=4))
