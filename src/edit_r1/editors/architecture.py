"""What an editor is made of, without its weights: the classes and configs of its parts.

A folder's configs are read; of the released models the configs are known here, so that a plan needs neither the
network nor a download. Values are those of the checkpoints' own config.json files; where a diffusers class has
them as its defaults (FLUX.1's transformer, Qwen-Image's transformer and VAE, FLUX.2's VAE) none are repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn


@dataclass(frozen=True)
class Part:
    """One model of a pipeline."""

    library: str
    """"diffusers" or "transformers"."""
    kind: str
    """Name of its class."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **changes: Any) -> nn.Module:
        """The model on torch's device "meta": shapes without memory. changes: of its config.

        Raises ValueError for a class that the installed library does not have.
        """
        kind = getattr({"diffusers": diffusers, "transformers": transformers}[self.library], self.kind, None)
        if kind is None:
            raise ValueError(f"{self.library} has no {self.kind}: upgrade it")
        config = {**self.config, **changes}
        with torch.device("meta"):
            if self.library == "diffusers":
                return kind.from_config(config)
            return kind(kind.config_class.from_dict(config))

    def parameters(self) -> int:
        """Its number of weights; tied ones count once."""
        return sum(parameter.numel() for parameter in self.build().parameters())


@dataclass(frozen=True)
class Architecture:
    """An editor's models by the names they have in its pipeline."""

    pipeline: str
    parts: Mapping[str, Part]

    @property
    def encoders(self) -> dict[str, Part]:
        return {name: part for name, part in self.parts.items() if name.startswith("text_encoder")}


_T5_XXL = Part("transformers", "T5EncoderModel", {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
})  # fmt: skip
_CLIP_L = Part("transformers", "CLIPTextModel", {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77,
})  # fmt: skip
_FLUX_VAE = Part("diffusers", "AutoencoderKL", {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "use_quant_conv": False, "use_post_quant_conv": False,
})  # fmt: skip
_QWEN_VL_7B = Part("transformers", "Qwen2_5_VLForConditionalGeneration", {
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2,
    },
})  # fmt: skip
_QWEN3_4B = Part("transformers", "Qwen3ForCausalLM", {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
})  # fmt: skip
_KLEIN_4B = Part("diffusers", "Flux2Transformer2DModel", {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
    "guidance_embeds": False,
})  # fmt: skip


def _qwen(pipeline: str) -> Architecture:
    return Architecture(pipeline, {
        "transformer": Part("diffusers", "QwenImageTransformer2DModel"),
        "vae": Part("diffusers", "AutoencoderKLQwenImage"), "text_encoder": _QWEN_VL_7B,
    })  # fmt: skip


_KLEIN = Architecture("Flux2KleinPipeline", {
    "transformer": _KLEIN_4B, "vae": Part("diffusers", "AutoencoderKLFlux2"), "text_encoder": _QWEN3_4B,
})  # fmt: skip
KNOWN: dict[str, Architecture] = {
    "black-forest-labs/FLUX.1-Kontext-dev": Architecture("FluxKontextPipeline", {
        "transformer": Part("diffusers", "FluxTransformer2DModel", {"guidance_embeds": True}),
        "vae": _FLUX_VAE, "text_encoder": _CLIP_L, "text_encoder_2": _T5_XXL,
    }),
    "Qwen/Qwen-Image-Edit": _qwen("QwenImageEditPipeline"),
    "Qwen/Qwen-Image-Edit-2509": _qwen("QwenImageEditPlusPipeline"),
    "black-forest-labs/FLUX.2-klein-4B": _KLEIN,
    "black-forest-labs/FLUX.2-klein-base-4B": _KLEIN,
}  # fmt: skip
"""By hub id."""


def architecture_of(path: str) -> Architecture:
    """Of a folder in the diffusers layout (its configs are read, no weights), or of a `KNOWN` hub id.

    Raises ValueError for anything else, or for a folder without a config that its index names.
    """
    folder = Path(path)
    if not folder.is_dir():
        if path in KNOWN:
            return KNOWN[path]
        raise ValueError(f"{path}: neither a folder nor one of {', '.join(KNOWN)}: download it and give its folder")
    index = read_json(folder / "model_index.json")
    parts = {
        name: Part(index[name][0], index[name][1], read_json(folder / name / "config.json"))
        for name in ("transformer", "vae", "text_encoder", "text_encoder_2")
        if isinstance(index.get(name), list) and index[name][1] is not None
    }
    if not {"transformer", "vae"} <= parts.keys():
        raise ValueError(f"{path}: its model_index.json names no transformer and VAE; give a diffusers pipeline")
    return Architecture(str(index.get("_class_name")), parts)


def read_json(path: Path) -> dict[str, Any]:
    """A config. Raises ValueError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give the folder of a diffusers pipeline") from error
    return dict(found)
