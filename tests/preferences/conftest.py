"""Small pictures and preferences made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.records import Candidate, Choice, Context, Preference, Sample
from edit_r1.store import PREFERENCES, write_dataset

Make = Callable[..., Preference]


@pytest.fixture(scope="session")
def paint() -> Callable[..., bytes]:
    """A smooth random picture as PNG; the same seed and size give the same bytes."""

    @lru_cache
    def picture(seed: int = 0, width: int = 40, height: int = 32) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.float64)
        rows, columns = np.linspace(0, 3, height), np.linspace(0, 4, width)
        along = np.stack([[np.interp(columns, range(5), row[:, c]) for c in range(3)] for row in coarse])
        whole = np.stack([[np.interp(rows, range(4), along[:, c, x]) for x in range(width)] for c in range(3)])
        return encode_png(whole.transpose(2, 1, 0).round().astype(np.uint8))

    return picture


@pytest.fixture(scope="session")
def prefer(paint: Callable[..., bytes]) -> Make:
    """A preference between two painted pictures, each named by its seed."""

    def make(
        first: int = 1,
        second: int = 2,
        choice: Choice = "first",
        annotator: str = "ann",
        context: int = 1000,
        editors: tuple[str, str] | None = None,
        **fields: object,
    ) -> Preference:
        sample = Sample(f"s{context}", paint(context), f"Make it {context}.", str(fields.pop("category", "colour")))
        names = editors or (f"editor {first % 2}", f"editor {second % 2}")
        pair = [
            Candidate(f"s{context}-{seed}", sample.id, paint(seed), name, seed)
            for seed, name in zip((first, second), names, strict=True)
        ]
        return Preference(Context(sample, (), ""), pair[0], pair[1], choice, annotator, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes preferences as a finished data set and gives its folder."""

    def write(*preferences: Preference, name: str = "pairs") -> Path:
        write_dataset(tmp_path, name, preferences, PREFERENCES)
        return tmp_path / name

    return write
