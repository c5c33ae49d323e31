"""`edit-r1 evaluate gsb` through `main`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edit_r1.annotate.answers import Given, record
from edit_r1.annotate.assignment import Plan, hand_out
from edit_r1.annotate.run import open_task
from edit_r1.annotate.settings import AnnotateSettings
from edit_r1.cli import main
from edit_r1.images import encode_png

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "gsb", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int) and "Traceback" not in out + err
    return ended.value.code, out, err


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Ann finds the new editor's edit better three times of four, Bob never."""
    for place, editor in enumerate(("new", "old")):
        (tmp_path / editor).mkdir()
        for number in range(4):
            level = np.full((16, 16, 3), 40 * number + 20 * place, np.uint8)
            (tmp_path / editor / f"{number}.png").write_bytes(encode_png(level))
    for number in range(4):
        (tmp_path / f"source-{number}.png").write_bytes(encode_png(np.full((16, 16, 3), number, np.uint8)))
    rows = [{"id": n, "source": f"source-{n}.png", "instruction": f"Do {n}."} for n in range(4)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    database, _ = open_task(tmp_path, AnnotateSettings(study=(tmp_path / "new", tmp_path / "old")))
    for name, wins in (("Ann", 3), ("Bob", 0)):
        annotator = database.join(name)
        for number, one in enumerate(hand_out(database, annotator, [], 4, Plan(), 0).pairs):
            query = "SELECT turned FROM showings WHERE annotator = ? AND pair = ?"
            turned = bool(database.rows(query, (annotator, one["pair"]))[0][0])
            choice = "left" if (number < wins) != turned else "right"
            record(database, annotator, [Given(f"{name}-{number:06}", one["pair"], choice)], 1.0, 60)
    database.close()
    return tmp_path


def test_a_study_its_export_and_a_file_agree(study: Path, capsys: Capture) -> None:
    code, out, _ = run(capsys, study, "--leave-out", "Bob", "--json")
    found = json.loads(out)
    assert code == 0 and (found["good"], found["same"], found["bad"], found["n"]) == (3, 0, 1, 4)
    assert found["gsb"] == 0.5 and (found["new"], found["other"]) == ("new", "old")
    with pytest.raises(SystemExit):
        main(["annotate", "export", str(study), "--out", str(study / "human")])
    capsys.readouterr()
    exported = json.loads(run(capsys, study / "human", "--new", "new", "--leave-out", "Bob", "--json")[1])
    assert {name: exported[name] for name in ("good", "same", "bad", "gsb", "n", "ci95")} == {
        "good": 3, "same": 0, "bad": 1, "gsb": 0.5, "n": 4, "ci95": found["ci95"],
    }  # fmt: skip
    named = run(capsys, study, "--new", "new", "--other", "old", "--leave-out", "Bob", "--json")
    assert json.loads(named[1]) == found
    code, out, _ = run(capsys, study)
    assert code == 0 and out.startswith("GSB -25.0% (95 % ") and out.endswith("3 good, 0 same, 5 bad, 8 answers\n")
    code, out, _ = run(capsys, "--counts", 3, 0, 1, "--json")
    assert code == 0 and json.loads(out)["gsb"] == 0.5


def test_mistakes_are_one_line(study: Path, capsys: Capture) -> None:
    (study / "a.jsonl").write_text('{"choice": "good"}\n')
    with pytest.raises(SystemExit):
        main(["annotate", "export", str(study), "--out", str(study / "human")])
    capsys.readouterr()
    for arguments, wanted, said in (
        ((), 2, "or --counts GOOD SAME BAD"),
        ((study, "--counts", 1, 1, 1), 2, "or --counts GOOD SAME BAD"),
        (("--counts", 0, 0, 0), 1, "at least one is above 0"),
        ((study / "human",), 1, "--new NAME"),
        ((study / "human", "--new", "x"), 1, "no answer compares 'x'"),
        ((study / "new",), 1, "neither a study"),
        ((study / "none.jsonl",), 1, "cannot be read"),
        ((study / "a.jsonl", "--new", "x"), 1, "leave those flags out"),
        ((study, "--leave-out", "Zoe"), 1, "no such annotator"),
        ((study, "--new", "old"), 1, "a study of 'new' against 'old': leave --new and --other out"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (wanted, "") and said in err and err.count("\n") == 1, arguments
