"""The recipes that the command line knows by name; each continues where the one before left its result.

edit-r1 curate run tiny_cold_start --out runs/tiny/cold
edit-r1 train sft tiny_sft
edit-r1 train gcpo tiny_gcpo --data runs/demo/data/pairs
edit-r1 train head tiny_head --data runs/demo/data/pairs
edit-r1 train editor tiny_editor_grpo --data runs/demo/data/rl_contexts
edit-r1 train editor tiny_editor_nft --data runs/demo/data/rl_contexts
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edit_r1.curate.stage import CurateStage
from edit_r1.recipes import tiny
from edit_r1.recipes.run import EditorRecipe, GCPORecipe, HeadRecipe, SFTRecipe
from edit_r1.train.nft import train_nft
from edit_r1.world.index import WorldIndex
from edit_r1.zoo.packaged import weights


def tiny_cold_start() -> CurateStage:
    """The four curation steps on EditWorld with simulated models."""
    sizes = tiny.SIZES["demo"]
    samples = tiny.role_samples("cold", sizes.cold_contexts, seed=0)
    return tiny.tiny_curation(samples, WorldIndex(samples), sizes, seed=0)


def tiny_sft() -> SFTRecipe:
    """Cold-start SFT of the small tiny verifier on what `tiny_cold_start` selected."""
    return SFTRecipe("runs/tiny/cold/selected", tiny.tiny_sft())


def tiny_gcpo() -> GCPORecipe:
    """GCPO of the result of `tiny_sft` on the demo's pairs, with the traces that it learned beside them."""
    stage = tiny.tiny_gcpo(Path("runs/tiny/sft/model"))
    return GCPORecipe("runs/demo/data/pairs", stage, replay="runs/demo/data/cold/selected")


def tiny_head() -> HeadRecipe:
    """A Bradley-Terry head on the pretrained small tiny verifier and the demo's pairs."""
    return HeadRecipe("runs/demo/data/pairs", tiny.tiny_head(weights("verifier-small")))


def tiny_editor_grpo() -> EditorRecipe:
    """Flow-GRPO of the tiny editor with the result of `tiny_gcpo` as its reward."""
    return EditorRecipe(
        data="runs/demo/data/rl_contexts",
        verifier="runs/tiny/gcpo/model",
        stage=tiny.tiny_editor_rl(),
        load=tiny.tiny_checkpoint(bf16_products=True),
        out="runs/tiny/editor",
    )


def tiny_editor_nft() -> EditorRecipe:
    """DiffusionNFT of the tiny editor, the same reward and as many edits."""
    return replace(tiny_editor_grpo(), stage=tiny.tiny_editor_nft(), train=train_nft, out="runs/tiny/editor_nft")
