"""Pictures as a page holds them."""

from __future__ import annotations

import base64

import numpy as np
from PIL import Image

from edit_r1.images import bounded_size, decode_pil, encode_png


def data_uri(image: bytes) -> str:
    """An encoded picture as an address a page can hold."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def thumbnail(data: bytes, max_pixels: int) -> bytes:
    """A PNG of at most so many pixels; smaller pictures keep their size. Raises ImageError for one that is none."""
    picture = decode_pil(data)
    size = bounded_size(*picture.size, max_pixels)
    return encode_png(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) if size != picture.size else picture)
