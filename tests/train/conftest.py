"""A Qwen2.5-VL of 30 thousand weights with its own processor, and records it can be trained on in seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.records import (
    CATEGORIES,
    Candidate,
    Context,
    Preference,
    Principle,
    Quadruple,
    Sample,
    Trace,
    Verdict,
)
from edit_r1.verifier.traces import write_trace

SIDE = 32
"""Pixels: 4 x 4 patches, 4 tokens a picture."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
PIECES = ("1 yes\n2 yes\n", "1 no\n2 yes\n", '{"average_score": 1.00}\n', '{"average_score": 0.50}\n',
          "<score>8.0</score>", "<score>2.0</score>", "<score>5.0</score>")  # fmt: skip
"""A trace of mode "verify" is three tokens, so that the format is learned in a few steps."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def picture(colour: int) -> bytes:
    """A plain picture; 0 is dark and 5 bright."""
    pixels = np.full((SIDE, SIDE, 3), 20 + 40 * colour, np.uint8)
    return encode_png(pixels)


def context(index: int) -> Context:
    sample = Sample(f"s{index}", picture(index % 3), f"make it brighter {index}", "tone transformation")
    return Context(sample, tuple(Principle("Is it bright?", category) for category in CATEGORIES[:2]), "test", True)


def candidate(index: int, colour: int) -> Candidate:
    return Candidate(f"c{index}-{colour}", f"s{index}", picture(colour), "test", seed=index)


def trace(values: tuple[Literal[0, 1], Literal[0, 1]], score: float) -> Trace:
    seen = ("was dim, now bright", "was grey, now grey")
    text = write_trace(seen, values, score, "both", "compact")
    verdicts = (Verdict(values[0], seen[0]), Verdict(values[1], seen[1]))
    return Trace(text, score, verdicts, average_score=sum(values) / 2)


def build_quadruples(count: int) -> list[Quadruple]:
    """Bright candidates deserve 8, dark ones 2."""
    made = []
    for index in range(count):
        colour = (0, 5)[index % 2]
        target = trace((1, 1), 8.0) if colour == 5 else trace((0, 1), 2.0)
        made.append(Quadruple(context(index), candidate(index, colour), target))
    return made


def build_preferences(count: int) -> list[Preference]:
    """The brighter one is preferred; every third comparison shows it second, every fifth is "same"."""
    made = []
    for index in range(count):
        shown = Preference(context(index), candidate(index, 5), candidate(index, 0), "first", "test", True)
        if index % 5 == 4:
            shown = Preference(context(index), shown.first, shown.second, "same", "test", True)
        made.append(shown.swap() if index % 3 == 0 else shown)
    return made


def build_checkpoint(folder: Path, dtype: str = "bfloat16", generation: dict | None = None, tied: bool = True) -> Path:
    """A random model in Hugging Face layout, with whatever generation_config a fine-tune might ship.

    tied: the LM head is the embedding, as in a 3B model; a 7B model has a head of its own.
    """
    import json

    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lines = ["Source: Instruction: make it brighter Is it bright? Edited: Answer: verify [Follow] [Keep] user"] * 9
    raw.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
        ),
    )
    bpe = json.loads(raw.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=bpe["vocab"], merges=[tuple(merge) for merge in bpe["merges"]], eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL], special_tokens=True)
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in PIECES])
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"], "tie_word_embeddings": tied, "initializer_range": 0.15,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 1, "window_size": SIDE, "out_hidden_size": 32,
            "fullatt_block_indexes": [0], "initializer_range": 0.15,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"]], pad_token_id=ids["<|endoftext|>"], **(generation or {})
    )
    area = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    common = {"patch_size": 8, "temporal_patch_size": 1, "merge_size": 2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(area), **common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=dict(area), **common),
        chat_template=TEMPLATE,
    )
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model, stored in bf16, with the generation_config of a hostile fine-tune."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    hostile = {"do_sample": True, "top_k": 1, "repetition_penalty": 1.5, "temperature": 0.1}
    return build_checkpoint(tmp_path_factory.mktemp("verifier"), generation=hostile)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def quadruples() -> list[Quadruple]:
    return build_quadruples(24)


@pytest.fixture(scope="session")
def preferences() -> list[Preference]:
    return build_preferences(10)


@pytest.fixture(scope="session")
def sft_settings() -> dict:
    """Settings with which the tiny model learns the format of mode "verify" in 30 steps."""
    return {
        "variant": "compact", "mode": "verify", "decompose": False, "steps": 30, "batch_size": 8, "learning_rate": 1e-2,
        "warmup_steps": 2, "schedule": "constant", "stored": "fp32", "cpu": True,
    }  # fmt: skip


@pytest.fixture(scope="session")
def wavering(
    checkpoint: Path, quadruples: list[Quadruple], tmp_path_factory: pytest.TempPathFactory, sft_settings: dict
) -> Path:
    """A model stopped half-way: it mostly writes the format and is often wrong about the pictures."""
    from edit_r1.train.sft import SFTStage, train_sft

    out = tmp_path_factory.mktemp("wavering") / "run"
    return train_sft(SFTStage(str(checkpoint), str(out), **{**sft_settings, "steps": 17}), quadruples)


@pytest.fixture
def make_editor():
    """Builds a tiny random Kontext: `make_editor(guidance_embeds=False, dtype=torch.float32)`.

    The builder of tests/editors/conftest.py, loaded by path because tests are not a package.
    """
    import importlib.util

    import torch

    from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings

    path = Path(__file__).parent.parent / "editors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_kontext", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def build(guidance_embeds: bool = False, dtype: torch.dtype = torch.float32) -> FluxKontextEditor:
        pipeline = module.make_kontext_pipeline(guidance_embeds)
        pipeline.set_progress_bar_config(disable=True)
        if dtype != torch.float32:
            for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
                part.to(dtype)
        return FluxKontextEditor(pipeline, FluxKontextSettings(steps=4))

    return build
