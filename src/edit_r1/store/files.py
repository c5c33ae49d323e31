"""Files that appear whole or not at all: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_ASKED_S = 0.1
"""How long a look at a lock may take, seconds."""


class StoreError(ValueError):
    """Something on disk cannot be written or read: one line that names the path and the remedy."""


class BusyError(StoreError):
    """Another process is inside `locked` with the same file."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; folders are made as needed.

    Raises:
        StoreError: when the disk is full, read-only, or the path cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)  # otherwise the rename itself may be lost with the power
    except OSError as error:
        raise _refused(path, error) from error


_UNFINISHED = re.compile(r"\..+\.\d+(-\d+)?\.tmp")
"""What a file is named while it is written: `.NAME.PID-THREAD.tmp`, or `.NAME.PID.tmp`."""
_UNFINISHED_S = 3600.0
"""Since when nothing was written to such a file before its process counts as dead, seconds. A number of a process tells
nothing: on a shared disk it may be another machine's, or that of another container."""


def drop_unfinished(folder: str | Path) -> None:
    """Removes, at any depth, what killed processes were writing an hour ago or earlier."""
    for where, _, names in os.walk(folder):
        for name in names:
            if _UNFINISHED.fullmatch(name):
                path = Path(where, name)
                with suppress(OSError):  # gone meanwhile, or of somebody else
                    if time.time() - path.stat().st_mtime > _UNFINISHED_S:
                        path.unlink()


def _flush(path: Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _refused(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(f"{path}: cannot be written ({reason}): free space there or choose another folder")


@contextmanager
def locked(path: str | Path, busy: str) -> Iterator[None]:
    """Inside, no other process is inside with the same file, which is made when needed and stays; a kill unlocks it.

    A file system that knows no locks, and a system without `flock`, let everybody in.

    Raises:
        BusyError: when another process is inside: `busy`, after the path.
        StoreError: when the path cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        if fcntl is not None:
            try:
                _lock(file)
            except BlockingIOError as error:
                raise BusyError(f"{path}: {busy}") from error
            except OSError:
                pass  # no locks there
        yield
    finally:
        os.close(file)


def _lock(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_ASKED_S)  # somebody may be asking `is_locked`
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: str | Path) -> bool:
    """Whether a process is inside `locked` with this file. True as well where locks do not tell; False without it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    held = True
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            held = False
    os.close(file)
    return held


_OF_THE_DISK = re.compile(r"[^:]*\(os error \d+\)|PytorchStreamWriter|iostream error|inline_container")
"""How safetensors and torch report in classes of their own what the operating system told them."""

_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Inside, a library writes to `path`.

    Raises:
        StoreError: for what the disk refused, in whatever class that library reports it.
    """
    try:
        yield
    except Exception as error:
        told = _OF_THE_DISK.search(str(error))
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            reason = error.strerror
        elif told:  # torch keeps the reason to itself; in nearly all cases it is this
            reason = told[0].strip() if "os error" in told[0] else "the disk may be full"
        else:
            raise
        raise StoreError(f"{path}: cannot be written ({reason}): free space there or choose another folder") from error


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path`, over what was there, when it is complete.

    Raises:
        StoreError: when the disk is full or read-only; nothing is left half-written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            for each in (*partial.rglob("*"), partial):
                _flush(each)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text. Raises StoreError as it does."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: object) -> None:
    """`write_bytes` of indented JSON.

    Raises:
        StoreError: as `write_bytes`.
        ValueError: for NaN or infinity, which JSON does not have: use None for what is absent.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What `write_json` wrote.

    Raises:
        StoreError: when the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}): remove it and run its stage again") from error
