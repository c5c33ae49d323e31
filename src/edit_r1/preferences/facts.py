"""What an audit keeps of a pair when its pictures have gone: hashes, and which of the two edits has more of what.

The two edits are measured at one size, that of the smaller and at most `MEASURED_PIXELS`, because sharpness depends on
size. Some 60 ms of one core for a pair of one megapixel; a few hundred bytes are kept of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from PIL import Image

from edit_r1.algo.edit_change import measure_look
from edit_r1.algo.picture_hash import exact_hash, perceptual_hash
from edit_r1.images import ImageError, bounded_size, decode_rgb, to_same_size
from edit_r1.processes import cores
from edit_r1.records import Choice, Preference, Rating
from edit_r1.verifier.items import context_key

MEASURED_PIXELS = 262_144
"""Pictures are measured at 512 x 512 pixels at most."""
MEASURES = ("sharpness", "saturation", "brightness", "pixels", "file size", "distance from source")
_SAME_ASPECT = 0.02
"""As `images.to_same_size`: nearer aspects count as equal."""
_CHUNK = 16


@dataclass(frozen=True, slots=True)
class PairFacts:
    """One answer, without its pictures."""

    row: int
    """Its place in the data set, from 0."""
    context: bytes
    """Hash of the source's pixels, the further images, the instruction and the aspect."""
    source: bytes
    """`exact_hash` of the picture; likewise the next two."""
    first: bytes
    second: bytes
    near: tuple[bytes | None, bytes | None, bytes | None]
    """`perceptual_hash` of source, first and second."""
    choice: Choice
    annotator: str
    category: str
    first_editor: str
    second_editor: str
    more: tuple[int | None, ...]
    """For each of `MEASURES`: 1 when the first edit has more, -1 when the second has, 0 when equal, None when it could
    not be compared."""
    ratings: tuple[Rating, ...]
    soft: bool
    """Pooled from several annotators already."""
    simulated: bool

    @property
    def decided(self) -> bool:
        return self.choice != "same"

    @property
    def winner(self) -> bytes | None:
        return {"first": self.first, "second": self.second, "same": None}[self.choice]


@dataclass(frozen=True)
class Unreadable:
    """A row with a picture that cannot be decoded."""

    row: int
    reason: str


def read_facts(preferences: Iterable[Preference]) -> Iterator[PairFacts | Unreadable]:
    """The facts of every row, in order, on as many threads as there are cores; few rows are in memory at once."""
    rows = enumerate(preferences)
    with ThreadPoolExecutor(cores()) as threads:
        while chunk := list(islice(rows, _CHUNK)):
            yield from threads.map(_facts, chunk)


@dataclass(frozen=True)
class _Picture:
    exact: bytes
    near: bytes | None
    pixels: int
    small_HW3: np.ndarray
    """At most `MEASURED_PIXELS`."""


@lru_cache(maxsize=24)  # rows of one context follow each other and share their pictures
def _picture(data: bytes) -> _Picture:
    pixels_HW3 = decode_rgb(data)
    height, width = pixels_HW3.shape[:2]
    small_HW3 = _scaled(pixels_HW3, MEASURED_PIXELS)
    return _Picture(exact_hash(pixels_HW3), perceptual_hash(pixels_HW3), height * width, small_HW3)


def _facts(numbered: tuple[int, Preference]) -> PairFacts | Unreadable:
    row, preference = numbered
    sample = preference.context.sample
    try:
        source, first, second = (
            _picture(data) for data in (sample.source, preference.first.image, preference.second.image)
        )
    except ImageError as error:
        return Unreadable(row, str(error))
    about = context_key((source.exact, *sample.references, preference.aspect.encode()), sample.instruction)
    budget = min(MEASURED_PIXELS, first.pixels, second.pixels)
    looks = [measure_look(_scaled(one.small_HW3, budget)) for one in (first, second)]
    distances = [_distance(source.small_HW3, one.small_HW3) for one in (first, second)]
    values = [
        *((getattr(looks[0], name), getattr(looks[1], name)) for name in ("sharpness", "saturation", "brightness")),
        (first.pixels, second.pixels),
        (len(preference.first.image), len(preference.second.image)),
    ]
    more = [int(a > b) - int(a < b) for a, b in values]
    apart = None if None in distances else int(distances[0] > distances[1]) - int(distances[0] < distances[1])  # type: ignore[operator]
    return PairFacts(
        row=row,
        context=bytes.fromhex(about)[:16],
        source=source.exact,
        first=first.exact,
        second=second.exact,
        near=(source.near, first.near, second.near),
        choice=preference.choice,
        annotator=preference.annotator,
        category=sample.category,
        first_editor=preference.first.editor,
        second_editor=preference.second.editor,
        more=(*more, apart),
        ratings=preference.ratings,
        soft=preference.soft_label is not None,
        simulated=preference.simulated,
    )


def _scaled(pixels_HW3: np.ndarray, most: int) -> np.ndarray:
    height, width = pixels_HW3.shape[:2]
    size = bounded_size(width, height, most)
    if size == (width, height):
        return pixels_HW3
    return np.asarray(Image.fromarray(pixels_HW3).resize(size, Image.Resampling.BICUBIC))


def _distance(source_HW3: np.ndarray, edited_HW3: np.ndarray) -> float | None:
    """Mean absolute difference over pixels and channels, levels of 255; None for another aspect than the source's."""
    stretch = source_HW3.shape[1] * edited_HW3.shape[0] / (source_HW3.shape[0] * edited_HW3.shape[1])
    if abs(stretch - 1) > _SAME_ASPECT:
        return None
    a_HW3, b_HW3 = to_same_size(source_HW3, edited_HW3, MEASURED_PIXELS)
    return float((np.maximum(a_HW3, b_HW3) - np.minimum(a_HW3, b_HW3)).mean())
