"""Draws that depend on a row's own id alone, so that a run in pieces draws what a run in one draws."""

from __future__ import annotations

import hashlib

import numpy as np


def number_of(row_id: str) -> int:
    """A number of 48 bits for any id; ids of public data sets are not hexadecimal."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:6], "big")


def rng_for(row_id: str, seed: int) -> np.random.Generator:
    """The generator of one row under a seed of 0 or more."""
    return np.random.default_rng([seed, number_of(row_id)])
