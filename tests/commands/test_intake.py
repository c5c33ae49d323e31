"""`edit-r1 curate intake`: a team's data are looked at, and nothing else is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.cli import main
from edit_r1.images import encode_png

RECIPE = """
from edit_r1.recipes.curation import (
    HardFilter, HttpEditor, HttpEditorSettings, JoinedSamples, OpenAIVLM, Prices, cold_start, team_samples,
)

def stage(samples):
    editor = HttpEditor("http://127.0.0.1:9/v1", HttpEditorSettings())
    return cold_start(samples, OpenAIVLM("http://127.0.0.1:9/v1", "m"), (editor,))

def mine():
    return stage(team_samples({data!r}))

def hard():
    judge = OpenAIVLM({url!r}, "filter", prices=Prices(0.0, 1e6), max_retries=0)
    return stage(team_samples({data!r}, hard=HardFilter(judge, at_once=4)))

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
    (tmp_path / "recipe.py").write_text(RECIPE.format(data=str(data), url="http://127.0.0.1:9/v1"))
    return str(tmp_path / "recipe.py")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_it_tells_what_is_taken_in(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("curate", "intake", f"{recipe}:mine", "--out", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["samples"]) == (2, 1)
    assert told["failed"] == {"source image: source 'none.png': no such file": 1}
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


def test_a_budget_ends_the_pass_and_a_higher_one_goes_on(
    recipe: str, fake_openai: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = fake_openai(lambda body, number: '{"reason": "Two steps.", "hard": true, "category": "multi-step"}')
    data, out = tmp_path / "data", tmp_path / "out"
    rows = [{"source": "a.png", "instruction": f"Blur it {number} times."} for number in range(12)]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(recipe).write_text(RECIPE.format(data=str(data), url=server.url))
    asked = ("curate", "intake", f"{recipe}:hard", "--out", out)
    assert run(*asked, "--budget-requests", 5) == 1
    told = capsys.readouterr().err
    assert "the budget of 5 (requests) is spent: 5 requests" in told and told.count("\n") == 1
    assert len(server.bodies) == 5
    assert run("curate", "status", out) == 1  # there is no chunk yet, but money was spent
    assert "its data are being looked at, or a run was stopped meanwhile (5 requests, " in capsys.readouterr().err
    assert run(*asked, "--budget", 1) == 1  # the other models tell no price
    assert "tells no price" in capsys.readouterr().err
    assert run(*asked, "--budget-tokens", -1) == 1
    assert "tokens=-1" in capsys.readouterr().err
    assert run(*asked, "--budget-tokens", 10_000) == 0
    shown = capsys.readouterr().out
    assert run("curate", "status", out) == 1
    assert "no chunk was begun (12 requests, " in capsys.readouterr().err
    assert "asked" in shown and "filter" in shown and "48.00 spent" in shown and "budget 10,000 (tokens)" in shown
    assert len(server.bodies) == 12 == len({repr(body) for body in server.bodies})
    assert run(*asked, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["asked"], document["spent"]["requests"]) == (12, 12, 12)
    assert not list((out / ".work" / "kept").glob("picks-*"))
