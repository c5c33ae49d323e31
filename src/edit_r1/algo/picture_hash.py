"""Hashes by which copies of a picture are found: exact by pixels, perceptual against re-encoding and scaling.

Legend: M, N pictures; W 64-bit words of a perceptual hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

GRID = 32
"""Side of the grey picture that is transformed."""
SIDE = 16
"""Frequencies kept in each direction: the hash has SIDE x SIDE bits."""
WORDS = SIDE * SIDE // 64
FLAT = 2.0
"""Standard deviation of the grey picture, levels of 255, below which a picture has no perceptual hash: its
frequencies are noise, and all flat pictures would be copies of each other."""
NEAR = 30
"""Most bits of 256 by which copies differ. Of 27 photographs and textures JPEG and WebP down to quality 25 and scaling
between a quarter and twice the size changed at most 24; different pictures were 104 or more apart. An edit that changes
little is a near copy of its source as well: 2 to 74 bits over ten real edits."""
_PAIRS_AT_ONCE = 2_000_000


def exact_hash(pixels_HW3: np.ndarray) -> bytes:
    """16 bytes of the SHA-256 of size and pixels: the same for every lossless file of one picture."""
    digest = hashlib.sha256(repr(pixels_HW3.shape).encode())
    digest.update(np.ascontiguousarray(pixels_HW3).data)
    return digest.digest()[:16]


def perceptual_hash(pixels_HW3: np.ndarray) -> bytes | None:
    """pHash: which of the lowest 2-D cosine frequencies of the grey picture lie above their median.

    The picture is scaled to 32 x 32 whatever its shape, so a change of scale, or a slight one of aspect, hardly moves
    it; a crop does. Bits stand row by row, vertical frequency first; the constant term, always the largest, is set to
    the median and never counts. None for a flat picture (`FLAT`).
    """
    grey = Image.fromarray(pixels_HW3).convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    grey_HW = np.asarray(grey, dtype=np.float64)
    if grey_HW.std() < FLAT:
        return None
    cosines = _cosines()
    low = (cosines @ grey_HW @ cosines.T).ravel()[1:]
    bits = np.concatenate([[False], low > np.median(low)])
    return np.packbits(bits).tobytes()


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """The first SIDE rows of the orthonormal DCT-II matrix, (SIDE, GRID)."""
    frequency, place = np.arange(SIDE)[:, None], np.arange(GRID)[None, :]
    rows = np.sqrt(2 / GRID) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * GRID))
    rows[0] /= np.sqrt(2)
    return rows


def distance(a: bytes, b: bytes) -> int:
    """Bits by which two perceptual hashes differ."""
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def nearest(hashes: Sequence[bytes], among: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """For each of N hashes the smallest distance to the M of `among`, and the place of that one: int64 (N,), (N,).

    Raises:
        ValueError: when `among` is empty.
    """
    if not among:
        raise ValueError("no hash to compare with: give at least one picture that is not flat")
    among_MW = _words(among)
    hashes_NW = _words(hashes)
    distances_N = np.zeros(len(hashes), np.int64)
    places_N = np.zeros(len(hashes), np.int64)
    step = max(1, _PAIRS_AT_ONCE // len(among))
    for start in range(0, len(hashes), step):
        part_NW = hashes_NW[start : start + step]
        bits_NM = np.zeros((len(part_NW), len(among)), np.uint16)
        for word in range(WORDS):
            bits_NM += np.bitwise_count(part_NW[:, word, None] ^ among_MW[None, :, word])
        places_N[start : start + step] = bits_NM.argmin(axis=1)
        distances_N[start : start + step] = bits_NM.min(axis=1)
    return distances_N, places_N


def _words(hashes: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, WORDS)
