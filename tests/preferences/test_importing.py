"""Imports from files as they are published: every container, broken rows, and nothing left of a failure."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edit_r1.preferences.importing import ImportOptions, import_preferences
from edit_r1.preferences.pairs import training_pairs
from edit_r1.records import Preference
from edit_r1.store import PREFERENCES, Dataset, RowHashes, read_dataset, row_hash

Paint = Callable[..., bytes]
SKIP = ImportOptions(broken="skip")


def image(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


def editreward_rows(paint: Paint, count: int = 6) -> list[dict[str, Any]]:
    votes = ("leftvote", "rightvote", "tie")
    return [
        {
            "key": f"k{n // 2}", "unique_key": f"k{n // 2}-{n}", "pair_index": n % 2, "instruction": f"Do {n // 2}.",
            "source_img": image(paint(100 + n // 2)), "left_output_image": image(paint(2 * n)),
            "right_output_image": image(paint(2 * n + 1)), "left_model": "a_seed1", "right_model": "b",
            "left_overall_score": 6.0, "left_instruction_following_score": 3.0, "left_quality_aesthetic_score": 3.0,
            "right_overall_score": 5.0, "right_instruction_following_score": 3.0,
            "right_quality_aesthetic_score": 2.0, "vote_type": votes[n % 3], "metadata_index": n,
        }
        for n in range(count)
    ]  # fmt: skip


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def stored(folder: Path) -> list[Preference]:
    return read_dataset(folder.parent, folder.name, PREFERENCES)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_editreward_from_parquet_parts(tmp_path: Path, paint: Paint) -> None:
    rows = editreward_rows(paint)
    parquet(tmp_path / "hub/data/train-00000.parquet", rows[:4])
    parquet(tmp_path / "hub/data/train-00001.parquet", rows[4:])
    parquet(tmp_path / "hub/.cache/other.parquet", rows)
    told: list[int] = []
    summary = import_preferences("editreward", tmp_path / "hub", tmp_path / "out", progress=told.append)
    assert told == [6]
    assert (summary.rows, summary.written, summary.decided, summary.same, summary.broken) == (6, 6, 4, 2, 0)
    found = stored(tmp_path / "out")
    assert [one.origin for one in found] == [row["unique_key"] for row in rows]
    assert [one.choice for one in found] == ["first", "second", "same"] * 2
    assert found[0].first.image == paint(0) and len(found[0].ratings) == 3
    assert len({one.context.sample.id for one in found}) == 3
    assert summary.hash == RowHashes(row_hash(PREFERENCES.to_row(one)) for one in found).digest()
    assert len(training_pairs(found).pairs) == 4, '"same" stays in the data and out of training'


def test_vs_from_arrow_as_datasets_saves_it(tmp_path: Path, paint: Paint) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"key": ["a", "b"], "instruction": f"Do {n}.", "task_type": "add",
         "dimension": ("overall", "consistency")[n % 2], "input_image": image(paint(100)),
         "output_images": [image(paint(2 * n)), image(paint(2 * n + 1))]}
        for n in range(6)
    ]  # fmt: skip
    features = datasets.Features(
        key=datasets.List(datasets.Value("string")), instruction=datasets.Value("string"),
        task_type=datasets.Value("string"), dimension=datasets.Value("string"), input_image=datasets.Image(),
        output_images=datasets.List(datasets.Image()),
    )  # fmt: skip
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    summary = import_preferences("vs", tmp_path / "saved", tmp_path / "all")
    assert (summary.written, summary.order) == (6, "drawn")
    assert Dataset(tmp_path, "all", PREFERENCES).meta()["order"] == "drawn"
    assert {one.aspect for one in stored(tmp_path / "all")} == {"", "consistency"}
    whole = import_preferences("vs", tmp_path / "saved", tmp_path / "whole", ImportOptions(aspects=("overall",)))
    assert (whole.written, whole.left_out) == (3, 3)
    with pytest.raises(ValueError, match=r"none of 6 rows can be used.*--aspect"):
        import_preferences("vs", tmp_path / "saved", tmp_path / "none", ImportOptions(aspects=("VQ",)))
    with pytest.raises(ValueError, match="is of split 'test'"):
        training_pairs(stored(tmp_path / "all"))


def test_arrow_files_are_read_too(tmp_path: Path, paint: Paint) -> None:
    table = pa.Table.from_pylist(editreward_rows(paint, 3))
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert import_preferences("editreward", tmp_path / "rows.arrow", tmp_path / "out").written == 3


def test_compass_from_a_json_list_with_pictures_beside_it(tmp_path: Path, paint: Paint) -> None:
    rows = []
    (tmp_path / "bench/images").mkdir(parents=True)
    for name in ("s", "w", "l"):
        (tmp_path / f"bench/images/{name}.png").write_bytes(paint(ord(name)))
    for dimension, label in (("IA", "preference"), ("VQ", "tie")):
        rows.append({"source_image": "images/s.png", "prompt": "Make it warm.", "winner": "images/w.png",
                     "loser": "images/l.png", "label": label, "dimension": dimension})  # fmt: skip
    (tmp_path / "bench/reward.json").write_text(json.dumps(rows))
    summary = import_preferences("compass", tmp_path / "bench", tmp_path / "out")
    assert (summary.written, summary.same) == (2, 1)
    first = stored(tmp_path / "out")[0]
    assert first.winner is not None and first.winner.image == paint(ord("w"))


def write_jsonl(folder: Path, paint: Paint, *changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(paint(number))
    (folder / "cut.png").write_bytes(paint(5)[:200])
    usual = {"source": "0.png", "first": "1.png", "second": "2.png", "instruction": "Do it.", "choice": "first"}
    lines = [change if isinstance(change, str) else json.dumps(usual | change) for change in changes]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


BROKEN = ({}, {"second": "cut.png"}, "{", {"choice": "maybe"}, {"instruction": "Again."}, "[1]", {"first": "../x.png"})


def test_a_broken_row_ends_the_import_and_nothing_is_left(tmp_path: Path, paint: Paint) -> None:
    source = write_jsonl(tmp_path / "data", paint, *BROKEN)
    with pytest.raises(ValueError, match=r"pairs.jsonl: row 2: second edit: .*damaged.*--broken skip"):
        import_preferences("jsonl", source, tmp_path / "out")
    assert left(tmp_path) == ["data"]


def test_broken_rows_are_named_counted_and_left_out(tmp_path: Path, paint: Paint) -> None:
    source = write_jsonl(tmp_path / "data", paint, *BROKEN)
    summary = import_preferences("jsonl", source, tmp_path / "out", SKIP)
    assert (summary.rows, summary.written, summary.broken) == (7, 2, 5)
    assert [one.row for one in summary.reasons] == [2, 3, 4, 6, 7]
    named = [json.loads(line) for line in (tmp_path / "out.broken.jsonl").read_text().splitlines()]
    assert [one["row"] for one in named] == [2, 3, 4, 6, 7] and all(one["file"] == str(source) for one in named)
    assert [one.context.sample.instruction for one in stored(tmp_path / "out")] == ["Do it.", "Again."]
    with pytest.raises(ValueError, match=r"none of 1 rows can be used \(not valid JSON"):
        import_preferences("jsonl", write_jsonl(tmp_path / "data", paint, "{"), tmp_path / "none", SKIP)


def test_what_stands_there_is_never_overwritten(tmp_path: Path, paint: Paint) -> None:
    source = write_jsonl(tmp_path / "data", paint, {}, {"instruction": "Two."})
    import_preferences("jsonl", source, tmp_path / "out")
    before = (tmp_path / "out" / "part-00000.parquet").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        import_preferences("jsonl", source, tmp_path / "out")
    assert (tmp_path / "out" / "part-00000.parquet").read_bytes() == before
    assert import_preferences("jsonl", source, tmp_path / "one", ImportOptions(most_rows=1)).written == 1


def test_other_data_is_refused_with_what_it_is(tmp_path: Path, paint: Paint) -> None:
    path = parquet(tmp_path / "x.parquet", editreward_rows(paint, 1))
    with pytest.raises(ValueError, match=r"has no column source_image, candidate_1.*it has key, unique_key"):
        import_preferences("tiger", path, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        import_preferences("editreward", path, tmp_path / "out")
    for name, content, said in (
        ("a.json", "{}", "no list of rows"), ("b.json", "[", "not valid JSON"), ("c.arrow", "x", "cannot be read"),
        ("d.csv", "x", "ends in"),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=said):
            import_preferences("compass", tmp_path / name, tmp_path / "out")
    with pytest.raises(ValueError, match="no such file or folder"):
        import_preferences("compass", tmp_path / "gone", tmp_path / "out")
    path.unlink()
    (tmp_path / "c.arrow").unlink()
    with pytest.raises(ValueError, match=r"holds 2 \.json files"):
        import_preferences("compass", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="--most-rows -1"):
        import_preferences("compass", tmp_path, tmp_path / "out", ImportOptions(most_rows=-1))
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, paint: Paint) -> None:
    """The files of 600 rows are 24 MB, a row group of 100 rows is 4 MB, and some three of these are held."""
    picture = paint(1, 16, 16)
    for count in (5, 600):  # the first loads what is loaded once
        folder = tmp_path / f"data{count}"
        folder.mkdir()
        (folder / "s.png").write_bytes(picture)
        row = {"source": "s.png", "second": "s.png", "instruction": "x", "choice": "same"}
        with open(folder / "pairs.jsonl", "w") as file:
            for n in range(count):
                file.write(json.dumps(row | {"first": f"{n}.png"}) + "\n")
                # What stands after the end of a picture is not read by decoders, and makes its file another one.
                (folder / f"{n}.png").write_bytes(picture + b"\0" * 40_000 + n.to_bytes(4))
        tracemalloc.start()
        import_preferences("jsonl", folder, tmp_path / f"out{count}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 19e6
