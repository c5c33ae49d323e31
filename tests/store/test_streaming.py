"""Whole data sets from a stream: cut into parts, the same as written at once, and nothing of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edit_r1.records import Sample
from edit_r1.store import (
    SAMPLES,
    Dataset,
    StoreError,
    read_dataset,
    read_rows,
    stream_dataset,
    stream_rows,
    write_dataset,
)


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{number}", bytes([number % 251]) * 100, "do it", "") for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_a_stream_gives_the_data_set_that_writing_at_once_gives(tmp_path: Path, count: int) -> None:
    told = stream_dataset(tmp_path / "streamed", iter(samples(count)), SAMPLES, lambda: {"more": 1}, 2_000, 5_000)
    assert read_dataset(tmp_path, "streamed", SAMPLES) == samples(count)
    assert told["rows"] == count and told["more"] == 1
    assert told["hash"] == write_dataset(tmp_path, "once", samples(count), SAMPLES)
    assert told["parts"] == max(1, len(list((tmp_path / "streamed").iterdir())))
    assert (told["parts"] > 1) == (count >= 99)
    assert Dataset(tmp_path, "streamed", SAMPLES).done()


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield from samples(150)
        raise ValueError("row 151")

    with pytest.raises(ValueError, match="row 151"):
        stream_dataset(tmp_path / "out", failing(), SAMPLES)
    with pytest.raises(ValueError, match="JSON"):
        stream_dataset(tmp_path / "out", samples(2), SAMPLES, lambda: {"share": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    stream_dataset(tmp_path / "out", samples(2), SAMPLES)
    with pytest.raises(StoreError, match=r"exists already: remove it \(and out.done.json\)"):
        stream_dataset(tmp_path / "out", samples(3), SAMPLES)
    assert len(read_dataset(tmp_path, "out", SAMPLES)) == 2
    (tmp_path / "other.done.json").write_text("{}")
    with pytest.raises(StoreError, match="exists already"):
        stream_dataset(tmp_path / "other", samples(3), SAMPLES)


def test_lists_of_images_come_back_and_datasets_decodes_them(tmp_path: Path) -> None:
    features = {"images": "images", "told": {"role": "string"}}
    rows = [{"images": [b"a", b"b"], "told": [{"role": "user"}]}, {"images": None, "told": None}]
    stream_rows(tmp_path / "x.parquet", rows, features)
    assert read_rows(tmp_path / "x.parquet") == rows
    datasets = pytest.importorskip("datasets")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "c"))
    assert loaded.features["images"] == datasets.List(datasets.Image())
