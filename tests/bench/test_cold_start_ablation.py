"""The ablation's study of what lies in `--out`: all of it, seeds in order, and nothing of other settings."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from edit_r1.store import read_json, write_json

BENCH = Path(__file__).parents[2] / "bench"
QUICK = {"minutes": 0.0, "resamples": 20}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("cold_start_ablation")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in range(3):
        write_json(tmp_path / f"runs/seed-{seed}/data/cold/selected.done.json", {"meta": {"hash": f"data-{seed}"}})
    return tmp_path / "runs"


def judged(out: Path, verifier: str, cell: Any, seed: int, weights: str | None) -> None:
    """Lays a result of one pair there, as `judge_cell` writes it; before weights were told of where there are none."""
    pair = {
        "sample_id": f"s{seed}", "category": "c", "winner_id": "w", "loser_id": "l", "winner": 5.0 + seed, "loser": 5.0,
    }  # fmt: skip
    made = {"steps": 500, "size": "demo", "data": f"data-{seed}"} | ({} if weights is None else {"weights": weights})
    names = ("agreement", "failed_caught", "score", "unlike_base", "tokens", "updates", "passes")
    write_json(
        out / verifier / cell.folder / f"seed-{seed}/judged.json",
        {
            "pairs": [pair], "verdicts": [["s", 1, 1], ["s", 0, 0]], "checklist": {"score_error": 1.0},
            "report": {"half_credit": seed / 10, "unparsed": 0}, "calibration": {"gap_auc": 0.5},
            "facts": dict.fromkeys(names, 0.5), "made": made,
        },
    )  # fmt: skip


def test_the_study_is_of_all_that_is_judged_with_seeds_in_order(
    bench: Any, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cells = tmp_path / "out", bench.CELLS
    for verifier in ("base", "small"):
        for cell in (cells[3], cells[0]):
            for seed in (2, 0, 1):
                judged(out, verifier, cell, seed, bench.pretrained(verifier))
    bench.main(runs, out, **QUICK)
    whole = capsys.readouterr().out
    found = read_json(out / "study.json")
    assert found["seeds"] == [0, 1, 2] and list(found["sizes"]) == ["small", "base"]
    assert list(found["sizes"]["small"]["results"]) == [cells[0].name, cells[3].name]
    assert "| 0.0, 10.0, 20.0 |" in whole
    bench.main(runs, out, sizes=("base",), seeds=(2, 1, 0), which=(3,), **QUICK)
    part = capsys.readouterr().out
    assert part.strip() in whole and "verifier-small" not in part
    assert read_json(out / "study.json") == found, "a call for a part of the study must not leave a part of it"


def test_results_of_other_pretrained_weights_are_refused(
    bench: Any, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cell = tmp_path / "out", bench.CELLS[0]
    common = {"which": (0,), "sizes": ("small",), "seeds": (0,)}
    judged(out, "small", cell, 0, None)  # of before they were told
    bench.main(runs, out, **common, **QUICK)
    before = (out / "study.json").read_bytes()
    assert json.loads(before)["sizes"]["small"]["results"]
    judged(out, "small", cell, 1, "0" * 16)
    with pytest.raises(SystemExit, match="1 cells failed"):
        bench.main(runs, out, **common, **QUICK)
    printed = capsys.readouterr().out
    assert f"FAILED: small, {cell.name}, seed 1: ValueError" in printed and "choose another --out" in printed
    assert (out / "study.json").read_bytes() == before
