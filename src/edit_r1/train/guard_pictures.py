"""The validation edits of one moment as one picture: a row per context, its source and its edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edit_r1.images import decode_rgb, encode_png, to_same_size
from edit_r1.store.files import write_bytes

CELL_PIXELS = 384 * 384
"""Most pixels of one picture in the grid."""
GAP = 4
"""Pixels between pictures."""
GREY = 127


def write_grid(path: Path, sources: Sequence[bytes], edits: Sequence[bytes | None]) -> None:
    """A PNG with a row per context: source left, edit right, at one size; a missing edit stays grey.

    Raises ValueError for no row, or StoreError when the file cannot be written.
    """
    if not sources:
        raise ValueError("no validation context: there is nothing to draw")
    rows = []
    for source, edit in zip(sources, edits, strict=True):
        source_HW3 = decode_rgb(source)
        other_HW3 = np.full_like(source_HW3, GREY) if edit is None else decode_rgb(edit)
        rows.append(to_same_size(source_HW3, other_HW3, CELL_PIXELS))
    height = sum(left.shape[0] + GAP for left, _ in rows) - GAP
    half = max(left.shape[1] for left, _ in rows)
    canvas = np.full((height, 2 * half + GAP, 3), GREY, np.uint8)
    top = 0
    for left, right in rows:
        high, wide = left.shape[:2]
        canvas[top : top + high, :wide] = left
        canvas[top : top + high, half + GAP : half + GAP + wide] = right
        top += high + GAP
    write_bytes(path, encode_png(canvas))
