"""The pass of real pictures, on made ones: everything is tried, a rotated picture arrives upright, a rerun goes on."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCH = Path(__file__).parents[2] / "bench" / "real_pictures.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # stored lying, to be shown upright
    Image.fromarray(pixels).save(folder / "source.jpg", exif=orientation)
    for name, level in (("a", 40), ("b", 90)):
        Image.fromarray(np.rot90(np.clip(pixels.astype(int) + level, 0, 255).astype(np.uint8), -1)).save(
            folder / f"{name}.png"
        )
    row = {"id": "0", "instruction": "Light it", "source": "source.jpg", "edit_a": "a.png", "edit_b": "b.png"}
    (folder / "edits.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "more.json").write_text(json.dumps({"1": {"prompt": "Brighten it"}, "2": {"prompt": "左边变亮"}}))
    return folder


def steps(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()[1:]]


def test_a_stopped_pass_goes_on_and_sums_up(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, out = runpy.run_path(str(BENCH)), tmp_path / "out"
    assert bench["main"](data, out, most=1) == 0
    told = json.loads((out / "summary.json").read_text())
    assert (told["photographs"], told["instructions"], told["wrong"]) == (1, 2, [])
    assert told["sizes"] == [[[48, 64], [48, 64]]]
    assert told["ties"]["pairs"] == 0
    kinds = {"principles": 1, "score": 2, "rank": 1, "score-many": 1, "serve": 2}
    assert {name: group["steps"] for name, group in told["steps"].items()} == kinds
    assert "Light it" in (out / "prompts" / "judge-1.txt").read_text()
    assert "nothing went wrong" in capsys.readouterr().out

    lines = (out / "steps.jsonl").read_text().splitlines(keepends=True)
    spoiled = json.loads(lines[-1]) | {"right": False, "detail": "ended with 1"}  # the server's end, last of all
    (out / "steps.jsonl").write_text("".join([*lines[:-1], json.dumps(spoiled) + "\n", '{"step": "torn']))
    assert bench["main"](data, out, most=1) == 0
    assert [step["step"] for step in steps(out)] == [*(json.loads(line)["step"] for line in lines[1:]), "serve ends"]
    assert json.loads((out / "summary.json").read_text())["asked"] == told["asked"]
    with pytest.raises(ValueError, match="choose another --out"):
        bench["main"](data, out, most=2)
