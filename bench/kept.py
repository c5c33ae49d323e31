"""What several benches share: a folder that keeps to what its numbers were made with."""

from __future__ import annotations

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
