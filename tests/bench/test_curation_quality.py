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
