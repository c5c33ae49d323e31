"""Journals: values that must be on disk before the next one is made, one JSON line each.

A line is the CRC-32 of its JSON in eight hexadecimal digits, a space, and the JSON. What is torn or damaged is left out
when a journal is read, never an error: what is missing is made again. Every writer, in whatever process or machine, has
a file of its own in the journal's folder: nobody waits for a lock, on network file systems either.

A line is handed to the operating system before `append` returns: it survives a killed process. It is forced to the disk
(fsync) with the first line written `SYNC_S` or more after the last time, and at `close`: a power cut may take the lines
since then, and the few last ones before the system's own write-back when nothing more was written. Forcing every line
would cost more than writing it, see docs/decisions.md.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edit_r1.store.files import StoreError, write_bytes

SYNC_S = 1.0
TAIL = 1 << 16
"""Bytes read first from the end of a file for its last line."""


class Journal:
    """One writer's file in a journal's folder; made with the first line. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        name = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self.path = folder / "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in name)
        self._file: int | None = None
        self._size, self._synced = 0, time.monotonic()
        self._lock = threading.Lock()

    def append(self, value: object) -> None:
        """Writes a line. Raises StoreError when the disk refuses it; what was written before stays readable."""
        line = encode_line(value)
        with self._lock:
            try:
                file = self._open()
                written = os.write(file, line)
                if written < len(line):  # the disk is full: half a line would spoil the next one
                    os.ftruncate(file, self._size)
                    raise OSError(None, "no space left")
            except OSError as error:
                raise _refused(self.path, error) from error
            self._size += len(line)
            now = time.monotonic()
            due = now - self._synced >= SYNC_S
            if due:
                self._synced = now
        if due:  # outside the lock: others go on writing
            self._sync(file)

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._size

    def restart(self, value: object) -> None:
        """Replaces everything written by one line, which says all that the others said. Raises StoreError."""
        line = encode_line(value)
        with self._lock:
            self._close()
            write_bytes(self.path, line)
            try:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            except OSError as error:
                raise _refused(self.path, error) from error
            self._size, self._synced = len(line), time.monotonic()

    def close(self) -> None:
        """Forces what was written to the disk. The next `append` opens the file again."""
        with self._lock:
            if self._file is not None:
                self._sync(self._file)
            self._close()

    def _open(self) -> int:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _sync(self, file: int) -> None:
        try:
            os.fsync(file)
        except OSError as error:
            raise _refused(self.path, error) from error


def encode_line(value: object) -> bytes:
    """A journal's line. Raises ValueError for what JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    return b"%08x %b\n" % (zlib.crc32(text), text)


def read_lines(data: bytes) -> Iterator[Any]:
    """The values of a journal's bytes in order, without what is torn or damaged."""
    return _values(data.split(b"\n"))


def _values(lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        if len(line) > 9 and line[8:9] == b" ":
            text = line[9:]
            if line[:8] == b"%08x" % zlib.crc32(text):
                yield json.loads(text.decode("utf-8", "surrogatepass"))


def read_journal(folder: Path) -> Iterator[Any]:
    """The values of all writers, each one's in order. Raises StoreError for a file that cannot be read."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from read_lines(_read(path, 0))


def last_values(folder: Path) -> dict[str, Any]:
    """By file name, the last whole value of each writer, none of which is None; little is read, however long they are.

    Raises StoreError.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for start in (-TAIL, 0):
            last = next(_values(reversed(_read(path, start).split(b"\n"))), None)
            if last is not None:
                found[path.name] = last
                break
    return found


def _read(path: Path, start: int) -> bytes:
    """From `start`, or the last so many bytes when it is negative."""
    try:
        with open(path, "rb") as file:
            if start < 0:
                file.seek(max(start, -os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read()
    except FileNotFoundError:  # removed meanwhile
        return b""
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error


def _refused(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(f"{path}: cannot be written ({reason}): free space there or choose another folder")
