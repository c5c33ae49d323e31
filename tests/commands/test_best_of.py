"""`edit-r1 best-of` through `main`, with the packaged editor and verifier; and `score --html`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edit_r1.cli import main
from edit_r1.demo.showing import exact_principles
from edit_r1.world.samples import make_samples
from edit_r1.zoo.packaged import weights

Capture = pytest.CaptureFixture[str]
CONTEXT = make_samples(1, "validation", 0)[0]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    path.write_bytes(CONTEXT.source)
    rows = [{"question": one.question, "category": one.category} for one in exact_principles(CONTEXT)]
    (tmp_path / "principles.json").write_text(json.dumps(rows))
    return path


def test_edits_are_made_judged_and_kept(capsys: Capture, tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    code, text, _ = run(
        capsys, "best-of", source, "-i", CONTEXT.instruction, "--out", out, "--editor", weights("editor"),
        "--editor-steps", 4, "--samples", 2, "--retry", 1, "--principles", tmp_path / "principles.json", "--json",
    )  # fmt: skip
    document = json.loads(text)
    assert code == 0 and document == json.loads((out / "best_of.json").read_text())
    attempts = document["attempts"]
    assert [row["seed"] for row in attempts] == list(range(len(attempts)))
    assert all(Path(row["path"]).is_file() and row["error"] is None for row in attempts)
    assert document["score"] == max(row["score"] for row in attempts)
    best = next(row for row in attempts if row["score"] == document["score"])
    assert Path(document["best"]).read_bytes() == Path(best["path"]).read_bytes()
    if len(attempts) > 2:
        assert attempts[2]["round"] == 1 and attempts[2]["instruction"].startswith(CONTEXT.instruction)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "name one editor"),
        (("--editor", "x", "--editor-endpoint", "http://127.0.0.1:9/v1"), "name one editor"),
        (("--editor", "x", "--samples", "0"), "at least 1 sample"),
        (("--editor", "x", "--retry", "-1"), "at least 1 sample"),
        (("--editor", "x", "--traces", "0"), "1 to 64"),
        (("--editor-endpoint", "nowhere"), "give an address such as http://"),
        (("--editor", "/no/such/editor"), "no editor that can be opened"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    capsys: Capture, tmp_path: Path, source: Path, flags: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "best-of", source, "-i", CONTEXT.instruction, "--out", tmp_path / "out", *flags)
    assert (code, out) == (1, "")
    assert said in err and err.startswith("edit-r1: ") and err.count("\n") == 1


def test_a_full_folder_is_left_alone(capsys: Capture, tmp_path: Path, source: Path) -> None:
    code, _, err = run(capsys, "best-of", source, "-i", CONTEXT.instruction, "--out", tmp_path, "--editor", "x")
    assert code == 1 and "not an empty folder" in err


def test_an_editor_that_makes_no_picture_is_told(capsys: Capture, tmp_path: Path, source: Path) -> None:
    code, out, err = run(
        capsys, "best-of", source, "-i", CONTEXT.instruction, "--out", tmp_path / "out", "--samples", 1,
        "--editor-endpoint", "http://127.0.0.1:9/v1", "--principles", tmp_path / "principles.json",
    )  # fmt: skip
    assert code == 1 and "the editor made no picture" in err and "cannot be reached" in err
    assert json.loads((tmp_path / "out/best_of.json").read_text())["best"] is None


def test_score_writes_a_page(capsys: Capture, tmp_path: Path, source: Path) -> None:
    code, out, _ = run(
        capsys, "score", source, source, "-i", CONTEXT.instruction, "--principles", tmp_path / "principles.json",
        "--html", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    assert all(row["question"] in page for row in json.loads(out)["principles"])
    assert "0.0 % of the pixels changed" in page
