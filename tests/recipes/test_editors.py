"""The recipes of released editors: each is built, and one is planned through the command line; nothing is loaded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edit_r1 import recipes
from edit_r1.cli import main
from edit_r1.commands.plan import plan_recipe
from edit_r1.recipes.run import EditorRecipe
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.nft import train_nft
from edit_r1.train.plan_parts import DeviceOptions

MACHINES = {
    "kontext_lora_80gb": (1, 80.0),
    "kontext_lora_80gb_fast": (1, 80.0),
    "kontext_lora_24gb": (1, 24.0),
    "kontext_lora_8gpu": (8, 80.0),
    "qwen_image_edit_lora_8gpu": (8, 80.0),
    "kontext_full_nodes": (32, 80.0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_recipe_fits_its_machine(name: str) -> None:
    processes, memory = MACHINES[name]
    recipe = getattr(recipes, name)()
    assert isinstance(recipe, EditorRecipe) and recipe.stage.group_size == 24
    made = plan_recipe(recipe, DeviceOptions(processes=processes, device_memory=memory, tflops=400))
    assert made.misfits == () and made.peak < 0.95 * memory
    assert sum(made.petaflops.values()) > 0


def test_the_command_line_plans_with_the_recipes_fields_as_flags(capsys) -> None:
    flags = ["--plan", "--json", "--pixels", "256", "--tflops", "400", "--device-memory", "16", "--group-size", "4"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "editor", "kontext_lora_80gb_fast", *flags])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fits"] is False and told["samples_per_step"] == 32


@pytest.mark.parametrize("name", ["tiny_editor_grpo", "tiny_editor_nft"])
def test_the_tiny_recipes_are_planned_too(name: str) -> None:
    made = plan_recipe(getattr(recipes, name)(), DeviceOptions(tflops=1))
    assert made.shape.edit == (8, 8) and 0 < made.peak < 2 and made.work.trained_forwards > 0


def test_a_recipe_whose_algorithm_is_swapped_takes_that_ones_values() -> None:
    recipe = replace(recipes.tiny_editor_grpo(), stage=recipes.kontext_lora_80gb().stage)
    options = DeviceOptions(tflops=1)
    grpo, nft = (plan_recipe(replace(recipe, train=train), options) for train in (train_editor, train_nft))
    assert not any("no use" in text for text in grpo.assumptions)
    assert "DiffusionNFT has no use for eta=0.9, window='all'" in nft.assumptions
    assert grpo.resident["average"] == 0 < nft.resident["average"]
    assert nft.work.reference_forwards == 2 * nft.work.trained_forwards, "of the old policy and of the reference"


def test_what_cannot_be_counted_is_refused() -> None:
    recipe = recipes.tiny_editor_grpo()
    with pytest.raises(ValueError, match="set load to an EditorCheckpoint"):
        plan_recipe(replace(recipe, load=lambda: recipe.load()))
    with pytest.raises(ValueError, match="another algorithm"):
        plan_recipe(replace(recipe, train=train_best_of_g))
