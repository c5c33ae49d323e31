"""A recipe trains only on a judge that was found ready, and only on that one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.evaluate.judge_identity import judge_identity
from edit_r1.evaluate.readiness_verdict import ReadinessThresholds
from edit_r1.recipes.built_in import tiny_editor_nft
from edit_r1.recipes.readiness_gate import check_ready
from edit_r1.recipes.run import run_training
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.rewards import RewardSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def verdict(path: Path, model: Path, **judge: Any) -> Path:
    told = {
        "model": "m", "identity": judge_identity(model), "variant": "full", "prompts": "full-2", "traces": 4,
        "value": "score", "weights": [0.5, 0.3, 0.2], "gate": "product", "gate_threshold": 0.5,
    }  # fmt: skip
    document = {"ready": True, "checks": [{"name": "lift", "passed": True}], "judge": {**told, **judge}}
    path.write_text(json.dumps(document))
    return path


def reward(model: Path | str, **changes: Any) -> RewardSettings:
    return replace(RewardSettings(JudgeSettings(str(model), traces=4)), **changes)


def test_the_same_judge_passes_wherever_it_lies(tmp_path: Path, model: Path) -> None:
    path = verdict(tmp_path / "ready.json", model)
    check_ready(path, reward(model))
    check_ready(path, reward(f"{model}@cuda:1"))
    moved = model.rename(tmp_path / "elsewhere")
    check_ready(path, reward(moved))
    served = verdict(tmp_path / "served.json", moved, identity="served:edit-rrm")
    check_ready(served, reward("http://10.0.0.7:8000/v1#edit-rrm"))


def test_how_the_judge_was_asked_is_compared_where_the_verdict_tells_it(tmp_path: Path, model: Path) -> None:
    told = {"mode": "both", "max_new_tokens": 4096, "max_pixels": 1 << 20, "server_sampling": False}
    path = verdict(tmp_path / "ready.json", model, **told)
    check_ready(path, reward(model))
    for changes, said in (
        ({"mode": "verify"}, "mode both there, verify here"),
        ({"variant": "compact"}, "variant full there, compact here"),
        ({"max_new_tokens": 300}, "max_new_tokens 4096 there, 300 here"),
        ({"max_pixels": 4096}, "max_pixels 1048576 there, 4096 here"),
    ):
        other = reward(model)
        with pytest.raises(ValueError, match=said):
            check_ready(path, replace(other, judge=replace(other.judge, **changes)))
    (model / "edit_r1.json").write_text('{"variant": "compact", "mode": "both"}')
    trained = verdict(tmp_path / "trained.json", model, variant="compact", prompts="compact-1", max_new_tokens=512)
    check_ready(trained, reward(model))
    served = verdict(tmp_path / "served.json", model, identity="served:o9", **told)
    hosted = JudgeSettings("https://example.org/v1#o9", traces=4, server_sampling=True)
    with pytest.raises(ValueError, match="server_sampling False there, True here"):
        check_ready(served, RewardSettings(hosted))


@pytest.mark.parametrize(
    ("judge", "changes", "said"),
    [
        ({"traces": 1}, {}, "traces 1 there, 4 here"),
        ({"value": "verdicts"}, {}, "value verdicts there, score here"),
        ({}, {"value": "verdicts", "weights": (1.0, 0.0, 0.0)}, "value score there"),
        ({"value": "verdicts"}, {"value": "verdicts", "weights": (1.0, 0.0, 0.0)}, "weights"),
        ({"prompts": "full-1"}, {}, "prompts full-1 there, full-2 here"),
        ({"identity": "files:0"}, {}, "another judge"),
        ({"identity": "served:m"}, {}, "another judge"),
    ],
    ids=str,
)
def test_another_judge_or_reward_is_refused(
    tmp_path: Path, model: Path, judge: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_ready(verdict(tmp_path / "ready.json", model, **judge), reward(model, **changes))


def test_a_verdict_that_asked_less_than_the_recipe_is_refused(tmp_path: Path, model: Path) -> None:
    path = verdict(tmp_path / "ready.json", model)
    document = json.loads(path.read_text())
    loose = asdict(ReadinessThresholds(max_unparsed=None, min_no_edit_cost=2.0))
    path.write_text(json.dumps({**document, "thresholds": loose}))
    with pytest.raises(ValueError, match="max_unparsed off there, 0.05 required; min_no_edit_cost 2.0 there, 4"):
        check_ready(path, reward(model))
    check_ready(path, reward(model), ReadinessThresholds(max_unparsed=None, min_no_edit_cost=1.0))
    recipe = replace(
        tiny_editor_nft(), data="/no/such/data", verifier=str(model), traces=4, require_ready=path,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="asked less of m than is required"):
        run_training("editor", recipe, resume=False)
    with pytest.raises(ValueError, match="no such file or folder|/no/such/data"):
        run_training("editor", replace(recipe, ready=ReadinessThresholds(**loose)), resume=False)
    for foreign in ([], {"max_unparsed": "high"}):
        path.write_text(json.dumps({**document, "thresholds": foreign}))
        with pytest.raises(ValueError, match="not a verdict"):
            check_ready(path, reward(model))


def test_precision_and_temperature_are_compared_where_the_verdict_tells_them(tmp_path: Path, model: Path) -> None:
    path = verdict(tmp_path / "ready.json", model, dtype="float32", temperature=1.0)
    same = reward(model)
    check_ready(path, same)
    check_ready(path, replace(same, judge=replace(same.judge, temperature=1.0)))
    for changes, said in (
        ({"dtype": "bfloat16"}, "dtype float32 there, bfloat16 here"),
        ({"temperature": 0.5}, "temperature 1.0 there, 0.5 here"),
    ):
        with pytest.raises(ValueError, match=said):
            check_ready(path, replace(same, judge=replace(same.judge, **changes)))


def test_a_missed_verdict_and_a_foreign_file_are_refused(tmp_path: Path, model: Path) -> None:
    path = verdict(tmp_path / "ready.json", model)
    document = json.loads(path.read_text())
    missed = {**document, "ready": False, "checks": [{"name": "blur", "passed": False}]}
    path.write_text(json.dumps(missed))
    with pytest.raises(ValueError, match=r"not ready \(blur\)"):
        check_ready(path, reward(model))
    # Not even when the word was changed by hand.
    path.write_text(json.dumps({**missed, "ready": True}))
    with pytest.raises(ValueError, match="not ready"):
        check_ready(path, reward(model))
    for foreign in ([], {"ready": True}, {"ready": True, "judge": 3, "checks": []}):
        path.write_text(json.dumps(foreign))
        with pytest.raises(ValueError, match="not a verdict"):
            check_ready(path, reward(model))
    with pytest.raises(ValueError, match="cannot be read"):
        check_ready(tmp_path / "none.json", reward(model))


def test_training_asks_before_it_reads_its_data(tmp_path: Path, model: Path) -> None:
    path = verdict(tmp_path / "ready.json", model, traces=2)
    recipe = replace(
        tiny_editor_nft(), data="/no/such/data", verifier=str(model), traces=4, require_ready=path,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="traces 2 there, 4 here"):
        run_training("editor", recipe, resume=False)
