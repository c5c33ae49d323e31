"""The studies of verifiers run on a finished demo: every way is trained, judged, and stands in the table."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edit_r1.store import QUADRUPLES, locked, read_dataset

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/seed-0").symlink_to(finished)
    return tmp_path / "runs"


def study(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCH)
    return runpy.run_path(str(BENCH / f"{name}.py"))


def test_preferences_are_learned_from_in_every_way(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = study("preference_study", monkeypatch)
    out = tmp_path / "study"
    bench["main"](runs, out, seeds=(0,), ways=(0, 1, 2, 4), size="micro", processes=1, resamples=20)
    ways = json.loads((out / "study.json").read_text())["ways"]
    names = ["SFT", "GCPO", "GRPO, 0/1", "rejection SFT", "DPO", "GCPO, 20 % flipped"]
    assert list(ways) == names and all(ways[name]["pairs"] == ways["SFT"]["pairs"] > 0 for name in names)
    assert ways["SFT"]["minus_sft"]["half_credit"]["mean"] == 0 == ways["GCPO"]["minus_gcpo"]["half_credit"]["mean"]
    assert (out / "flipped.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in names)
    trained = (out / "seed-0/dpo/model/model.safetensors").stat().st_mtime_ns
    bench["main"](runs, out, seeds=(0,), ways=(2,), size="micro", processes=1, resamples=20)
    assert (out / "seed-0/dpo/model/model.safetensors").stat().st_mtime_ns == trained


def test_the_judges_are_compared_and_found_fit_or_not(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = study("judges_study", monkeypatch)
    out = tmp_path / "judges"
    common = {"seeds": (0,), "judges": ("gcpo", "head"), "contexts": 2, "group": 2}
    bench["main"](runs, out, **common)
    printed = capsys.readouterr().out
    assert "gcpo - head: " in printed and "| 0 | head | no | " in printed
    for name in ("gcpo", "head"):
        document = json.loads((out / f"seed-0/ready-{name}.json").read_text())
        assert document["contexts"] == document["group"] == 2 and (out / f"seed-0/ready-{name}.html").is_file()
    assert len(list((out / "readiness/editors").glob("*/edits/*.png"))) == 4, "one set of edits for all judges"
    (out / "seed-0/head/model/reward_head.json").unlink()  # nothing is judged again
    bench["main"](runs, out, **common)
    assert capsys.readouterr().out == printed


def test_every_cell_of_the_ablation_learns_from_the_same_quadruples(runs: Path, monkeypatch: Any) -> None:
    bench = study("cold_start_ablation", monkeypatch)
    data = bench["curated"](runs / "seed-0")
    rows = {cell: bench["quadruples"](cell, data, 0) for cell in bench["CELLS"]}
    base = rows[bench["BASE"]]
    chosen = {row.candidate.id: row.target for row in read_dataset(runs / "seed-0/data/cold", "selected", QUADRUPLES)}
    assert base and all(row.target == chosen[row.candidate.id] for row in base)
    assert all([r.candidate.id for r in own] == [r.candidate.id for r in base] for own in rows.values())
    for cell, own in rows.items():
        if cell.shuffled:
            assert [[v.value for v in r.target.verdicts] for r in own] == [
                [v.value for v in r.target.verdicts] for r in base
            ]
            assert [r.target.score for r in own] == [r.target.score for r in base]
            assert sum(r.target.text != b.target.text for r, b in zip(own, base, strict=True)) > len(base) / 2
    good, bad = data.traces, bench["half_bad"](data)
    for name, traces in bad.items():
        kept = {trace.index for trace in traces if trace in good[name]}
        assert len({trace.judge for trace in traces}) <= len(kept) < len(traces)


def test_the_ablation_is_trained_judged_and_resumed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = study("cold_start_ablation", monkeypatch)
    out = tmp_path / "study"
    common = {"sizes": ("small",), "seeds": (0,), "size": "micro", "processes": 1, "resamples": 20}
    bench["main"](runs, out, which=(0, 3, 9), minutes=0.0, steps=1, **common)
    assert capsys.readouterr().out.count("left for another call") == 3
    taken = out / "small" / bench["CELLS"][3].folder / "seed-0.lock"
    with locked(taken, "the test is at it"):  # as another call holds a cell that the two share: no failure
        bench["main"](runs, out, which=(0, 3, 9), steps=1, **common)
    printed = capsys.readouterr().out
    assert "another call is at it: small, think; filter neutral, seed 0" in printed and "FAILED" not in printed
    bench["main"](runs, out, which=(3,), steps=1, **common)  # the others' results stay in the study
    printed = capsys.readouterr().out
    names = ["both; filter neutral", "think; filter neutral", "verify; filter neutral; as many tokens"]
    assert all(f"| {name} |" in printed for name in names)
    found = json.loads((out / "study.json").read_text())["sizes"]["small"]
    assert list(found["results"]) == list(found["data"]) == names
    assert all(row["pairs"] > 0 for row in found["results"].values())
    assert [found["data"][name]["updates"] for name in names] == [1, 1, 3]
    assert found["data"][names[0]]["unlike_base"] == 0 and 0 < found["data"][names[0]]["agreement"] <= 1
    [difference] = found["differences"]
    assert (difference["cell"], difference["minus"], difference["tnr"]) == (names[1], names[0], None)
    with pytest.raises(SystemExit, match="3 cells failed"):  # results of one step are not those of two
        bench["main"](runs, out, which=(0, 3, 9), steps=2, **common)
    assert json.loads((out / "study.json").read_text())["sizes"]["small"] == found, "nor do they replace them"


def test_every_question_of_the_ablation_is_about_cells_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = study("cold_start_ablation", monkeypatch)
    cells, asked = bench["CELLS"], bench["questions"]()
    assert len({cell.folder for cell in cells}) == len(cells)
    pairs = [pair for of_one in asked.values() for pair in of_one]
    assert {one for pair in pairs for one in pair} == set(cells)
    assert all((a.filter, a.half_bad) == (b.filter, b.half_bad) for a, b in asked["mode"])
    assert all((a.mode, a.half_bad) == (b.mode, b.half_bad) and b.filter == "neutral" for a, b in asked["filter"])
    assert all((a.mode, a.filter) == (b.mode, b.filter) and not b.half_bad for a, b in asked["pool"])
    assert (bench["VERIFY_TOKENS"], cells[10]) in asked["mode"], "as many updates on both sides"
    assert asked["length"] == [(cells[10], bench["BASE"])]
    assert all({a.length, b.length} != {"samples", "long"} for a, b in [*asked["mode"], *asked["filter"]])


def test_a_generation_on_a_demos_model_and_pairs_is_clocked(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = study("gcpo_step", monkeypatch)
    monkeypatch.setitem(bench["main"].__globals__, "simulated_pairs", None)  # not asked for
    bench["main"](turns=1, run=runs / "seed-0", size="micro", variants=(3,), out=tmp_path / "step.json")
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["run"] == "seed-0"
    assert set(found["seconds"]["pictures and prompts once"]) == set(bench["PARTS"])
