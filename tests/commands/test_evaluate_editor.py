"""`edit-r1 evaluate editor` through `main`: the tiny editor on EditWorld, ready edits judged by a served model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.cli import main
from edit_r1.commands import editors
from edit_r1.images import encode_png
from edit_r1.world.samples import make_samples

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "editor", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def picture(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


EDITWORLD = ("--benchmark", "editworld", "--most", 3)


def test_the_tiny_editor_is_sampled_judged_and_compared(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--out", tmp_path / "out")
    code, out, _ = run(capsys, *EDITWORLD, *where, "--editor", "tiny", "--editor-steps", 2, "--json")
    first = json.loads(out)
    assert code == 0 and (first["editor"], first["edits"], first["scored"]) == ("tiny-kontext", 3, 3)
    assert first["judge"]["kind"] == "oracle" and first["main"] == "utility" and 0 <= first["official"]["utility"] <= 10
    monkeypatch.setattr(editors, "open_local_editor", lambda *_: pytest.fail("everything is on the disk"))
    code, out, _ = run(capsys, *EDITWORLD, *where, "--editor", "tiny", "--editor-steps", 2, "--json")
    assert code == 0 and json.loads(out) == first
    code, _, err = run(capsys, *EDITWORLD, *where, "--editor", "tiny", "--editor-steps", 3)
    assert code == 1 and "steps differ" in err
    # Edits that exist, here the oracle's own idea of nothing done: unedited copies.
    ready = tmp_path / "copies"
    ready.mkdir()
    for sample in make_samples(3, "test", 0, start=300_000):
        (ready / f"{sample.id}.png").write_bytes(sample.source)
    page = tmp_path / "page.html"
    code, out, _ = run(
        capsys, *EDITWORLD, *where, "--edits", ready, "--against", "tiny-kontext", "--html", page, "--json"
    )
    document = json.loads(out)
    assert code == 0 and document["mean"]["utility"] == 0
    found = document["comparison"]
    assert found["pairs"] == 3 and found["difference"] == pytest.approx(-first["mean"]["utility"])
    assert found["good"] + found["same"] + found["bad"] == 3 and found["good"] == 0
    assert found["official_difference"] == pytest.approx(-first["official"]["utility"])
    assert sum(one["pairs"] for one in found["kinds"].values()) == 3
    text = page.read_text()
    assert "copies against tiny-kontext" in text and text.count('<section class="row">') == 3 and "<script" not in text
    code, out, _ = run(capsys, *EDITWORLD, *where, "--edits", ready, "--against", "tiny-kontext")
    assert code == 0 and "A: copies, B: tiny-kontext, 3 pairs" in out and "A minus B" in out
    code, _, err = run(capsys, *EDITWORLD, *where, "--edits", ready, "--html", ready)
    assert code == 1 and "cannot be written" in err


def gedit(tmp_path: Path) -> tuple[Path, Path]:
    """Two rows of GEdit's columns as JSON lines would not do: Parquet, and a folder of edits in its official layout."""
    from edit_r1.store import write_rows

    features = {"task_type": "string", "key": "string", "instruction": "string", "instruction_language": "string",
                "input_image": "image"}  # fmt: skip
    rows = [
        {"task_type": "color_alter", "key": "a", "instruction": "<script>alert(1)</script> red",
         "instruction_language": "en", "input_image": picture(1)},
        {"task_type": "style_change", "key": "b", "instruction": "变成水彩", "instruction_language": "cn",
         "input_image": picture(2)},
    ]  # fmt: skip
    write_rows(tmp_path / "gedit.parquet", rows, features)
    edits = tmp_path / "model-x"
    for kind, language, key, level in (("color_alter", "en", "a", 100), ("style_change", "cn", "b", 200)):
        path = edits / "fullset" / kind / language / f"{key}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(level))
    return tmp_path / "gedit.parquet", edits


