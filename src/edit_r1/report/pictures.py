"""Pictures as a page holds them."""

from __future__ import annotations

import base64


def data_uri(image: bytes) -> str:
    """An encoded picture as an address a page can hold."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
