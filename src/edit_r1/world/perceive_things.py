"""Perception, part 2: which forms stand in the places of a picture, in display colours.

A form (shape, size, material, letter) is fitted together with the display colour that suits it best:
its colours enter linearly, so they are solved for, and only its centre and scale are searched.

Legend: F forms, Q = 2 bases of a form (its colour; the stripes' or the letter's), W = 40 side of the
window around a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from edit_r1.world.perceive_ground import Ground, blur_matrix
from edit_r1.world.render import _letter, signed_distance
from edit_r1.world.scenes import LETTERS, MATERIALS, SHAPES, SIZE, SIZES, Thing, place_centre

WINDOW = 40
"""Side of the window around a place, px: the place and 8 px of its neighbours."""
JUDGED = 34
"""Side of the part of the window that counts, px: the rest only feeds the blur."""
REACH = 8
"""A thing's centre is looked for within this many px of its place's centre."""
FAINT_OPACITY = 0.35
"""The opacity at which forms are tried beside 1; the exact one comes with the colour."""
PATCH = 64
"""Side of a stored form, centred at half of it plus a fraction of 0 or 0.5 px."""


@dataclass(frozen=True)
class Form:
    """What is drawn, without its colour and its place."""

    shape: str
    size: str
    material: str
    letter: str | None = None


FORMS: tuple[Form, ...] = (
    *(Form(shape, size, material) for shape in SHAPES for size in SIZES for material in MATERIALS),
    *(Form(shape, "large", "solid", letter) for shape in SHAPES for letter in LETTERS),
)
BARE = [index for index, form in enumerate(FORMS) if form.letter is None]


def form_of(thing: Thing) -> Form:
    """A thing's form."""
    return Form(thing.shape, thing.size, thing.material, thing.letter)


