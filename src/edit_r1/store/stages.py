"""The progress of a stage: parts that are finished for good, and a marker written last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from edit_r1.store.files import StoreError, read_json, write_json, writing
from edit_r1.store.hashes import RowHashes
from edit_r1.store.parquet import (
    Features,
    Row,
    completed,
    iterate_rows,
    read_columns,
    read_key,
    row_hash,
    write_rows,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """The completion marker of a stage: `name.done.json` in a run's folder."""

    directory: Path
    name: str
    key: str = ""
    """Hash or text of everything that shapes the result (config, inputs). A writer gives it, and results made
    under another key are refused; a reader that takes what is there leaves it empty."""

    @property
    def marker(self) -> Path:
        return self.directory / f"{self.name}.done.json"

    def done(self) -> bool:
        """True when the stage was finished with the same key.

        Raises:
            StoreError: when it was finished with another key, or the marker is damaged.
        """
        if not self.marker.exists():
            return False
        self.check_key(str(read_json(self.marker)["key"]), self.marker)
        return True

    def finish(self, meta: Mapping[str, Any] | None = None) -> None:
        """Marks the stage as finished; `meta` is JSON, kept for `meta()`. Raises as `write_json`."""
        write_json(self.marker, {"name": self.name, "key": self.key, "meta": dict(meta or {})})

    def meta(self) -> dict[str, Any]:
        """What `finish` was given.

        Raises:
            StoreError: when the stage is not finished.
        """
        if not self.done():
            raise StoreError(f"{self.marker}: missing, so stage {self.name} is not finished: run it (again) first")
        return cast(dict[str, Any], read_json(self.marker)["meta"])

    def check_key(self, found: str, where: Path) -> None:
        """Raises StoreError when `where` was made under another key than this stage's."""
        if self.key and found != self.key:
            raise StoreError(f"{where}: made with other settings or inputs: remove it or choose another output folder")


@dataclass(frozen=True)
class Table(Generic[T]):
    """How one type of record is laid out in columns."""

    features: Features
    to_row: Callable[[T], Row]
    from_row: Callable[[Row], T]


