"""Crops of public-domain photographs for the stress split.

scikit-image carries them inside its wheel: `astronaut` and `rocket` (NASA, public domain), `coffee`
and `chelsea` (CC0). Only the stress split needs it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

SIZE = 64
PHOTOGRAPHS = ("astronaut", "rocket", "coffee", "chelsea")
CROPS_PER_PHOTOGRAPH = 8


def crop_names() -> list[str]:
    """Every name that `photograph` takes."""
    return [f"{name}-{index}" for name in PHOTOGRAPHS for index in range(CROPS_PER_PHOTOGRAPH)]


@cache
def photograph(name: str) -> np.ndarray:
    """A crop named like "coffee-3", float32 (64, 64, 3) in [0, 1], softened in contrast so that things stand out.

    Raises:
        ValueError: for an unknown name, or when scikit-image is not installed.
    """
    try:
        from skimage import data, transform
    except ImportError as error:
        raise ValueError("the stress split needs scikit-image: pip install 'edit-r1[train]'") from error
    title, _, index = name.partition("-")
    if title not in PHOTOGRAPHS or not index.isdigit() or int(index) >= CROPS_PER_PHOTOGRAPH:
        raise ValueError(f"photo={name!r}: choose one of {', '.join(crop_names())}")
    picture = getattr(data, title)()[..., :3].astype(np.float32) / 255
    rng = np.random.default_rng([int(index), PHOTOGRAPHS.index(title)])
    side = int(rng.integers(min(picture.shape[:2]) // 3, min(picture.shape[:2]) * 2 // 3))
    top = int(rng.integers(0, picture.shape[0] - side))
    left = int(rng.integers(0, picture.shape[1] - side))
    crop = transform.resize(picture[top : top + side, left : left + side], (SIZE, SIZE), anti_aliasing=True)
    return np.asarray(0.25 + 0.6 * crop, np.float32)
