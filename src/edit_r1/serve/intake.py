"""From what a client sent to what the verifier reads; every refusal is a ValueError that names what is wrong."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edit_r1.images import ImageError, Limits, image_size
from edit_r1.records import Principle
from edit_r1.verifier.prompts import MAX_SOURCES, check_instruction, check_principles
from edit_r1.verifier.scoring import ScoreItem

_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,")
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


@dataclass(frozen=True)
class Incoming:
    """One item as a protocol delivers it: images still as text."""

    sources: Sequence[str]
    edited: str
    instruction: str
    principles: Sequence[Principle] | None = None


@dataclass(frozen=True)
class Ready:
    """An item that may be sent to the model."""

    item: ScoreItem
    pixels: int
    """Sum over its images."""


class Reader:
    """Reads the items of one request; an image that several of them share is decoded once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[str, tuple[bytes, int]] = {}

    def read(self, incoming: Incoming) -> Ready:
        """Raises ValueError for text or images that cannot be judged. Headers of images are read, not pixels."""
        if not 1 <= len(incoming.sources) <= MAX_SOURCES:
            raise ValueError(f"{len(incoming.sources)} source images: give 1 to {MAX_SOURCES}")
        instruction = check_instruction(incoming.instruction)
        principles = None if incoming.principles is None else check_principles(incoming.principles)
        named = [("source image", source) for source in incoming.sources] + [("edited image", incoming.edited)]
        images = [self.image(text, label) for label, text in named]
        item = ScoreItem(tuple(data for data, _ in images[:-1]), images[-1][0], instruction, principles)
        return Ready(item, sum(pixels for _, pixels in images))

    def image(self, text: str, label: str) -> tuple[bytes, int]:
        """The encoded image in a base64 text (bare, or as a data URL), and its number of pixels."""
        if text not in self._seen:
            data = _decode(text, label, self._limits.max_bytes)
            try:
                width, height = image_size(data, self._limits)
            except ImageError as error:
                raise ImageError(f"{label}: {error}") from error
            self._seen[text] = data, width * height
        return self._seen[text]


def _decode(text: str, label: str, max_bytes: int) -> bytes:
    bare = text
    if match := _DATA_URL.match(text):
        bare = text[match.end() :]
    elif _ADDRESS.match(text[:40]):
        raise ValueError(f"{label}: an address ({text[:20]!r}...) is not fetched: send the image itself as base64")
    if "\n" in bare or "\r" in bare:  # as the program base64 and MIME write it
        bare = "".join(bare.splitlines())
    if len(bare) // 4 * 3 - 2 > max_bytes:
        raise ImageError(f"{label}: more than {max_bytes} bytes: save it smaller or as JPEG")
    try:
        return base64.b64decode(bare, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters outside ASCII
        raise ValueError(f"{label}: not base64 ({error}); paths are not opened, send the image's bytes") from error
