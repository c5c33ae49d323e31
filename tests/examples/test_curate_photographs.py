"""docs/curate.md as a newcomer does it: a folder of photographs, a served model, a data set that trains a verifier."""

from __future__ import annotations

import importlib.util
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edit_r1.cli import main
from edit_r1.records import CATEGORIES, Principle, Quadruple, Verdict
from edit_r1.store import QUADRUPLES, read_dataset, read_json
from edit_r1.verifier.traces import write_gold, write_principles, write_trace

ROOT = Path(__file__).parents[2]
PRINCIPLES = tuple(Principle(f"Is point {number} as it should be?", CATEGORIES[number % 3]) for number in range(6))
QUESTIONS = [one.question for one in PRINCIPLES]


def photograph(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Six photographs with instructions and an edit each; one row in German, one of a file that is not there."""
    folder = tmp_path / "photographs"
    (folder / "edits").mkdir(parents=True)
    rows: list[dict[str, str]] = []
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(photograph(number))
        (folder / "edits" / f"photo-{number}.jpg").write_bytes(photograph(100 + number))
        words = "Make the sky darker." if number < 5 else "Mache den Himmel dunkler."
        rows.append({"id": f"photo-{number}", "source": f"{number}.jpg", "instruction": words})
    rows.append({"id": "lost", "source": "lost.jpg", "instruction": "Remove the car."})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Model:
    """Answers as a strong model does: principles, traces with verdicts, gold; by what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any], number: int) -> str:
        content = body["messages"][-1]["content"]
        text = " ".join(part["text"] for part in content if part["type"] == "text")
        values = [1, 1, number % 2, 1, 0, 1]
        if "Output one JSON array" in text:
            kind, answer = "decompose", write_principles(PRINCIPLES, "full")
        elif "Reference judgments" in text:
            gold = [Verdict(1 if value else 0, "As seen.") for value in values]
            kind, answer = "gold", write_gold(gold, QUESTIONS)
        else:
            score = 2.0 + sum(values)
            kind, answer = "trace", write_trace(["As seen."] * 6, values, score, "both", "full", QUESTIONS)
        with self.lock:
            self.asked[kind] += 1
        return answer


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_from_photographs_to_a_trained_verifier(
    photographs: Path,
    fake_openai: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Model()
    monkeypatch.setenv("CURATE_ENDPOINT", fake_openai(model).url)
    monkeypatch.setenv("CURATE_MODEL", "strong")
    monkeypatch.setenv("CURATE_DATA", str(photographs))
    out = tmp_path / "cold"
    recipe = f"{ROOT / 'examples' / 'curate_photographs.py'}:photographs"
    assert run("curate", "run", recipe, "--out", out, "--chunks-at-once", 2) == 0
    assert model.asked == {"decompose": 5, "trace": 10, "gold": 5}
    selected: list[Quadruple] = read_dataset(out, "selected", QUADRUPLES)
    assert {one.context.sample.id for one in selected} == {f"photo-{number}" for number in range(5)}
    assert {one.candidate.editor for one in selected} == {"edits"}
    assert all(one.target is not None and one.context.sample.licence == "CC-BY-4.0" for one in selected)
    assert selected[0].candidate.image == (photographs / "edits" / "photo-0.jpg").read_bytes()
    told = read_json(out / "intake.json")
    assert told["failed"] == {
        "instruction: in another language (de)": 1,
        "source image: source 'lost.jpg': no such file": 1,
    }
    assert "licence of their picture and text: CC-BY-4.0 5" in (out / "selected" / "README.md").read_text()

    # The same command again asks nothing, and one more photograph costs that one.
    assert run("curate", "run", recipe, "--out", out) == 0
    assert sum(model.asked.values()) == 20
    with (photographs / "rows.jsonl").open("a") as file:
        file.write('{"id": "photo-0b", "source": "0.jpg", "instruction": "Remove the tree."}\n')
    (photographs / "edits" / "photo-0b.jpg").write_bytes(photograph(200))
    assert run("curate", "run", recipe, "--out", out) == 0
    assert model.asked == {"decompose": 6, "trace": 12, "gold": 6}

    assert run("train", "sft", "tiny_sft", "--data", out, "--out", tmp_path / "whole") == 1
    assert f"is a whole curation: give its quadruples, {out / 'selected'}" in capsys.readouterr().err
    assert run(
        "train", "sft", "tiny_sft", "--data", out / "selected", "--out", tmp_path / "sft", "--steps", 2,
        "--batch-size", 2,
    ) == 0  # fmt: skip
    assert (tmp_path / "sft" / "model" / "model.safetensors").exists()
    assert "licence of their picture and text: CC-BY-4.0 6" in (tmp_path / "sft" / "data_card.md").read_text()


def test_what_the_example_lacks_is_one_line(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CURATE_ENDPOINT", "CURATE_MODEL", "CURATE_EDITOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CURATE_DATA", str(photographs))
    recipe = ROOT / "examples" / "curate_photographs.py"
    command = ("curate", "run", f"{recipe}:photographs", "--out", tmp_path / "out")
    assert run(*command) == 1
    assert "CURATE_ENDPOINT is not set: the head of curate_photographs.py tells" in capsys.readouterr().err
    (photographs / "edits").rename(tmp_path / "elsewhere")
    assert run(*command) == 1
    assert f"no edits: set CURATE_EDITOR, or put ready ones into {photographs / 'edits'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_recipe_of_the_guide_word_for_word(
    photographs: Path,
    fake_openai: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With an editor behind an endpoint, which paints every picture darker."""
    http = load(ROOT / "tests" / "editors" / "test_http.py")

    def darker(form: dict[str, bytes], number: int) -> Any:
        return http.answered(*[http.encode_png(http.decode_rgb(form["image"]) // 2)] * int(form["n"]))

    guide = (ROOT / "docs" / "curate.md").read_text()
    recipe = guide.split("```python\n")[1].split("```")[0]
    model = Model()
    with http.serving(darker) as (editor, asked):
        ours = {"http://127.0.0.1:8000/v1": fake_openai(model).url, "http://127.0.0.1:8100/v1": editor}
        for address, own in ours.items():
            assert recipe.count(address) == 1
            recipe = recipe.replace(address, own)
        (tmp_path / "my_recipe.py").write_text(recipe)
        monkeypatch.chdir(tmp_path)
        assert run("curate", "intake", "my_recipe.py:photographs", "--out", "runs/cold", "--json") == 0
        assert json.loads(capsys.readouterr().out)["samples"] == 6 and not model.asked
        assert run("curate", "run", "my_recipe.py:photographs", "--out", "runs/cold", "--chunks-at-once", 2) == 0
        assert run("curate", "status", "runs/cold") == 0
    selected: list[Quadruple] = read_dataset(tmp_path / "runs" / "cold", "selected", QUADRUPLES)
    assert len(selected) == 6 == len(asked)  # the recipe takes every language
    assert {one.candidate.editor for one in selected} == {"my-editor"}
    assert all(one.context.sample.origin.startswith("rows.jsonl:") for one in selected)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_kit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
