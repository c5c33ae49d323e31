"""The benchmark of GCPO for GPUs runs, on a toy model, where there is none."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "gpu"


def test_both_ways_are_measured_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    bench = runpy.run_path(str(BENCH / "gcpo_step.py"))
    bench["main"](tiny=True, out=tmp_path / "step.json")
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [(row["model"], row["way"], row["fits"]) for row in rows] == [("tiny", "lora", True), ("tiny", "full", True)]
    assert all(row["generation_s"] > row["sample_s"] > 0 and row["update_s"] > 0 for row in rows)
    assert all(row["sampled_per_s"] > 0 and row["peak_gb"] is None for row in rows)
    assert "| tiny | full |" in capsys.readouterr().out
