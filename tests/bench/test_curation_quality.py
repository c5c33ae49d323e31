"""The benchmarks of the curation's quality run, and their figures follow from what they planted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_planted_faults_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = _load("decomposition_checks")
    bench.main(tmp_path / "checks.json", contexts=40)
    rows = {(row["body"], row["kind"]): row for row in json.loads((tmp_path / "checks.json").read_text())["rows"]}
    assert rows["editworld", "duplicate"]["planted"] == 40 == rows["editworld", "duplicate"]["clean"]
    assert rows["editworld", "duplicate"]["recall"] == 1 and rows["editworld", "duplicate"]["false"] == 0
    assert 0 < rows["editworld", "uncovered"]["planted"] < 40
    for row in rows.values():
        if row["precision"] is not None:
            assert row["precision"] == pytest.approx(row["recall"] / (row["recall"] + row["false"]))
    assert "precision" in capsys.readouterr().out


def test_a_fault_is_found_where_more_is_told_than_without_it() -> None:
    bench = _load("decomposition_checks")
    hat, dog = (bench.Principle(text, "Instruction Following") for text in ("Is the hat red?", "Is the dog gone?"))
    half, whole = (("Make the hat red and remove the dog.", own) for own in ([hat], [hat, dog]))
    for without, recall, false in ((whole, 1.0, 0.0), (half, 0.0, 1.0)):
        planted = {kind: [] for kind in bench.PLANTED} | {"uncovered": [(half, without)]}
        row = next(bench.rows("b", [without], planted))
        assert (row["kind"], row["recall"], row["false"]) == ("uncovered", recall, false)


def test_gold_of_several_verifiers_is_compared_on_the_same_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _load("ensemble_gold")
    right = bench.Errors(dict.fromkeys(bench.KINDS, 0.0), 0.0)
    wrong = bench.Errors(dict.fromkeys(bench.KINDS, 1.0), 1.0)
    monkeypatch.setattr(bench, "SETTINGS", {"two of three wrong": (wrong, wrong, right)})
    bench.main(tmp_path / "gold.json", sources=6, gold_sources=4, seeds=2)
    rows = {row["way"]: row for row in json.loads((tmp_path / "gold.json").read_text())["rows"]}
    assert [rows[way]["all"]["mean"] for way in ("single", "majority", "one-sided", "two-sided")] == [0, 0, 1, 1]
    assert rows["two-sided"]["failed"]["gain"] == 1 and rows["majority"]["all"]["gain"] == 0
    assert rows["single"]["mean_weights"][0] == [0, 0, 0] and min(rows["single"]["mean_weights"][2]) > 0
    assert "fulfilled points" in capsys.readouterr().out
