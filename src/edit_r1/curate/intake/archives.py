"""Tar archives, whole or split into parts, read in place: where each member lies is looked up once.

Nothing is unpacked, so names with "..", absolute ones and links can do no harm: a member is bytes at a place, and only
regular files are members. The index of an archive is a Parquet file {name, offset, size}, in the order of the archive,
and is kept beside the output.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.curate.intake.folders import files_below
from edit_r1.curate.intake.rows import files_fingerprint
from edit_r1.images import DEFAULT_LIMITS, ImageError
from edit_r1.store import StoreError, write_bytes

_PART = re.compile(r"(?P<whole>.+\.tar)(?:\.split|\.part)?\.(?P<number>\d{1,6}|[a-z]{2,3})")
_COMPRESSED = (".gz", ".xz", ".lz", ".zst")
"""Endings that look like parts in letters."""
_HEADER_BYTES = 2**20
"""Most bytes of one header: long names and comments. What asks for more is damaged or malicious."""
_BLOCK = 512
_KEPT_OPEN = 8
"""Parts of one archive that stay open; a folder may have more parts than a process may have files."""


@dataclass(frozen=True)
class Archive:
    """A tar file."""

    name: str
    """Of the whole file, such as "action.tar"."""
    parts: tuple[Path, ...]
    """The file, or its parts, which belong end to end."""

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".tar")


def find_archives(folder: Path) -> list[Archive]:
    """Every X.tar under a folder, and every one that lies there in parts (X.tar.split.000, X.tar.000, X.tar.aa ...).

    Raises ValueError when a part is missing, or there twice, or a folder cannot be read.
    """
    whole: dict[Path, Archive] = {}
    split: dict[Path, dict[int, Path]] = defaultdict(dict)
    for path in sorted(path for path in files_below(folder) if ".tar" in path.name):
        if path.suffix == ".tar":
            whole[path] = Archive(path.name, (path,))
        elif found := _PART.fullmatch(path.name):
            parts, number = split[path.with_name(found["whole"])], _number(found["number"])
            if number in parts:
                raise ValueError(f"{path}: the same part as {parts[number].name}: remove one of them")
            parts[number] = path
    for path, parts in split.items():
        if path in whole or all(part.suffix in _COMPRESSED for part in parts.values()):
            continue
        missing = sorted(set(range(1 if 0 not in parts and 1 in parts else 0, max(parts) + 1)) - parts.keys())
        if missing:
            raise ValueError(f"{path}: part {missing[0]} of {max(parts) + 1} is missing: download it")
        whole[path] = Archive(path.name, tuple(parts[number] for number in sorted(parts)))
    return [whole[path] for path in sorted(whole)]


def _number(suffix: str) -> int:
    """000, 001 ... or aa, ab ..., as `split` writes them."""
    if suffix.isdigit():
        return int(suffix)
    number = 0
    for letter in suffix:
        number = number * 26 + ord(letter) - ord("a")
    return number


class ArchiveBytes:
    """The bytes of an archive at any place, over all its parts; of any thread."""

    def __init__(self, archive: Archive) -> None:
        """Raises ValueError for a part that cannot be read."""
        self.archive = archive
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()
        try:
            self._starts = [0, *accumulate(part.stat().st_size for part in archive.parts)]
        except OSError as error:
            raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): check the path") from error
        self.size = self._starts[-1]

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end. Raises OSError when the disk refuses."""
        found = b""
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            if start <= offset < end and count > 0:
                piece = self._read_part(number, min(count, end - offset), offset - start)
                found, offset, count = found + piece, offset + len(piece), count - len(piece)
        return found

    def _read_part(self, number: int, count: int, offset: int) -> bytes:
        with self._lock:
            file = self._files.get(number)
            if file is None:
                file = os.open(self.archive.parts[number], os.O_RDONLY)
                if kept := len(self._files) < _KEPT_OPEN:
                    self._files[number] = file
            else:
                kept = True
        try:
            return os.pread(file, count, offset)
        finally:
            if not kept:
                os.close(file)

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)


class _Stream:
    """What `tarfile` needs of a file to read headers."""

    def __init__(self, data: ArchiveBytes) -> None:
        self._data, self._at = data, 0
        self.left = _HEADER_BYTES
        """Bytes that the headers of one member may still have."""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError(f"headers of more than {_HEADER_BYTES} bytes")
        found = self._data.read(self._at, count)
        self._at += len(found)
        self.left -= len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0, "tarfile seeks from the beginning"
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True)
class Member:
    """A regular file in an archive."""

    name: str
    offset: int
    """Of its bytes in the archive."""
    size: int


