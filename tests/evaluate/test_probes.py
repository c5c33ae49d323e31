"""Every probe changes what it says and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from edit_r1.doctor.verifier import CONTRASTS
from edit_r1.evaluate import probes
from edit_r1.images import ImageError, decode_rgb, encode_png

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
EDIT = encode_png(PIXELS)


def test_pictures_keep_their_size_and_are_deterministic() -> None:
    for make in probes.PICTURES.values():
        assert decode_rgb(make(EDIT)).shape == PIXELS.shape
        assert make(EDIT) == make(EDIT) != EDIT


def test_black_border_tint_and_blur() -> None:
    assert decode_rgb(probes.black(EDIT)).max() == 0
    framed = decode_rgb(probes.bordered(EDIT))
    width = round(40 * probes.BORDER_SHARE)
    assert (framed[width:-width, width:-width] == PIXELS[width:-width, width:-width]).all()
    edge = np.ones(PIXELS.shape[:2], bool)
    edge[width:-width, width:-width] = False
    assert (framed[edge] == 255).all()
    shift = decode_rgb(probes.tinted(EDIT)).astype(int) - PIXELS
    inside = (PIXELS > 40) & (PIXELS < 215)
    assert all(set(shift[..., c][inside[..., c]]) == {int(probes.TINT_LEVELS[c])} for c in range(3))
    blurred = decode_rgb(probes.blurred(EDIT)).astype(float)
    assert np.abs(np.diff(blurred, axis=1)).mean() < 0.5 * np.abs(np.diff(PIXELS.astype(float), axis=1)).mean()
    assert blurred.mean() == pytest.approx(PIXELS.mean(), abs=1)


def test_an_unreadable_edit_is_told() -> None:
    for make in probes.PICTURES.values():
        with pytest.raises(ImageError):
            make(b"no picture")


def test_doctor_and_readiness_name_the_same_probes() -> None:
    assert set(CONTRASTS) < set(probes.NO_EDIT)
    assert set(probes.PROBES) == set(probes.PICTURES) | {probes.COPY, probes.OTHER, probes.SWAPPED}
