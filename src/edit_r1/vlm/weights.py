"""Models and editors that were loaded from files, and can tell which."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from edit_r1.store.fingerprints import fingerprint


@runtime_checkable
class Loaded(Protocol):
    """A model or an editor of weights on this machine."""

    @property
    def weights_key(self) -> str:
        """Fingerprint of the files; "" where they are not known, as of a hub id."""


def weights_of(model: object) -> str:
    """Its `weights_key`; "" for what was not loaded from files."""
    return model.weights_key if isinstance(model, Loaded) else ""


def files_key(path: str | Path, adapter: str | Path | None = None, parts: bool = False) -> str:
    """`store.fingerprints.fingerprint` of folders; "" where one is none, such as a hub id."""
    folders = [Path(one) for one in (path, adapter) if one is not None]
    return fingerprint(path, adapter, parts) if all(one.is_dir() for one in folders) else ""
