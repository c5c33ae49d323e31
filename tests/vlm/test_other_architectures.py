"""The local backend on a model that is no Qwen: prompts are not shared there, and everything else is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from edit_r1.images import encode_png
from edit_r1.vlm.chat import images_of, to_messages
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Request, Sampling
from edit_r1.vlm.transformers import TransformersVLM

GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
IMAGE = "<|image_pad|>"


@pytest.fixture(scope="module")
def llava(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA (CLIP and Llama) around the tokenizer of the tiny Qwen2.5-VL."""
    parts = AutoProcessor.from_pretrained(checkpoint)
    image = parts.tokenizer.convert_tokens_to_ids(IMAGE)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(parts.tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024,
        ),
        image_token_id=image,
        image_token_index=image,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).float()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # as of the tiny Qwen2.5-VL: not nearly deaf to its prompt
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=parts.tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=parts.chat_template.replace(f"<|vision_start|>{IMAGE}<|vision_end|>", IMAGE),
    ).save_pretrained(folder)
    return folder


def requests() -> list[Request]:
    """Two pictures each, of different shapes and prompts of different lengths, and one without a picture."""
    made = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (32 + 16 * number, 32, 3), dtype=np.uint8)
        made.append(Request(("Source: ", encode_png(pixels[::-1]), "\nEdited: ", encode_png(pixels), " on" * number)))
    return [*made, Request(("No picture at all.",))]


def test_greedy_answers_are_those_of_transformers_alone_and_in_batches(llava: Path) -> None:
    vlm = TransformersVLM.load(llava, batch_size=8)
    together = vlm.generate(requests(), GREEDY)
    assert vlm.generate(requests(), GREEDY, n=2) == [row * 2 for row in together]
    for request, (answer,) in zip(requests(), together, strict=True):
        assert vlm.generate([request], GREEDY) == [[answer]]
        text = vlm.processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
        inputs = vlm.processor(text=[text], images=images_of(request) or None, return_tensors="pt")
        with torch.inference_mode():
            plain = vlm.model.generate(
                **inputs, max_new_tokens=12, do_sample=False, suppress_tokens=vlm._suppressed, pad_token_id=vlm._pad
            )
        assert vlm._completion(plain[0, inputs["input_ids"].shape[1] :].tolist()) == answer


def test_sampled_answers_differ_repeat_with_their_seed_and_tell_their_alternatives(llava: Path) -> None:
    vlm = TransformersVLM.load(llava, batch_size=8)
    sampled = Sampling(max_new_tokens=12, seed=3, top_logprobs=3)
    rows = vlm.generate(requests(), sampled, n=4)
    assert rows == vlm.generate(requests(), sampled, n=4)
    assert all(len({one.text for one in row}) > 1 for row in rows)
    assert all(one.choices is not None and len(one.choices) == one.tokens for row in rows for one in row)


def test_another_attention_kernel_gives_the_same_text(llava: Path) -> None:
    plain = TransformersVLM.load(llava, batch_size=8)
    eager = TransformersVLM.load(llava, attention="eager", batch_size=8)
    assert (plain.attention, eager.attention) == ("sdpa", "eager")
    assert eager.generate(requests(), GREEDY) == plain.generate(requests(), GREEDY)


def test_a_kernel_that_loads_and_does_not_run_is_told_at_loading(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flex_attention needs a compiler, which a machine may lack: that shows at the first call."""

    def no_compiler(vlm: TransformersVLM, *inputs: object) -> torch.Tensor:
        asked.append(vlm.attention)
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nin this place")

    asked: list[str] = []
    monkeypatch.setattr(TransformersVLM, "_sample", no_compiler)
    with pytest.raises(ModelError, match=r"llava.*'flex_attention' does not run here \(Invalid.* in this place\)"):
        TransformersVLM.load(llava, attention="flex_attention")
    assert asked == ["flex_attention"]
    TransformersVLM.load(llava)  # what transformers takes by itself is not tried
    assert asked == ["flex_attention"]
