"""Stages run once, keep their time over interruptions, and belong to one recipe."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edit_r1.demo.stages import Stages, Tick

RECIPE = {"sizes": {"steps": 3, "batch": 8}, "world": 1}


def _nothing(_: Tick) -> dict[str, Any]:
    return {"found": 1}


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    Stages(tmp_path, "micro-0", RECIPE).run("first, of two", _nothing)
    again = Stages(tmp_path, "micro-0", RECIPE)
    again.run("first, of two", lambda _: pytest.fail("ran again"))
    assert again.done("first, of two") and not again.done("second")
    assert again.result("first, of two") == {"found": 1}
    assert again.names() == ["first, of two"]


def test_an_interrupted_attempt_counts_in_the_stage_s_seconds(tmp_path: Path) -> None:
    def interrupted(tick: Tick) -> dict[str, Any]:
        tick(1, 3)
        time.sleep(0.3)
        raise KeyboardInterrupt

    stages = Stages(tmp_path, "micro-0", RECIPE)
    for attempt in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            stages.run("gcpo", interrupted)
        assert json.loads((tmp_path / "stages/gcpo.clock.json").read_text()) >= 0.3 * attempt
    stages.run("gcpo", _nothing)
    assert stages.seconds("gcpo") >= 0.6


def test_time_left_is_told_once_the_pace_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def work(tick: Tick) -> dict[str, Any]:
        for done, at in ((40, 130.0), (60, 150.0), (100, 190.0)):  # 40 were done by an attempt before
            now[0] = at
            tick(done, 100)
        return {}

    Stages(tmp_path, "micro-0", RECIPE).run("sft", work)
    assert capsys.readouterr().err.splitlines() == [
        "sft: started", "sft: 40/100, 30 s", "sft: 60/100, 50 s, 40 s left", "sft: 100/100, 90 s, 0 s left",
        "sft: done in 90 s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "recipe", "told"),
    [
        ("micro-1", RECIPE, r"other settings \(micro-0, now micro-1\)"),
        ("micro-0", RECIPE | {"world": 2}, r"another recipe \(world\)"),
        ("micro-0", RECIPE | {"sizes": {"steps": 4, "batch": 8}}, r"another recipe \(sizes\.steps\)"),
    ],
)
def test_another_run_s_folder_is_refused(tmp_path: Path, key: str, recipe: dict[str, Any], told: str) -> None:
    Stages(tmp_path, "micro-0", RECIPE)
    with pytest.raises(ValueError, match=f"{told}: choose another --out"):
        Stages(tmp_path, key, recipe)


def test_settings_that_one_of_two_recipes_does_not_know_are_not_compared(tmp_path: Path) -> None:
    Stages(tmp_path, "micro-0", RECIPE)
    Stages(tmp_path, "micro-0", {"sizes": {"steps": 3, "rate": 0.1}, "reward": "verdicts"})
    older = tmp_path / "older"
    older.mkdir()
    (older / "run.json").write_text('{"key": "micro-0"}')  # of before recipes were kept
    Stages(older, "micro-0", RECIPE)
