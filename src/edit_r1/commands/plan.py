"""`edit-r1 train sft|gcpo|editor RECIPE --plan`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import tyro

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.recipes.run import ALGORITHMS, EditorRecipe, judge_of, with_flags
from edit_r1.train.plan import Plan, plan, plan_text
from edit_r1.train.plan_parts import DeviceOptions, plan_json
from edit_r1.train.verifier_plan import VerifierPlanOptions, plan_verifier, verifier_plan_text


def plan_training(kind: str, recipe: str, flags: Sequence[str]) -> int:
    """Prints the plan of a recipe with its fields set by flags; those of the plan's options are flags too. Returns 0.

    Raises ValueError for a recipe that cannot be planned; ends the program with code 2 for an unknown flag.
    """
    if kind == "editor":
        return plan_editor(kind, recipe, flags)
    if kind not in ("sft", "gcpo"):
        raise ValueError(f"train {kind} --plan: only sft, gcpo and editor can be planned; leave --plan out")
    default = VerifierPlanOptions(processes=int(os.environ.get("WORLD_SIZE", "1")))
    prog = f"edit-r1 train {kind} {recipe} --plan"
    options, rest = tyro.cli(
        VerifierPlanOptions, prog=prog, default=default, args=list(flags), return_unknown_args=True
    )
    config = with_flags(kind, recipe, rest)
    made = plan_verifier(config.stage, options)
    print(json.dumps(plan_json(made)) if options.json else verifier_plan_text(made))
    return 0


def plan_editor(kind: str, recipe: str, flags: Sequence[str]) -> int:
    """Prints the plan of a recipe with its fields set by flags; `DeviceOptions` are flags too. Returns 0.

    Raises ValueError for a recipe that cannot be planned; ends the program with code 2 for an unknown flag.
    """
    default = DeviceOptions(processes=int(os.environ.get("WORLD_SIZE", "1")))
    prog = f"edit-r1 train {kind} {recipe} --plan"
    options, rest = tyro.cli(DeviceOptions, prog=prog, default=default, args=list(flags), return_unknown_args=True)
    config = with_flags(kind, recipe, rest)
    assert isinstance(config, EditorRecipe)
    made = plan_recipe(config, options)
    print(json.dumps(plan_json(made)) if options.json else plan_text(made))
    return 0


def plan_recipe(recipe: EditorRecipe, options: DeviceOptions | None = None) -> Plan:
    """Raises ValueError for an editor that is opened by other code, or an algorithm of another's."""
    if not isinstance(recipe.load, EditorCheckpoint):
        raise ValueError("--plan reads the editor's configs, and this recipe opens it by code: set load to an "
                         "EditorCheckpoint")  # fmt: skip
    algorithm = ALGORITHMS.get(recipe.train)
    if algorithm is None:
        raise ValueError("--plan counts Flow-GRPO and DiffusionNFT, and this recipe trains by another algorithm: plan "
                         "one with train=train_editor or train_nft")  # fmt: skip
    return plan(recipe.stage, recipe.load, judge_of(recipe), options, algorithm)
