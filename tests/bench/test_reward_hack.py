"""The study of planted reward hacks: what it reads off a run's lines, and its smallest run."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.store import read_json
from edit_r1.train.guards import GuardSettings

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / "reward_hack.py"))


def _lines(steps: int) -> list[dict[str, Any]]:
    """A run whose pictures get brighter by 3 levels an iteration, whose reward rises and whose held-out one falls."""

    def measures(done: int) -> dict[str, float | None]:
        names = ("copies", "mean", "share", "shift", "outside", "saturation", "sharpness")
        return {**dict.fromkeys(names, 0.0), "brightness": 3.0 * done}

    def validation(done: int) -> dict[str, Any]:
        trained, heldout = [4.0 + 0.1 * done] * 12, [8.0 - 0.1 * done + 0.01 * place for place in range(12)]
        means = {"reward_mean": trained[0], "heldout_mean": sum(heldout) / 12}
        return {"kind": "validation", "step": done, "reward": trained, "heldout": heldout, **means,
                "guard": measures(done)}  # fmt: skip

    lines = [validation(0)]
    for step in range(steps):
        lines.append({"kind": "step", "step": step, "failed_judgments": 0, "edits": 8, "guard": measures(step)})
        lines += [validation(step + 1)] if (step + 1) % 2 == 0 else []
    return lines


def test_when_a_guard_would_have_told_and_stopped(bench: dict[str, Any]) -> None:
    """Brightness passes 8 levels at the validation after 4 iterations, with nothing paired 20 after 8; after 4 the
    held-out reward is down by 0.4 (limit 0.25) and after 6 for the second time."""
    close = GuardSettings(contexts=12, validate_every=2, window=3)
    both = {"brightness": 4, "divergence": 4}
    assert bench["would_tell"](_lines(40), close) == {"alerts": both, "stopped": 6, "best": 0}
    told = bench["would_tell"](_lines(40), replace(close, stop=False, paired=1.0))
    assert told == {"alerts": {"divergence": 4, "brightness": 8}, "stopped": None, "best": 0}
    default = bench["would_tell"](_lines(40), GuardSettings())
    assert default == {"alerts": both, "stopped": 10, "best": 0}
    late = bench["would_tell"](_lines(40), GuardSettings(early=()))
    assert late == {"alerts": {"brightness": 10, "divergence": 10}, "stopped": 20, "best": 0}
    few = bench["would_tell"](_lines(6), GuardSettings(early=()))
    alerts = {"brightness": 6, "divergence": 6}
    assert few == {"alerts": alerts, "stopped": None, "best": 0}, "the last validation is there for all"


def test_an_alert_of_a_training_iteration_counts_it_as_done(bench: dict[str, Any]) -> None:
    lines = [line for line in _lines(12) if line["kind"] == "step" or line["step"] in (0, 12)]
    told = bench["would_tell"](lines, GuardSettings(contexts=12, validate_every=0, window=1))
    assert told["alerts"]["brightness"] == 8, "the line of step 7 differs by 21 levels and stands after 8 iterations"


def test_its_smallest_run_is_read_again_and_refuses_other_settings(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = {"steps": 2, "contexts": 1, "group": 2, "validation": 2, "looked": 2, "heldout": "oracle"}
    bench["main"](tmp_path / "hack", ("brightness",), **size)
    found = read_json(tmp_path / "hack/reward_hack.json")["runs"]["brightness"]
    assert list(found["curve"]) == ["0", "2"] and found["curve"]["0"]["change"] == 0.0
    assert found["guards"]["close"]["best"] in (0, 2) and found["guards"]["close"]["oracle"]["best"]["contexts"] == 2
    metrics = (tmp_path / "hack/brightness/metrics.jsonl").read_text()
    assert "caught before -0.5" in capsys.readouterr().out
    bench["main"](tmp_path / "hack", ("brightness",), **size)
    assert (tmp_path / "hack/brightness/metrics.jsonl").read_text() == metrics
    with pytest.raises(SystemExit, match="was begun with"):
        bench["main"](tmp_path / "hack", ("brightness",), **{**size, "group": 3})
