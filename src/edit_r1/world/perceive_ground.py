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
    styles: dict[str, tuple[float, float]]
    """Per style: (its strength, the squared error left with it)."""
    noise: float
    """Robust standard deviation of what is left, 0 to 1."""
    count: int
    """Pixels that were used."""
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
        mask &= np.hypot(x - cx, y - cy) > CORNER_DISTANCE
    inside = np.zeros_like(mask)
    edge = border + 1 if border else 0
    inside[edge : SIZE - edge, edge : SIZE - edge] = True
    return mask & inside


@cache
def _bands(border: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Pixels of the top, middle and bottom corners: rows, columns and the mean row of each."""
    rows, columns = np.nonzero(_corner_mask(border))
    parts = [rows < 16, (rows >= 16) & (rows < 48), rows >= 48]
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


def fit_flat(image: np.ndarray, border: int, sigma: float) -> Ground:
    """Plain or gradient background and style of a float (64, 64, 3) picture, from its corners."""
    rows, columns, means = _bands(border)
    names = [style for style in STYLES if style != "natural"]
    cross, square, mark_mean, weight_sum = np.zeros(3), np.zeros(3), np.zeros(3), 0.0
    colours, left_total, residuals = [], 0.0, []
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
        colours.append(mean)
        residuals.append((left, marks_left, mean, weight > 0, (marks * weight[:, None]).sum(0) / weight.sum()))
    slope = np.clip(cross / np.maximum(square, 1e-9), 0, 2.0)
    depth = slope / (1 + slope * mark_mean / weight_sum)
    errors = left_total - slope * (2 * cross - slope * square)
    styles = {name: (float(depth[i]) / STYLE_DEPTH, float(errors[i])) for i, name in enumerate(names)}
    styles["natural"] = (0.0, left_total)
    best = int(np.argmin(errors))
    kept = slope[best] if depth[best] > 0.04 else 0.0
    leftovers = np.concatenate(
        [(left + kept * np.outer(marks[:, best], mean))[good] for left, marks, mean, good, _ in residuals]
    )
    shares = [1 - depth[best] * (kept > 0) * share[best] for *_, share in residuals]
    bands = np.stack([mean / share for mean, share in zip(colours, shares, strict=True)])
    field = np.stack([np.interp(np.arange(SIZE), means, bands[:, c]) for c in range(3)], axis=-1)
    field = np.broadcast_to(field[:, None, :], image.shape).astype(np.float32)
    style, strength = (names[best], float(depth[best]) / STYLE_DEPTH) if kept else ("natural", 0.0)
    factor = 1 - STYLE_DEPTH * strength * style_gain(style)
    noise = float(np.median(np.abs(leftovers)) * 1.4826)
    return Ground(bands.astype(np.float32), means, None, style, strength, styles, noise, len(leftovers), field, factor)


def fit_photo(image: np.ndarray, photo: str, border: int, sigma: float) -> Ground:
    """The photograph `photo` as the background, its channels mixed by any 3 x 3 matrix, and the style."""
    mask = _corner_mask(border)
    sharp = photograph(photo)
    behind = blurred(sharp, sigma)[mask]
    values = image[mask]
    best: tuple[float, str, float, np.ndarray, np.ndarray] | None = None
    styles: dict[str, tuple[float, float]] = {}
    for style in STYLES:
        for strength in (0.0,) if style == "natural" else (0.3, 0.65, 1.0):
            factor = 1 - STYLE_DEPTH * strength * _marks(style, sigma)[mask][:, None]
            design = behind * factor
            mixing, *_ = np.linalg.lstsq(design, values, rcond=None)
            left = values - design @ mixing
            error = float((np.clip(left, -0.15, 0.15) ** 2).sum())
            if style not in styles or error < styles[style][1]:
                styles[style] = (strength, error)
            if best is None or error < best[0]:
                best = (error, style, strength, mixing, left)
    assert best is not None
    _, style, strength, mixing, left = best
    noise = float(np.median(np.abs(left)) * 1.4826)
    field = (sharp @ mixing).astype(np.float32)
    factor = 1 - STYLE_DEPTH * strength * style_gain(style)
    rows = np.zeros(0, np.float32)
    return Ground(mixing.astype(np.float32), rows, photo, style, strength, styles, noise, left.size, field, factor)
