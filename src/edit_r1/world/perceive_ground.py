"""Perception, part 1: which background and style a picture shows, in display colours.

Everything here is named by what reaches the screen: a background's display colour per band of rows.
Which tone, saturation and palette colour produced it is `perceive_names`' question; that works because
tone, style and saturation act on a picture as factors.

Legend: K bands of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from edit_r1.world.photographs import photograph
from edit_r1.world.render import STYLE_DEPTH, style_gain
from edit_r1.world.scenes import SIZE, STYLES, place_centre

CORNER_DISTANCE = 17.5
"""Pixels farther than this from every place's centre show background, whatever stands there, px."""


@cache
def blur_matrix(sigma: float) -> np.ndarray:
    """(64, 64) of `render`'s Gaussian blur along one axis, edges repeated; sigma in px."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = np.zeros((SIZE, SIZE), np.float32)
    for row in range(SIZE):
        np.add.at(matrix[row], np.clip(np.arange(row - reach, row + reach + 1), 0, SIZE - 1), kernel / kernel.sum())
    return matrix


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A blurred copy of (64, 64, channels)."""
    if sigma <= 0:
        return picture
    matrix = blur_matrix(round(sigma, 2))
    rows = (matrix @ picture.reshape(SIZE, -1)).reshape(picture.shape)
    return np.ascontiguousarray(matrix @ rows)


# --- the background ---------------------------------------------------------------------------------------------


CROSS_DISTANCE = 15.2
"""The same where a border covers the outer corners: the cross between the places is left."""
STYLE_SIGMA = 0.02
"""Expected error of a corner pixel beside its noise, when styles are told apart, 0 to 1."""
PRIOR_DEPTH = 0.1
"""How far a style's slope usually is from that of full or of weak strength."""
NEAR_TIE = 12.0
"""Styles within this many nats of the likeliest are kept for the whole picture to decide."""


@dataclass(frozen=True)
class Ground:
    """The background as displayed."""

    bands: np.ndarray
    """(K, 3) display colours at `rows`, without style; of a photograph, its (3, 3) mixing matrix."""
    rows: np.ndarray
    """(K,) rows of the bands, px."""
    photo: str | None
    style: str
    strength: float
    """Of the style, 0 to about 1."""
    noise: float
    """Robust standard deviation of what is left, 0 to 1."""
    field: np.ndarray
    """(64, 64, 3): the background without style."""
    depth: np.ndarray
    """(64, 64, 1): the factor of the style, sharp."""

    @property
    def display(self) -> np.ndarray:
        """(64, 64, 3): the background as displayed, sharp."""
        return self.field * self.depth


@cache
def _corner_mask(border: int) -> np.ndarray:
    """(64, 64) bool: pixels that show background whatever stands in the places."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    mask = np.ones((SIZE, SIZE), bool)
    for place in range(4):
        cx, cy = place_centre(place)
        mask &= np.hypot(x - cx, y - cy) > (CORNER_DISTANCE if border == 0 else CROSS_DISTANCE)
    inside = np.zeros_like(mask)
    edge = border + 1 if border else 0
    inside[edge : SIZE - edge, edge : SIZE - edge] = True
    return mask & inside


@cache
def _bands(border: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Pixels of the top, middle and bottom corners: rows, columns and the mean row of each."""
    rows, columns = np.nonzero(_corner_mask(border))
    parts = [rows < 22, (rows >= 22) & (rows < 42), rows >= 42]
    parts = [part for part in parts if part.sum() >= 8]
    return (
        [rows[part] for part in parts],
        [columns[part] for part in parts],
        np.array([rows[part].mean() for part in parts], np.float32),
    )


@cache
def _marks(style: str, sigma: float) -> np.ndarray:
    """(64, 64): the darkening of a full-strength style, blurred."""
    return blurred(style_gain(style), sigma)[..., 0]


def _trimmed(values: np.ndarray) -> np.ndarray:
    """(n,) weights, 0 for pixels that are not the band's brightest common colour or a darker shade of it, (n, 3)."""
    bright = np.quantile(values.sum(-1), 0.6)
    near = np.abs(values.sum(-1) - bright) < 0.09
    base = np.median(values[near], axis=0) if near.any() else np.median(values, axis=0)
    share = np.clip(values @ base / max(float(base @ base), 1e-6), 0.5, 1.1)[:, None]
    distance = np.abs(values - share * base).max(axis=-1)
    return (distance < max(0.1, 4.0 * float(np.median(distance)))).astype(np.float32)


