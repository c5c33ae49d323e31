"""Principles on disk, so that a group of edits, and tomorrow's run, pays for one decomposition.

An entry is a small JSON file named after the hash of everything that shapes the answer: the request as the model reads
it (source images, instruction, the examples drawn), the version of the prompts, the model, and how it decodes. Only
principles are kept, never a failure. Files appear whole or not at all, so several processes may share a folder: the
worst that can happen is that two of them ask the model the same. A file that cannot be read is as good as none, and is
written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edit_r1.records import Principle
from edit_r1.store import StoreError, write_json
from edit_r1.verifier.prompts import check_principles
from edit_r1.vlm.protocol import Request, Sampling

CACHE_VARIABLE = "EDIT_R1_CACHE"
"""Environment variable: a folder for the cache, or "off"."""


@dataclass(frozen=True)
class PrinciplesCache:
    """A folder of principles."""

    folder: Path
    model: str = ""
    """What tells the model from others of its name: see `checkpoint_identity`."""

    def key(self, request: Request, prompts: str, model: str, sampling: Sampling) -> str:
        """Hash of everything that shapes the answer, hexadecimal. `prompts`: the version of the prompts."""
        parts = [part if isinstance(part, str) else hashlib.sha256(part).hexdigest() for part in request.parts]
        kinds = "".join("t" if isinstance(part, str) else "i" for part in request.parts)
        everything = [prompts, model, self.model, request.system, kinds, parts, asdict(sampling)]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> tuple[Principle, ...] | None:
        """The principles under `key`; None when there are none, or the entry is damaged."""
        try:
            entry = json.loads(self._path(key).read_bytes())
            if entry["key"] != key:
                return None
            return check_principles([Principle(row["question"], row["category"]) for row in entry["principles"]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # the one place where what lies in the folder is read: whatever it is, the model is asked

    def put(self, key: str, principles: tuple[Principle, ...], about: Mapping[str, Any]) -> None:
        """Keeps principles; `about` is for people who look into the file. A full disk is a warning, not an error."""
        rows = [{"question": principle.question, "category": principle.category} for principle in principles]
        try:
            write_json(self._path(key), {"key": key, **about, "principles": rows})
        except StoreError as error:
            warnings.warn(f"principles are not kept: {error}; {CACHE_VARIABLE}=off says so for good", stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def default_cache() -> PrinciplesCache | None:
    """The cache in $EDIT_R1_CACHE, else in $XDG_CACHE_HOME/edit-r1, else in ~/.cache/edit-r1; None when it is "off"."""
    named = os.environ.get(CACHE_VARIABLE, "")
    if named.strip().lower() == "off":
        return None
    if named.strip():
        return PrinciplesCache(Path(named).expanduser() / "principles")
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The convention: a relative path there is to be ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return PrinciplesCache(root / "edit-r1" / "principles")


def chosen_cache(
    cache: PrinciplesCache | Literal["default"] | None, model: str, another_writes: bool
) -> PrinciplesCache | None:
    """The cache of a verifier whose own model has the identity `model`.

    another_writes: the principles come from another model. Names are no identity (two checkpoints may lie in folders
    called "final"), so a cache for it has to name it, and the default one, which cannot, is not taken.
    """
    if another_writes:
        return None if cache == "default" else cache
    kept = default_cache() if cache == "default" else cache
    return None if kept is None else replace(kept, model=model)


def checkpoint_identity(path: str | Path, adapter: str | Path | None = None) -> str:
    """Path, sizes and times of a checkpoint's files: another model in a folder of the same name is another one.

    A hub id stands for itself. Copying a checkpoint changes its identity, which costs one decomposition a context.
    """
    told: list[Any] = []
    for folder in (path, *([] if adapter is None else [adapter])):
        files = sorted(file for file in Path(folder).glob("*") if file.is_file())
        told.append([str(Path(folder).resolve()) if files else str(folder)])
        told += [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
