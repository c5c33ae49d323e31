"""Pages of `evaluate editor` and `evaluate readiness`: hostile text stays text, both ends of a long list are shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.evaluate.editor_judges import Grade, Scale
from edit_r1.evaluate.editor_runs import GradedEdit, MadeEdit
from edit_r1.evaluate.editor_tables import comparison, editor_document
from edit_r1.evaluate.readiness_run import Probed
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.report.editor_page import interval, shown, signed, write_editor_page
from edit_r1.report.evaluation import editor_table, readiness_list
from edit_r1.report.readiness_page import write_readiness_page

HOSTILE = "<script>alert(1)</script>\x1b[2J‮ [bold]"


class Judge:
    kind, name, settings = "verifier", HOSTILE, {"prompts": "1"}
    scale = Scale("score", ("score",), 0, 10)
    note = f"{HOSTILE} note"


def picture(level: int, side: int = 16) -> bytes:
    return encode_png(np.full((side, side, 3), level, np.uint8))


def graded(tmp_path: Path, name: str, scores: list[float | None]) -> list[GradedEdit]:
    rows = []
    for n, score in enumerate(scores):
        path = tmp_path / f"{name}{n}.png"
        path.write_bytes(picture(n))
        edit = MadeEdit(Task(Sample(f"t{n}", picture(0), HOSTILE, HOSTILE), HOSTILE), 0, path)
        rows.append(GradedEdit(edit, Grade(score, {"score": score}, reason=None if score else "no JSON")))
    return rows


def test_a_page_of_two_editors(tmp_path: Path) -> None:
    new, old = graded(tmp_path, "a", [1.0, 9.0, 5.0, None]), graded(tmp_path, "b", [4.0, 2.0, 5.1, 3.0])
    document, other = (editor_document("x", "r", name, Judge(), rows, 2) for name, rows in (("a", new), (HOSTILE, old)))
    document["comparison"] = comparison(new, old, ("a", HOSTILE), Judge.scale)
    text = write_editor_page(tmp_path / "page.html", document, new, other, old).read_text()
    assert "<script>" not in text and "\x1b" not in text and "‮" not in text and "alert(1)" in text
    headings = [part.split("<")[0] for part in text.split("<h3 class=")[1:] for part in [part.partition(">")[2]]]
    assert headings == ["+7.00", "-0.10", "-3.00"]
    assert "1 of 4 edits have no score" in text and "with an answer that could not be read" in text
    shown_text = render(editor_table(document))
    assert "[bold]" in shown_text and "\x1b" not in shown_text and "1 whose answer could not be read" in shown_text


def test_both_ends_of_a_long_list(tmp_path: Path) -> None:
    rows = graded(tmp_path, "a", [float(n % 10) for n in range(9)])
    document = editor_document("x", "r", "a", Judge(), rows, 2)
    text = write_editor_page(tmp_path / "page.html", document, rows, most=3).read_text()
    assert text.count('<section class="row">') == 3 and "6 in the middle are left out" in text


@pytest.mark.parametrize(
    ("value", "told"), [(0.001, "0.00"), (-0.004, "0.00"), (1.5, "+1.50"), (-2, "-2.00"), (None, "–")]
)
def test_signs(value: float | None, told: str) -> None:
    assert signed(value) == told
    assert interval(None) == "–" and interval([0, 1]) == "0.00 to 1.00"


def test_pictures_are_bounded() -> None:
    assert shown("x", picture(3)).image.startswith(b"\x89PNG")
    assert shown("x", picture(3)).small
    large = shown("x", picture(3, 900))
    assert large.image.startswith(b"\xff\xd8") and not large.small


def readiness(passed: bool) -> dict[str, Any]:
    check = {"name": HOSTILE, "value": 1.0, "ci95": [0.5, 1.5], "threshold": 2.0, "told": f"costs {HOSTILE}",
             "remedy": HOSTILE, "asked": "required: at least 2"}  # fmt: skip
    return {
        "ready": passed, "judge": {"model": HOSTILE, "traces": 4, "value": "score"}, "editor": HOSTILE, "contexts": 8,
        "group": 4, "no_picture": 0, "lost": 0, "reference": None, "data": "d", "revision": "r", "made": "now",
        "checks": [{**check, "passed": passed}, {**check, "passed": None, "ci95": None}],
    }  # fmt: skip


def test_a_verdict_on_a_page_and_in_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "edit.png"
    path.write_bytes(picture(9))
    edit = MadeEdit(Task(Sample("t", picture(1), HOSTILE, "")), 0, path)
    probed = [Probed(edit.task, edit, 8.0, {"blur": picture(5)}, {"blur": None if n else 7.0}, HOSTILE) for n in (0, 1)]
    for passed in (True, False):
        text = write_readiness_page(tmp_path / "page.html", readiness(passed), probed).read_text()
        assert "<script>" not in text and "\x1b" not in text and text.count("<img") == 6
        assert ("Not ready" in text) != passed and ("missed" in text) != passed
        told = render(readiness_list(readiness(passed)))
        assert "\x1b" not in told and ("not ready: 1 failed" in told) != passed
        assert "never came" not in text + told
    part = readiness(True) | {"no_picture": 2, "lost": 5}
    both = write_readiness_page(tmp_path / "p.html", part, []).read_text(), render(readiness_list(part))
    assert all("2 edits have no picture, 5 traces never came" in " ".join(one.split()) for one in both)
    assert "No context has an edit" in write_readiness_page(tmp_path / "p.html", readiness(True), []).read_text()


def render(what: Any) -> str:
    console = Console(width=80, force_terminal=False, color_system=None, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()