@dataclass(frozen=True)
class Dataset(Generic[T]):
    """The records of one stage, written part by part.

    A resumable stage cuts its inputs into fixed shards and writes one part for each:

        for shard in shards[dataset.parts():]:
            dataset.append(work(shard))
        dataset.finish()
    """

    directory: Path
    name: str
    table: Table[T]
    key: str = ""
    """As `Stage.key`; kept in every part, so that a run with other settings never continues these."""

    @property
    def folder(self) -> Path:
        return self.directory / self.name

    @property
    def stage(self) -> Stage:
        return Stage(self.directory, self.name, self.key)

    def done(self) -> bool:
        """True when `finish` was called and every part is still there.

        Raises:
            StoreError: when parts were removed after finishing, or as `Stage.done`.
        """
        if not self.stage.done():
            return False
        expected = self.stage.meta()["parts"]
        if len(self.paths()) != expected:
            raise StoreError(
                f"{self.folder}: {expected} parts were finished and some are gone: remove {self.stage.marker}"
            )
        return True

    def parts(self) -> int:
        """Number of finished parts: a stage goes on with shard number `parts()`.

        Raises:
            StoreError: when a part was written under another key or is damaged, or one is missing in between.
        """
        paths = self.paths()
        for index, path in enumerate(paths):
            if path.name != f"part-{index:05d}.parquet":
                raise StoreError(f"{self.folder}: part {index} is missing: remove the folder and run the stage again")
            self.stage.check_key(read_key(path), path)
        return len(paths)

    def append(self, records: Sequence[T]) -> None:
        """Writes the next part, which may be empty.

        Raises:
            StoreError: when it cannot be written, or the dataset is finished.
            ValueError: when a record does not fit its columns.
        """
        if self.done():
            raise StoreError(f"{self.stage.marker}: the dataset is finished: nothing can be added to it")
        path = self.folder / f"part-{self.parts():05d}.parquet"
        write_rows(path, [self.table.to_row(record) for record in records], self.table.features, self.key)

    def finish(self, meta: Mapping[str, Any] | None = None) -> str:
        """Marks the dataset as complete and returns its hash, computed from what is on disk.

        Raises:
            StoreError: when nothing was appended, or the marker cannot be written.
        """
        if self.parts() == 0:
            raise StoreError(f"{self.folder}: no part was written: append (an empty list, if need be) before finishing")
        for leftover in self.folder.glob(".*.tmp"):  # of a killed process
            leftover.unlink(missing_ok=True)
        hashes = RowHashes(row_hash(row) for path in self.paths() for row in iterate_rows(path))
        digest = hashes.digest()
        self.stage.finish({**(meta or {}), "parts": self.parts(), "rows": len(hashes), "hash": digest})
        return digest

    def assemble(self, parts: Iterable[tuple[Path, Iterable[str]]], meta: Mapping[str, Any] | None = None) -> str:
        """Makes the dataset of finished files, in order, in place of what stood there; returns its hash.

        The files stay where they are, and are linked here; or copied, where the disk has no links. The marker goes
        first and comes back last, so that a killed call leaves an unfinished dataset.

        Args:
            parts: each file, written by `write_rows`, with the `row_hash` of its rows; looked at once, and all of them
                before anything is removed.

        Raises:
            StoreError: when the disk refuses.
        """
        files, hashes = [], RowHashes()
        for file, own in parts:
            files.append(file)
            hashes.add(own)
        with writing(self.folder):
            self.stage.marker.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            for number, file in enumerate(files):
                target = self.folder / f"part-{number:05d}.parquet"
                try:
                    os.link(file, target)
                except OSError:
                    shutil.copyfile(file, target)
        digest = hashes.digest()
        self.stage.finish({**(meta or {}), "parts": len(files), "rows": len(hashes), "hash": digest})
        return digest

    def meta(self) -> dict[str, Any]:
        """What `finish` was given, with "parts", "rows" and "hash". Raises StoreError when it is not finished."""
        self.done()
        return self.stage.meta()

    def __iter__(self) -> Iterator[T]:
        """The records in the order in which they were appended, a row group in memory at a time.

        Raises:
            StoreError: when the dataset is not finished, or a part is damaged or of another record type.
        """
        return self._records(None)

    def _records(self, known: dict[bytes, bytes] | None) -> Iterator[T]:
        """known: pictures that were read before; equal ones become the same object."""
        self.meta()
        for path in self.paths():
            for row in iterate_rows(path):
                whole = completed(row, self.table.features)
                if whole is None:
                    raise self._odd(path, row)
                yield self.table.from_row(whole if known is None else pictures_shared(whole, known))

    def check_columns(self, path: Path) -> None:
        """Raises StoreError for a file of another record type, or one that cannot be read."""
        names = read_columns(path)
        if completed(dict.fromkeys(names), self.table.features) is None:
            raise self._odd(path, names)

    def _odd(self, path: Path, names: Iterable[str]) -> StoreError:
        odd = ", ".join(sorted(set(names) ^ self.table.features.keys())[:4])
        return StoreError(
            f"{path}: holds other columns than what is read here ({odd} and the like differ): name another "
            "dataset, or make this one anew"
        )

    def paths(self) -> list[Path]:
        """The files, in order."""
        return sorted(self.folder.glob("part-*.parquet"))


def write_dataset(directory: str | Path, name: str, records: Sequence[T], table: Table[T], key: str = "") -> str:
    """A whole dataset in one part; returns its hash. A finished one with the same key is kept as it is.

    Raises:
        StoreError: when it cannot be written, or was finished under another key.
    """
    dataset = Dataset(Path(directory), name, table, key)
    if not dataset.done():
        if dataset.parts() == 0:
            dataset.append(records)
        dataset.finish()
    return str(dataset.meta()["hash"])


def read_dataset(directory: str | Path, name: str, table: Table[T], key: str = "") -> list[T]:
    """All records of a finished dataset, a picture that several of them have held once: candidates share their source,
    pairs their candidates. Raises StoreError as iterating over `Dataset` does."""
    return list(Dataset(Path(directory), name, table, key)._records({}))


def pictures_shared(value: Any, known: dict[bytes, bytes]) -> Any:
    """A row, or a part of one, in which bytes that are `known` are the known ones; others become so."""
    if isinstance(value, bytes):
        return known.setdefault(value, value)
    if isinstance(value, dict):
        return {name: pictures_shared(part, known) for name, part in value.items()}
    if isinstance(value, list):
        return [pictures_shared(part, known) for part in value]
    return value
