"""Hashes against scipy and brute force, and on copies as other people's pipelines make them."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edit_r1.algo.picture_hash import (
    GRID,
    NEAR,
    SIDE,
    distance,
    exact_hash,
    nearest,
    perceptual_hash,
)
from edit_r1.images import decode_rgb

Paint = Callable[..., bytes]


def noisy(seed: int, side: int = 64) -> np.ndarray:
    """A picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side)), np.float64)
        for n in (4, 8, 16)
    ]
    return np.mean(layers, axis=0).round().astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_bits_are_those_of_scipys_transform(seed: int) -> None:
    fft = pytest.importorskip("scipy.fft")
    pixels = noisy(seed)
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((GRID, GRID), Image.Resampling.BOX), np.float64)
    low = fft.dctn(grey, norm="ortho")[:SIDE, :SIDE].ravel()
    expected = [False, *(low[1:] > np.median(low[1:]))]
    found = perceptual_hash(pixels)
    assert found is not None
    assert np.unpackbits(np.frombuffer(found, np.uint8)).astype(bool).tolist() == expected


def copies(pixels: np.ndarray) -> dict[str, np.ndarray]:
    picture = Image.fromarray(pixels)
    found = {}
    for name, options in (("JPEG", {"quality": 90}), ("JPEG", {"quality": 50}), ("WEBP", {"quality": 75})):
        buffer = io.BytesIO()
        picture.save(buffer, name, **options)
        found[f"{name} {options['quality']}"] = decode_rgb(buffer.getvalue())
    for scale in (0.5, 0.75, 1.5):
        size = (round(picture.width * scale), round(picture.height * scale))
        found[f"scaled {scale}"] = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_copies_are_near_and_other_pictures_are_not(seed: int) -> None:
    pixels = noisy(seed, 96)
    own, other = perceptual_hash(pixels), perceptual_hash(noisy(seed + 100, 96))
    assert own is not None and other is not None
    for name, copy in copies(pixels).items():
        hashed = perceptual_hash(copy)
        assert hashed is not None and distance(own, hashed) <= NEAR, name
        assert exact_hash(copy) != exact_hash(pixels)
    assert distance(own, other) > 2 * NEAR


def test_flat_pictures_have_no_perceptual_hash() -> None:
    for level in (0, 128, 255):
        assert perceptual_hash(np.full((40, 40, 3), level, np.uint8)) is None


def test_the_exact_hash_is_of_pixels_and_shape() -> None:
    pixels = noisy(0)
    assert exact_hash(pixels) == exact_hash(pixels.copy()) == exact_hash(np.asfortranarray(pixels))
    assert exact_hash(pixels) != exact_hash(pixels.reshape(32, 128, 3))
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert exact_hash(pixels) != exact_hash(changed)


hashes = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=6)


@given(hashes, hashes)
def test_nearest_is_the_smallest_of_all_distances(ours: list[bytes], others: list[bytes]) -> None:
    bits, places = nearest(ours, others)
    for one, found, place in zip(ours, bits, places, strict=True):
        every = [distance(one, other) for other in others]
        assert found == min(every) == every[place]


def test_nearest_needs_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no hash"):
        nearest([b"\0" * 32], [])
