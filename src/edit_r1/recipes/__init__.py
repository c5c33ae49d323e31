"""Recipes: functions that return frozen configs, by the names the command line takes."""

from edit_r1.recipes.built_in import tiny_cold_start, tiny_editor_grpo, tiny_editor_nft, tiny_gcpo, tiny_head, tiny_sft
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
