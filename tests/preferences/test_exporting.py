"""What other tools get: our JSON lines there and back, TRL's own collator, Label Studio's tasks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from edit_r1.preferences.exporting import export_preferences, trl_row
from edit_r1.preferences.importing import import_preferences
from edit_r1.records import Context, Preference, Principle, Rating
from edit_r1.store import PREFERENCES, read_dataset, read_rows

Make = Callable[..., Preference]
Write = Callable[..., Path]


def test_jsonl_comes_back_as_it_was_but_for_ids(tmp_path: Path, prefer: Make, dataset: Write, paint: object) -> None:
    plain = prefer(1, 2, "first")
    sample = replace(plain.context.sample, references=(plain.second.image,), split="validation", category="add")
    rich = Preference(
        Context(sample, (Principle("Is it there?", "Image Quality"),), "data", True), plain.first, plain.second, "same",
        "bob", True, "VQ", 0.25, 4, (Rating("overall", 5, 4),), "row 7",
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    folder = dataset(plain, rich, plain.swap())
    summary = export_preferences("jsonl", folder, tmp_path / "out", progress=lambda *rows: told.append(rows))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (summary.rows, summary.written, summary.same) == (3, 3, 1)
    import_preferences("jsonl", tmp_path / "out", tmp_path / "back")
    back = read_dataset(tmp_path, "back", PREFERENCES)
    for before, after in zip((plain, rich, plain.swap()), back, strict=True):
        names = replace(after.context.sample, id=before.context.sample.id)
        context = replace(after.context, sample=names)
        edits = [
            replace(new, id=old.id, sample_id=old.sample_id)
            for old, new in ((before.first, after.first), (before.second, after.second))
        ]
        assert replace(after, context=context, first=edits[0], second=edits[1]) == before
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 3, "a picture is written once"


def test_a_phones_photograph_is_exported_as_jpeg(tmp_path: Path, prefer: Make, dataset: Write) -> None:
    buffer = io.BytesIO()
    both = Image.new("RGB", (40, 32), "red")
    both.save(buffer, "MPO", save_all=True, append_images=[both])
    plain = prefer(1, 2)
    row = replace(plain, first=replace(plain.first, image=buffer.getvalue()))
    export_preferences("jsonl", dataset(row), tmp_path / "out")
    assert [path.read_bytes() for path in (tmp_path / "out").rglob("*.jpg")] == [buffer.getvalue()]


def test_trl_rows_pass_through_its_own_collator(tmp_path: Path, prefer: Make, dataset: Write) -> None:
    """Pictures stand before the text, source first; the answers differ and are what is trained on."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("trl")
    from transformers import AutoProcessor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    from edit_r1.zoo.packaged import weights

    folder = dataset(prefer(1, 2, "first"), prefer(3, 4, "same"), prefer(5, 6, "second"))
    summary = export_preferences("trl", folder, tmp_path / "pairs.parquet")
    assert (summary.written, summary.same) == (2, 1)
    export_preferences("trl", folder, tmp_path / "folder")
    assert read_rows(tmp_path / "folder" / "part-00000.parquet") == read_rows(tmp_path / "pairs.parquet")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache"))
    assert [rows[n]["chosen"][0]["content"] for n in (0, 1)] == ["first", "second"]
    assert [rows[n]["rejected"][0]["content"] for n in (0, 1)] == ["second", "first"]
    assert [len(rows[n]["images"]) for n in (0, 1)] == [3, 3] and rows[0]["images"][0].size == (40, 32)
    processor = AutoProcessor.from_pretrained(weights("verifier-small"))
    batch = DataCollatorForVisionPreference(processor)([rows[0], rows[1]])
    assert len(batch["input_ids"]) == 4, "two rows, chosen and rejected"
    assert len(batch["image_grid_thw"]) == 12, "three pictures for each"
    texts = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert ["first" in text for text in texts] == [True, False, False, True]


def test_a_row_of_several_sources_counts_its_pictures(prefer: Make) -> None:
    plain = prefer(1, 2, "second", aspect="consistency")
    sample = replace(plain.context.sample, references=(plain.first.image,))
    row = trl_row(replace(plain, context=replace(plain.context, sample=sample)))
    assert len(row["images"]) == 4
    text = row["prompt"][0]["content"]
    assert "Pictures 1 to 2 are the sources" in text and "Pictures 3 and 4" in text and "consistency" in text


def test_label_studio_has_a_task_a_pair_with_every_answer(tmp_path: Path, prefer: Make, dataset: Write) -> None:
    one = prefer(1, 2, "first", "ann", origin="p1")
    folder = dataset(one, replace(one.swap(), annotator="bob"), prefer(3, 4, "same"))
    out = tmp_path / "studio"
    assert export_preferences("label-studio", folder, out).written == 2
    tasks = json.loads((out / "tasks.json").read_text())
    assert (tasks[0]["data"]["first_editor"], tasks[0]["data"]["second_editor"]) == ("editor 1", "editor 0")
    answers = [[a["result"][0]["value"]["choices"] for a in task["annotations"]] for task in tasks]
    assert answers == [[["first"], ["first"]], [["same"]]], "bob saw them the other way round and chose the same one"
    assert tasks[0]["data"]["annotators"] == ["ann", "bob"] and tasks[0]["data"]["id"] == "p1"
    config = ElementTree.fromstring((out / "labeling_config.xml").read_text())
    values = {node.get("name"): node.get("value") for node in config.iter() if node.get("name")}
    for name, value in values.items():
        if name != "choice":
            assert value == f"${name}" and name in tasks[0]["data"]
    (choices,) = config.iter("Choices")
    result = tasks[0]["annotations"][0]["result"][0]
    assert (result["from_name"], result["to_name"], result["type"]) == ("choice", choices.get("toName"), "choices")
    assert {node.get("value") for node in choices} == {"first", "second", "same"}
    prefix = "/data/local-files/?d=studio/"
    for task in tasks:
        for name in ("source", "first", "second"):
            assert task["data"][name].startswith(prefix)
            assert (out / task["data"][name].removeprefix(prefix)).is_file()
    blind = export_preferences("label-studio", folder, tmp_path / "blind", blind=True, image_prefix="https://x/")
    tasks = json.loads((tmp_path / "blind" / "tasks.json").read_text())
    assert blind.written == 2 and all("annotations" not in task for task in tasks)
    assert not any("editor" in name for task in tasks for name in task["data"]), "blind to who made them, too"
    assert all(task["data"]["source"].startswith("https://x/images/") for task in tasks)


def test_nothing_is_overwritten_and_nothing_is_left(tmp_path: Path, prefer: Make, dataset: Write) -> None:
    folder = dataset(prefer(1, 2, "same"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for kind in ("jsonl", "trl", "label-studio"):
        with pytest.raises(ValueError, match="exists already"):
            export_preferences(kind, folder, tmp_path / "out")  # type: ignore[arg-type]
    for out in ("new", "new.parquet", "folder/new.parquet"):
        with pytest.raises(ValueError, match=r'pairs: nothing to write: .*1 are "same"'):
            export_preferences("trl", folder, tmp_path / out)
    with pytest.raises(ValueError, match="1 are of other splits"):
        export_preferences("jsonl", folder, tmp_path / "new", split="test")
    with pytest.raises(ValueError, match="not finished"):
        export_preferences("jsonl", tmp_path / "gone", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs", "pairs.done.json"]
