"""`edit-r1 evaluate readiness` through `main`, on EditWorld with the packaged models, as small as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edit_r1.cli import main
from edit_r1.evaluate.probes import PROBES
from edit_r1.evaluate.readiness_run import JudgmentStore
from edit_r1.evaluate.reference import read_reference

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "readiness", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


SMALL = ("--data", "editworld", "--editor", "tiny", "--editor-steps", 4, "--contexts", 3, "--group", 2, "--traces", 2)
EASY = [
    flag
    for name in ("max-unparsed", "min-reliability", "max-no-spread", "min-lift", "min-rank-correlation",
                 "min-near-accuracy", "min-no-edit-cost", "min-damage-cost")
    for flag in (f"--{name}", "None")
]  # fmt: skip


def test_a_verdict_is_measured_kept_and_shown(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("--out", tmp_path / "out", "--reference", "oracle", "--html", tmp_path / "page.html")
    code, out, err = run(capsys, *SMALL, *where, "--json")
    document = json.loads(out)
    assert code == 4 and "not ready: " in err  # 3 contexts are too few to probe
    assert document == json.loads((tmp_path / "out/readiness.json").read_text()) and document["ready"] is False
    names = [check["name"] for check in document["checks"]]
    assert set(PROBES) <= set(names) and {"reliability", "rank correlation", "speed"} <= set(names)
    assert document["judge"]["identity"].startswith("files:") and document["judge"]["traces"] == 2
    assert document["numbers"]["reliability"]["traces"] <= 12
    text = (tmp_path / "page.html").read_text()
    assert "Not ready" in text and "<script" not in text and str(tmp_path) not in text
    # Everything is on the disk now: the same command judges nothing.
    monkeypatch.setattr(JudgmentStore, "_write", lambda *_: pytest.fail("judged again"))
    code, out, _ = run(capsys, *SMALL, *where, *EASY, "--json")
    again = json.loads(out)
    assert code == 0 and again["ready"] is True
    told = {key: value for key, value in document.items() if key not in ("checks", "made", "ready", "thresholds")}
    assert told == {key: again[key] for key in told}
    code, out, _ = run(capsys, *SMALL, *where, *EASY)
    assert code == 0 and "\nready\n" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "name one editor"),
        (("--editor", "tiny", "--group", 1), "at least 2"),
        (("--editor", "tiny", "--traces", 0), "1 to 64"),
        (("--editor", "tiny", "--reference", "/no/file"), "/no/file"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(capsys: Capture, tmp_path: Path, flags: tuple[object, ...], said: str) -> None:
    code, out, err = run(capsys, "--data", "editworld", "--contexts", 2, "--out", tmp_path / "out", *flags)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("flags", [("--traces", 4), ("--traces", 1, "--value", "verdicts")], ids=str)
def test_a_head_gives_one_number(capsys: Capture, tmp_path: Path, flags: tuple[object, ...]) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head/reward_head.json").write_text("{}")
    where = ("--model", tmp_path / "head", "--out", tmp_path / "out")
    code, out, err = run(capsys, "--data", "editworld", "--editor", "tiny", *where, *flags)
    assert (code, out) == (1, "") and "--traces 1 --value score" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([{"id": "a", "seed": 1, "score": 3}, {"id": 2, "score": 10.0}], {("a", 1): 3.0, ("2", 0): 10.0}),
        ([{"id": "a", "score": None}, {"id": "b", "score": 1}], {("b", 0): 1.0}),
        ([{"id": "a", "score": 11}], "no number from 0 to 10"),
        ([{"id": "a", "score": True}], "no number from 0 to 10"),
        ([{"id": "a", "seed": 1.5, "score": 1}], "no whole number"),
        ([{"score": 1}], "row 1"),
        ([{"id": "a", "score": 1}, {"id": "a", "score": 2}], "another score"),
        ([], "holds no score"),
        ({"id": "a", "score": float("nan")}, "no number from 0 to 10"),
    ],
    ids=str,
)
def test_references_are_read_or_refused(tmp_path: Path, content: Any, found: Any) -> None:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(content))
    if isinstance(found, dict):
        assert read_reference(path) == found
        path.write_text("\n".join(map(json.dumps, content)))
        assert read_reference(path) == found
    else:
        with pytest.raises(ValueError, match=found):
            read_reference(path)
