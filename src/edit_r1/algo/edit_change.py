"""What an edit did to the pixels, without a model: how much changed, where, and how the picture's look drifted.

All measures are of uint8 pictures of one size (`images.to_same_size` makes two such), arrays [H, W, 3]; a mask is bool
[H, W], True where the edit may change something. They tell nothing of whether an edit is good. They tell what a reward
can be had for without an edit: a copy of the source, a picture brightened, sharpened or saturated as a whole, and
changes where none were asked for. About 4 ms of CPU time at 512 x 512 (bench/copies.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VISIBLE = 24
"""Levels of 0..255: a pixel counts as changed when one of its channels differs by more (ours)."""
UNSEEN_SHARE, UNSEEN_MEAN, UNSEEN_SHIFT = 0.002, 3.0, 5.0
"""Most of `share`, `mean` and `shift` that is left where nothing was edited that could be seen (ours)."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom; in pixels, or all in 0 to 1 as shares of width and height."""


@dataclass(frozen=True)
class EditChange:
    """An edit against its source."""

    mean: float
    """Mean absolute difference over pixels and channels, levels of 0..255."""
    share: float
    """Share of pixels that changed visibly (`VISIBLE`), 0 to 1."""
    shift: float
    """Largest change of a cell's mean colour, levels of 0..255 in any channel. Cells are an eighth of the sides large
    and overlap by half. What an autoencoder does to every pixel is averaged out in a cell, what an edit does is not."""
    outside: float | None
    """Share of the pixels outside the mask that changed visibly, 0 to 1; None where no pixel is outside."""
    brightness: float
    """Mean luma of the edit less the source's, levels of 0..255."""
    saturation: float
    """Mean of max - min over a pixel's channels, the edit's less the source's, levels of 0..255."""
    sharpness: float
    """log2 of the ratio of the mean absolute Laplacian of the luma: 1 is twice as sharp (or noisy), -1 half."""


@dataclass(frozen=True)
class Look:
    """What a picture looks like as a whole."""

    brightness: float
    """Mean luma, 0 to 255."""
    saturation: float
    """Mean of max - min over a pixel's channels, 0 to 255."""
    sharpness: float
    """log2 of the mean absolute Laplacian of the luma, in levels, plus 0.1; noise counts as sharpness."""


def measure_look(pixels_HW3: np.ndarray) -> Look:
    """Measures of one picture; their differences are those of `EditChange`. Raises ValueError as `measure_change`."""
    _check(pixels_HW3)
    luma_HW = _luma(pixels_HW3)
    return Look(float(luma_HW.mean()), _chroma(pixels_HW3), float(np.log2(_roughness(luma_HW))))


def measure_change(source_HW3: np.ndarray, edited_HW3: np.ndarray, mask_HW: np.ndarray | None = None) -> EditChange:
    """Measures of one edit. Raises ValueError for pictures or a mask of other types or sizes."""
    _check(source_HW3)
    _check(edited_HW3)
    if source_HW3.shape != edited_HW3.shape:
        raise ValueError(
            f"pictures of {source_HW3.shape[:2]} and {edited_HW3.shape[:2]}: bring them to one size by "
            "images.to_same_size"
        )
    # The larger less the smaller stays in uint8: several times as fast as signed integers.
    difference_HW3 = np.maximum(source_HW3, edited_HW3) - np.minimum(source_HW3, edited_HW3)
    changed_HW = _largest(difference_HW3) > VISIBLE
    outside = None
    if mask_HW is not None:
        if mask_HW.dtype != np.bool_ or mask_HW.shape != source_HW3.shape[:2]:
            raise ValueError(
                f"a mask of {mask_HW.dtype} {mask_HW.shape}, pictures of {source_HW3.shape[:2]}: give bool of that size"
            )
        if not mask_HW.all():
            outside = float(changed_HW[~mask_HW].mean())
    before_HW, after_HW = _luma(source_HW3), _luma(edited_HW3)
    return EditChange(
        mean=float(difference_HW3.mean()),
        share=float(changed_HW.mean()),
        shift=float(np.abs(_cells(source_HW3) - _cells(edited_HW3)).max()),
        outside=outside,
        brightness=float(after_HW.mean() - before_HW.mean()),
        saturation=_chroma(edited_HW3) - _chroma(source_HW3),
        sharpness=float(np.log2(_roughness(after_HW) / _roughness(before_HW))),
    )


def unseen(change: EditChange) -> bool:
    """Whether no edit can be seen by any measure: hardly a pixel, hardly a level, no cell."""
    return change.share <= UNSEEN_SHARE and change.mean <= UNSEEN_MEAN and change.shift <= UNSEEN_SHIFT


def box_mask(boxes: Sequence[Box], height: int, width: int, margin: float = 0.05) -> np.ndarray:
    """Mask [height, width] that is True inside any of the boxes, each widened by `margin` of the picture's sides.

    Boxes in pixels are of a picture of this size; boxes whose four numbers lie in 0 to 1 are shares. Parts outside the
    picture are cut off. Raises ValueError for a box that is turned around or empty.
    """
    mask_HW = np.zeros((height, width), bool)
    for box in boxes:
        left, top, right, bottom = box
        if not (left < right and top < bottom):
            raise ValueError(f"box {box}: give left < right and top < bottom")
        if max(box) <= 1:
            left, top, right, bottom = left * width, top * height, right * width, bottom * height
        wide, high = margin * width, margin * height
        rows = slice(max(0, int(np.floor(top - high))), max(0, int(np.ceil(bottom + high))))
        columns = slice(max(0, int(np.floor(left - wide))), max(0, int(np.ceil(right + wide))))
        mask_HW[rows, columns] = True
    return mask_HW


def _cells(pixels_HW3: np.ndarray) -> np.ndarray:
    """Mean colours [rows, columns, 3] of the cells of `EditChange.shift`; of a side below 16 pixels fewer."""
    sums: np.ndarray = pixels_HW3
    counts = np.ones(())
    for axis in (0, 1):
        side = pixels_HW3.shape[axis]
        edges = np.linspace(0, side, min(16, side) + 1).astype(int)
        sums = np.add.reduceat(sums, edges[:-1], axis=axis, dtype=np.int64)
        counts = np.multiply.outer(counts, np.diff(edges))
        if side > 1:
            ahead, behind = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(-1),)
            sums, counts = sums[ahead] + sums[behind], counts[ahead] + counts[behind]
    return sums / counts[:, :, None]


def _check(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}: expected uint8 (height, width, 3)")


def _chroma(pixels_HW3: np.ndarray) -> float:
    red, green, blue = np.moveaxis(pixels_HW3, 2, 0)
    return float((_largest(pixels_HW3) - np.minimum(np.minimum(red, green), blue)).mean())


def _largest(pixels_HW3: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels_HW3, 2, 0)
    return np.maximum(np.maximum(red, green), blue)


def _luma(pixels_HW3: np.ndarray) -> np.ndarray:
    """ITU-R BT.601, float32 [H, W] in 0..255."""
    red, green, blue = np.moveaxis(pixels_HW3, 2, 0)
    return np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue


def _roughness(luma_HW: np.ndarray) -> float:
    """Mean absolute Laplacian (4 neighbours, inner pixels), plus 0.1 so that a flat picture has a log."""
    inner = luma_HW[1:-1, 1:-1]
    around = luma_HW[:-2, 1:-1] + luma_HW[2:, 1:-1] + luma_HW[1:-1, :-2] + luma_HW[1:-1, 2:]
    return float(np.abs(around - 4 * inner).mean()) + 0.1 if inner.size else 0.1
