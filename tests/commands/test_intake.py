"""`edit-r1 curate intake`: a team's data are looked at, and nothing else is done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edit_r1.cli import main
from edit_r1.images import encode_png

RECIPE = """
from edit_r1.recipes.curation import HttpEditor, HttpEditorSettings, JoinedSamples, OpenAIVLM, cold_start, team_samples

def stage(samples):
    editor = HttpEditor("http://127.0.0.1:9/v1", HttpEditorSettings())
    return cold_start(samples, OpenAIVLM("http://127.0.0.1:9/v1", "m"), (editor,))

def mine():
    return stage(team_samples({data!r}))

def both():
    return stage(JoinedSamples([team_samples({data!r}), team_samples({data!r})]))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    data = tmp_path / "data"
    data.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    (data / "a.png").write_bytes(encode_png(noise))
    rows = [{"source": name, "instruction": "Blur it."} for name in ("a.png", "none.png")]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.py").write_text(RECIPE.format(data=str(data)))
    return str(tmp_path / "recipe.py")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_it_tells_what_is_taken_in(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("curate", "intake", f"{recipe}:mine", "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["samples"]) == (2, 1)
    assert told["failed"] == {"source image: source ...: no such file": 1}
    assert run("curate", "intake", f"{recipe}:mine", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "samples" in shown and "no such file" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".work", "intake.json"}
    assert run("curate", "intake", f"{recipe}:both", "--out", tmp_path / "out", "--json") == 0
    assert [part["samples"] for part in json.loads(capsys.readouterr().out)["parts"]] == [1, 0]


def test_what_cannot_be_looked_at_is_one_line(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("curate", "intake", "tiny_cold_start", "--out", tmp_path / "out") == 1
    assert "nothing to look at before a run" in capsys.readouterr().err
    (tmp_path / "data" / "a.png").unlink()
    assert run("curate", "intake", f"{recipe}:mine", "--out", tmp_path / "none") == 1
    assert "no row of the data became a sample (the first: source image, source 'a.png'" in capsys.readouterr().err
    (tmp_path / "other" / "samples").mkdir(parents=True)
    assert run("curate", "intake", f"{recipe}:mine", "--out", tmp_path / "other") == 1
    assert "was not made by this curation" in capsys.readouterr().err
