"""A tiny random FLUX.1-Kontext of the real classes, made without a network; tests/train uses it too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

TEXT_TOKENS = 24


def _tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Character-level tokenizers of the real classes."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    clip_tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    clip = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(clip_tokens)}, merges=[], model_max_length=TEXT_TOKENS
    )
    t5_tokens = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    t5 = T5Tokenizer(vocab=t5_tokens, extra_ids=0, model_max_length=TEXT_TOKENS)
    return clip, t5


def make_kontext_pipeline(guidance_embeds: bool, seed: int = 0) -> FluxKontextPipeline:
    """A FLUX.1-Kontext of a few thousand random weights: the real classes, f4 VAE, 8 px a token."""
    torch.set_num_threads(1)  # so small that more threads only wait for each other
    torch.manual_seed(seed)
    clip, t5 = _tokenizers()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.8,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    text = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **text,
    )
    t5_config = T5Config(vocab_size=len(t5), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )
    return FluxKontextPipeline(
        scheduler=scheduler,
        vae=vae.eval(),
        text_encoder=CLIPTextModel(clip_config).eval(),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(t5_config).eval(),
        tokenizer_2=t5,
        transformer=transformer.eval(),
    )


@pytest.fixture
def kontext_pipeline() -> Callable[..., FluxKontextPipeline]:
    """Builds a fresh tiny random FLUX.1-Kontext: `kontext_pipeline(guidance_embeds=False, seed=0)`."""

    def build(guidance_embeds: bool = False, seed: int = 0) -> FluxKontextPipeline:
        pipeline = make_kontext_pipeline(guidance_embeds, seed)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build
