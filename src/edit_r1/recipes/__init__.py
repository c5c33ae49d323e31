"""Recipes: functions that return frozen configs, by the names the command line takes."""

from edit_r1.recipes.built_in import tiny_cold_start, tiny_editor_grpo, tiny_editor_nft, tiny_gcpo, tiny_sft

__all__ = ["tiny_cold_start", "tiny_editor_grpo", "tiny_editor_nft", "tiny_gcpo", "tiny_sft"]