def list_members(archive: Archive) -> Iterator[Member]:
    """The members of an archive in their order; headers alone are read.

    Raises ValueError, naming the archive and the byte, for one that is damaged, cut off, compressed or no tar.
    """
    data = ArchiveBytes(archive)
    stream, at = _Stream(data), -1
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members = []  # or every header would stay in memory
                stream.left = _HEADER_BYTES
                if member.size < 0 or tar.offset <= at:
                    raise ValueError("a header that leads backwards")
                at = tar.offset
                if member.isreg() and not member.issparse():
                    yield Member(_plain(member.name), member.offset_data, member.size)
            at = tar.offset
            # tarfile takes a damaged header in the middle for the end.
            rest = data.read(at, _BLOCK)
            if at > data.size or (rest and (len(rest) < _BLOCK or rest.strip(b"\0"))):
                raise ValueError("no header where one must stand")
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        # A long chain of headers without a file recurses in tarfile.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{archive.parts[0].parent / archive.name}: damaged, cut off or no plain tar at byte {max(at, 0)} of "
            f"{data.size} ({reason}): download it again; compressed ones have to be decompressed"
        ) from error


def _plain(name: str) -> str:
    # Half characters come of names that are not UTF-8, and fit no Parquet.
    return name.encode("utf-8", "replace").decode().removeprefix("./")


def member_table(archive: Archive, kept: Path | None) -> pa.Table:
    """The index of an archive, {name, offset, size}, in the order of the archive; from `kept` when it lies there.

    Raises ValueError as `list_members`, StoreError when `kept` cannot be written.
    """
    # With the folder: shards of one name in two folders may agree in size and time, padded and stamped alike.
    key = files_fingerprint(archive.parts, str(archive.parts[0].parent.resolve()))
    path = None if kept is None else kept / "archives" / f"{archive.name}.{key}.parquet"
    if path is not None and path.exists():
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path}: damaged: remove it, the archive is indexed again") from error
    members = list(list_members(archive))
    table = pa.table(
        {
            "name": pa.array([member.name for member in members], pa.string()),
            "offset": pa.array([member.offset for member in members], pa.int64()),
            "size": pa.array([member.size for member in members], pa.int64()),
        }
    )
    if path is not None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(path, sink.getvalue().to_pybytes())
    return table


class TarPictures:
    """Pictures that rows name by their place in archives under a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError when the folder holds no archive, or a part is missing."""
        self.folder = folder
        self.archives = find_archives(folder)
        if not self.archives:
            raise ValueError(f"{folder}: holds no .tar, nor the parts of one: check the path")
        self._data: list[ArchiveBytes] = []
        self._index: list[_Index] = []

    @property
    def fingerprint(self) -> str:
        return files_fingerprint([part for archive in self.archives for part in archive.parts])

    def prepare(self, kept: Path | None) -> None:
        """Indexes the archives. Raises ValueError for a damaged one."""
        if not self._index:
            self._data = [ArchiveBytes(archive) for archive in self.archives]
            self._index = [_Index(member_table(archive, kept)) for archive in self.archives]

    def read(self, value: Any, label: str, root: Path) -> bytes:
        if isinstance(value, dict):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise ValueError(f"{label} of type {type(value).__name__}: give the name of a member")
        self.prepare(None)
        for number, index in enumerate(self._index):
            stem = self.archives[number].stem
            for name in _names(value, stem):
                if (found := index.find(name)) is not None:
                    return read_member(self._data[number], Member(name, *found), label)
        raise ImageError(f"{label} {value!r}: in none of the {len(self.archives)} archives")


def _names(value: str, stem: str) -> Iterator[str]:
    """A member may be named with the archive's own name before it, or without one that it has."""
    name = _plain(value)
    yield name
    yield name.removeprefix(f"{stem}/") if name.startswith(f"{stem}/") else f"{stem}/{name}"


def read_member(data: ArchiveBytes, member: Member, label: str) -> bytes:
    """The bytes of a member. Raises ImageError when it is too large, or cut off."""
    if member.size > DEFAULT_LIMITS.max_bytes:
        raise ImageError(f"{label} {member.name!r}: larger than {DEFAULT_LIMITS.max_bytes} bytes")
    try:
        found = data.read(member.offset, member.size)
    except OSError as error:
        raise ImageError(f"{label} {member.name!r}: cannot be read ({error.strerror})") from error
    if len(found) < member.size:
        raise ImageError(f"{label} {member.name!r}: cut off after {len(found)} of {member.size} bytes")
    return found


class _Index:
    """Name to (offset, size), 24 bytes a member: names are kept as 64 bits of their hash."""

    def __init__(self, table: pa.Table) -> None:
        keys = np.array([_hash(name) for name in table["name"].to_pylist()], np.uint64)
        # Of members with one name the last counts, as in tar.
        _, last = np.unique(keys[::-1], return_index=True)
        places = len(keys) - 1 - last
        self._keys = keys[places]
        self._offsets = table["offset"].to_numpy()[places]
        self._sizes = table["size"].to_numpy()[places]

    def find(self, name: str) -> tuple[int, int] | None:
        key = np.uint64(_hash(name))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        return int(self._offsets[place]), int(self._sizes[place])


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def archive_files(archives: Sequence[Archive]) -> list[Path]:
    """All files of some archives."""
    return [part for archive in archives for part in archive.parts]
