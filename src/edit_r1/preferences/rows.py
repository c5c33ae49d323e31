"""Rows of other people's files, a few in memory at a time: Parquet, Arrow (as `datasets` saves it), JSON lines, JSON.

Rows are counted from 1 in each file; empty lines of JSON lines are none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.verifier.inputs import InputData, raw_rows

BATCH = 16
"""Rows in memory at once; small because rows hold pictures."""
MAX_JSON_BYTES = 512 * 2**20
"""Largest JSON list: it is read as a whole."""
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
"""In this order a folder is searched: the first kind that is there is read."""


@dataclass(frozen=True)
class RawRow:
    """One row, unchecked."""

    file: Path
    number: int
    value: Any
    """Whatever it holds; a ValueError in place of a line that is not JSON."""

    @property
    def place(self) -> str:
        """File and row, for a message."""
        return f"{self.file}: row {self.number}"


def find_files(source: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files of rows that `source` is or holds, in the order of their names; hidden ones and caches are none.

    Raises:
        ValueError: when there is none, or several of a kind that is one file (.jsonl, .json).
    """
    if source.is_file():
        if source.suffix not in suffixes:
            raise ValueError(f"{source}: give a file that ends in {' or '.join(suffixes)}, or a folder of such files")
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder: check the path")
    for suffix in suffixes:
        found = [
            path
            for path in sorted(source.rglob(f"*{suffix}"))
            if path.is_file()
            and not path.name.startswith("cache-")
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        ]
        if len(found) > 1 and suffix in (".jsonl", ".json"):
            raise ValueError(f"{source}: holds {len(found)} {suffix} files ({found[0].name}, ...): name the one meant")
        if found:
            return found
    raise ValueError(f"{source}: holds no file that ends in {' or '.join(suffixes)}: check the path")


def read_raw(file: Path, columns: Sequence[str], required: Sequence[str]) -> Iterator[RawRow]:
    """The rows of one file; of Parquet and Arrow only `columns`, as far as they are there.

    Raises:
        ValueError: when the file cannot be read, or Parquet or Arrow lacks a column of `required`.
    """
    with _readable(file):
        if file.suffix == ".parquet":
            values = _parquet(file, columns, required)
        elif file.suffix == ".arrow":
            values = _arrow(file, columns, required)
        elif file.suffix == ".jsonl":
            values = raw_rows(InputData((file,), 0, ""), ())
        else:
            values = iter(_json_list(file))
        for number, value in enumerate(values, start=1):
            yield RawRow(file, number, value)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file}: cannot be read ({reason}): check it, or download it again") from error


def _parquet(file: Path, columns: Sequence[str], required: Sequence[str]) -> Iterator[Any]:
    # A buffered stream reads page by page; by default a whole row group of pictures would be held.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as table:
        there = _chosen(file, table.schema_arrow.names, columns, required)
        for batch in table.iter_batches(batch_size=BATCH, columns=there):
            yield from batch.to_pylist()


def _arrow(file: Path, columns: Sequence[str], required: Sequence[str]) -> Iterator[Any]:
    with arrow_batches(file) as (schema, batches):
        there = _chosen(file, schema.names, columns, required)
        for batch in batches:
            chosen = batch.select(there)
            for start in range(0, chosen.num_rows, BATCH):
                yield from chosen.slice(start, BATCH).to_pylist()


@contextmanager
def arrow_batches(file: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Columns and batches of the stream format, which `datasets` writes, or of the file format of others.

    Raises:
        OSError, pa.ArrowException: for a file that is neither.
    """
    with pa.memory_map(str(file)) as source:
        try:
            stream = pa.ipc.open_stream(source)
            found = stream.schema, iter(stream)
        except pa.ArrowInvalid:
            opened = pa.ipc.open_file(source)
            found = opened.schema, (opened.get_batch(index) for index in range(opened.num_record_batches))
        yield found


def _chosen(file: Path, names: Sequence[str], columns: Sequence[str], required: Sequence[str]) -> list[str]:
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(f"{file}: has no column {', '.join(missing)}; it has {', '.join(names)}: is it another kind?")
    return [name for name in columns if name in names]


def _json_list(file: Path) -> list[Any]:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file}: larger than {MAX_JSON_BYTES} bytes: write it as JSON lines (.jsonl)")
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({' '.join(str(error).split())}): download it again") from error
    if not isinstance(rows, list):
        raise ValueError(f"{file}: holds no list of rows: is it another file of the data set?")
    return rows
