"""The tiny verifiers: Qwen2.5-VL in two sizes, its processor, and a fast forward pass for pictures of one size.

`FastForward` computes what `Qwen2_5_VLForConditionalGeneration` computes, on the model's own weights,
for right-padded batches whose pictures are all 64 px: one attention call for all pictures instead of
one a picture, no masks, and the output layer only where there is something to learn.

Legend: N pictures, P patches a picture (64), V merged tokens a picture (16), B sequences, L tokens, D width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from edit_r1.world.scenes import SIZE

PATCH = 8
MERGE = 2
GRID = SIZE // PATCH
PATCHES = GRID * GRID
TOKENS = PATCHES // MERGE**2
"""Tokens of the language model a picture."""
MEAN = STD = 0.5
"""Of the image processor: pixels enter the model in [-1, 1]."""


@dataclass(frozen=True)
class Shape:
    """Widths and depths of one size."""

    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_mlp: int
    width: int
    depth: int
    heads: int
    key_value_heads: int
    mlp: int


SHAPES: dict[str, Shape] = {
    "small": Shape(128, 4, 4, 256, 128, 4, 4, 2, 352),
    "base": Shape(160, 5, 5, 320, 192, 5, 6, 3, 448),
    "micro": Shape(32, 1, 2, 48, 32, 1, 2, 1, 48),
}
"""micro is for tests alone."""


def build_config(size: str, tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The Hugging Face config of one size.

    Raises:
        ValueError: for a size that does not exist.
    """
    if size not in SHAPES:
        raise ValueError(f"size={size!r}: choose one of {', '.join(SHAPES)}")
    shape = SHAPES[size]
    half = shape.width // shape.heads // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_added_vocab()}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "max_position_embeddings": 4096,
        # A context is some hundreds of tokens: the usual base of 10,000 keeps every frequency in use.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_mlp,
        "num_heads": shape.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        # Pictures, not films: one frame a patch halves the patch embedding.
        "temporal_patch_size": 1,
        "window_size": SIZE,
        "out_hidden_size": shape.width,
        "fullatt_block_indexes": list(range(shape.vision_depth)),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


