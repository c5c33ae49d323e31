"""A whole data set from a stream of records: a row group in memory, and no data set until the last record is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from edit_r1.store.files import StoreError, writing
from edit_r1.store.hashes import RowHashes
from edit_r1.store.parquet import ROW_GROUP, Row, parquet_schema, row_hash, row_table
from edit_r1.store.stages import Stage, Table

T = TypeVar("T")

GROUP_BYTES = 32 * 2**20
"""A row group closes when its images and texts reach this, or at `ROW_GROUP` rows."""
PART_BYTES = 512 * 2**20
"""A part closes when it has this much: what the Hub's viewer and a loader with several workers like."""


def stream_dataset(
    folder: str | Path,
    records: Iterable[T],
    table: Table[T],
    meta: Callable[[], Mapping[str, Any]] = dict,
    group_bytes: int = GROUP_BYTES,
    part_bytes: int = PART_BYTES,
) -> dict[str, Any]:
    """Writes `records` as the data set `folder`; returns what its marker holds, "rows", "parts" and "hash" among it.

    The parts are written into a folder beside it, which takes its place when the records have ended; the marker comes
    last. When `records` raises, nothing is left. meta is called after the last record: it may tell what was counted.

    Raises:
        StoreError: when something stands there already, or the disk refuses.
        ValueError: when a record does not fit its columns; whatever `records` raises.
    """
    folder = Path(folder)
    stage = Stage(folder.parent, folder.name)
    if folder.exists() or stage.marker.exists():
        raise StoreError(f"{folder}: exists already: remove it (and {stage.marker.name}) or choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    hashes = RowHashes()
    parts = 0
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process
        try:
            partial.mkdir(parents=True)
            groups = _groups(records, table, group_bytes)
            while (first := next(groups, None)) is not None or parts == 0:
                path = partial / f"part-{parts:05d}.parquet"
                _write_part(path, first or ([], 0), groups, table, part_bytes, hashes)
                parts += 1
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        try:
            stage.finish({**meta(), "parts": parts, "rows": len(hashes), "hash": hashes.digest()})
        except BaseException:  # an interrupt too
            shutil.rmtree(folder, ignore_errors=True)  # without its marker it would only be in the way
            raise
    return stage.meta()


def _write_part(
    path: Path,
    first: tuple[list[Row], int],
    groups: Iterator[tuple[list[Row], int]],
    table: Table[T],
    part_bytes: int,
    hashes: RowHashes,
) -> None:
    """One file of `first` and as many further groups as fit; adds the hashes of its rows."""
    schema = parquet_schema(table.features, "")
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows, size in chain([first], groups):
            writer.write_table(row_table(path, rows, table.features, schema))
            hashes.add(row_hash(row) for row in rows)
            written += size
            if written >= part_bytes:
                break
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _groups(records: Iterable[T], table: Table[T], group_bytes: int) -> Iterator[tuple[list[Row], int]]:
    """(rows, their size in bytes), a row group at a time."""
    rows: list[Row] = []
    size = 0
    for record in records:
        row = table.to_row(record)
        rows.append(row)
        size += _size(row)
        if len(rows) >= ROW_GROUP or size >= group_bytes:
            yield rows, size
            rows, size = [], 0
    if rows:
        yield rows, size


def _size(value: Any) -> int:
    """Bytes of the images and texts in a row; numbers are not counted."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, dict):
        return sum(_size(one) for one in value.values())
    return sum(_size(one) for one in value) if isinstance(value, list) else 0
