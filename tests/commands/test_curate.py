"""`edit-r1 curate weigh` on a small curation."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edit_r1.cli import main
from edit_r1.curate.run import Curation, curate
from edit_r1.curate.weigh import read_weights

SCRIPTED = Path(__file__).parents[1] / "curate" / "scripted.py"


def scripted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scripted_curation", SCRIPTED)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curation")
    curate(scripted().build(6), folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["curate", *arguments])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_weigh_tells_and_writes_weights(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = tmp_path / "gold.jsonl"
    rows = [{"candidate_id": one.candidate_id, "gold": [v.value for v in one.gold]} for one in Curation(out).gold]
    gold.write_text("\n".join(map(json.dumps, rows[:8])))
    weights = tmp_path / "weights.json"
    code, told, _ = run(capsys, "weigh", str(out), "--gold", str(gold), "--out", str(weights), "--json")
    document = json.loads(told)
    assert code == 0 and document["gold"] == 8
    verifier = next(one for one in document["members"] if one["member"] == "verifier")
    assert (verifier["verdicts"], verifier["yes_right"], verifier["no_right"]) == (16, 1, 1)
    assert [name for name, _, _ in read_weights(weights)] == ["j1", "j2", "verifier"]
    code, told, _ = run(capsys, "weigh", str(out), "--gold", str(gold))
    assert code == 0 and "of yes" in told and "j2" in told and "Left out" not in told and document["left_out"] == []


def test_weigh_tells_whom_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = scripted().build(6)
    stage.verifier.name = "j1"
    curate(stage, tmp_path / "out")
    gold = tmp_path / "out" / "gold"
    code, told, _ = run(capsys, "weigh", str(tmp_path / "out"), "--gold", str(gold))
    assert code == 0 and "Left out are traces of j1: a verifier has that name" in " ".join(told.split())
    code, told, _ = run(capsys, "weigh", str(tmp_path / "out"), "--gold", str(gold), "--json")
    assert json.loads(told)["left_out"] == ["j1"]


def test_weigh_says_in_a_line_what_is_wrong(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"candidate_id": "other", "gold": [1, 0]}')
    for folder, told in ((out, "no vote is on any of the 1 candidates"), (tmp_path, "holds no finished curation: run")):
        code, printed, error = run(capsys, "weigh", str(folder), "--gold", str(gold))
        assert code == 1 and not printed and told in error and error.count("\n") == 1


def test_look_draws_a_page(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    code, told, _ = run(capsys, "look", str(out), "--out", str(page), "--filter", "rejected", "--count", "3")
    assert code == 0 and "3 edits" in told
    assert page.read_text(encoding="utf-8").count("<article") == 3
    code, _, error = run(capsys, "look", str(tmp_path))
    assert code == 1 and "holds no curation" in error and error.count("\n") == 1
