"""WebDataset shards: tars in which the files of one sample follow each other and share a key.

    00017.jpg            the source               00017.source.png     the same, named
    00017.json           columns of the row       00017.edited.png     the column "edited", such as a ready edit
    00017.txt            the instruction

The key is the path up to the first dot of the file's name, as in the library. A file without a key or an ending
(README, the ._00017.jpg of macOS) is part of no sample.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from edit_r1.curate.intake.archives import (
    Archive,
    ArchiveBytes,
    Member,
    archive_files,
    find_archives,
    member_table,
    read_member,
)
from edit_r1.curate.intake.folders import check_apart
from edit_r1.curate.intake.rows import Columns, columns_key, files_fingerprint

_PICTURES = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif")
_TEXT_BYTES = 2**20
"""Longest .json or .txt of a sample."""
_OPEN = 8
"""Shards whose index is in memory: those that chunks at work at one time lie in."""


class WebDatasetRows:
    """The samples of one shard, or of all under a folder in the order of their paths."""

    def __init__(self, path: Path, columns: Columns | None = None) -> None:
        """Raises ValueError when there is no shard."""
        self.columns = columns or Columns()
        self._folder = path if path.is_dir() else None
        self.archives = find_archives(path) if path.is_dir() else [Archive(path.name, (path,))]
        if not self.archives or not all(part.is_file() for part in archive_files(self.archives)):
            raise ValueError(f"{path}: no shard (.tar) there: check the path")
        self._kept: Path | None = None
        self._starts: list[int] = []
        self._open: dict[int, _Shard] = {}
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        return files_fingerprint(archive_files(self.archives), columns_key(self.columns))

    def prepare(self, kept: Path | None) -> None:
        """Indexes the shards, one after the other. Raises ValueError for a damaged one, no sample at all, or what would
        be written among them."""
        if self._folder is not None and kept is not None:
            check_apart(self._folder, kept)
        with self._lock:
            if not self._starts:
                self._kept = kept
                counts = [len(_Shard.of(archive, kept).starts) for archive in self.archives]
                self._starts = [0, *accumulate(counts)]
        if not self._starts[-1]:
            raise ValueError(f"{self.archives[0].parts[0].parent}: the shards hold no sample")

    def __len__(self) -> int:
        self.prepare(self._kept)
        return self._starts[-1]

    def origin(self, number: int) -> str:
        shard, place = self._find(number)
        return f"{shard.archive.name}: {_key(shard.members(place)[0].name)}"

    def values(self, number: int, names: Sequence[str]) -> Mapping[str, Any]:
        shard, place = self._find(number)
        values: dict[str, Any] = {}
        pictures: dict[str, Any] = {}
        for member in shard.members(place):
            *column, ending = member.name.rpartition("/")[2].lower().split(".")[1:]
            if ending in _PICTURES:
                name = ".".join(column) or self.columns.source
                if name in pictures:
                    raise ValueError(f"two pictures for {name}: name them KEY.{name}.png and KEY.OTHER.png")
                pictures[name] = (shard.data, member)
                continue
            found: dict[str, Any] = {}
            if ending == "txt" and (name := ".".join(column) or self.columns.instruction) in names:
                found = {name: _text(shard.data, member)}
            elif ending == "json" and not column:
                found = _object(shard.data, member)
            if twice := [name for name in found if name in names and values.get(name, found[name]) != found[name]]:
                raise ValueError(f"{twice[0]} stands there twice and differs: leave one of the two out")
            values |= found
        return {name: value for name, value in (values | pictures).items() if name in names}

    def picture(self, number: int, value: Any, label: str) -> bytes:
        if not isinstance(value, tuple):
            raise ValueError(f"{label} of type {type(value).__name__}: a picture is a file of its own in the shard")
        data, member = value
        return read_member(data, member, label)

    def _find(self, number: int) -> tuple[_Shard, int]:
        """(shard, place in it)."""
        self.prepare(self._kept)
        turn = bisect_right(self._starts, number) - 1
        with self._lock:
            if turn not in self._open:
                while len(self._open) >= _OPEN:
                    del self._open[next(iter(self._open))]
                self._open[turn] = _Shard.of(self.archives[turn], self._kept)
            return self._open[turn], number - self._starts[turn]


@dataclass(frozen=True)
class _Shard:
    """One shard's index in memory, some 100 bytes a member."""

    archive: Archive
    data: ArchiveBytes
    table: pa.Table
    starts: list[int]
    """The first member of each sample."""

    @classmethod
    def of(cls, archive: Archive, kept: Path | None) -> _Shard:
        table = member_table(archive, kept)
        places = [place for place, name in enumerate(table["name"].to_pylist()) if _key(name)]
        table = table.take(pa.array(places, pa.int64()))
        groups = groupby(enumerate(table["name"].to_pylist()), key=lambda one: _key(one[1]))
        return cls(archive, ArchiveBytes(archive), table, [next(group)[0] for _, group in groups])

    def members(self, place: int) -> list[Member]:
        stop = self.starts[place + 1] if place + 1 < len(self.starts) else len(self.table)
        rows = self.table.slice(self.starts[place], stop - self.starts[place]).to_pylist()
        return [Member(row["name"], row["offset"], row["size"]) for row in rows]


def _key(name: str) -> str:
    """ "" for a file that is part of no sample."""
    folder, slash, file = name.rpartition("/")
    key, dot, _ = file.partition(".")
    return folder + slash + key if key and dot else ""


def _text(data: ArchiveBytes, member: Member) -> str:
    if member.size > _TEXT_BYTES:
        raise ValueError(f"{member.name!r}: larger than {_TEXT_BYTES} bytes")
    try:
        return read_member(data, member, "file").decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{member.name!r}: not UTF-8: write it anew") from error


def _object(data: ArchiveBytes, member: Member) -> dict[str, Any]:
    text = _text(data, member)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
        raise ValueError(f"{member.name!r}: not valid JSON ({' '.join(str(error).split())}): write it anew") from error
    if not isinstance(found, dict):
        raise ValueError(f"{member.name!r}: holds a {type(found).__name__}: write an object")
    return found
