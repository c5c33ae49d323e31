"""Perception, part 4: border, blur and noise of a picture, given what it shows.

A picture that an editor painted, or that only went through its autoencoder, is a little soft and errs a
little everywhere. Both are told from damage by what a rendering cannot explain: a damaged rendering is
matched by a blurred one to within its pixel noise, a painter's softness comes with an error in its
shapes. The constants that say so were measured with the zoo's autoencoder on train scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edit_r1.world.describe import NOISE
from edit_r1.world.perceive_ground import blurred
from edit_r1.world.perceive_names import saturate
from edit_r1.world.render import STYLE_DEPTH, paint_scene, style_gain
from edit_r1.world.scenes import SIZE, Scene

FLOOR = 0.012
"""Smallest standard deviation of the error that any reading is credited with, 0 to 1."""
BLURS = (0.0, 0.5, 0.9, 1.3, 1.7, 2.1, 2.6)
WHITE = 0.941
"""Darkest mean of the channels of a white border's outer 2 px; a white background has 0.937."""
BORDER_CONTRAST = 0.018
"""A border is brighter than the picture's middle by at least this much."""
MAX_BORDER = 10
PAINTED = 0.004
"""From this structured error on, a picture was painted and not rendered."""
SOFTNESS = {"plain": 0.26, "styled": 0.12, "error": 1.5, "most": 0.7}
"""Of a painted picture, px: a painter's own blur, "error" px per unit of relative error, and "most" of all."""
SOFT = 0.7
"""Blur of the things in a painted picture whose style came out sharp, px."""
MOTTLE = {"plain": 0.0094, "styled": 0.0120, "slope": 5.0}
"""A painter shows noise as mottles: their standard deviation from which it is called noise, and noise per mottle."""
VIVID = 1.5
"""From this saturation on, clipping adds to a painter's softness and mottles."""


@dataclass(frozen=True)
class Picture:
    """A picture with what was settled about it so far."""

    image: np.ndarray
    """(64, 64, 3) in [0, 1]."""
    source: Scene
    target: Scene
    border: int
    sigma: float = 0.0
    """Of its blur, px."""
    soft: float = 0.0
    """Blur of everything but the style, px."""
    floor: float = FLOOR
    """Standard deviation of the error that a reading is credited with, 0 to 1."""
    painted: bool = False
    """Whether a rendering cannot explain all of it."""

    @property
    def inner(self) -> slice:
        """Rows or columns inside the border."""
        edge = self.border + 1 if self.border else 0
        return slice(edge, SIZE - edge)


def find_border(image: np.ndarray) -> int:
    """Width of a white border of a float (64, 64, 3) picture, px; 0 for none."""
    rings = []
    for depth in range(MAX_BORDER):
        inner = slice(depth, SIZE - depth)
        sides = (image[depth, inner], image[-1 - depth, inner], image[inner, depth], image[inner, -1 - depth])
        rings.append(min(float(side.mean(0).min()) for side in sides))
    outer = (rings[0] + rings[1]) / 2
    middle = slice(MAX_BORDER, SIZE - MAX_BORDER)
    cross = np.concatenate([image[middle, 31:33].reshape(-1, 3), image[31:33, middle].reshape(-1, 3)])
    inside = float(np.median(cross, axis=0).min())
    if outer < WHITE or outer - inside < BORDER_CONTRAST:
        return 0
    dark = [depth for depth, ring in enumerate(rings) if ring < (outer + inside) / 2]
    width = dark[0] if dark else MAX_BORDER
    return width if 2 <= width < MAX_BORDER else 0


def synthesise(scene: Scene, saturation: float, sigma: float, soft: float = 0.0) -> np.ndarray:
    """Float (64, 64, 3): the scene rendered with saturation and blur, without noise and border.

    `soft` is a blur, px, of everything but the style.
    """
    painted = paint_scene(scene if soft == 0 else replace(scene, style="natural"))
    if soft > 0:
        depth = STYLE_DEPTH * scene.style_strength * style_gain(scene.style)
        painted = blurred(painted, soft) * (1 - depth)
    if saturation != 1.0:
        painted = saturate(painted, saturation)
    return blurred(painted, sigma)


def error_left(picture: Picture, shown: np.ndarray) -> float:
    """Squared error inside the border, single values capped."""
    left = (shown - picture.image)[picture.inner, picture.inner]
    return float(np.minimum(left**2, 0.1).sum())


