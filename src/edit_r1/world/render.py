"""From a scene to pixels: signed distances, anti-aliased analytically, in NumPy.

Legend: N things, P side of the window drawn for one thing, H = W = 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from edit_r1.world.photographs import photograph
from edit_r1.world.scenes import BACKGROUNDS, COLOURS, SIZE, Damage, Scene, Thing

WINDOW = 40
"""Side of the square drawn around a thing, px: the largest thing with its shadow fits."""

TONE_GAIN: dict[str, tuple[float, float, float]] = {
    "neutral": (1.0, 1.0, 1.0),
    "warm": (1.08, 0.95, 0.70),
    "cold": (0.72, 0.94, 1.12),
    "dark": (0.56, 0.56, 0.56),
}
"""Factors on red, green and blue."""

STYLE_DEPTH = 0.42
"""How much darker the lines or dots of a full-strength style are."""

_STROKES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "A": ((-0.75, 1.0, 0.0, -1.0), (0.0, -1.0, 0.75, 1.0), (-0.42, 0.3, 0.42, 0.3)),
    "H": ((-0.7, -1.0, -0.7, 1.0), (0.7, -1.0, 0.7, 1.0), (-0.7, 0.0, 0.7, 0.0)),
    "T": ((-0.85, -1.0, 0.85, -1.0), (0.0, -1.0, 0.0, 1.0)),
    "X": ((-0.75, -1.0, 0.75, 1.0), (-0.75, 1.0, 0.75, -1.0)),
}
"""Letters as line segments (x0, y0, x1, y1) in units of half their height."""
LETTER_HALF_HEIGHT = 4.6
LETTER_HALF_WIDTH = 1.05
"""Half the stroke's width, px."""


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """Distance in px from each point to the outline, negative inside; `radius` is the circumscribed radius.

    Exact along the edges; near the corners of triangle and star it is the distance to the nearer edge's
    line, which is all that anti-aliasing needs.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius * 0.94
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * 0.82
    if shape == "triangle":
        # Centroid at the origin, one corner up; the inradius is half the circumradius.
        apothem = radius * 1.08 * 0.5
        y = y - radius * 0.08
        side = np.abs(x) * np.sqrt(3) / 2 - y / 2
        return np.maximum(side, y) - apothem
    if shape == "star":
        angle = np.arctan2(x, -y)
        sector = 2 * np.pi / 5
        folded = np.abs((angle + sector / 2) % sector - sector / 2)
        length = np.hypot(x, y)
        px, py = length * np.cos(folded), length * np.sin(folded)
        tip = radius * 1.06
        inner_x, inner_y = 0.5 * tip * np.cos(np.pi / 5), 0.5 * tip * np.sin(np.pi / 5)
        normal_x, normal_y = inner_y, tip - inner_x
        norm = np.hypot(normal_x, normal_y)
        return ((px - tip) * normal_x + py * normal_y) / norm
    raise ValueError(f"shape={shape!r}: not a shape of EditWorld")


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres, each (H, W)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    return x, y


def backdrop(scene: Scene) -> np.ndarray:
    """Background (H, W, 3) in [0, 1], before tone and style."""
    if scene.photo is not None:
        return photograph(scene.photo)
    colour = np.array(BACKGROUNDS[scene.background], np.float32) / 255
    if scene.background_blend is not None:
        other, share = scene.background_blend
        colour = (1 - share) * colour + share * np.array(BACKGROUNDS[other], np.float32) / 255
    if not scene.gradient:
        return np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()
    slope = np.linspace(1.10, 0.72, SIZE, dtype=np.float32)[:, None, None]
    return np.clip(colour * np.broadcast_to(slope, (SIZE, SIZE, 1)), 0, 1)


def thing_colour(thing: Thing) -> np.ndarray:
    """(3,) in [0, 1]."""
    colour = np.array(COLOURS[thing.colour], np.float32) / 255
    if thing.blend is not None:
        other, share = thing.blend
        colour = (1 - share) * colour + share * np.array(COLOURS[other], np.float32) / 255
    return colour


def _paint(canvas: np.ndarray, thing: Thing) -> None:
    """Composite one thing with its shadow onto `canvas` (H, W, 3), in place."""
    cx, cy = thing.centre
    x0, y0 = max(0, int(cx) - WINDOW // 2), max(0, int(cy) - WINDOW // 2)
    x1, y1 = min(SIZE, int(cx) + WINDOW // 2), min(SIZE, int(cy) + WINDOW // 2)
    if x1 <= x0 or y1 <= y0:
        return
    grid_x, grid_y = _grid()
    x, y = grid_x[y0:y1, x0:x1] - cx, grid_y[y0:y1, x0:x1] - cy
    window = canvas[y0:y1, x0:x1]
    radius = thing.radius
    distance = signed_distance(thing.shape, x, y, radius)
    shadow = signed_distance(thing.shape, x - 1.0, y - 1.6, radius)
    if thing.material == "outlined":
        half = 1.25 if thing.size == "small" else 1.6
        distance = np.abs(distance + half) - half
        shadow = np.abs(shadow + half) - half
    cover = np.clip(0.5 - distance, 0, 1)
    shade = np.clip(0.5 - shadow / 3.0, 0, 1) * 0.22 * thing.opacity
    window *= (1 - shade)[..., None]
    colour = thing_colour(thing)
    light = 1.0 + 0.10 * np.clip(-(x + y) / (2 * radius), -1, 1)
    paint = np.clip(colour * light[..., None], 0, 1)
    if thing.material == "striped":
        stripe = np.clip(0.5 + 1.2 * np.sin((x + y) * (2 * np.pi / 6.2)), 0, 1)[..., None]
        paint = paint * (1 - stripe) + (0.25 * paint + 0.75) * stripe
    alpha = (cover * thing.opacity)[..., None]
    window[...] = window * (1 - alpha) + paint * alpha
    if thing.letter is not None:
        ink = np.float32(0.1) if thing.colour in ("yellow", "orange") else np.float32(0.98)
        low = 0.16 * radius if thing.shape == "triangle" else 0.0
        alpha = (_letter(thing.letter, x, y - low) * thing.opacity)[..., None]
        window[...] = window * (1 - alpha) + ink * alpha


def _letter(letter: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage of a letter centred at the origin, same shape as x."""
    nearest = np.full(x.shape, np.inf, np.float32)
    for ax, ay, bx, by in _STROKES[letter]:
        ax, ay, bx, by = (value * LETTER_HALF_HEIGHT for value in (ax, ay, bx, by))
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
    return np.clip(0.5 + LETTER_HALF_WIDTH - nearest, 0, 1)


