"""Data sets larger than memory: the same records, by number, from a copy that is found again."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import pytest

from edit_r1.records import (
    CATEGORIES,
    Candidate,
    Context,
    Preference,
    Principle,
    Quadruple,
    Rating,
    Sample,
    Trace,
    Verdict,
)
from edit_r1.store import (
    PREFERENCES,
    QUADRUPLES,
    SAMPLES,
    Dataset,
    StoreError,
    open_dataset,
    read_dataset,
    stream_dataset,
    write_dataset,
)
from edit_r1.store.mapped import MappedDataset


def quadruples(count: int, picture: int = 50) -> list[Quadruple]:
    rows = []
    for number in range(count):
        references = (bytes([7]) * 20, bytes([8]) * 30) if number % 3 == 0 else ()
        sample = Sample(f"s{number}", bytes([number % 251]) * picture, "do it", "", references=references,
                        origin=f"rows.jsonl:{number}", licence="CC0-1.0" if number % 2 else "")  # fmt: skip
        context = Context(sample, (Principle("Is it done?", CATEGORIES[0]),), "model")
        target = Trace("text", 5.0, (Verdict(1, "seen"),), 1.0, 3) if number % 4 else None
        rows.append(Quadruple(context, Candidate(f"c{number}", sample.id, b"x" * picture, "e", number), target))
    return rows


@pytest.mark.parametrize(("count", "part_bytes"), [(1, 2_000), (260, 4_000), (260, 10**9)])
def test_mapped_records_are_the_records(tmp_path: Path, count: int, part_bytes: int) -> None:
    stream_dataset(tmp_path / "selected", quadruples(count), QUADRUPLES, dict, 2_000, part_bytes)
    rows = open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    assert isinstance(rows, MappedDataset)
    known = read_dataset(tmp_path, "selected", QUADRUPLES)
    assert len(rows) == count == len(known)
    assert list(rows) == known == [rows[place] for place in range(count)] == rows[:]
    assert rows[-3:-1] == known[-3:-1]
    with pytest.raises(IndexError):
        rows[count]


def test_empty_parts_and_no_rows_at_all(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path, "selected", QUADRUPLES)
    for part in ([], quadruples(3), []):
        dataset.append(part)
    dataset.finish()
    assert list(open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")) == quadruples(3)
    write_dataset(tmp_path, "none", [], QUADRUPLES)
    assert list(open_dataset(tmp_path, "none", QUADRUPLES, memory=0, cache=tmp_path / "cache")) == []


def test_preferences_too(tmp_path: Path) -> None:
    one, two = quadruples(2)
    pair = Preference(one.context, one.candidate, two.candidate, "first", "ann", ratings=(Rating("following", 3, 1),))
    write_dataset(tmp_path, "pairs", [pair, pair], PREFERENCES)
    assert list(MappedDataset(Dataset(tmp_path, "pairs", PREFERENCES), tmp_path / "cache")) == [pair, pair]


def test_files_of_before_a_column_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        for name in ("context_references", "context_origin", "context_licence"):
            earlier.delitem(QUADRUPLES.features, name)
        rows = [one for one in quadruples(8) if not one.context.sample.references]
        columns = QUADRUPLES.features.keys()
        monkeypatch.setattr(
            "edit_r1.store.stages.write_rows",
            lambda path, rows, *more: _write(path, [{name: row[name] for name in columns} for row in rows], *more),
        )
        write_dataset(tmp_path, "selected", rows, QUADRUPLES)
    mapped = open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    assert list(mapped) == read_dataset(tmp_path, "selected", QUADRUPLES)
    assert {one.context.sample.licence for one in mapped} == {""}


def _write(*arguments: object) -> None:
    from edit_r1.store import write_rows

    write_rows(*arguments)  # type: ignore[arg-type]


def test_small_data_stay_in_memory_and_a_copy_is_told_and_made_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path, "selected", quadruples(5), QUADRUPLES)
    assert isinstance(open_dataset(tmp_path, "selected", QUADRUPLES, cache=tmp_path / "cache"), list)
    assert not (tmp_path / "cache").exists()
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    assert "5 rows" in caplog.text and "cache" in caplog.text and "takes as much again" in caplog.text
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}
    open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")} == copies


def test_other_files_under_the_same_name_are_copied_anew(tmp_path: Path) -> None:
    for count in (5, 7):
        write_dataset(tmp_path, "selected", quadruples(count), QUADRUPLES)
        rows = open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
        assert list(rows) == quadruples(count)
        (tmp_path / "selected.done.json").unlink()
        (tmp_path / "selected/part-00000.parquet").unlink()


def test_errors_name_the_data_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not finished"):
        open_dataset(tmp_path, "selected", QUADRUPLES, memory=0)
    samples = [one.context.sample for one in quadruples(3)]
    write_dataset(tmp_path, "samples", samples, SAMPLES)
    with pytest.raises(StoreError, match=r"samples/part-00000\.parquet: holds other columns"):
        open_dataset(tmp_path, "samples", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    write_dataset(tmp_path, "selected", quadruples(3), QUADRUPLES)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        StoreError, match=r"selected: no Arrow copy could be made of it \(.*HF_DATASETS_CACHE must name"
    ):
        open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "file")


def test_pictures_are_not_held(tmp_path: Path) -> None:
    """Sixteen rows at a time, of 400."""
    stream_dataset(tmp_path / "selected", quadruples(400, picture=20_000), QUADRUPLES)
    rows = open_dataset(tmp_path, "selected", QUADRUPLES, memory=0, cache=tmp_path / "cache")
    tracemalloc.start()
    assert sum(len(one.candidate.image) for one in rows) == 400 * 20_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4_000_000
