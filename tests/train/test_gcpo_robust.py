"""Switches of GCPO beside the paper's form: labels in doubt, the cost of length, alarms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edit_r1.records import Preference
from edit_r1.train.gcpo import build_trainer, train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, RatioSettings, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.settings import changed, flat, groups_of
from edit_r1.train.verifier_run import RunFolder, read_curves


def stage_for(model: Path, out: Path, **changes: Any) -> GCPOStage:
    stage = GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=1, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(learning_rate=3e-3, micro_batch=24),
        stored="fp32", save_every=1, cpu=True,
    )  # fmt: skip
    return changed(stage, **changes)


def votes(preferences: list[Preference]) -> list[Preference]:
    """Three judgments of every pair, one of which disagrees."""
    return [
        replace(preference, annotator=name, choice=choice)
        for preference in preferences
        if preference.choice != "same"
        for name, choice in (
            ("a", preference.choice), ("b", preference.choice), ("c", preference.swap().choice)
        )
    ]  # fmt: skip


def test_votes_and_flips_reach_the_advantages(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:  # fmt: skip
    """A share of 2/3 and a flip rate of 0.1: 0.6333, in the advantages that TRL trains on."""
    stage = stage_for(wavering, tmp_path, pairs_from="votes", flip_rate=0.1)
    pairs = pairs_of(votes(preferences), "votes")
    assert len(pairs) == len(pairs_of(preferences))
    assert [pair.label for pair in pairs] == pytest.approx([2 / 3] * len(pairs))
    trainer = build_trainer(stage, pairs, RunFolder(tmp_path))
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    outcome = trainer._generate_and_score_completions(batch)
    compared = trainer.comparison
    assert compared is not None
    assert trainer.labels == pytest.approx([2 / 3 * 0.9 + 1 / 3 * 0.1] * len(pairs))
    assert torch.allclose(outcome["advantages"].double(), compared.advantages_B, atol=1e-6)
    assert compared.advantages_B.abs().max() > 0.05  # else the test shows nothing
    certain = build_trainer(stage_for(wavering, tmp_path), pairs_of(preferences), RunFolder(tmp_path))
    assert certain.labels == []


def test_length_above_the_limit_costs_its_ratio(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:  # fmt: skip
    trainer = build_trainer(
        stage_for(wavering, tmp_path, length_limit=2, length_cost=0.05), pairs_of(preferences), RunFolder(tmp_path)
    )
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    outcome = trainer._generate_and_score_completions(batch)
    compared = trainer.comparison
    assert compared is not None
    lengths = outcome["completion_mask"].sum(1)
    rewards = compared.ratios_B - 0.05 * (lengths - 2).clamp(min=0)
    assert torch.allclose(compared.rewards_B, rewards)
    groups = rewards.view(-1, 4)
    assert torch.allclose(compared.advantages_B, (groups - groups.mean(1, keepdim=True)).flatten())
    assert torch.allclose(outcome["advantages"].double(), compared.advantages_B, atol=1e-6)
    (logged,) = trainer._metrics["train"]["length_cost"]
    assert logged == pytest.approx(float((0.05 * (lengths - 2).clamp(min=0)).mean()))


def test_alarms_stand_in_the_curves_and_reach_the_terminal(
    wavering: Path, preferences: list[Preference], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Mapping[str, Any]] = []
    stage = stage_for(wavering, tmp_path / "run", max_new_tokens=2, alarm_unparsed=0.0)
    train_gcpo(stage, preferences, progress=lambda _, __, logged: told.append(logged))
    (line,) = read_curves(tmp_path / "run/curves.jsonl")
    assert any("100% of the traces have no score" in text for text in line["alarms"])
    assert told[0]["alarms"] == line["alarms"]
    train_gcpo(replace(stage, out=str(tmp_path / "plain")), preferences)
    assert "100% of the traces have no score" in capsys.readouterr().err


def test_a_run_ended_by_its_alarms_has_no_result_and_resumes_with_other_limits(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    stage = stage_for(wavering, tmp_path / "run", steps=4, max_new_tokens=2, alarm_unparsed=0.0, alarm_stop=2)
    with pytest.raises(ValueError, match=r"stopped after 2 generations with alarms \(100% of the traces"):
        train_gcpo(stage, preferences)
    assert [line["step"] for line in read_curves(tmp_path / "run/curves.jsonl")] == [1, 2]
    assert not (tmp_path / "run/model").exists()
    assert RunFolder(tmp_path / "run").checkpoint() is not None
    model = train_gcpo(changed(stage, alarm_stop=0), preferences, resume=True)
    assert model.exists()
    assert [line["step"] for line in read_curves(tmp_path / "run/curves.jsonl")] == [1, 2, 3, 4]


def test_recomputation_changes_nothing(wavering: Path, preferences: list[Preference], tmp_path: Path) -> None:
    weights = []
    for name, recomputed in (("kept", False), ("recomputed", True)):
        stage = stage_for(wavering, tmp_path / name, gradient_checkpointing=recomputed)
        weights.append(load_file(train_gcpo(stage, preferences) / "model.safetensors"))
    start = load_file(wavering / "model.safetensors")
    for name, weight in weights[0].items():
        moved = (weight - start[name].float()).abs().max()
        assert (weight - weights[1][name]).abs().max() <= 0.02 * moved + 1e-6, name
    lora = stage_for(
        wavering, tmp_path / "lora", gradient_checkpointing=True, lora_rank=2, frozen="bf16", precision="bf16"
    )
    assert train_gcpo(lora, preferences).exists()


def test_fields_of_groups_go_by_their_own_names(tmp_path: Path) -> None:
    stage = stage_for(tmp_path, tmp_path, traces=2, flip_rate=0.2, pairs_per_step=12, length_limit=1)
    assert (stage.traces, stage.ratio.flip_rate, stage.ratio.length_limit) == (2, 0.2, 1)
    groups = groups_of(stage)
    assert groups["flip_rate"] == "ratio"
    assert groups["micro_batch"] == "updates"
    with pytest.raises(TypeError, match="flip_rates"):
        changed(stage, flip_rates=0.2)
    spread = flat({"a": 1, "group": {"b": 2, "c": 3}})
    assert spread == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_rate": 0.5}, "at 0.5 labels tell nothing"),
        ({"length_cost": 0.1}, "without length_limit"),
        ({"length_cost": -1.0}, "length_cost=-1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        RatioSettings(**settings)
    with pytest.raises(ValueError, match="no trace ever pays"):
        stage_for(tmp_path, tmp_path, length_limit=8, length_cost=0.1)
