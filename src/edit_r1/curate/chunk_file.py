"""How far a chunk is, and which shards hold its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_r1.store import StoreError, read_json, write_json


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


def held_samples(out: Path) -> dict[int, list[str]]:
    """Ids by chunk, those among them that the last run did not come to. Raises StoreError for a damaged file."""
    paths = sorted((out / ".work" / "chunks").glob("*.json"))
    numbers = [int(path.stem) for path in paths if re.fullmatch(r"\d{6,}", path.stem)]
    return {number: ids for number in numbers if (ids := chunk_file(out, number).read().get("ids"))}


def read_homes(out: Path) -> dict[str, list[int]]:
    """By sample, the chunks that held it in all runs before the last change of what lies in which; {} before one.

    Kept for good: rows that were paid for lie in the shards of these chunks, wherever their samples lie now. Raises
    StoreError for a damaged file.
    """
    path = _homes(out)
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise StoreError(f"{path}: damaged: remove it and run again; what its chunks hold now is found")
    return found


def write_homes(
    out: Path, homes: Mapping[str, Sequence[int]], held: Mapping[int, Sequence[str]]
) -> dict[str, list[int]]:
    """`homes` with what chunks hold beside it, written and returned."""
    found = {one: set(numbers) for one, numbers in homes.items()}
    for number, ids in held.items():
        for one in ids:
            found.setdefault(one, set()).add(number)
    told = {one: sorted(numbers) for one, numbers in found.items()}
    write_json(_homes(out), told)
    return told


def _homes(out: Path) -> Path:
    return out / ".work" / "homes.json"
