from __future__ import annotations

import math

import numpy as np
import pytest

from edit_r1.algo.edit_change import UNSEEN_SHIFT, VISIBLE, box_mask, measure_change, measure_look, unseen


def _picture(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _twin(a, b, mask):
    """Pixel by pixel, in Python's floats."""
    height, width = a.shape[:2]

    def luma(p, y, x):
        red, green, blue = (float(c) for c in p[y, x])
        return 0.299 * red + 0.587 * green + 0.114 * blue

    places = [(y, x) for y in range(height) for x in range(width)]
    difference = {at: [abs(int(a[at][c]) - int(b[at][c])) for c in range(3)] for at in places}
    changed = {at: max(values) > VISIBLE for at, values in difference.items()}
    outside = [changed[at] for at in places if mask is not None and not mask[at]]

    def rough(p):
        values = [
            abs(luma(p, y - 1, x) + luma(p, y + 1, x) + luma(p, y, x - 1) + luma(p, y, x + 1) - 4 * luma(p, y, x))
            for y in range(1, height - 1)
            for x in range(1, width - 1)
        ]
        return sum(values) / len(values) + 0.1

    def chroma(p):
        return sum(int(max(p[at])) - int(min(p[at])) for at in places) / len(places)

    def shift():
        """Cells are two neighbouring strips of the 16 that a side is cut into."""
        strips = [[side * k // min(16, side) for k in range(min(16, side) + 1)] for side in (height, width)]
        spans = [list(zip(cut, cut[2:], strict=False)) for cut in strips]
        largest = 0.0
        for top, bottom in spans[0]:
            for left, right in spans[1]:
                inside = [(y, x) for y in range(top, bottom) for x in range(left, right)]
                for c in range(3):
                    total = sum(int(b[at][c]) - int(a[at][c]) for at in inside)
                    largest = max(largest, abs(total) / len(inside))
        return largest

    return {
        "shift": shift(),
        "mean": sum(map(sum, difference.values())) / (3 * len(places)),
        "share": sum(changed.values()) / len(places),
        "outside": sum(outside) / len(outside) if outside else None,
        "brightness": sum(luma(b, *at) - luma(a, *at) for at in places) / len(places),
        "saturation": chroma(b) - chroma(a),
        "sharpness": math.log2(rough(b) / rough(a)),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masked", [False, True])
def test_against_the_brute_force_twin(seed, masked):
    a, b = _picture(seed), _picture(seed + 10)
    b[:5] = np.clip(a[:5].astype(int) + 20, 0, 255)
    mask = box_mask([(2, 1, 6, 5)], 9, 12, margin=0.0) if masked else None
    got = measure_change(a, b, mask)
    for name, wanted in _twin(a, b, mask).items():
        assert getattr(got, name) == (None if wanted is None else pytest.approx(wanted, rel=1e-4, abs=1e-4)), name


def test_what_a_reward_can_be_had_for_shows():
    source = (_picture(0, 40, 40) // 2 + 60).astype(np.uint8)
    copy = measure_change(source, source)
    assert (copy.mean, copy.share, copy.brightness, copy.saturation, copy.sharpness) == (0, 0, 0, 0, 0)
    assert unseen(copy) and copy.shift == 0
    brighter = measure_change(source, np.clip(source.astype(int) + 30, 0, 255).astype(np.uint8))
    assert brighter.brightness == pytest.approx(30, abs=0.1) and brighter.share == 1.0
    smooth = (sum(np.roll(source.astype(int), (dy, dx), (0, 1)) for dy in (0, 1) for dx in (0, 1)) // 4).astype(
        np.uint8
    )
    assert measure_change(source, smooth).sharpness < -1 < 1 < measure_change(smooth, source).sharpness
    grey = np.repeat(source.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert measure_change(source, grey).saturation < -20


def test_what_cannot_be_seen_is_none_and_a_small_edit_is_seen():
    source = _picture(1, 64, 64) // 4 + 90
    noisy = np.clip(source.astype(int) + np.random.default_rng(5).integers(-4, 5, source.shape), 0, 255)
    assert unseen(measure_change(source, noisy.astype(np.uint8)))
    edited = source.copy()
    edited[10:14, 20:24] = (255, 0, 0)  # 16 of 4096 pixels
    assert not unseen(measure_change(source, edited))


@pytest.mark.parametrize("top", range(0, 48, 5))
def test_a_cell_sees_an_edit_wherever_it_lies_and_no_grain(top):
    """Grain that changes every pixel visibly leaves a cell's mean; an edit of a 64th of the picture does not."""
    source = np.full((256, 256, 3), 120, np.uint8)
    grain = np.random.default_rng(top).choice([-30, 30], (256, 256, 1)).repeat(3, axis=2)
    rough = measure_change(source, (source + grain).astype(np.uint8))
    assert rough.share == 1.0 and rough.shift <= UNSEEN_SHIFT
    edited = source.copy()
    edited[2 * top : 2 * top + 32, 140 - 2 * top : 172 - 2 * top] = (120, 180, 120)
    small = measure_change(source, edited)
    assert small.shift > 60 / 4 - 1 > UNSEEN_SHIFT  # cells overlap: one of them has half of it along each side


def test_small_sides_have_fewer_cells():
    for height, width in ((1, 1), (2, 3), (17, 5), (15, 31)):
        change = measure_change(np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 7, np.uint8))
        assert change.shift == 7.0


def test_change_outside_a_mask():
    source = np.full((20, 20, 3), 100, np.uint8)
    edited = source.copy()
    edited[5:10, 5:10] = 200
    inside = box_mask([(5, 5, 10, 10)], 20, 20, margin=0.0)
    assert measure_change(source, edited, inside).outside == 0.0
    edited[0, :] = 0
    assert measure_change(source, edited, inside).outside == pytest.approx(20 / 375)
    assert measure_change(source, edited, np.ones((20, 20), bool)).outside is None  # a global edit
    assert (box_mask([(0.25, 0.25, 0.5, 0.5)], 20, 20, 0.0) == inside).all()
    assert box_mask([(0.25, 0.25, 0.5, 0.5)], 20, 20, 0.1).sum() == 81
    assert not box_mask([], 4, 4).any()


def test_errors():
    a = _picture(0)
    with pytest.raises(ValueError, match="to_same_size"):
        measure_change(a, a[:5])
    with pytest.raises(ValueError, match="expected uint8"):
        measure_change(a.astype(float), a)
    with pytest.raises(ValueError, match="bool of that size"):
        measure_change(a, a, np.ones((9, 11), bool))
    with pytest.raises(ValueError, match="left < right"):
        box_mask([(5, 5, 2, 9)], 20, 20)


def test_looks_differ_by_what_a_change_says() -> None:
    before, after = _picture(1), _picture(2)
    change, looks = measure_change(before, after), [measure_look(pixels) for pixels in (before, after)]
    for name in ("brightness", "saturation", "sharpness"):
        assert getattr(looks[1], name) - getattr(looks[0], name) == pytest.approx(getattr(change, name), abs=1e-4)
    with pytest.raises(ValueError, match="expected uint8"):
        measure_look(before.astype(np.float32))
