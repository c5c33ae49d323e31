"""Readers of editor benchmarks on small files of the published shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.evaluate.editor_benchmarks import FOLDER, GEDIT, IMGEDIT, Task, benchmark_of, read_benchmark
from edit_r1.images import encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.store import CONTEXTS, write_dataset, write_rows


def picture(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


GEDIT_FEATURES = {
    "task_type": "string", "key": "string", "instruction": "string", "instruction_language": "string",
    "input_image": "image", "input_image_raw": "image", "Intersection_exist": "bool",
}  # fmt: skip


def gedit_row(n: int, language: str, kind: str = "color_alter", **changes: object) -> dict[str, object]:
    row = {
        "task_type": kind, "key": f"k{n}", "instruction": f"edit {n} {language}", "instruction_language": language,
        "input_image": picture(n), "input_image_raw": picture(100 + n), "Intersection_exist": n % 2 == 0,
    }  # fmt: skip
    return {**row, **changes}


def test_gedit_as_on_the_hub(tmp_path: Path) -> None:
    rows = [gedit_row(0, "en"), gedit_row(0, "cn"), gedit_row(1, "zh", "subject-add")]
    write_rows(tmp_path / "data" / "train-00000-of-00001.parquet", rows, GEDIT_FEATURES)
    read = read_benchmark(GEDIT, str(tmp_path))
    assert [task.sample.id for task in read.tasks] == ["en-k0", "cn-k0", "zh-k1"]
    assert [task.language for task in read.tasks] == ["en", "cn", "cn"]
    assert [task.intersection for task in read.tasks] == [True, True, False]
    assert read.tasks[2].sample.category == "subject-add"
    assert read.tasks[0].sample.source == picture(100) and read.tasks[0].sample.source is read.tasks[1].sample.source
    assert read.tasks[2].ready == ("fullset/subject-add/zh/k1", "subject-add/zh/k1")
    assert read_benchmark(GEDIT, str(tmp_path / "data")).revision == read.revision
    assert [task.sample.id for task in read.of_language("cn").tasks] == ["cn-k0", "zh-k1"]
    assert read.of_language(None) is read
    with pytest.raises(ValueError, match="languages are cn, en"):
        read.of_language("fr")


def test_gedit_as_datasets_saves_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_rows(tmp_path / "one.parquet", [gedit_row(0, "en")], GEDIT_FEATURES)
    table = datasets.load_dataset("parquet", data_files=str(tmp_path / "one.parquet"), split="train",
                                  cache_dir=str(tmp_path / "cache"))  # fmt: skip
    table.save_to_disk(str(tmp_path / "saved"))
    read = read_benchmark(GEDIT, str(tmp_path / "saved"))
    assert read.tasks[0].sample.source == picture(100)
    assert read.revision == read_benchmark(GEDIT, str(tmp_path / "one.parquet")).revision


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction_language": "fr"}, "'fr'"),
        ({"instruction": ""}, "no instruction"),
        ({"input_image": None, "input_image_raw": None}, "neither input_image_raw nor input_image"),
        ({"input_image_raw": b"no picture"}, "source image"),
        ({"key": "k0"}, "two tasks have the id 'en-k0'"),
    ],
    ids=str,
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    rows = [gedit_row(0, "en"), gedit_row(1, "en", **change)]
    write_rows(tmp_path / "gedit.parquet", rows, GEDIT_FEATURES)
    with pytest.raises(ValueError, match=said) as told:
        read_benchmark(GEDIT, str(tmp_path / "gedit.parquet"))
    assert "two tasks" in said or "row 2" in str(told.value)


def test_imgedit_folder(tmp_path: Path) -> None:
    (tmp_path / "Basic" / "animal").mkdir(parents=True)
    (tmp_path / "Basic" / "animal" / "0.png").write_bytes(picture(3))
    entries = {"12": {"id": "animal/0.png", "prompt": "Add a hat", "edit_type": "add"}}
    (tmp_path / "Basic" / "basic_edit.json").write_text(json.dumps(entries))
    (task,) = read_benchmark(IMGEDIT, str(tmp_path)).tasks
    assert (task.sample.id, task.sample.category, task.ready) == ("12", "add", ("12",))
    assert task.sample.source == picture(3) and task.intersection is None
    for wrong, said in (
        ({"1": {"id": "../../x.png", "prompt": "a", "edit_type": "b"}}, "outside the data's folder"),
        ({"1": {"id": "animal/none.png", "prompt": "a", "edit_type": "b"}}, "no such file"),
        ({"1": {"prompt": "a", "edit_type": "b"}}, "has no id"),
        ({"1": 3}, "has no id"),
        ([], "found list"),
        ({}, "holds no rows"),
    ):
        (tmp_path / "Basic" / "basic_edit.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=said):
            read_benchmark(IMGEDIT, str(tmp_path))


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [
        {"source": "a.png", "instruction": "Make it red", "category": "colour", "language": "en", "edited": "b.png",
         "principles": [{"question": "Is it red?", "category": "Instruction Following"}]},
        {"source": ["a.png", "a.png"], "instruction": "Make it blue", "id": 7},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read_benchmark(FOLDER, str(tmp_path)).tasks
    assert first.principles == (Principle("Is it red?", "Instruction Following"),) and first.language == "en"
    assert (second.sample.id, second.ready, second.principles) == ("7", ("7",), None)
    assert second.sample.references == (picture(1),)


def test_contexts_of_our_stages(tmp_path: Path) -> None:
    sample = Sample("s", picture(1), "Make it red", "colour")
    principles = (Principle("Is it red?", "Instruction Following"),)
    write_dataset(tmp_path, "contexts", [Context(sample, principles, "us")], CONTEXTS)
    (task,) = read_benchmark(FOLDER, str(tmp_path / "contexts")).tasks
    assert task.sample == sample and task.principles == principles


@pytest.mark.parametrize("name", [GEDIT, IMGEDIT, FOLDER])
def test_what_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    for data in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError) as told:
            read_benchmark(name, str(data))
        assert str(data) in str(told.value)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(0, 50))
def test_a_part_keeps_both_ends_and_the_revision(count: int, most: int) -> None:
    whole = benchmark_of("x", [Task(Sample(str(n), b"p", f"edit {n}", "")) for n in range(count)])
    part = whole.part(most)
    ids = [task.sample.id for task in part.tasks]
    assert len(ids) == (count if not most else min(most, count)) and part.revision == whole.revision
    assert ids == sorted(set(ids), key=int) and ids[0] == "0"
    with pytest.raises(ValueError, match="--most -1"):
        whole.part(-1)