def _between_bands(rows: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """(64, 3): piecewise linear through the bands, and on beyond the first and the last."""
    y = np.arange(SIZE, dtype=np.float32)
    if len(rows) == 1:
        return np.clip(np.repeat(bands, SIZE, axis=0), 0, 1).astype(np.float32)
    inner = np.stack([np.interp(y, rows, bands[:, c]) for c in range(3)], axis=-1)
    before = np.minimum(y - rows[0], 0)[:, None] * (bands[1] - bands[0]) / (rows[1] - rows[0])
    after = np.maximum(y - rows[-1], 0)[:, None] * (bands[-1] - bands[-2]) / (rows[-1] - rows[-2])
    return np.clip(inner + before + after, 0, 1).astype(np.float32)


def fit_flat(image: np.ndarray, border: int, sigma: float, likely: tuple[str, ...] = STYLES) -> list[Ground]:
    """Plain or gradient background and style of a float (64, 64, 3) picture, from its corners.

    Returns one reading per style that the corners do not rule out, likeliest first: a blur can wash the
    lines of a style out, and then `likely` styles at full strength are as good as none.
    """
    rows, columns, means = _bands(border)
    names = [style for style in STYLES if style != "natural"]
    cross, square, mark_mean, weight_sum = np.zeros(3), np.zeros(3), np.zeros(3), 0.0
    left_total, parts = 0.0, []
    for y, x in zip(rows, columns, strict=True):
        values = image[y, x]
        weight = _trimmed(values)
        ramp = np.stack([np.ones(len(y), np.float32), (y - y.mean()) / 16], axis=1)
        marks = np.stack([_marks(style, sigma)[y, x] for style in names], axis=1)
        basis, _ = np.linalg.qr(ramp * weight[:, None])
        left, marks_left = values * weight[:, None], marks * weight[:, None]
        left = left - basis @ (basis.T @ left)
        marks_left = marks_left - basis @ (basis.T @ marks_left)
        mean = (values * weight[:, None]).sum(0) / weight.sum()
        cross -= (marks_left.T @ left) @ mean
        square += (marks_left**2).sum(0) * (mean @ mean)
        mark_mean += (marks * weight[:, None]).sum(0)
        weight_sum += float(weight.sum())
        left_total += float((left**2).sum())
        good = weight > 0
        shares = (marks * weight[:, None]).sum(0) / weight.sum()
        parts.append((left[good], marks_left[good], mean, shares))
    unexplained = left_total - float((np.maximum(cross, 0) ** 2 / np.maximum(square, 1e-9)).max())
    noise = max(STYLE_SIGMA, float(np.sqrt(max(unexplained, 0.0) / (3 * weight_sum))))
    mark_mean /= weight_sum
    options: list[tuple[float, str, float]] = []
    for i, name in enumerate(names):
        for usual in (1.0, 0.3):
            # The strength that balances the data against the usual one, both as slopes on the marks.
            prior = STYLE_DEPTH * usual / (1 - STYLE_DEPTH * usual * mark_mean[i])
            trust = (noise / PRIOR_DEPTH) ** 2
            slope = max(0.0, float((cross[i] + trust * prior) / (square[i] + trust)))
            error = left_total - slope * (2 * cross[i] - slope * square[i])
            surprise = 0.5 * ((slope - prior) / PRIOR_DEPTH) ** 2
            surprise += (0.0 if name in likely else 4.0) + (2.0 if usual < 1 else 0.0)
            options.append((error / (2 * noise**2) + surprise, name, slope / (1 + slope * mark_mean[i])))
    options.append((left_total / (2 * noise**2) + (0.0 if "natural" in likely else 4.0), "natural", 0.0))
    grounds: list[Ground] = []
    likeliest = None
    for cost, style, depth in sorted(options):
        if style != "natural" and depth < 0.04:
            continue
        likeliest = cost if likeliest is None else likeliest
        if cost < likeliest + NEAR_TIE and style not in [ground.style for ground in grounds]:
            grounds.append(_flat_ground(image, means, parts, names, style, depth))
    return grounds


_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of a band: colours left after its ramp, marks left, mean colour, mean marks."""


def _flat_ground(
    image: np.ndarray, rows: np.ndarray, parts: list[_Part], names: list[str], style: str, depth: float
) -> Ground:
    slot = names.index(style) if style != "natural" else 0
    shares = [1 - depth * float(marks[slot]) for *_, marks in parts]
    bands = np.stack([mean / share for (_, _, mean, _), share in zip(parts, shares, strict=True)])
    left = [
        (left + depth / share * np.outer(marks[:, slot], mean)).ravel()
        for (left, marks, mean, _), share in zip(parts, shares, strict=True)
    ]
    values = np.concatenate(left)
    noise = float(np.median(np.abs(values)) * 1.4826)
    field = np.broadcast_to(_between_bands(rows, bands)[:, None, :], image.shape)
    factor = (1 - depth * style_gain(style)).astype(np.float32)
    return Ground(bands.astype(np.float32), rows, None, style, depth / STYLE_DEPTH, noise, field, factor)


def fit_photo(image: np.ndarray, photo: str, border: int, sigma: float) -> Ground:
    """The photograph `photo` as the background, its channels mixed by any 3 x 3 matrix, and the style."""
    mask = _corner_mask(border)
    sharp = photograph(photo)
    behind = blurred(sharp, sigma)[mask]
    values = image[mask]
    best: tuple[float, str, float, np.ndarray, np.ndarray] | None = None
    for style in STYLES:
        for strength in (0.0,) if style == "natural" else (0.3, 0.65, 1.0):
            factor = 1 - STYLE_DEPTH * strength * _marks(style, sigma)[mask][:, None]
            design = behind * factor
            mixing, *_ = np.linalg.lstsq(design, values, rcond=None)
            left = values - design @ mixing
            error = float((np.clip(left, -0.15, 0.15) ** 2).sum())
            if best is None or error < best[0]:
                best = (error, style, strength, mixing, left)
    assert best is not None
    _, style, strength, mixing, left = best
    noise = float(np.median(np.abs(left)) * 1.4826)
    field = (sharp @ mixing).astype(np.float32)
    factor = 1 - STYLE_DEPTH * strength * style_gain(style)
    rows = np.zeros(0, np.float32)
    return Ground(mixing.astype(np.float32), rows, photo, style, strength, noise, field, factor)


def corner_misfit(ground: Ground, image: np.ndarray, border: int, sigma: float) -> float:
    """Mean squared error of a ground in the corners of a float (64, 64, 3) picture, outliers capped."""
    left = (blurred(ground.display, sigma) - image)[_corner_mask(border)]
    return float(np.minimum(left**2, 0.02).mean())


def corner_count(border: int) -> int:
    """Numbers, three a pixel, that `corner_misfit` averages over."""
    return 3 * int(_corner_mask(border).sum())
