"""Tiny random editors of the real classes, made without a network; tests/train uses them too."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

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


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Byte-level, with the words of the pipelines' template merged: it is of about the released length."""
    template = (
        "system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), then "
        "explain how the user's text instruction should alter or modify the image. Generate a new image that meets the "
        "user's requirements while maintaining consistency with the original input where appropriate.\nuser\n"
        "Picture 1: 2: 3: assistant\n"
    )
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([template], trainer)
    model = json.loads(trained.to_str())["model"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
               "<|video_pad|>"]  # fmt: skip
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], eos_token="<|im_end|>",
        pad_token="<|endoftext|>", model_max_length=4096,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    return tokenizer


def make_qwen_pipeline(
    plus: bool = False, zero_cond_t: bool = False, seed: int = 0
) -> QwenImageEditPipeline | QwenImageEditPlusPipeline:
    """A Qwen-Image-Edit of a few thousand random weights: the real classes, f4 VAE, 8 px a token.

    zero_cond_t: as in 2511, where the sources' tokens are modulated as at time 0.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = _qwen_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_added_vocab()}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_patch_size": 1, "window_size": 32, "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
    )  # fmt: skip
    area = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    patches = {"patch_size": 8, "temporal_patch_size": 1, "merge_size": 2}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(area), **patches), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=dict(area), **patches),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[0.8, 1.1, 0.9, 1.2],
    )  # fmt: skip
    with torch.no_grad():  # the default initialisation all but loses the latents on their way to the pixels
        vae.post_quant_conv.weight.mul_(4)
        for name, weight in vae.decoder.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif "gamma" not in name:
                weight.mul_(4 if name.startswith("conv_in") else 2)
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6), zero_cond_t=zero_cond_t,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192,
        shift_terminal=0.02,
    )  # fmt: skip
    kind = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    return kind(
        scheduler=scheduler, vae=vae.eval(), text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer, processor=processor, transformer=transformer.eval(),
    )  # fmt: skip


@pytest.fixture
def qwen_pipeline() -> Callable[..., QwenImageEditPipeline | QwenImageEditPlusPipeline]:
    """Builds a fresh tiny random Qwen-Image-Edit: `qwen_pipeline(plus=False, zero_cond_t=False, seed=0)`."""

    def build(plus: bool = False, zero_cond_t: bool = False, seed: int = 0) -> QwenImageEditPipeline:
        pipeline = make_qwen_pipeline(plus, zero_cond_t, seed)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build


def make_klein_pipeline(is_distilled: bool = False, seed: int = 0) -> Flux2KleinPipeline:
    """A FLUX.2-klein of a few thousand random weights: the real classes, f4 VAE, 8 px a token; 28 text layers of
    width 8, because the pipeline reads the 27th."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=1024, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 1.5)
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae.eval(),
        text_encoder=Qwen3ForCausalLM(text).eval(), tokenizer=tokenizer, transformer=transformer.eval(),
        is_distilled=is_distilled,
    )  # fmt: skip


@pytest.fixture
def klein_pipeline() -> Callable[..., Flux2KleinPipeline]:
    """Builds a fresh tiny random FLUX.2-klein: `klein_pipeline(is_distilled=False, seed=0)`."""

    def build(is_distilled: bool = False, seed: int = 0) -> Flux2KleinPipeline:
        pipeline = make_klein_pipeline(is_distilled, seed)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return build
