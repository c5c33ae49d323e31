"""The benchmark of a generation of GCPO runs, and a variant's switches are back where they were."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from trl import GRPOTrainer
from trl.trainer import utils

from edit_r1.train import gcpo
from edit_r1.train.gcpo import GCPOTrainer
from edit_r1.train.learned_tokens import score_learned_tokens

PATH = Path(__file__).parents[2] / "bench" / "gcpo_step.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gcpo_step", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_variant_is_clocked_in_turn_and_written(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = bench.simulated_pairs(3)
    monkeypatch.setattr(bench, "simulated_pairs", lambda: pairs)
    seen: list[str] = []
    run = bench.generation

    def noted(variant: object, *rest: object) -> object:
        seen.append(variant.name)
        return run(variant, *rest)

    monkeypatch.setattr(bench, "generation", noted)
    bench.main(turns=1, size="micro", variants=(0, 3), out=tmp_path / "step.json")
    assert seen == ["TRL's own", "pictures and prompts once", "pictures and prompts once", "TRL's own"]
    found = json.loads((tmp_path / "step.json").read_text())
    for parts in found["seconds"].values():
        assert all(len(values) == 1 and values[0] > 0 for values in parts.values())
    assert found["work"]["TRL's own"]["trace_tokens"][0] > 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| seconds | sample | score | other | update | whole generation | against TRL's own |")
    assert "1.00 x" in printed[2] and len(printed) == 4


def test_what_is_switched_off_does_nothing_and_only_inside(bench: ModuleType) -> None:
    score_learned_tokens()
    before = {name: getattr(gcpo, name) for name in ("share_vision", "share_prompt", "pictures_once")}
    triton = utils._use_triton
    stock = bench.VARIANTS[0]
    with bench.switched_off(stock):
        assert all(getattr(gcpo, name) is not function for name, function in before.items())
        assert utils._use_triton is not triton
        assert gcpo.share_vision(object()) is not None  # of no model at all
    assert {name: getattr(gcpo, name) for name in before} == before
    assert utils._use_triton is triton
    for name in ("_generate_single_turn", "_prepare_inputs", "_prepare_input", "_compute_loss"):
        assert getattr(bench.Stock, name) is getattr(GRPOTrainer, name) is not getattr(GCPOTrainer, name)
