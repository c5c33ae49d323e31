"""Training data of editors: every origin gives the same contexts, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from edit_r1.images import encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.store import CONTEXTS, write_dataset
from edit_r1.train.contexts import DataSettings, read_contexts

PRINCIPLES = [{"question": "Is it red?", "category": "Instruction Following"}]


def _png(value: int) -> bytes:
    return encode_png(np.full((8, 8, 3), value, np.uint8))


def _rows() -> list[dict]:
    """Three rows, pictures as bytes: with principles; with references and a category; with nothing further."""
    return [
        {"id": "a", "source": _png(0), "instruction": "make it red", "principles": PRINCIPLES},
        {"id": "b", "source": _png(1), "instruction": "add it", "references": [_png(2), _png(3)], "category": "add"},
        {"id": "c", "source": _png(4), "instruction": "cut it"},
    ]


def _expected() -> list[Context]:
    return [
        Context(Sample("a", _png(0), "make it red", ""), (Principle("Is it red?", "Instruction Following"),), "data"),
        Context(Sample("b", _png(1), "add it", "add", references=(_png(2), _png(3))), (), ""),
        Context(Sample("c", _png(4), "cut it", ""), (), ""),
    ]


def _jsonl(folder: Path, rows: list[dict]) -> Path:
    """Rows with their pictures as files beside the JSONL."""
    (folder / "pictures").mkdir(parents=True)
    written = 0

    def kept(picture: bytes) -> str:
        nonlocal written
        written += 1
        (folder / "pictures" / f"{written}.png").write_bytes(picture)
        return f"pictures/{written}.png"

    lines = []
    for row in rows:
        row = dict(row, source=kept(row["source"]))
        if "references" in row:
            row["references"] = [kept(one) for one in row["references"]]
        lines.append(json.dumps(row))
    (folder / "edits.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _saved() -> Dataset:
    features = Features({
        "id": Value("string"), "source": Image(), "instruction": Value("string"),
        "references": List(Image()), "category": Value("string"),
        "principles": List({"question": Value("string"), "category": Value("string")}),
    })  # fmt: skip
    columns = {name: [row.get(name) for row in _rows()] for name in features}
    columns["source"] = [{"bytes": one, "path": None} for one in columns["source"]]
    columns["references"] = [one and [{"bytes": image, "path": None} for image in one] for one in columns["references"]]
    return Dataset.from_dict(columns, features=features)


def test_a_folder_with_jsonl(tmp_path):
    found = read_contexts(str(_jsonl(tmp_path / "data", _rows())))
    assert found.contexts == _expected() and found.rows == 3 and found.skipped == {}
    assert read_contexts(str(tmp_path / "data" / "edits.jsonl")).contexts == _expected()


def test_foreign_parquet_with_other_names(tmp_path):
    rows = [{"original_image": {"bytes": row["source"], "path": None}, "edit_prompt": row["instruction"]}
            for row in _rows()]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    settings = DataSettings(source_column="original_image", instruction_column="edit_prompt")
    contexts = read_contexts(str(tmp_path), settings).contexts
    assert [(one.sample.source, one.sample.instruction) for one in contexts] == [
        (one.sample.source, one.sample.instruction) for one in _expected()
    ]
    assert len({one.sample.id for one in contexts}) == 3 and all(len(one.sample.id) == 16 for one in contexts)
    with pytest.raises(ValueError, match="no column source, instruction"):
        read_contexts(str(tmp_path))


def test_our_own_parquet_finished_or_copied(tmp_path):
    contexts = [
        Context(one.sample, one.principles or (Principle("Kept?", "Feature Preservation"),), "writer", True)
        for one in _expected()
    ]
    write_dataset(tmp_path, "contexts", contexts, CONTEXTS)
    assert read_contexts(str(tmp_path / "contexts")).contexts == contexts
    (tmp_path / "contexts.done.json").unlink()
    assert read_contexts(str(tmp_path / "contexts")).contexts == contexts


def test_a_folder_saved_by_datasets(tmp_path):
    _saved().save_to_disk(str(tmp_path / "one"))
    assert read_contexts(str(tmp_path / "one")).contexts == _expected()
    DatasetDict({"test": _saved()}).save_to_disk(str(tmp_path / "many"))
    assert read_contexts(str(tmp_path / "many"), DataSettings(split="test")).contexts == _expected()
    with pytest.raises(ValueError, match=r"no split 'train'; it has test: choose one with --split"):
        read_contexts(str(tmp_path / "many"))


def test_a_folder_in_the_hub_layout(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "data").mkdir(parents=True)
    _saved().to_parquet(str(tmp_path / "set" / "data" / "train-00000-of-00001.parquet"))
    assert read_contexts(str(tmp_path / "set")).contexts == _expected()
    with pytest.raises(ValueError, match="check the name, the split 'nothing'"):
        read_contexts(str(tmp_path / "set"), DataSettings(split="nothing"))
    with pytest.raises(ValueError, match="has no column original; it has id, source"):
        read_contexts(str(tmp_path / "set"), DataSettings(source_column="original"))


def test_a_name_on_the_hub_is_opened_by_datasets(monkeypatch):
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if name == "team/gone":
            raise ConnectionError("no\nnetwork")
        return _saved()

    monkeypatch.setattr("datasets.load_dataset", load)
    assert read_contexts("team/edits", DataSettings(split="dev", hub_config="small")).contexts == _expected()
    assert asked == [("team/edits", "small", "dev")]
    with pytest.raises(ValueError, match=r"team/gone: no such folder, nor a dataset on the hub .*no network"):
        read_contexts("team/gone")


def test_broken_rows_are_named_and_refused_or_left_out(tmp_path):
    rows = _rows()
    folder = _jsonl(tmp_path / "data", rows)
    lines = (folder / "edits.jsonl").read_text().splitlines()
    (folder / "pictures" / "torn.png").write_bytes(_png(0)[:40])
    bad = ['{"source": "pictures/torn.png", "instruction": "x"}', '{"source": "pictures/1.png"}', "{", lines[0],
           '{"source": "../../secret.png", "instruction": "x"}', '{"source": "pictures/1.png", "instruction": " "}',
           '{"source": "pictures/1.png", "instruction": "x", "principles": [{"question": "?"}]}', "[]"]  # fmt: skip
    (folder / "edits.jsonl").write_text("\n".join([*lines, *bad]) + "\n")
    with pytest.raises(ValueError, match=r"8 of 11 rows cannot be used \(row 4: source image: .*; row 5: has no instr.*"
                       r"and 5 more\): .*--broken skip"):  # fmt: skip
        read_contexts(str(folder))
    found = read_contexts(str(folder), DataSettings(broken="skip"))
    assert found.contexts == _expected() and found.rows == 11 and sorted(found.skipped) == list(range(4, 12))
    assert "not valid JSON" in found.skipped[6] and "id 'a' is that of row 1 too" in found.skipped[7]
    assert "outside" in found.skipped[8] and "empty" in found.skipped[9] and "malformed" in found.skipped[10]
    assert read_contexts(str(folder), DataSettings(most_rows=2)).contexts == _expected()[:2]


def test_equal_rows_without_ids_get_ids_of_their_own(tmp_path):
    row = {"source": _png(0), "instruction": "x"}
    contexts = read_contexts(str(_jsonl(tmp_path / "data", [row, row]))).contexts
    assert contexts[1].sample.id == f"{contexts[0].sample.id}-2"


@pytest.mark.parametrize(("data", "said"), [
    ("", "data is empty"), ("no/such/place", "no such file or folder"), ("gone.jsonl", "no such file or folder"),
])  # fmt: skip
def test_what_is_not_there(data, said):
    with pytest.raises(ValueError, match=said):
        read_contexts(data)


def test_files_without_rows(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_contexts(str(tmp_path))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be opened as a saved dataset"):
        read_contexts(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="most_rows=-1"):
        DataSettings(most_rows=-1)
