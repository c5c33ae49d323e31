"""The study of editor algorithms: what it keeps, what it refuses, and its shares against a twin."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.demo.measuring import oracle_scores
from edit_r1.evaluate.editor import EditScore
from edit_r1.recipes.tiny import role_samples, tiny_editor
from edit_r1.records import Context
from edit_r1.store import read_json
from edit_r1.train.editor_stage import changed
from edit_r1.zoo.packaged import weights

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / "editor_study.py"))


def _scores(values: list[float]) -> list[EditScore]:
    """Two edits each of contexts a, b, ..."""
    return [EditScore(chr(97 + place // 2), "", place % 2, b"", value) for place, value in enumerate(values)]


def test_an_arm_is_trained_measured_and_only_read_again(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, small = bench["stage_of"], {"contexts_per_step": 1, "group_size": 2}
    sizes = {"CONTEXTS": 2, "stage_of": lambda *asked: changed(whole(*asked), **small)}
    bench["main"].__globals__.update(sizes)
    arms = (1, 2)
    names = [bench["ARMS"][number].name for number in arms]
    assert names == ["DiffusionNFT, oracle", "DiffusionNFT, random"]
    out, verifier = tmp_path / "study", weights("verifier-small")
    bench["main"](verifier, out, marks=(1,), contexts=2, arms=arms[:1], processes=1)
    bench["main"](verifier, out, marks=(1,), contexts=2, arms=arms[1:], processes=1)
    found = read_json(out / "study.json")
    assert list(found["arms"]) == names, "what an earlier call has measured is told too"
    assert [[row["iterations"] for row in rows] for rows in found["arms"].values()] == [[1], [1]]
    assert all(rows[0]["seconds"] > 0 for rows in found["arms"].values())
    assert (out / "study.png").stat().st_size > 0 and not (out / "diffusionnft-oracle/run/editor").exists()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    bench["main"](verifier, out, marks=(1,), contexts=2, arms=arms, processes=1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == before, "nothing is trained again"
    with pytest.raises(SystemExit, match="was begun with"):
        bench["main"](verifier, out, marks=(1,), contexts=3, arms=arms, processes=1)

    (out / "diffusionnft-oracle/after-1.json").rename(out / "diffusionnft-oracle/after-2.json")
    lines = (out / "diffusionnft-oracle/run/metrics.jsonl").read_text()
    (out / "diffusionnft-oracle/run/metrics.jsonl").write_text(lines + lines.replace('"step": 0', '"step": 1'))
    capsys.readouterr()
    bench["main"](verifier, out, marks=(1,), contexts=2, arms=arms[:1], processes=1)
    assert "trained for 2 iterations, so that after 1" in capsys.readouterr().out
    assert not (out / "diffusionnft-oracle/after-1.json").exists(), "a later editor is not passed off as an earlier one"


def test_arms_that_there_are_not(bench: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="arms 0 to"):
        bench["main"](weights("verifier-small"), tmp_path / "study", arms=(len(bench["ARMS"]),))
    assert not (tmp_path / "study").exists()


def test_every_arms_stage_is_one(bench: dict[str, Any]) -> None:
    for arm in bench["ARMS"]:
        stage = bench["stage_of"](arm, 20, 0)
        assert (stage.steps, stage.contexts_per_step, stage.group_size, stage.lora_rank) == (20, 4, 12, 0)


def test_shares_of_the_oracles_gain_against_a_twin(bench: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    before = generator.uniform(0, 5, 40)
    own, ideal = before + generator.normal(1, 1, 40), before + generator.normal(2, 1, 40)
    found = bench["share_of"](*(_scores(list(values)) for values in (own, ideal, before)))
    assert found["share"] == pytest.approx(np.mean(own - before) / np.mean(ideal - before))
    gains, ideals = ((values - before).reshape(20, 2).mean(axis=1) for values in (own, ideal))
    drawn = np.random.default_rng(7)
    twin = []
    for _ in range(4000):
        rows = [int(drawn.integers(20)) for _ in range(20)]
        twin.append(sum(gains[row] for row in rows) / sum(ideals[row] for row in rows))
    assert found["share_ci95"] == pytest.approx(np.quantile(twin, [0.025, 0.975]), abs=0.03)
    assert bench["share_of"](_scores(list(own)), _scores(list(before)), _scores(list(before))) == {}, "of no gain"


def test_the_rewards_in_training_are_what_is_measured(bench: dict[str, Any]) -> None:
    samples = role_samples("rl", 2, 0)
    images = [edit.image for edit in tiny_editor(steps=2).edit(samples, [1, 2]) if edit.image is not None]
    contexts = [Context(sample, (), "EditWorld", simulated=True) for sample in samples]
    assert bench["oracle"](contexts, images) == oracle_scores(samples, images)
    drawn = [bench["at_random"](seed, contexts, images) for seed in (0, 0, 300)]
    assert drawn[0] == drawn[1] != drawn[2] and all(0 <= value <= 10 for value in drawn[0])
