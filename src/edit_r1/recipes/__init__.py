"""Recipes: functions that return frozen configs, by the names the command line takes.

They are imported on first use: a curation of one's own over endpoints needs none of what training needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edit_r1.recipes.built_in import (
        tiny_cold_start,
        tiny_editor_grpo,
        tiny_editor_nft,
        tiny_gcpo,
        tiny_head,
        tiny_sft,
    )
    from edit_r1.recipes.editors import (
        kontext_full_nodes,
        kontext_lora_8gpu,
        kontext_lora_24gb,
        kontext_lora_80gb,
        kontext_lora_80gb_fast,
        qwen_image_edit_lora_8gpu,
    )
    from edit_r1.recipes.verifiers import (
        gcpo_3b_lora_24gb,
        gcpo_7b_full_8gpu,
        gcpo_7b_lora_80gb,
        gcpo_qwen3vl_8b_lora_80gb,
        sft_7b_full_8gpu,
        sft_7b_lora_80gb,
    )

_HOMES = {  # what trains or curates by it, and where it is
    "gcpo_3b_lora_24gb": ("gcpo", "edit_r1.recipes.verifiers"),
    "gcpo_7b_full_8gpu": ("gcpo", "edit_r1.recipes.verifiers"),
    "gcpo_7b_lora_80gb": ("gcpo", "edit_r1.recipes.verifiers"),
    "gcpo_qwen3vl_8b_lora_80gb": ("gcpo", "edit_r1.recipes.verifiers"),
    "kontext_full_nodes": ("editor", "edit_r1.recipes.editors"),
    "kontext_lora_24gb": ("editor", "edit_r1.recipes.editors"),
    "kontext_lora_80gb": ("editor", "edit_r1.recipes.editors"),
    "kontext_lora_80gb_fast": ("editor", "edit_r1.recipes.editors"),
    "kontext_lora_8gpu": ("editor", "edit_r1.recipes.editors"),
    "qwen_image_edit_lora_8gpu": ("editor", "edit_r1.recipes.editors"),
    "sft_7b_full_8gpu": ("sft", "edit_r1.recipes.verifiers"),
    "sft_7b_lora_80gb": ("sft", "edit_r1.recipes.verifiers"),
    "tiny_cold_start": ("curate", "edit_r1.recipes.built_in"),
    "tiny_editor_grpo": ("editor", "edit_r1.recipes.built_in"),
    "tiny_editor_nft": ("editor", "edit_r1.recipes.built_in"),
    "tiny_gcpo": ("gcpo", "edit_r1.recipes.built_in"),
    "tiny_head": ("head", "edit_r1.recipes.built_in"),
    "tiny_sft": ("sft", "edit_r1.recipes.built_in"),
}

__all__ = [
    "gcpo_3b_lora_24gb",
    "gcpo_7b_full_8gpu",
    "gcpo_7b_lora_80gb",
    "gcpo_qwen3vl_8b_lora_80gb",
    "kontext_full_nodes",
    "kontext_lora_8gpu",
    "kontext_lora_24gb",
    "kontext_lora_80gb",
    "kontext_lora_80gb_fast",
    "qwen_image_edit_lora_8gpu",
    "sft_7b_full_8gpu",
    "sft_7b_lora_80gb",
    "tiny_cold_start",
    "tiny_editor_grpo",
    "tiny_editor_nft",
    "tiny_gcpo",
    "tiny_head",
    "tiny_sft",
]


def __getattr__(name: str) -> object:
    """Imports a recipe from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edit_r1.recipes' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name][1]), name)


def names(kind: str | None = None) -> list[str]:
    """Names of the built-in recipes, sorted; of one kind: "curate", or what stands behind `edit-r1 train`."""
    return sorted(name for name, (of, _) in _HOMES.items() if kind in (None, of))


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
