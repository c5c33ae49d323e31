"""The recipes of released verifiers: flags, and the plan on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edit_r1 import cli, recipes
from edit_r1.curate.stage import CurateStage
from edit_r1.recipes import verifiers
from edit_r1.recipes.load import load_recipe
from edit_r1.recipes.run import EditorRecipe, GCPORecipe, HeadRecipe, SFTRecipe, with_flags

SFT = ("sft_7b_full_8gpu", "sft_7b_lora_80gb")
GCPO = ("gcpo_3b_lora_24gb", "gcpo_7b_full_8gpu", "gcpo_7b_lora_80gb", "gcpo_qwen3vl_8b_lora_80gb")


@pytest.mark.parametrize("name", [*SFT, *GCPO])
def test_every_recipe_is_a_name_and_its_fields_are_flags(name: str) -> None:
    kind = "sft" if name in SFT else "gcpo"
    flags = ["--data", "d", "--learning-rate", "3e-6", "--max-pixels", "0", "--frozen", "fp32"]
    config = with_flags(kind, name, flags)
    assert isinstance(config, SFTRecipe if kind == "sft" else GCPORecipe)
    rate = config.stage.learning_rate if isinstance(config, SFTRecipe) else config.stage.updates.learning_rate
    assert (config.data, rate, config.stage.machine.frozen) == ("d", 3e-6, "fp32")
    assert config.stage.precision == "bf16"


def test_all_recipes_of_the_file_are_known_by_name() -> None:
    made = {name for name in vars(verifiers) if name.startswith(("sft_", "gcpo_"))}
    assert made == {*SFT, *GCPO}


def test_flags_of_the_groups_reach_their_fields() -> None:
    flags = ["--engine", "vllm-served", "--vllm-address", "http://h:1", "--alarm-stop", "3", "--flip-rate", "0.1"]
    stage = with_flags("gcpo", "tiny_gcpo", [*flags, "--pairs-from", "votes", "--max-new-tokens", "99"]).stage
    assert (stage.sampling.engine, stage.sampling.vllm_address) == ("vllm-served", "http://h:1")
    assert (stage.alarms.alarm_stop, stage.ratio.flip_rate, stage.ratio.pairs_from) == (3, 0.1, "votes")
    assert stage.sampling.max_new_tokens == 99
    given = with_flags("gcpo", "gcpo_7b_lora_80gb", ["--replay", "runs/cold/selected", "--replay-weight", "0.2"])
    assert (given.replay, given.stage.replay.replay_weight) == ("runs/cold/selected", 0.2)


def test_plan_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edit_r1.zoo.packaged import weights

    flags = ["--plan", "--model", str(weights("verifier-small")), "--tflops", "1", "--pixels", "64"]
    flags += ["--bandwidth", "10"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "gcpo", "tiny_gcpo", *flags, "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stage"] == "gcpo"
    assert document["traces_per_step"] == 2 * 16 * 8
    assert document["peak"] > 0
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "gcpo", "gcpo_7b_lora_80gb", "--plan"])
    assert ended.value.code == 1
    assert "plan with --model" in capsys.readouterr().err


def test_a_head_cannot_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "head", "tiny_head", "--plan"])
    told = capsys.readouterr()
    assert ended.value.code == 1 and told.out == ""
    assert told.err == "edit-r1: train head --plan: only sft, gcpo and editor can be planned; leave --plan out\n"


@pytest.mark.parametrize("kind", ["curate", "sft", "gcpo", "head", "editor"])
def test_built_in_recipes_are_of_the_kind_that_help_says(kind: str) -> None:
    wanted = {"curate": CurateStage, "sft": SFTRecipe, "gcpo": GCPORecipe, "head": HeadRecipe, "editor": EditorRecipe}
    assert all(isinstance(getattr(recipes, name)(), wanted[kind]) for name in recipes.names(kind))
    with pytest.raises(ValueError, match="not there") as told:
        load_recipe("nothing", kind)
    assert [name for name in recipes.names() if f" {name}," in str(told.value)] == recipes.names(kind)
    assert sorted(recipes.__all__) == recipes.names()
