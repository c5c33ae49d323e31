"""A folder of photographs with a JSONL file of rows: pictures are paths relative to that file."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_r1.curate.intake.rows import Columns, FolderPictures, Pictures, columns_key
from edit_r1.curate.shards import unit_key
from edit_r1.verifier.inputs import open_data


class JsonlRows:
    """The rows of a JSONL file; where each line begins, and a hash of it, are in memory, 24 bytes a row."""

    def __init__(self, path: Path, columns: Columns | None = None, pictures: Pictures | None = None) -> None:
        """path: the file, or a folder that holds one. Raises ValueError when there is none, or it holds no row."""
        self.columns = columns or Columns()
        self.pictures: Pictures = pictures or FolderPictures()
        self.file = open_data(path, (self.columns.source, self.columns.instruction)).files[0]
        self._starts, self._lines, self._hashes = array("q"), array("q"), array("Q")
        digest = hashlib.sha256()
        at = 0
        with open(self.file, "rb") as stream:
            for line_number, line in enumerate(stream, start=1):
                digest.update(line)
                if line.strip():
                    self._starts.append(at)
                    self._lines.append(line_number)
                    self._hashes.append(_hash(line))
                at += len(line)
        self._sha256 = digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        return unit_key(self._sha256, columns_key(self.columns), self.pictures.fingerprint)

    def prepare(self, kept: Path) -> None:
        self.pictures.prepare(kept)

    def __len__(self) -> int:
        return len(self._starts)

    def origin(self, number: int) -> str:
        return f"{self.file.name}:{self._lines[number]}"

    def values(self, number: int, names: Sequence[str]) -> Mapping[str, Any]:
        try:
            with open(self.file, "rb") as stream:
                stream.seek(self._starts[number])
                line = stream.readline()
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror}): check the path") from error
        if _hash(line) != self._hashes[number]:  # its place may hold another row, or half of one
            raise ValueError(f"{self.file.name} was changed since the run began: run again")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not valid JSON ({' '.join(str(error).split())}): write one object per line") from error
        if not isinstance(row, dict):
            raise ValueError(f"a row of type {type(row).__name__}: write an object with {', '.join(names)}")
        return {name: row[name] for name in names if name in row}

    def picture(self, number: int, value: Any, label: str) -> bytes:
        return self.pictures.read(value, label, self.file.parent)


def _hash(line: bytes) -> int:
    """Of 64 bits; the same with and without the end of the line, which a last line may lack."""
    return int.from_bytes(hashlib.blake2b(line.rstrip(b"\r\n"), digest_size=8).digest())
