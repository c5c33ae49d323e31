"""Parquet files of any size: pictures embedded as Hugging Face images or bytes, or named by path.

A row is found by its number. Rows are streamed from the row group that holds them, so asking for rows in ascending
order reads a file once, and asking in any other order reads a row group for each: draws are therefore looked at in
ascending order (`curate.intake.draw`).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.curate.intake.folders import check_apart, files_below
from edit_r1.curate.intake.rows import Columns, FolderPictures, Pictures, columns_key, files_fingerprint
from edit_r1.curate.shards import unit_key

_BATCH = 16
"""Rows in memory at once; few because rows hold pictures."""


class ParquetRows:
    """The rows of one Parquet file, or of all under a folder in the order of their paths."""

    def __init__(self, path: Path, columns: Columns | None = None, pictures: Pictures | None = None) -> None:
        """Raises ValueError for no file, a damaged one, no row, or files without the columns of source and
        instruction."""
        self.columns = columns or Columns()
        self.pictures: Pictures = pictures or FolderPictures()
        self._whole = path.is_dir()
        self.root = path if self._whole else path.parent
        found = (file for file in files_below(path) if file.suffix == ".parquet") if self._whole else [path]
        self.files = sorted(found)
        if not self.files:
            raise ValueError(f"{path}: holds no Parquet file: check the path")
        footers = [_footer(file, (self.columns.source, self.columns.instruction)) for file in self.files]
        self._names = [names for names, _ in footers]
        self._groups = [[0, *accumulate(groups)] for _, groups in footers]
        self._starts = [0, *accumulate(groups[-1] for groups in self._groups)]
        if not len(self):
            raise ValueError(f"{path}: holds no rows: write one per sample")
        self._cursors = threading.local()

    @property
    def names(self) -> frozenset[str]:
        """The columns of all files."""
        return frozenset().union(*self._names)

    @property
    def fingerprint(self) -> str:
        return unit_key(files_fingerprint(self.files), columns_key(self.columns), self.pictures.fingerprint)

    def prepare(self, kept: Path) -> None:
        if self._whole:
            check_apart(self.root, kept)
        self.pictures.prepare(kept)

    def __len__(self) -> int:
        return self._starts[-1]

    def origin(self, number: int) -> str:
        file = self._file_of(number)
        return f"{self.files[file].relative_to(self.root)}: row {number - self._starts[file] + 1}"

    def values(self, number: int, names: Sequence[str]) -> Mapping[str, Any]:
        file = self._file_of(number)
        there = tuple(name for name in dict.fromkeys(names) if name in self._names[file])
        if not there:
            return {}
        kept: dict[tuple[str, ...], _Cursor] = self._cursors.__dict__.setdefault("open", {})
        row = number - self._starts[file]
        cursor = kept.get(there)
        if cursor is None or cursor.path != self.files[file] or not cursor.reaches(row):
            if cursor is not None:
                cursor.close()
            cursor = kept[there] = _Cursor(self.files[file], self._groups[file], there, row)
        return cursor.row(row)

    def picture(self, number: int, value: Any, label: str) -> bytes:
        return self.pictures.read(value, label, self.files[self._file_of(number)].parent)

    def _file_of(self, number: int) -> int:
        return bisect_right(self._starts, number) - 1


class _Cursor:
    """Reads a file forwards from the row group that holds a row; of one thread."""

    def __init__(self, path: Path, groups: Sequence[int], names: Sequence[str], row: int) -> None:
        """groups: the first row of every row group, and the number of rows."""
        self.path, self._groups = path, groups
        group = bisect_right(groups, row) - 1
        self._at, self._batch = groups[group], pa.RecordBatch.from_pylist([])
        try:
            # With pre_buffer, the default, what was read of a file stays in memory until its end.
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
            self._batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
                batch_size=_BATCH, row_groups=range(group, len(groups) - 1), columns=list(names)
            )
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error

    def reaches(self, row: int) -> bool:
        """Whether going on gets to a row without reading a whole row group for nothing."""
        ahead = bisect_right(self._groups, row) - bisect_right(self._groups, self._at)
        return row >= self._at and ahead <= 1

    def row(self, row: int) -> dict[str, Any]:
        try:
            while row >= self._at + len(self._batch):
                self._at += len(self._batch)
                self._batch = next(self._batches)
        except (OSError, pa.ArrowException, StopIteration) as error:
            self._batch = pa.RecordBatch.from_pylist([])
            self._at = self._groups[-1]  # no further row of this cursor: the next one opens the file anew
            raise _damaged(self.path, error) from error
        try:
            found: dict[str, Any] = self._batch.slice(row - self._at, 1).to_pylist()[0]
        except (pa.ArrowException, OverflowError) as error:  # a date of the year 5 million, or what has no Python value
            raise ValueError(f"holds a value that cannot be read ({' '.join(str(error).split())})") from error
        return found

    def close(self) -> None:
        self._file.close()


def _footer(file: Path, required: Sequence[str]) -> tuple[set[str], list[int]]:
    """(columns, rows of each row group)."""
    try:
        with pq.ParquetFile(file) as table:
            names, metadata = set(table.schema_arrow.names), table.metadata
            groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from error
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(
            f"{file}: has no column {', '.join(missing)}; it has {', '.join(sorted(names))}: name the right ones in "
            "`Columns`"
        )
    return names, groups


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{file}: cannot be read ({reason}): download or write it again")