def test_gedit_by_a_served_model(capsys: Capture, tmp_path: Path, fake_openai: Callable[..., Any]) -> None:
    data, edits = gedit(tmp_path)

    def answer(body: dict[str, Any], number: int) -> str:
        pictures = sum(part["type"] == "image_url" for part in body["messages"][-1]["content"])
        if pictures == 1 and number < 3:
            return "a fine picture"
        return 'So: {"scores": [9, 4]}' if pictures == 2 else '{"scores": [9, 9]}'

    server = fake_openai(answer)
    model = ("--endpoint", server.url, "--model", "judge", "--concurrency", 1)
    where = ("--benchmark", "gedit", "--data", data, "--out", tmp_path / "out", "--edits", edits)
    page = tmp_path / "page.html"
    code, out, err = run(capsys, *where, *model, "--html", page, "--json")
    document = json.loads(out)
    assert code == 0, err
    assert document["official"] == {"SC": 4, "PQ": 9, "O": 6} and set(document["languages"]) == {"en", "cn"}
    assert list(document["languages"]["cn"]["categories"]) == ["style_change"]
    assert document["unparsed_answers"] >= 1 and document["unparsed"] == 0
    assert "not comparable with published numbers" in document["judge"]["note"]
    assert "<script>alert" not in page.read_text() and "变成水彩" in page.read_text()
    asked = len(server.bodies)
    assert run(capsys, *where, *model, "--json")[1] == out and len(server.bodies) == asked


def test_answers_that_stay_unreadable_are_told_and_not_replaced(
    capsys: Capture, tmp_path: Path, fake_openai: Callable[..., Any]
) -> None:
    data, edits = gedit(tmp_path)
    server = fake_openai(lambda body, number: "8 out of 10, I would say")
    code, out, err = run(
        capsys, "--benchmark", "gedit", "--data", data, "--out", tmp_path / "out", "--edits", edits,
        "--endpoint", server.url, "--model", "judge", "--retries", 1, "--json",
    )  # fmt: skip
    document = json.loads(out)
    assert code == 3 and "no answer could be read" in err
    assert document["official"] == {"SC": None, "PQ": None, "O": None} and document["unparsed"] == 2
    assert len(server.bodies) == 8


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--benchmark", "gedit", "--edits", "x"), "asks a vision-language model"),
        (("--benchmark", "folder", "--edits", "x"), "needs its data"),
        (("--benchmark", "editworld"), "name one editor"),
        (("--benchmark", "editworld", "--editor", "tiny", "--edits", "x"), "--editor, --edits are given"),
        (("--benchmark", "editworld", "--editor", "tiny", "--data", "x"), "leave it out"),
        (("--benchmark", "editworld", "--editor", "tiny", "--samples", 0), "at least 1 sample"),
        (("--benchmark", "editworld", "--editor", "tiny", "--retries", 99), "0 to 10 retries"),
        (("--benchmark", "folder", "--data", "/no/such", "--editor", "tiny"), "/no/such"),
        (("--benchmark", "folder", "--data", "/no/such", "--judge", "oracle", "--editor", "tiny"), "EditWorld only"),
        (("--benchmark", "editworld", "--most", 2, "--editor", "/no/editor"), "no editor that can be opened"),
        (("--benchmark", "editworld", "--most", 2, "--edits", "/no/edits"), "no such folder of edits"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(capsys: Capture, tmp_path: Path, flags: tuple[object, ...], said: str) -> None:
    code, out, err = run(capsys, "--out", tmp_path / "out", *flags)
    assert (code, out) == (1, "")
    assert said in err and err.startswith("edit-r1: ") and err.count("\n") == 1


def test_a_judge_that_shows_one_source_is_not_asked_about_two(capsys: Capture, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(1))
    row = {"source": ["a.png", "b.png"], "instruction": "Put b into a", "id": "two"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    where = ("--benchmark", "folder", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out", "--edits", tmp_path)
    asked = ("--judge", "imgedit", "--endpoint", "http://127.0.0.1:1/v1", "--model", "judge")
    code, out, err = run(capsys, *where, *asked)
    assert (code, out) == (1, "") and "task two has 2: use --judge viescore or verifier" in err and err.count("\n") == 1


def test_the_packaged_verifier_judges_editworld_only(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"source": "a.png", "instruction": "Make it red", "id": "a"}))
    where = ("--benchmark", "folder", "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out", "--edits", tmp_path)
    code, _, err = run(capsys, *where)
    assert code == 1 and "EditWorld" in err
