"""Data sets that are larger than memory: their records by number, from an Arrow copy that all processes map.

Parquet gives a row only with its whole row group. The library `datasets` (of the extra `train`) makes the copy once, in
its cache (the environment variable HF_DATASETS_CACHE), and finds it again as long as the files are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from edit_r1.store.files import StoreError
from edit_r1.store.parquet import ROW_GROUP, hub_features, plain_rows
from edit_r1.store.stages import Dataset, Table, read_dataset

T = TypeVar("T")

IN_MEMORY_BYTES = 4 * 2**30
"""Of files: what is larger is mapped."""
_ROWS = 16
"""Read at once when all are gone through; few because rows hold pictures."""
_log = logging.getLogger(__name__)


def open_dataset(
    directory: str | Path, name: str, table: Table[T], memory: int = IN_MEMORY_BYTES, cache: Path | None = None
) -> Sequence[T]:
    """The records of a finished data set: in memory where its files have no more bytes than `memory`, else mapped.

    cache: folder of the copy; None for that of `datasets`.

    Raises:
        StoreError: as `read_dataset`, or when the copy cannot be made.
    """
    dataset = Dataset(Path(directory), name, table)
    rows = int(dataset.meta()["rows"])
    paths = dataset.paths()
    size = sum(path.stat().st_size for path in paths)
    if size <= memory or rows == 0:
        return read_dataset(directory, name, table)
    _log.warning(
        "%s: %d rows, %.1f GiB: read from an Arrow copy in %s (HF_DATASETS_CACHE), which takes as much again",
        dataset.folder, rows, size / 2**30, cache or _library(dataset).config.HF_DATASETS_CACHE,
    )  # fmt: skip
    return MappedDataset(dataset, cache)


class MappedDataset(Sequence[T]):
    """The records of a finished data set, each read when it is asked for."""

    def __init__(self, dataset: Dataset[T], cache: Path | None = None) -> None:
        """Makes the copy, or finds it. Raises StoreError as `open_dataset`."""
        library = _library(dataset)
        rows = int(dataset.meta()["rows"])
        paths = dataset.paths()
        for path in paths:
            dataset.check_columns(path)
        try:
            mapped = library.Dataset.from_parquet(
                [str(path) for path in paths],
                features=library.Features.from_dict(hub_features(dataset.table.features)),
                cache_dir=None if cache is None else str(cache),
                batch_size=ROW_GROUP,  # else that of a file's first row group, and a part may be empty
            )
        except Exception as error:  # a boundary: the library's own classes, whatever the disk or the file refused
            told = " ".join(f"{type(error).__name__}: {error.__cause__ or error}".split())[:300]
            raise StoreError(
                f"{dataset.folder}: no Arrow copy could be made of it ({told}): HF_DATASETS_CACHE must name a folder "
                "on a disk with as much room as the data take"
            ) from error
        if len(mapped) != rows:
            raise StoreError(f"{dataset.folder}: holds {len(mapped)} rows, {rows} were finished: make it anew")
        self._dataset, self._mapped = dataset, mapped.with_format("arrow")

    def __len__(self) -> int:
        return len(self._mapped)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        [row] = plain_rows(self._mapped[place])
        return self._dataset.table.from_row(row)

    def __iter__(self) -> Iterator[T]:
        for batch in self._mapped.iter(batch_size=_ROWS):
            yield from map(self._dataset.table.from_row, plain_rows(batch))


def _library(dataset: Dataset[Any]) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise StoreError(
            f"{dataset.folder}: too large for memory, and mapping it needs the library datasets: "
            "pip install 'edit-r1[train]'"
        ) from error
    return datasets