def build_model(size: str, tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A fresh fp32 model whose initial scale suits its width (the default 0.02 suits widths in the thousands)."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(size, tokenizer)).float()
    shape = SHAPES[size]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not model.lm_head:
            depth = shape.vision_depth if ".visual." in name else shape.depth
            last = name.endswith(("o_proj", "attn.proj", "down_proj"))
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * ((2 * depth) ** -0.5 if last else 1.0))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.model.visual.patch_embed.proj.weight, std=2 * (3 * PATCH * PATCH) ** -0.5)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=shape.width**-0.5)
    eos, pad = model.config.text_config.eos_token_id, model.config.text_config.pad_token_id
    # Nothing here may shape a sample: sampling parameters always come from the caller.
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=[eos], pad_token_id=pad, bos_token_id=pad)
    return model


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Processor whose pictures keep 64 x 64 px, as 64 patches and 16 tokens; larger ones are shrunk to that area."""
    area = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    common = {
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": MERGE,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(area), **common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=dict(area), **common),
        chat_template=tokenizer.chat_template,
    )


def patchify(pictures_NHWC: np.ndarray) -> np.ndarray:
    """Pictures (uint8, N x 64 x 64 x 3) as the image processor's pixel values, float32 (N, P, 192)."""
    count = len(pictures_NHWC)
    scaled = (pictures_NHWC.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    blocks = GRID // MERGE
    split = scaled.reshape(count, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    return split.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(count, PATCHES, 3 * PATCH * PATCH)


def rope_positions(ids_BL: np.ndarray, image_token: int) -> np.ndarray:
    """Positions for the multimodal rotary embedding, int64 (3, B, L): time, height, width.

    Text counts on by one; a picture's 16 tokens share one time and take their row and column; what
    follows starts after the largest position so far, as `Qwen2_5_VLModel.get_rope_index` has it.
    """
    side = GRID // MERGE
    is_image = ids_BL == image_token
    first = is_image & ~np.pad(is_image, ((0, 0), (1, 0)))[:, :-1]
    # A picture occupies 16 tokens but only `side` positions.
    index = np.cumsum(is_image, axis=1) - 1
    inside = np.where(is_image, index % TOKENS, 0)
    step = np.where(is_image, 0, 1)
    step[first] = 1
    after = np.pad(is_image, ((0, 0), (1, 0)))[:, :-1] & ~is_image
    step[after] = side
    start = np.cumsum(step, axis=1) - 1
    return np.stack([start, start + inside // side, start + inside % side]).astype(np.int64)


def _norm(x: Tensor, norm: Qwen2_5_VLRMSNorm) -> Tensor:
    scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * scaled


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention in fp32: on the CPU its bf16 kernel is the slower one."""
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal)


def vision_angles(model: Qwen2_5_VLForConditionalGeneration) -> tuple[Tensor, Tensor]:
    """Cosine and sine for the patches of one picture, each (P, head width), in the patches' block order."""
    row, column = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    blocks = (GRID // MERGE, MERGE, GRID // MERGE, MERGE)
    order = [axis.reshape(blocks).transpose(1, 2).flatten() for axis in (row, column)]
    cos, sin = model.model.visual.rotary_pos_emb(torch.zeros(1), torch.stack(order, dim=-1))
    return cos, sin


def see(model: Qwen2_5_VLForConditionalGeneration, pixels_NPC: Tensor, cos_PE: Tensor, sin_PE: Tensor) -> Tensor:
    """Merged tokens of N pictures, (N, V, D); `pixels_NPC` from `patchify`."""
    visual = model.model.visual
    weight = visual.patch_embed.proj.weight
    x = F.linear(pixels_NPC, weight.flatten(1))
    count, patches, width = x.shape
    for block in visual.blocks:
        heads = block.attn.num_heads
        qkv = block.attn.qkv(_norm(x, block.norm1)).view(count, patches, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = _rotate(q, cos_PE, sin_PE), _rotate(k, cos_PE, sin_PE)
        attended = _attend(q, k, v, causal=False).transpose(1, 2).reshape(count, patches, width)
        x = x + block.attn.proj(attended)
        x = x + block.mlp(_norm(x, block.norm2))
    return visual.merger(x).view(count, TOKENS, -1)


def read(model: Qwen2_5_VLForConditionalGeneration, x_BLD: Tensor, cos_BLE: Tensor, sin_BLE: Tensor) -> Tensor:
    """The language model's last hidden states, (B, L, D), causal, without padding masks (padding stands right)."""
    language = model.model.language_model
    batch, length, width = x_BLD.shape
    cos, sin = cos_BLE.unsqueeze(1), sin_BLE.unsqueeze(1)
    x = x_BLD
    for layer in language.layers:
        attention = layer.self_attn
        h = _norm(x, layer.input_layernorm)
        q, k, v = (
            projection(h).view(batch, length, -1, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        k, v = (value.repeat_interleave(attention.num_key_value_groups, dim=1) for value in (k, v))
        attended = _attend(q, k, v, causal=True).transpose(1, 2)
        x = x + attention.o_proj(attended.reshape(batch, length, width))
        h = _norm(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
    return _norm(x, language.norm)


@dataclass(frozen=True)
class Batch:
    """Lessons as tensors."""

    ids_BL: Tensor
    positions_3BL: Tensor
    pixels_NPC: Tensor
    """Pictures in the order of their places in `ids_BL`, row by row."""
    rows: Tensor
    """(T,) flat indices into B x L of the positions whose next token is learned."""
    targets: Tensor
    """(T,) those next tokens."""


class FastForward:
    """Logits of the learned positions, computed on a model's own weights."""

    def __init__(self, model: nn.Module, compiled: bool) -> None:
        """`compiled` fuses the element-wise work (needs a C++ compiler)."""
        assert isinstance(model, Qwen2_5_VLForConditionalGeneration)
        self.model = model
        self.angles = vision_angles(model)
        self.see = torch.compile(see, dynamic=True) if compiled else see
        self.read = torch.compile(read, dynamic=True) if compiled else read

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (T, vocabulary)."""
        language = self.model.model.language_model
        x_BLD = language.embed_tokens(batch.ids_BL)
        seen_NVD = self.see(self.model, batch.pixels_NPC, *self.angles)
        is_image = (batch.ids_BL == self.model.config.image_token_id).unsqueeze(-1)
        x_BLD = x_BLD.masked_scatter(is_image, seen_NVD.to(x_BLD.dtype))
        cos, sin = language.rotary_emb(x_BLD, batch.positions_3BL)
        hidden_BLD = self.read(self.model, x_BLD, cos, sin)
        return F.linear(hidden_BLD.flatten(0, 1)[batch.rows], language.embed_tokens.weight)


def export(model: nn.Module, tokenizer: Qwen2Tokenizer, out: Path) -> None:
    """Write a model in the Hugging Face layout, stored in bf16, with `edit_r1.json` beside the weights."""
    assert isinstance(model, Qwen2_5_VLForConditionalGeneration)
    stored = Qwen2_5_VLForConditionalGeneration(model.config)
    stored.load_state_dict(model.state_dict())
    stored.generation_config = model.generation_config
    stored.to(torch.bfloat16).save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)
    card = {"variant": "compact", "mode": "both", "domain": "EditWorld"}
    (out / "edit_r1.json").write_text(json.dumps(card, indent=2) + "\n")
