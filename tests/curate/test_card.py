"""The card of a curation: its figures are those of the summary, its head opens every data set, its text is harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from edit_r1.curate import card as module
from edit_r1.curate.card import EXAMPLES, write_card
from edit_r1.curate.ensemble import Ensemble
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.run import curate
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.curate.tables import PICKS, Pick
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Sample
from edit_r1.store import read_json, write_dataset, write_json
from edit_r1.store.cards import markdown_text
from edit_r1.vlm.protocol import Request

NASTY = "make it <script>alert(1)</script> | ![x](http://evil.example/p.png) `blue`\n# now"


@pytest.fixture(scope="module")
def made(scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[CurateStage, Path]:
    stage = scripted.build(10)
    given = [one for one in stage.samples.rows(0, 10) if isinstance(one, Sample)]
    samples = [replace(one, instruction=NASTY, category=f"kind | {i % 2}", licence="CC0-1.0" if i % 2 else "")
               for i, one in enumerate(given)]  # fmt: skip
    stage = replace(stage, samples=GivenSamples(tuple(samples)), ensemble=Ensemble(pool=True))
    out = tmp_path_factory.mktemp("card") / "my data"
    curate(stage, out)
    write_card(stage, out)
    return stage, out


def parts(out: Path) -> tuple[dict[str, Any], str]:
    _, head, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_figures_are_those_of_the_summary(made: tuple[CurateStage, Path]) -> None:
    _, out = made
    _, body = parts(out)
    summary = read_json(out / "summary.json")
    for step, rows in summary["rows"].items():
        assert f"| `{step}` | {rows:,} | {sum(summary['failed'][step].values()):,} |" in body
    assert f"| `votes` | {summary['beside']['votes']['rows']:,} |" in body
    cause, count = next(iter(summary["failed"]["traces"].items()))
    assert f"| `traces` | {markdown_text(cause)} | {count} |" in body
    gold = summary["agreement"]["gold"]["j1"]
    assert f"| j1 | {gold['units']:,} | {gold['raw']:.3f}" in body
    kept = summary["filters"]["kept"]
    assert f"| kept | {kept['traces']:,} |" in body and f"{kept['mean_score']:.2f}" in body
    assert "| kind \\| 0 | 5 |" in body and "| CC0-1.0 | 5 |" in body
    assert "Some or all of it is simulated" in body and "Gold by the votes of the verifiers and of the judges" in body
    assert "temperature 1, top-p" in body and "prompts full-" in body


def test_every_data_set_opens_by_the_head(made: tuple[CurateStage, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    _, out = made
    head, _ = parts(out)
    summary = read_json(out / "summary.json")
    names = [config["config_name"] for config in head["configs"]]
    assert names[0] == "selected" and head["configs"][0]["default"] and set(names) >= {"traces", "votes", "findings"}
    for name in ("selected", "votes"):
        opened = datasets.load_dataset(str(out), name, split="train", cache_dir=str(tmp_path))
        assert len(opened) == (summary["rows"] | {"votes": summary["beside"]["votes"]["rows"]})[name]


def test_text_of_the_data_is_shown_and_never_read(made: tuple[CurateStage, Path]) -> None:
    _, out = made
    _, body = parts(out)
    assert "\\<script\\>" in body and "<script>" not in body
    assert "http://evil" not in body and "\n# now" not in body
    pictures = sorted((out / "card-examples").iterdir())
    assert len(pictures) == 2 * EXAMPLES == body.count("](card-examples/")
    assert all(decode_rgb(picture.read_bytes()).shape == (8, 8, 3) for picture in pictures)


def test_a_card_that_was_changed_by_hand_stays(made: tuple[CurateStage, Path]) -> None:
    stage, out = made
    before = (out / "README.md").read_text(encoding="utf-8")
    assert write_card(stage, out) == out / "README.md"
    assert (out / "README.md").read_text(encoding="utf-8") == before
    mine = before.replace("# choose a licence", "license: cc0-1.0 # chose a licence", 1)
    (out / "README.md").write_text(mine, encoding="utf-8")
    assert write_card(stage, out) == out / "CARD.md"
    assert (out / "README.md").read_text(encoding="utf-8") == mine
    new = (out / "CARD.md").read_text(encoding="utf-8")
    assert new.replace("new-card-examples/", "card-examples/") == before and new != before
    (out / "README.md").write_text(before, encoding="utf-8")


def test_a_card_that_stays_keeps_its_pictures(scripted: ModuleType, tmp_path: Path) -> None:
    stage = scripted.build(4)
    curate(stage, tmp_path)
    write_card(stage, tmp_path)
    shown = {path.name: path.read_bytes() for path in (tmp_path / "card-examples").iterdir()}
    with (tmp_path / "README.md").open("a", encoding="utf-8") as file:
        file.write("\nOur own words.\n")
    grown = scripted.build(9)
    curate(grown, tmp_path)
    assert write_card(grown, tmp_path) == tmp_path / "CARD.md"
    assert {path.name: path.read_bytes() for path in (tmp_path / "card-examples").iterdir()} == shown
    others = {path.name: path.read_bytes() for path in (tmp_path / "new-card-examples").iterdir()}
    assert others.keys() == shown.keys() and others != shown


def test_a_kill_before_the_card_is_written_takes_nobody_s_card_for_changed(
    scripted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = scripted.build(2)
    curate(stage, tmp_path)
    write_card(stage, tmp_path)
    grown = scripted.build(4)
    curate(grown, tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            write_card(grown, tmp_path)
    assert write_card(grown, tmp_path) == tmp_path / "README.md"
    assert "Given were 4 samples" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_curation_without_rows_has_a_card(scripted: ModuleType, tmp_path: Path) -> None:
    stage = replace(scripted.build(1), samples=GivenSamples((Sample("torn", b"no picture", "Make it blue.", ""),)))
    curate(stage, tmp_path)
    text = write_card(stage, tmp_path).read_text(encoding="utf-8")
    assert "## Examples" not in text and yaml.safe_load(text.split("---\n")[1])["configs"] is None


def test_what_intake_and_its_filter_did_is_told(scripted: ModuleType, tmp_path: Path) -> None:
    stage = scripted.build(2)
    curate(stage, tmp_path)
    write_json(tmp_path / "intake.json", {"rows": 1234, "simple": 7, "asked": 0, "failed": {"size: too small": 3}})
    write_dataset(tmp_path, "picks", [Pick("key", "row-0", "", "Make it.", True, "", "Two steps.", "filter")], PICKS)
    text = write_card(stage, tmp_path).read_text(encoding="utf-8")
    assert "| rows | 1,234 |" in text and "| simple | 7 |" in text and "| asked |" not in text
    assert "| `picks` | 1 |" in text and '"picks/*.parquet"' in text


def test_the_filter_and_its_decisions_are_told(scripted: ModuleType, kit: Any, tmp_path: Path) -> None:
    """One request is hard, one is simple, and of one the filter says neither."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)))
    rows = [{"source": "a.png", "instruction": f"Do {number} things."} for number in range(3)]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(request: Request, draw: int) -> str:
        hard = {"Do 0": "true", "Do 1": "false", "Do 2": '"who knows"'}[request.text.split("Instruction: ")[1][:4]]
        return f'{{"reason": "So it is.", "hard": {hard}, "category": "other"}}'

    stage = replace(scripted.build(1), samples=team_samples(data, hard=HardFilter(kit.VLM("picker", answer))))
    curate(stage, tmp_path / "out")
    text = write_card(stage, tmp_path / "out").read_text(encoding="utf-8")
    assert "- Filter of hard instructions: picker, prompts hard-1, greedy, 256 tokens at most\n" in text
    assert "| `picks` | 3 | 1 |" in text and "| simple | 1 |" in text
