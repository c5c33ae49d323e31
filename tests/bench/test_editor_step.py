"""The benchmarks of an editor's iteration run, and their ways do the same work."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_stage import EditorRLStage, LossSettings, SDESettings, plan_iteration

BENCH = Path(__file__).parents[2] / "bench"


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_ways_make_the_same_update_of_the_same_edits() -> None:
    bench = _load(BENCH / "editor_step.py", "bench_editor_step")
    stage = EditorRLStage(
        contexts_per_step=1, group_size=4, sampling_steps=3, sde=SDESettings(eta=0.9, window="all"), lora_rank=2,
        loss=LossSettings(kl_beta=0.0, advantage_std="batch"),
    )  # fmt: skip
    contexts = bench.rl_contexts(1)
    iteration = plan_iteration(stage, 0, 1)
    policy = EditorPolicy(bench.tiny_editor(), stage)
    norms = {}
    for name in ("plain", "+ encode once", "+ large batches", "+ steps replayed together", "everything but bf16"):
        way = bench.WAYS[name]
        loop, measured = bench.own_loop if way.own_loop else bench.plain_loop, bench.Measured()
        seen: list[torch.Tensor] = []
        policy.update = lambda seen=seen: seen.extend(p.grad for p in policy.parameters.values()) or 1.0
        loop(way, stage, policy, iteration, contexts, bench.by_brightness, measured)
        assert min(measured.seconds.values()) > 0
        norms[name] = float(torch.cat([gradient.flatten() for gradient in seen]).norm())
        policy.optimizer.zero_grad(set_to_none=True)
    assert list(norms.values()) == pytest.approx([norms["plain"]] * len(norms), rel=1e-2)


def test_it_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = _load(BENCH / "editor_step.py", "bench_editor_step")
    bench.WAYS = {name: bench.WAYS[name] for name in ("plain", "fast")}
    bench.main(turns=1, contexts=1, group=2, lora_rank=2, brightness=True, out=tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["seconds"].keys() == {"plain", "fast"}
    assert all(len(values) == 1 for phases in numbers["seconds"].values() for values in phases.values())
    assert "against plain" in capsys.readouterr().out


def test_the_benchmark_for_a_gpu_runs_on_a_toy_and_skips_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _load(BENCH / "gpu/editor_step.py", "bench_gpu_editor_step")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(out=tmp_path / "nothing.json")
    assert "nothing is measured" in capsys.readouterr().out and not (tmp_path / "nothing.json").exists()
    bench.main(tiny=True, out=tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    rows = {row["way"]: row for row in numbers["rows"]}
    assert rows.keys() == {"plain", "everything", "fast"}
    assert rows["fast"]["update_floor_s"] < rows["everything"]["update_floor_s"]
    assert all(row["sample_s"] > 0 and row["edits_per_s"] > 0 for row in rows.values())
