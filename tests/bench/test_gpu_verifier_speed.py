"""The benchmark for GPUs runs, on a toy model, where there is none."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration


def test_the_gpu_benchmark_runs_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(__file__).parents[2] / "bench" / "gpu" / "verifier_speed.py"
    spec = importlib.util.spec_from_file_location("verifier_speed", file)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "verifier_speed", bench)  # dataclasses look their module up
    spec.loader.exec_module(bench)
    bench.main(edits=2, traces=2, new_tokens=4, repeats=1, tiny=True, out=tmp_path / "speed.json")
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [(row["model"], row["way"]) for row in rows] == [("tiny", "shared prefix"), ("tiny", "generate")]
    assert all(row["tokens_per_s"] > 0 and row["peak_gb"] is None for row in rows)
    assert rows[0]["prompt_tokens"] == rows[1]["prompt_tokens"] > 500
    assert "| tiny | generate |" in capsys.readouterr().out
    # The public sizes: language model and vision tower, in parameters.
    for size, billions in (("3b", 3.75), ("7b", 8.29)):
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(bench.config_of(size))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)