def tone_gain(tone: str, strength: float = 1.0) -> np.ndarray:
    """(3,) factors on red, green and blue at a strength from 0 to 1."""
    return 1 + strength * (np.array(TONE_GAIN[tone], np.float32) - 1)


@cache
def style_gain(style: str) -> np.ndarray:
    """(H, W, 1) darkening in [0, 1] of a full-strength style: 1 on its lines or dots, 0 between."""
    x, y = _grid()
    if style == "natural":
        return np.zeros((SIZE, SIZE, 1), np.float32)
    if style == "mosaic":
        mark = np.maximum((x % 8 < 1), (y % 8 < 1)).astype(np.float32)
    elif style == "halftone":
        mark = np.clip(2.1 - np.hypot(x % 6 - 3, y % 6 - 3), 0, 1)
    elif style == "hatched":
        mark = np.clip(1.2 - np.abs((x + y) % 6 - 3), 0, 1)
    else:
        raise ValueError(f"style={style!r}: not a style of EditWorld")
    return mark[..., None]


def paint_scene(scene: Scene) -> np.ndarray:
    """The undamaged picture, float32 (H, W, 3) in [0, 1]."""
    canvas = backdrop(scene).astype(np.float32)
    for thing in scene.things:
        _paint(canvas, thing)
    canvas *= tone_gain(scene.tone, scene.tone_strength)
    canvas *= 1 - STYLE_DEPTH * scene.style_strength * style_gain(scene.style)
    return np.clip(canvas, 0, 1)


def apply_damage(picture: np.ndarray, damage: Damage) -> np.ndarray:
    """A damaged copy of a picture, float32 (H, W, 3) in [0, 1]: saturation, blur, noise, then border."""
    if damage.none:
        return picture
    if damage.saturation != 1.0:
        grey = picture.mean(axis=-1, keepdims=True)
        picture = np.clip(grey + damage.saturation * (picture - grey), 0, 1)
    if damage.blur > 0:
        picture = _gaussian_blur(picture, damage.blur)
    if damage.noise > 0:
        rng = np.random.default_rng(damage.seed)
        picture = np.clip(picture + rng.normal(0, damage.noise, picture.shape), 0, 1)
    if damage.border > 0:
        inner = picture[damage.border : -damage.border, damage.border : -damage.border]
        picture = np.ones_like(picture)
        picture[damage.border : -damage.border, damage.border : -damage.border] = inner
    return picture.astype(np.float32)


def _gaussian_blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = sum(weight * padded[index : index + SIZE] for index, weight in enumerate(kernel))
    return np.asarray(sum(weight * rows[:, index : index + SIZE] for index, weight in enumerate(kernel)))


def render_one(scene: Scene, damage: Damage | None = None) -> np.ndarray:
    """One picture, uint8 (H, W, 3)."""
    picture = apply_damage(paint_scene(scene), damage or Damage())
    return np.round(picture * 255).astype(np.uint8)


def render(scenes: Sequence[Scene], damages: Sequence[Damage] | None = None) -> np.ndarray:
    """Pictures of scenes, uint8 (B, 64, 64, 3)."""
    states = damages if damages is not None else [Damage()] * len(scenes)
    return np.stack([render_one(scene, damage) for scene, damage in zip(scenes, states, strict=True)])
