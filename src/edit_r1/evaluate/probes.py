"""Edits that are known to be worse than a given one: what a judge must take points for.

A probe changes one thing of a good edit (its pixels, or what it is judged by) and nothing else, so that the points it
costs need no reference to be read. Pictures are encoded; the same bytes in give the same bytes out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from edit_r1.images import decode_pil, decode_rgb, encode_png

COPY, OTHER, SWAPPED, BLACK = "unedited copy", "another image's edit", "swapped instruction", "black image"
BLUR, BORDER, TINT = "blur", "border", "tint"
NO_EDIT = (COPY, OTHER, SWAPPED, BLACK)
"""Nothing of what was asked for can be seen."""
DAMAGE = (BLUR, BORDER, TINT)
"""The edit is there, in a worse picture."""
PROBES = (*NO_EDIT, *DAMAGE)

BLUR_SHARE = 1 / 48
"""Radius of the blur, as a share of the shorter side: 1.3 px at 64, 21 px at 1024. Details are gone, things are not."""
BORDER_SHARE = 0.06
"""Width of the white border, as a share of the shorter side."""
TINT_LEVELS = np.array([-12.0, 34.0, -34.0])
"""Added to red, green and blue, levels of 255: a green-yellow cast over everything."""


def black(edited: bytes) -> bytes:
    """A black picture of the edit's size. Raises ImageError (a ValueError) for an unreadable edit, as all here do."""
    return encode_png(Image.new("RGB", decode_pil(edited).size))


def blurred(edited: bytes) -> bytes:
    """The edit under a Gaussian blur of `BLUR_SHARE`, at least one pixel."""
    picture = decode_pil(edited)
    return encode_png(picture.filter(ImageFilter.GaussianBlur(max(1.0, min(picture.size) * BLUR_SHARE))))


def bordered(edited: bytes) -> bytes:
    """The edit with its outermost `BORDER_SHARE` painted white on all four sides."""
    pixels_HWC = decode_rgb(edited)
    width = max(1, round(min(pixels_HWC.shape[:2]) * BORDER_SHARE))
    framed_HWC = np.full_like(pixels_HWC, 255)
    framed_HWC[width:-width, width:-width] = pixels_HWC[width:-width, width:-width]
    return encode_png(framed_HWC)


def tinted(edited: bytes) -> bytes:
    """The edit with `TINT_LEVELS` added to every pixel, cut to 0..255."""
    return encode_png(np.clip(decode_rgb(edited) + TINT_LEVELS, 0, 255).round().astype(np.uint8))


PICTURES: dict[str, Callable[[bytes], bytes]] = {BLACK: black, BLUR: blurred, BORDER: bordered, TINT: tinted}
"""Probes that are made of the edit's own picture."""
