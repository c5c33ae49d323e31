"""The files of a data set's folder, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every file under a folder but hidden ones (macOS writes a ._NAME beside NAME), in no order.

    Folders behind links are gone into, each once, as the files behind links are files.

    Raises ValueError for a folder that cannot be read: what lies there would be left out without a word.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above, or to one that was gone through
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path


def check_apart(folder: Path, out: Path) -> None:
    """Raises ValueError for an output inside the folder of data whose files are found by their names."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{folder}: files in it are data, and the output's would be: choose an --out that is not in it"
        )


def _unreadable(error: OSError) -> None:
    told = error.strerror or type(error).__name__
    raise ValueError(f"{error.filename}: cannot be read ({told}): allow it, or move it out of the data") from error