def find_blur(picture: Picture, scene: Scene, saturation: float) -> float:
    """The blur with which the reading comes closest to the picture, px; 0 when nothing in it could show one.

    A blur washes a style's lines out, so the reading is also tried with the expected styles in full.
    """
    styles = {picture.source.style, picture.target.style} - {"natural"}
    full = [replace(scene, style=style, style_strength=1.0) for style in sorted(styles)]
    usual = [picture.source.things, picture.target.things]
    full += [replace(variant, things=things) for variant in (scene, *full) for things in usual]
    best, found = float("inf"), 0.0
    for variant in dict.fromkeys([scene, *full]):
        painted = saturate(paint_scene(variant), saturation)
        errors = [error_left(picture, blurred(painted, sigma)) for sigma in BLURS]
        index = int(np.argmin(errors))
        if errors[0] - errors[index] < 0.03 * errors[0] + 0.02:
            index = 0
        if errors[index] >= best:
            continue
        best, found = errors[index], BLURS[index]
        if 0 < index < len(BLURS) - 1:
            a, b, c = BLURS[index - 1 : index + 2]
            curve = np.polyfit([a, b, c], errors[index - 1 : index + 2], 2)
            found = float(np.clip(-curve[1] / (2 * curve[0]), a, c)) if curve[0] > 0 else b
    return found


def pixel_noise(picture: Picture, shown: np.ndarray) -> float:
    """Standard deviation of the noise from pixel to pixel that a rendering leaves, 0 to 1."""
    left = (picture.image - shown)[picture.inner, picture.inner]
    high = left[1:-1, 1:-1] * 4 - 2 * (left[:-2, 1:-1] + left[2:, 1:-1] + left[1:-1, :-2] + left[1:-1, 2:])
    high += left[:-2, :-2] + left[:-2, 2:] + left[2:, :-2] + left[2:, 2:]
    level = shown[picture.inner, picture.inner][1:-1, 1:-1]
    middle = (level > 0.1) & (level < 0.9)
    values = high[middle] if middle.sum() > 600 else high.ravel()
    return float(np.median(np.abs(values)) * 1.4826 / 6.0)


def structured_error(picture: Picture, shown: np.ndarray, noise: float) -> float:
    """Root mean square of what a rendering leaves beside the pixel noise, 0 to 1."""
    left = (picture.image - shown)[picture.inner, picture.inner]
    rows = (left[:-2] + left[1:-1] + left[2:]) / 3
    smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3
    # Smoothing also takes about half of the error at a painter's edges.
    return float(np.sqrt(max(float((smooth**2).mean()) - 1.2 * noise**2 / 9, 0.0)) * 1.4)


def painter_softness(scene: Scene, saturation: float, sigma: float, error: float) -> float:
    """How much of a painted picture's blur is the painter's own, px; `error` is `structured_error`'s."""
    shown = synthesise(scene, saturation, sigma)
    plain = synthesise(replace(scene, things=(), style="natural"), saturation, sigma)
    contrast = float(np.sqrt(((shown - plain) ** 2).mean()))
    own = SOFTNESS["plain" if scene.style == "natural" else "styled"]
    return min(own + SOFTNESS["error"] * error / max(contrast, 0.01), SOFTNESS["most"])


def painted_noise(scene: Scene, saturation: float, deviation: float) -> float:
    """Pixel noise behind mottles of this standard deviation, 0 to 1."""
    usual = MOTTLE["plain" if scene.style == "natural" else "styled"]
    return max(0.0, NOISE + MOTTLE["slope"] * (deviation / (1.6 if saturation > VIVID else 1.0) - usual))


def mottles(picture: Picture, scene: Scene, shown: np.ndarray) -> float:
    """Standard deviation of the mottles in a painted picture's background, 0 to 1; 0 where none of it is free."""
    empty = paint_scene(replace(scene, things=(), style="natural"))
    touched = np.abs(paint_scene(replace(scene, style="natural")) - empty).max(-1) > 0.002
    reach = 5
    padded = np.pad(touched, reach)
    near = np.zeros_like(touched)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            near |= padded[dy : dy + SIZE, dx : dx + SIZE]
    edge = picture.border + 4 if picture.border else 0
    inside = np.zeros_like(near)
    inside[edge : SIZE - edge, edge : SIZE - edge] = True
    free = inside & ~near
    if free.sum() < 150:
        return 0.0
    left = picture.image - shown
    y, x = np.nonzero(free)
    values = left[y, x]
    if scene.style != "natural":
        # How a painter gets a style wrong repeats with the style and with the squares it paints in.
        period = 8 if scene.style == "mosaic" else 12
        phase = (y % period) * period + x % period
        counts = np.bincount(phase, minlength=period**2)
        sums = np.stack([np.bincount(phase, values[:, c], period**2) for c in range(3)], axis=1)
        means = sums / np.maximum(counts, 1)[:, None]
        kept = counts[phase] >= 4
        scale = np.sqrt(counts[phase][kept] / (counts[phase][kept] - 1.0))
        values = (values - means[phase])[kept] * scale[:, None]
        if len(values) < 150:
            return 0.0
    return float(np.mean((np.quantile(values, 0.84, axis=0) - np.quantile(values, 0.16, axis=0)) / 2))
