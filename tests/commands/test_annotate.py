"""`edit-r1 annotate` through `main`; the server itself is run in tests/annotate."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edit_r1.annotate.answers import Given, record
from edit_r1.annotate.assignment import Plan, hand_out
from edit_r1.annotate.database import Database
from edit_r1.annotate.progress import measure
from edit_r1.annotate.run import open_task
from edit_r1.annotate.settings import AnnotateSettings
from edit_r1.cli import main
from edit_r1.images import encode_png
from edit_r1.report.annotation import figures


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def task(tmp_path: Path) -> Path:
    for name, level in (("source", 0), ("first", 100), ("second", 200)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(np.full((16, 16, 3), level, np.uint8)))
    row = {"source": "source.png", "instruction": "Lighter.", "first": "first.png", "second": "second.png"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    database, _ = open_task(tmp_path, AnnotateSettings(gold_every=0))
    ann = database.join("Ann [red]")
    (shown,) = hand_out(database, ann, [], 1, Plan(), 0).pairs
    record(database, ann, [Given("answer-1", shown["pair"], "same", 3.0)], 0, 60)
    database.close()
    return tmp_path


def test_status_and_export(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "annotate", "status", task, "--json")
    document = json.loads(out)
    assert (code, document["answers"], document["open"], document["gsb"]) == (0, 1, 1, None)
    code, out, _ = run(capsys, "annotate", "status", task)
    assert code == 0 and "Ann [red]" in out and "0 of 1 pairs have 2 answers" in out
    code, out, _ = run(capsys, "annotate", "export", task, "--out", tmp_path / "human", "--json")
    assert (code, json.loads(out)["preferences"]) == (0, 1)
    code, out, _ = run(capsys, "annotate", "export", task, "--out", tmp_path / "human")
    assert code == 0 and "1 preferences" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["annotate", "/no/such/folder"], 1, "no such folder"),
        (["annotate", "DIR", "--host", "0.0.0.0"], 1, "give --token-file"),
        (["annotate", "DIR", "--token-file", "/no/such/file"], 1, "cannot be read"),
        (["annotate", "DIR", "--port", "99999"], 1, "--port 99999"),
        (["annotate"], 2, "required"),
        (["annotate", "status", "/no/such/folder"], 1, "begins a task"),
        (["annotate", "export", "DIR"], 2, "--out"),
        (["annotate", "export", "DIR", "--out", "x", "--leave-out", "Zoe"], 1, "no such annotator"),
    ],
)
def test_mistakes_are_one_line(
    task: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    got, _, err = run(capsys, *[str(task) if word == "DIR" else word for word in arguments])
    assert got == code and message in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1


def test_a_studys_figures_are_printed() -> None:
    alpha = {"alpha": 0.5, "ci95": [0.4, 0.6], "units": 3, "values": 6}
    document = {
        "complete": 1, "pairs": 3, "wanted": 2, "answers": 4, "open": 2, "per_minute": 1.0, "annotators": [],
        "agreement": {"raw": {"mean": 0.5, "ci95": None, "n": 3}, "alpha_nominal": alpha, "alpha_ordinal": alpha},
        "gsb": {"new": "rl", "other": "base", "good": 3, "same": 0, "bad": 1, "gsb": 0.5, "ci95": [0.1, 0.9], "n": 4},
    }  # fmt: skip
    buffer = io.StringIO()
    Console(file=buffer, width=120, color_system=None).print(figures(document))
    assert "GSB of rl against base: +50.0% [+10.0%, +90.0%] (3 good, 0 same, 1 bad)" in buffer.getvalue()
    assert "0.50 [0.40, 0.60] nominal" in buffer.getvalue()


@pytest.mark.parametrize(
    ("better", "told"), [(True, "4 of 6"), (False, "4 of 6, like guessing"), (None, "4 of 6, too few to tell")]
)
def test_what_gold_answers_tell_is_printed(task: Path, better: bool | None, told: str) -> None:
    database = Database(task / "answers.sqlite")
    document = {**measure(database, 5.0), "gsb": None}
    database.close()
    document["annotators"][0]["gold"] |= {"right": 4, "asked": 6, "better_than_guessing": better}
    buffer = io.StringIO()
    Console(file=buffer, width=120, color_system=None).print(figures(document))
    assert f" {told} \n" in buffer.getvalue()
