"""What several benches share: a folder that keeps to what its numbers were made with, or is begun anew each time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edit_r1.store import read_json, write_json


def keep_to(out: Path, settings: Mapping[str, Any]) -> None:
    """Notes what a folder's numbers are made with. Ends the program where it holds others."""
    path = out / "settings.json"
    if path.exists() and (before := read_json(path)) != settings:
        raise SystemExit(f"{out} was begun with {before}, not {dict(settings)}: name another --out, or give the same")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(settings))


_OURS = ".bench"


def begin_anew(out: Path) -> None:
    """Empties the folder of an earlier run. Ends the program where it holds what no bench has written."""
    if out.exists() and any(out.iterdir()) and not (out / _OURS).exists():
        raise SystemExit(f"{out} holds something else, which would be removed: name another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _OURS).touch()
