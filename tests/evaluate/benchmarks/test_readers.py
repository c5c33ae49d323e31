"""The official layouts are read as they lie on the hub; what is not the benchmark is refused by row."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from edit_r1.evaluate.benchmarks.compass import COMPASS
from edit_r1.evaluate.benchmarks.pair import Benchmark, BenchPair, open_benchmark
from edit_r1.evaluate.benchmarks.pairs import PAIRS
from edit_r1.evaluate.benchmarks.tiger import TIGER
from edit_r1.evaluate.benchmarks.vs import VS
from edit_r1.evaluate.judging import at_size_of
from edit_r1.images import image_size
from edit_r1.records import CATEGORIES, Candidate, Context, Preference, Principle, Sample
from edit_r1.store import PREFERENCES, write_dataset
from edit_r1.store.hashes import RowHashes
from edit_r1.store.stages import Dataset

_spec = importlib.util.spec_from_file_location("layouts", Path(__file__).with_name("conftest.py"))
assert _spec is not None and _spec.loader is not None
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def read(benchmark: Benchmark, data: object, **options: Any) -> list[BenchPair]:
    return list(open_benchmark(benchmark, str(data), **options).pairs)


def test_vs_as_parquet_and_as_saved_by_datasets(layouts: Any, tmp_path: Path) -> None:
    parquet = read(VS, layouts("vs", tmp_path / "hub"))
    made.vs_table().save_to_disk(tmp_path / "saved")
    assert read(VS, tmp_path / "saved") == parquet
    assert read(VS, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet") == parquet
    assert [(one.task, one.dimension, one.label) for one in parquet] == [
        (row["task_type"], row["dimension"], "first") for row in made.VS_ROWS
    ]
    assert [(made.level_of(one.first), made.level_of(one.second)) for one in parquet] == [
        row["levels"] for row in made.VS_ROWS
    ]
    assert {one.instruction for one in parquet} == {f"make it brighter {n}" for n in range(7)}
    assert open_benchmark(VS, str(tmp_path / "hub")).rows == 7


def test_the_hash_is_of_the_rows_whatever_their_order(tmp_path: Path) -> None:
    hashes = []
    for name, rows in (("a", made.VS_ROWS), ("b", made.VS_ROWS[::-1])):
        table = made.vs_table()
        table = table.select(range(7)[:: 1 if rows is made.VS_ROWS else -1])
        table.save_to_disk(tmp_path / name)
        hashes.append(RowHashes(one.hash for one in read(VS, tmp_path / name)).digest())
    assert hashes[0] == hashes[1]
    made.vs_table(made.VS_ROWS[:-1]).save_to_disk(tmp_path / "c")
    assert RowHashes(one.hash for one in read(VS, tmp_path / "c")).digest() != hashes[0]


def test_edits_of_vs_are_brought_to_the_sources_size() -> None:
    assert image_size(at_size_of(made.picture(1, side=24), made.picture(9, side=16))) == (24, 24)
    same = made.picture(9, side=16)
    assert at_size_of(made.picture(1, side=16), same) is same


def test_tiger_groups_letters_and_ties(layouts: Any, tmp_path: Path) -> None:
    found = read(TIGER, layouts("tiger", tmp_path / "hub"))
    assert len(found) == 4 + 2 * 3 + 6
    assert [one.label for one in found[:4]] == ["first", "second", "tie", "tie"]
    third = [one for one in found if one.group == "00000004"]
    assert [(one.names, one.label) for one in third] == [
        (("A", "B"), "first"), (("A", "C"), "second"), (("B", "C"), "second"),
    ]  # fmt: skip
    assert [one.candidates for one in found] == [2] * 4 + [3] * 6 + [4] * 6
    assert open_benchmark(TIGER, str(tmp_path / "hub")).rows == 16


def tiger_row(**changed: Any) -> Any:
    return made.tiger_rows()[4] | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ranking": "A>C"}, "expected A>B"),
        ({"ranking": "left"}, "ranking 'left'"),
        ({"ranking": None}, "ranking is empty"),
        ({"num_candidates": 5}, "expected 2, 3 or 4"),
        ({"comparison_type": "AvsD"}, "letters ABC"),
        ({"comparison_type": "", "id": "x"}, "letters ABC"),
        ({"candidate_1": {"bytes": b"x", "path": None}}, "first edit: "),
        ({"candidate_2": None}, "second edit of type NoneType"),
        ({"instruction": " "}, "instruction is empty"),
    ],
)
def test_a_malformed_row_of_tiger_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    write = tmp_path / "hub"
    made.write_tiger(write, [tiger_row(), tiger_row(**changed)])
    with pytest.raises(ValueError, match=r"row 2: .*: mend or download it again") as error:
        read(TIGER, write)
    assert said in str(error.value)


def test_a_whole_order_stands_for_each_of_its_pairs(tmp_path: Path) -> None:
    made.write_tiger(tmp_path / "hub", [row | {"ranking": "C > A > B"} for row in made.tiger_rows()[4:7]])
    assert [one.label for one in read(TIGER, tmp_path / "hub")] == ["first", "second", "second"]


def test_compass(layouts: Any, tmp_path: Path) -> None:
    folder = layouts("compass", tmp_path / "hub")
    found = read(COMPASS, folder)
    assert found == read(COMPASS, folder / "EditReward-Compass.json")
    assert [(one.dimension, one.label) for one in found] == [
        (dimension, "tie" if label == "tie" else "first") for dimension, label, *_ in made.COMPASS_ROWS
    ]
    (folder / "images" / "3_loser.png").unlink()
    with pytest.raises(ValueError, match=r"row 4: second edit 'images/3_loser.png': no such file"):
        read(COMPASS, folder)


def test_pictures_outside_the_data_are_refused(tmp_path: Path) -> None:
    folder = made.write_compass(tmp_path / "hub")
    rows = json.loads((folder / "EditReward-Compass.json").read_text())
    (tmp_path / "secret.png").write_bytes(made.picture(7))
    rows[0]["winner"] = "../secret.png"
    (folder / "EditReward-Compass.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="outside the data's folder"):
        read(COMPASS, folder)
    assert made.level_of(read(COMPASS, folder, allow_outside=True)[0].first) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "maybe"}, "label is 'maybe'"),
        ({"dimension": "XX"}, "expected one of IA, VC, VQ"),
        ({"prompt": 7.5}, "prompt of type float"),
        ({"winner": None}, "first edit of type NoneType"),
    ],
)
def test_a_malformed_row_of_compass_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = made.write_compass(tmp_path / "hub")
    rows = json.loads((folder / "EditReward-Compass.json").read_text())
    rows[1] |= change
    (folder / "EditReward-Compass.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="row 2: ") as error:
        read(COMPASS, folder)
    assert said in str(error.value)


def preferences() -> list[Preference]:
    sample = Sample("s", made.picture(50), "make it brighter", "tone transformation", split="test")
    context = Context(sample, (Principle("Is it brighter?", CATEGORIES[0]),), "test")
    a, b = (Candidate(name, "s", made.picture(level), "e", 0) for name, level in (("a", 90), ("b", 200)))
    return [Preference(context, a, b, choice, "test") for choice in ("second", "same", "first")]  # type: ignore[arg-type]


def test_our_own_pairs_as_a_stage_and_as_bare_parquet(tmp_path: Path) -> None:
    write_dataset(tmp_path, "pairs", preferences(), PREFERENCES)
    own = open_benchmark(PAIRS, str(tmp_path / "pairs"))
    found = list(own.pairs)
    assert (own.rows, [one.label for one in found]) == (3, ["second", "tie", "first"])
    assert found[0].principles == preferences()[0].context.principles
    assert RowHashes(one.hash for one in found).digest() == Dataset(tmp_path, "pairs", PREFERENCES).meta()["hash"]
    (tmp_path / "pairs.done.json").unlink()
    assert read(PAIRS, tmp_path / "pairs") == found


@pytest.mark.parametrize("benchmark", [VS, TIGER, COMPASS, PAIRS], ids=lambda one: one.name)
def test_data_that_is_none(benchmark: Benchmark, tmp_path: Path) -> None:
    for name, text, said in [
        ("a.json", "{}", "dict where a list"),
        ("b.json", "[]", "holds no rows"),
        ("c.json", "[1]", "row 1 is of type int"),
        ("d.json", "[{}]", "row 1 has no "),
        ("e.json", "[", "not valid JSON"),
        ("f.jsonl", "nonsense", "row 1: not valid JSON"),
        ("g.parquet", "nonsense", "not a readable Parquet file"),
        ("h.txt", "x", "give a .jsonl or .parquet file"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            read(benchmark, tmp_path / name)
    with pytest.raises(ValueError, match="no such file or folder"):
        read(benchmark, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a revision is the hub's"):
        read(benchmark, tmp_path / "b.json", revision="main")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data that can be read"):
        read(benchmark, tmp_path / "empty")


def test_another_benchmark_is_told_by_its_columns(layouts: Any, tmp_path: Path) -> None:
    layouts("vs", tmp_path / "vs")
    with pytest.raises(ValueError, match="has no column"):
        read(TIGER, tmp_path / "vs")
    made.vs_table().save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="is it this benchmark"):
        read(TIGER, tmp_path / "saved")


def test_several_splits_have_to_be_chosen_from(tmp_path: Path) -> None:
    from datasets import DatasetDict

    table = made.vs_table()
    (tmp_path / "hub").mkdir()
    for split, part in (("train", table.select(range(5))), ("test", table.select(range(5, 7)))):
        part.to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="splits test, train: choose one with --split"):
        read(VS, tmp_path / "hub")
    assert len(read(VS, tmp_path / "hub", split="test")) == 2
    with pytest.raises(ValueError, match="no files of split 'dev'; it has test, train"):
        read(VS, tmp_path / "hub", split="dev")
    DatasetDict(train=table.select(range(5)), test=table.select(range(5, 7))).save_to_disk(tmp_path / "saved")
    assert len(read(VS, tmp_path / "saved", split="test")) == 2
    with pytest.raises(ValueError, match="several splits"):
        read(VS, tmp_path / "saved")


def test_a_commit_is_known_from_the_hubs_own_folder(layouts: Any, tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = layouts("vs", tmp_path / "snapshots" / commit)
    assert open_benchmark(VS, str(folder)).revision == commit
    assert open_benchmark(VS, str(layouts("vs", tmp_path / "else"))).revision is None


def test_without_a_network_a_hub_id_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder, and the hub gives no such dataset"):
        read(VS, "nobody/nothing")


def test_a_dataset_on_the_hub_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    monkeypatch.chdir(tmp_path)
    asked: list[object] = []

    def info(name: str, revision: str | None) -> Any:
        asked.append((name, revision))
        return SimpleNamespace(sha="c0ffee")

    def load(name: str, config: None, split: str, revision: str) -> Any:
        asked.append((name, split, revision))
        return made.vs_table()

    monkeypatch.setattr("huggingface_hub.dataset_info", info)
    monkeypatch.setattr("datasets.load_dataset", load)
    opened = open_benchmark(VS, "EditScore/EditReward-Bench", revision="main")
    assert (opened.revision, opened.rows, len(list(opened.pairs))) == ("c0ffee", 7, 7)
    assert asked == [("EditScore/EditReward-Bench", "main"), ("EditScore/EditReward-Bench", "train", "c0ffee")]


def test_rows_are_read_undecoded(layouts: Any, tmp_path: Path) -> None:
    folder = layouts("vs", tmp_path / "hub")
    rows = pq.read_table(next(folder.rglob("*.parquet"))).to_pylist()
    found = read(VS, folder)
    assert [one.source for one in found] == [row["input_image"]["bytes"] for row in rows]
    assert replace(found[0], hash="") != replace(found[1], hash="")
