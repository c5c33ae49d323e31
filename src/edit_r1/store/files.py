"""Files that appear whole or not at all: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any


class StoreError(ValueError):
    """Something on disk cannot be written or read: one line that names the path and the remedy."""


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
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # otherwise the rename itself may be lost with the power
        finally:
            os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: cannot be written ({reason}): free space there or choose another folder") from error


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
    except ValueError as error:
        raise StoreError(f"{path}: not valid JSON ({error}): remove it and run its stage again") from error
