"""SFT, GCPO and scoring on a tiny, randomly initialised Qwen3-VL: another tower, positions and processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from trl.trainer.utils import add_fused_lm_head

from edit_r1.records import Preference, Quadruple
from edit_r1.train.gcpo import build_trainer, train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.settings import changed
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.shared_prompt import shared_prompts
from edit_r1.train.verifier_run import RunFolder, load_trainable, read_curves
from edit_r1.verifier.scoring import Verifier


@pytest.fixture(scope="module")
def qwen3(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer and picture processor of the tiny Qwen2.5-VL around a Qwen3-VL."""
    parts = AutoProcessor.from_pretrained(checkpoint)
    tokenizer = parts.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.get_added_vocab()}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True,
            },
            "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"], "initializer_range": 0.15,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 1, "out_hidden_size": 32, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0], "initializer_range": 0.15,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("qwen3")
    Qwen3VLForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    Qwen3VLProcessor(
        image_processor=parts.image_processor, tokenizer=tokenizer, video_processor=parts.video_processor,
        chat_template=parts.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def stage_for(model: Path, out: Path, **changes: Any) -> GCPOStage:
    stage = GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=2, pairs_per_step=2, traces=3,
        sampling=SamplingSettings(max_new_tokens=6), updates=GCPOUpdates(learning_rate=1e-3, micro_batch=12),
        stored="fp32", cpu=True,
    )  # fmt: skip
    return changed(stage, **changes)


def test_it_is_trained_twice_and_scores(
    qwen3: Path, quadruples: list[Quadruple], preferences: list[Preference], sft_settings: dict, tmp_path: Path
) -> None:
    settings = {**sft_settings, "steps": 17, "stored": "bf16"}
    learned = train_sft(SFTStage(str(qwen3), str(tmp_path / "sft"), **settings), quadruples)
    assert Qwen3VLForConditionalGeneration.from_pretrained(learned).dtype == torch.bfloat16
    model = train_gcpo(stage_for(learned, tmp_path / "gcpo"), preferences)
    lines = read_curves(tmp_path / "gcpo/curves.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["unparsed"] < 1  # it has learned something of the format
    before, after = load_file(learned / "model.safetensors"), load_file(model / "model.safetensors")
    assert set(before) == set(after)
    assert any("deepstack" in name for name in after)
    assert any(not torch.equal(before[name].float(), after[name]) for name in before)
    context, candidate = quadruples[0].context, quadruples[0].candidate
    with Verifier.load(model, device="cpu", max_new_tokens=8) as verifier:
        judgment = verifier.score(
            [context.sample.source], candidate.image, context.sample.instruction, context.principles
        )
    assert len(judgment.outcomes) == 1


def test_lora_leaves_the_tower_alone(qwen3: Path, preferences: list[Preference], tmp_path: Path) -> None:
    stage = stage_for(qwen3, tmp_path / "run", steps=1, lora_rank=2, learning_rate=1e-2, frozen="bf16")
    trainer = build_trainer(stage, pairs_of(preferences), RunFolder(tmp_path / "run"))
    trained = {name: weight.dtype for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("language_model" in name and "lora_" in name for name in trained)
    assert set(trained.values()) == {torch.float32}
    held = {weight.dtype for weight in trainer.model.parameters() if not weight.requires_grad}
    assert held == {torch.bfloat16}
    before = load_file(qwen3 / "model.safetensors")
    after = load_file(train_gcpo(replace(stage, stored="bf16"), preferences) / "model.safetensors")
    changed_names = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("layers" in name and name.endswith("_proj.weight") for name in changed_names)


def test_pictures_and_prompts_that_are_read_once_change_nothing(
    qwen3: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    """Log-probabilities and gradients equal those of a model that reads every row whole."""
    trainer = build_trainer(stage_for(qwen3, tmp_path), pairs_of(preferences), RunFolder(tmp_path))
    plain, _ = load_trainable(str(qwen3), freeze_vision=False, max_pixels=0)
    add_fused_lm_head(plain, outputs=("log_probs", "entropy"))
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:12]]
    inputs = trainer._generate_and_score_completions(batch)
    fields = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")}
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
    pictures = {name: fields[name] for name in ("mm_token_type_ids", "image_grid_thw", "pixel_values")}
    assert shared_prompts(ids, mask, **pictures, merge=4) is not None
    results = []
    for model in (plain, trainer.model):
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, inputs["completion_ids"].shape[1], **fields
        )
        logps = logps * inputs["completion_mask"]
        logps.cos().sum().backward()
        results.append((logps.detach(), {name: weight.grad for name, weight in model.named_parameters()}))
    (one, gradients), (other, others) = results
    assert torch.allclose(one, other, atol=1e-5)
    assert gradients["model.visual.deepstack_merger_list.0.linear_fc2.weight"].abs().max() > 0
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert torch.allclose(gradient, others[name], rtol=1e-3, atol=1e-4 * scale + 1e-6), name
