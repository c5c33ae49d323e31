"""Saved states of an editor's training: each file whole or recognisably not, and the one before it kept.

A file is named after its iteration and the CRC-32 of its bytes, so that one rename makes both appear together. What was
cut short, by a kill or by a disk, or has changed since, does not fit its name, and the state before it is used.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

from edit_r1.store import writing

KEPT = 2
"""States that stay on the disk."""
_NAME = re.compile(r"(\d{8})-([0-9a-f]{8})\.pt")
_CHUNK = 1 << 24


class _Summed:
    """A file that takes the sum of what is written to it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.crc = 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        written: int = self.file.write(data)
        return written

    def flush(self) -> None:
        self.file.flush()


def write_state(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Save `state` after `step` iterations and remove all but the last `KEPT` files. Returns the file.

    Raises StoreError when the disk is full or read-only; the states that were there stay.
    """
    partial = folder / "partial"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                summed: Any = _Summed(file)
                torch.save(state, summed)
                file.flush()
                os.fsync(file.fileno())
            path = folder / f"{step:08d}-{summed.crc:08x}.pt"
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        for old in _files(folder)[KEPT:]:
            old.unlink(missing_ok=True)
    return path


def drop_states_after(folder: Path, step: int) -> None:
    """Remove the files of later iterations than `step`: a run that goes on from there makes them anew."""
    for path in _files(folder):
        if int(path.name[:8]) > step:
            path.unlink(missing_ok=True)


def has_state(folder: Path) -> bool:
    """Whether there is a file to continue from, or was one."""
    return bool(_files(folder))


def newest_state(folder: Path, tell: bool = True) -> tuple[Path, dict[str, Any]]:
    """The newest file that is whole, and what it holds, on the CPU.

    tell: say on stderr when a newer one is not whole. Raises ValueError when no file is.
    """
    for path in _files(folder):
        match = _NAME.fullmatch(path.name)
        assert match is not None
        if _crc(path) == int(match[2], 16):
            return path, torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if tell:
            print(f"{path} is torn or damaged (its checksum differs): using the state before it", file=sys.stderr)
    raise ValueError(f"no state in {folder} is whole: remove {folder.parent} and start again, or name another folder")


def _files(folder: Path) -> list[Path]:
    """Newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            crc = zlib.crc32(data, crc)
    return crc
