"""Pictures and archives as teams have them, made small."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIZE = (96, 72)


def photograph(seed: int, size: tuple[int, int] = SIZE, kind: str = "JPEG") -> bytes:
    """A picture with structure at two scales, so that its perceptual hash means something."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size), np.float64)
        for n in (4, 12)
    ]
    return encoded(np.mean(layers, axis=0).round().astype(np.uint8), kind)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def split(path: Path, size: int) -> list[Path]:
    """As `split -b SIZE -d -a 3 X.tar X.tar.split.`; the whole file is removed."""
    data = path.read_bytes()
    parts = []
    for number, start in enumerate(range(0, len(data), size)):
        part = path.with_name(f"{path.name}.split.{number:03d}")
        part.write_bytes(data[start : start + size])
        parts.append(part)
    path.unlink()
    return parts


def write_jsonl(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Kit:
    photograph, encoded = staticmethod(photograph), staticmethod(encoded)
    write_tar, split, write_jsonl = staticmethod(write_tar), staticmethod(split), staticmethod(write_jsonl)


@pytest.fixture(scope="session")
def data_kit() -> type[Kit]:
    return Kit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six photographs and a JSONL of seven rows, two of them of one photograph, with an empty line."""
    data = tmp_path / "photographs"
    rows = []
    for number in range(6):
        (data / "pictures").mkdir(parents=True, exist_ok=True)
        (data / "pictures" / f"{number}.jpg").write_bytes(photograph(number))
        row = {
            "source": f"pictures/{number}.jpg",
            "instruction": f"Make thing {number} blue.",
            "category": "ab"[number % 2],
        }
        rows.append(row | ({"licence": "CC0-1.0"} if number < 2 else {}))
    rows.append({"source": "pictures/0.jpg", "instruction": "Remove the left half.", "id": "seventh", "extra": [1]})
    write_jsonl(data / "rows.jsonl", rows)
    text = (data / "rows.jsonl").read_text().splitlines(keepends=True)
    (data / "rows.jsonl").write_text("".join([*text[:3], "\n", *text[3:]]))
    return data
