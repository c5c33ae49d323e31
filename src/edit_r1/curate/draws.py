"""Draws that depend on a row's own id alone, so that a run in pieces draws what a run in one draws."""

from __future__ import annotations

import hashlib


def number_of(text: str) -> int:
    """A number of 48 bits for any text, such as an id; ids of public data sets are not hexadecimal."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