Layers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""(cover, shadow, share of the colour, share of the stripes' white, share of the letter), each (..., W, W)."""


def layers(form: Form, x: np.ndarray, y: np.ndarray, scale: float = 1.0) -> Layers:
    """The form at points relative to its centre, as `render` paints it."""
    radius = SIZES[form.size] * scale
    distance = signed_distance(form.shape, x, y, radius)
    shadow = signed_distance(form.shape, x - 1.0, y - 1.6, radius)
    if form.material == "outlined":
        half = 1.25 if form.size == "small" else 1.6
        distance = np.abs(distance + half) - half
        shadow = np.abs(shadow + half) - half
    cover = np.clip(0.5 - distance, 0, 1)
    shade = np.clip(0.5 - shadow / 3.0, 0, 1)
    colour = cover * (1.0 + 0.10 * np.clip(-(x + y) / (2 * radius), -1, 1))
    white = letter = np.zeros_like(cover)
    if form.material == "striped":
        stripe = np.clip(0.5 + 1.2 * np.sin((x + y) * (2 * np.pi / 6.2)), 0, 1)
        colour, white = colour * (1 - 0.75 * stripe), cover * 0.75 * stripe
    if form.letter is not None:
        letter = _letter(form.letter, x, y - (0.16 * radius if form.shape == "triangle" else 0.0))
    return cover, shade, colour, white, letter


@cache
def _stored(fx: float, fy: float) -> np.ndarray:
    """Layers of every form, (5, F, 64, 64), with its centre at (32 + fx, 32 + fy)."""
    y, x = np.mgrid[0:PATCH, 0:PATCH].astype(np.float32) + 0.5
    parts = [layers(form, x - PATCH / 2 - fx, y - PATCH / 2 - fy) for form in FORMS]
    return np.stack([np.stack([part[i] for part in parts]) for i in range(5)]).astype(np.float32)


STRIPED = [slot for slot, index in enumerate(BARE) if FORMS[index].material == "striped"]
"""Slots of the striped among the bare forms."""


@cache
def _spectra() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For finding centres: conjugate spectra (F' + S, 64, 33), energies (F' + S,), overlaps (S,).

    Of the bare forms' covers, of the striped ones' coloured part alone, and then of their white parts,
    all centred at (0, 0).
    """
    cover, _, colour, white, _ = _stored(0.0, 0.0)
    striped = [BARE[slot] for slot in STRIPED]
    first = cover[BARE].copy()
    first[STRIPED] = colour[striped]
    maps = np.concatenate([first, white[striped]])
    rolled = np.roll(maps, (-PATCH // 2, -PATCH // 2), (1, 2))
    spectra = np.conj(np.fft.rfft2(rolled)).astype(np.complex64)
    return spectra, (maps**2).sum((1, 2)), (colour[striped] * white[striped]).sum((1, 2))


@dataclass(frozen=True)
class Window:
    """The surroundings of a place, everything known but what stands there."""

    place: int
    x0: int
    y0: int
    image: np.ndarray
    """(W, W, 3)."""
    ground: np.ndarray
    """(3, W, W): what lies behind, sharp, without style."""
    depth: np.ndarray
    """(W, W): the style's factor."""
    blur: np.ndarray | None
    """(2, W, W): of rows and of columns."""
    soft: np.ndarray | None
    """(2, W, W): a blur of everything but the style."""
    judged: np.ndarray
    """(W, W) float: 1 where the error counts."""

    @property
    def centre(self) -> tuple[float, float]:
        """Of the place, in the window, px."""
        cx, cy = place_centre(self.place)
        return cx - self.x0, cy - self.y0

    def shown(self, maps: np.ndarray) -> np.ndarray:
        """Maps (..., W, W) after the style and the blur, and 0 where the error does not count."""
        if self.soft is not None:
            maps = self.soft[0] @ maps @ self.soft[1].T
        maps = maps * self.depth
        if self.blur is not None:
            maps = self.blur[0] @ maps @ self.blur[1].T
        return np.asarray(maps * self.judged)

    def empty_residual(self) -> np.ndarray:
        """(W, W, 3): the picture minus an empty place."""
        return self.image * self.judged[..., None] - self.shown(self.ground).transpose(1, 2, 0)


def _local_blur(sigma: float, ys: slice, xs: slice) -> np.ndarray | None:
    """(2, W, W) of a blur inside a window: rows, columns; None for none."""
    if sigma <= 0:
        return None
    matrix = blur_matrix(round(sigma, 2))
    local = np.stack([matrix[ys, ys], matrix[xs, xs]])
    return np.asarray(local / local.sum(-1, keepdims=True))


def window_at(place: int, image: np.ndarray, ground: Ground, sigma: float, border: int, soft: float = 0.0) -> Window:
    """The window of a place in a float (64, 64, 3) picture."""
    x0, y0 = (SIZE - WINDOW) * (place % 2), (SIZE - WINDOW) * (place // 2)
    ys, xs = slice(y0, y0 + WINDOW), slice(x0, x0 + WINDOW)
    edge = border + 1 if border else 0
    counts = np.zeros((SIZE, SIZE), np.float32)
    low, high = SIZE - JUDGED, JUDGED
    rows = slice(max(low if y0 else 0, edge), min(SIZE if y0 else high, SIZE - edge))
    columns = slice(max(low if x0 else 0, edge), min(SIZE if x0 else high, SIZE - edge))
    counts[rows, columns] = 1
    blur, softened = _local_blur(sigma, ys, xs), _local_blur(soft, ys, xs)
    field = np.ascontiguousarray(ground.field[ys, xs].transpose(2, 0, 1))
    return Window(place, x0, y0, image[ys, xs], field, ground.depth[ys, xs, 0], blur, softened, counts[ys, xs])


@dataclass(frozen=True)
class Fit:
    """One form at one centre with its best display colours."""

    form: Form
    x: float
    """Centre in the window, px."""
    y: float
    scale: float
    opacity: float
    """That the fit was made with: 1 or `FAINT_OPACITY`."""
    error: float
    """Squared error left in the judged part of the window."""
    colours: np.ndarray
    """(Q, 3): display colour, and that of the stripes or of the letter."""


def solve(window: Window, maps: np.ndarray | Layers, opacity: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(errors (F,), colours (F, Q, 3), residuals (F, W*W, 3)) of forms given by their layers, each (F, W, W)."""
    cover, shade, colour, white, letter = maps
    uncovered = 1 - opacity * letter
    under = (1 - 0.22 * opacity * shade) * (1 - opacity * cover) * uncovered
    count = len(cover)
    behind = window.shown(under[:, None] * window.ground).reshape(count, 3, -1)
    wanted = (window.image * window.judged[..., None]).reshape(1, -1, 3) - behind.transpose(0, 2, 1)
    used = [opacity * colour * uncovered]
    if count > 1 or white.any() or letter.any():
        used.append(opacity * (white * uncovered + letter))
    bases = window.shown(np.stack(used, axis=1)).reshape(count, len(used), -1)
    gram = bases @ bases.transpose(0, 2, 1) + 1e-3 * np.eye(len(used), dtype=np.float32)
    colours = np.linalg.solve(gram, bases @ wanted)
    residual = wanted - bases.transpose(0, 2, 1) @ colours
    return np.einsum("fpc,fpc->f", residual, residual), colours, residual


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:WINDOW, 0:WINDOW].astype(np.float32) + 0.5
    return y, x


def fit_at(window: Window, form: Form, x: float, y: float, scale: float, opacity: float) -> tuple[Fit, np.ndarray]:
    """The form at exactly this centre, and its residual (W*W, 3)."""
    grid_y, grid_x = _grid()
    maps = layers(form, grid_x - np.float32(x), grid_y - np.float32(y), scale)
    errors, colours, residual = solve(window, tuple(part[None] for part in maps), opacity)  # type: ignore[arg-type]
    return Fit(form, x, y, scale, opacity, float(errors[0]), colours[0]), residual[0]


def refine(window: Window, fit: Fit, free_scale: bool = False, steps: int = 4) -> Fit:
    """Gauss-Newton on the centre (and the scale), colours solved for at every point."""
    best, left = fit_at(window, fit.form, fit.x, fit.y, fit.scale, fit.opacity)
    deltas = [(0.2, 0.0, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.02)][: 3 if free_scale else 2]
    cx, cy = window.centre
    slopes: np.ndarray | None = None
    for _ in range(steps):
        if slopes is None:
            columns = []
            for dx, dy, ds in deltas:
                _, moved = fit_at(window, best.form, best.x + dx, best.y + dy, best.scale + ds, best.opacity)
                columns.append((moved - left).ravel() / (dx + dy + ds))
            slopes = np.stack(columns, axis=1)
            gram = slopes.T @ slopes
            gram += 1e-4 * np.diag(np.diag(gram)) + 1e-6 * np.eye(len(deltas), dtype=np.float32)
        move = -np.linalg.solve(gram, slopes.T @ left.ravel())
        move = np.clip(move, [-1.5, -1.5, -0.12][: len(deltas)], [1.5, 1.5, 0.12][: len(deltas)])
        x = float(np.clip(best.x + move[0], cx - REACH, cx + REACH))
        y = float(np.clip(best.y + move[1], cy - REACH, cy + REACH))
        scale = float(np.clip(best.scale + (move[2] if free_scale else 0), 0.55, 1.7))
        trial, trial_left = fit_at(window, best.form, x, y, scale, best.opacity)
        if trial.error >= best.error:
            break
        gain = best.error - trial.error
        best, left = trial, trial_left
        if gain < 0.002 * best.error + 1e-4 and np.abs(move[:2]).max() < 0.1:
            break
        if np.abs(move[:2]).max() > 0.4:
            slopes = None
    return best


def _peaks(window: Window, residual: np.ndarray) -> np.ndarray:
    """(F', 2): for every bare form the centre (x, y) in the window where its cover explains the residual best."""
    flat = residual.reshape(-1, 3)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    main = residual @ vectors[:, -1]
    spectra, energies, overlaps = _spectra()
    answer = np.fft.irfft2(np.fft.rfft2(main, (PATCH, PATCH)) * spectra, (PATCH, PATCH))
    cx, cy = (int(value) for value in window.centre)
    answer = answer[:, cy - REACH : cy + REACH + 1, cx - REACH : cx + REACH + 1]
    count = len(BARE)
    part = answer[:count] ** 2 / energies[:count, None, None]
    first, second = answer[STRIPED], answer[count:]
    aa, bb, ab = (value[:, None, None] for value in (energies[STRIPED], energies[count:], overlaps))
    part[STRIPED] = (bb * first**2 + aa * second**2 - 2 * ab * first * second) / (aa * bb - ab**2)
    side = 2 * REACH + 1
    spots = part.reshape(len(part), -1).argmax(1)
    rows, columns = spots // side, spots % side
    peaks = np.stack([columns, rows], axis=1).astype(np.float64)
    index = np.arange(len(part))
    for axis, (row_step, column_step) in enumerate(((0, 1), (1, 0))):
        inner = (np.minimum(rows, columns) > 0) & (np.maximum(rows, columns) < side - 1)
        safe_rows, safe_columns = np.clip(rows, 1, side - 2), np.clip(columns, 1, side - 2)
        before = part[index, safe_rows - row_step, safe_columns - column_step]
        here = part[index, safe_rows, safe_columns]
        after = part[index, safe_rows + row_step, safe_columns + column_step]
        bend = np.maximum(2 * here - before - after, 1e-9)
        peaks[:, axis] += np.where(inner, np.clip(0.5 * (after - before) / bend, -0.5, 0.5), 0)
    return peaks + np.array([cx - REACH, cy - REACH])


def _crops(indices: list[int], centres: np.ndarray) -> np.ndarray:
    """Stored layers (5, n, W, W) of forms at centres (n, 2), to the nearest half pixel."""
    halves = np.round(centres * 2).astype(int)
    out = np.empty((5, len(indices), WINDOW, WINDOW), np.float32)
    for slot, (index, (hx, hy)) in enumerate(zip(indices, halves, strict=True)):
        top, left = PATCH // 2 - hy // 2, PATCH // 2 - hx // 2
        stored = _stored(0.5 * (hx % 2), 0.5 * (hy % 2))
        out[:, slot] = stored[:, index, top : top + WINDOW, left : left + WINDOW]
    return out


HALF_STRIPE = 1.55
"""Half a stripe's period along x and along y, px: stripes fit their own negative there."""


def rank(window: Window, opacity: float) -> list[Fit]:
    """Every form at the centres that the picture suggests for it, to half a pixel, best first."""
    peaks = _peaks(window, window.empty_residual())
    by_form = {FORMS[index]: peaks[slot] for slot, index in enumerate(BARE)}
    indices = list(range(len(FORMS)))
    centres = [by_form[Form(form.shape, form.size, form.material)] for form in FORMS]
    middle = np.array(window.centre)
    for slot in STRIPED:
        for shift in (HALF_STRIPE, -HALF_STRIPE):
            indices.append(BARE[slot])
            centres.append(np.clip(peaks[slot] + shift, middle - REACH, middle + REACH))
    errors, colours, _ = solve(window, _crops(indices, np.stack(centres)), opacity)
    return [
        Fit(FORMS[indices[i]], float(centres[i][0]), float(centres[i][1]), 1.0, opacity, float(errors[i]), colours[i])
        for i in np.argsort(errors)
    ]
