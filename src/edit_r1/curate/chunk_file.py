"""How far a chunk is, and which shards hold its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_r1.store import read_json


@dataclass(frozen=True)
class ChunkFile:
    """`.work/chunks/NUMBER.json`."""

    path: Path

    def read(self) -> dict[str, Any]:
        """{"run", "key", "ids", "steps": {step: {"shards", "rows", "failed", "new", ...}}, "tally", "done"}; or {}.

        Raises StoreError for a damaged file.
        """
        found: dict[str, Any] = read_json(self.path) if self.path.exists() else {}
        return found


def shards_there(out: Path, chunk: Mapping[str, Any]) -> bool:
    """Whether every shard that a chunk's file names lies there: one that was removed is made again."""
    return all((out / name).exists() for step in chunk["steps"].values() for name in step["shards"])


def chunk_file(out: Path, number: int) -> ChunkFile:
    return ChunkFile(out / ".work" / "chunks" / f"{number:06d}.json")
