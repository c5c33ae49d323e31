"""Perception, part 3: from display colours to names: background, tone, saturation, colours, opacity.

One table of hypotheses (tone and strength x saturation) x (background, blend, gradient) is scored at
once: each hypothesis predicts the display colours of the background and of the six palette colours, and
pays for what it misses and, a little, for being neither the source's nor the target's state.

Legend: J looks (tone, strength, saturation), B backgrounds, N bands, P things, C palette entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from edit_r1.world.perceive_ground import Ground
from edit_r1.world.perceive_things import Fit, Window
from edit_r1.world.photographs import photograph
from edit_r1.world.render import tone_gain
from edit_r1.world.scenes import BACKGROUNDS, COLOURS, SIZE, TONES, Scene, Thing, place_centre

GROUND_SIGMA = 0.012
"""Expected error of a band's display colour, 0 to 1."""
THING_SIGMA = 0.03
"""Expected error of a thing's display colour, 0 to 1."""
THING_CAP = 80.0
"""A thing whose colour fits nothing costs at most this much, nats."""
FULL = 0.86
"""From this opacity on, a thing is opaque."""
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SATURATIONS = tuple(round(1.0 + 0.1 * step, 1) for step in range(18))
SHARES = (0.15, 0.3, 0.45, 0.55, 0.7, 0.85)

Look = tuple[str, float, float]
"""(tone, strength, saturation)."""
Behind = tuple[str, tuple[str, float] | None, bool]
"""(background, blend, gradient)."""


@dataclass(frozen=True)
class Named:
    """One reading of the whole picture."""

    scene: Scene
    saturation: float
    cost: float
    """Nats; smaller is likelier."""


def saturate(colours: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    """What `render.apply_damage` makes of colours (..., 3)."""
    grey = colours.mean(axis=-1, keepdims=True)
    return np.clip(grey + factor * (colours - grey), 0, 1)


@cache
def looks() -> tuple[tuple[Look, ...], np.ndarray, np.ndarray]:
    """Every look, its gains (J, 3) and saturations (J, 1)."""
    tones = [("neutral", 1.0), *((tone, share) for tone in TONES if tone != "neutral" for share in STRENGTHS)]
    every = tuple((tone, share, factor) for tone, share in tones for factor in SATURATIONS)
    gains = np.stack([tone_gain(tone, share) for tone, share, _ in every])
    return every, gains.astype(np.float32), np.array([[factor] for *_, factor in every], np.float32)


def displayed(colours: np.ndarray) -> np.ndarray:
    """(J, ..., 3): colours (..., 3) under every look."""
    _, gains, factors = looks()
    extra = (1,) * (colours.ndim - 1)
    toned = np.clip(colours[None] * gains.reshape(-1, *extra, 3), 0, 1)
    return saturate(toned, factors.reshape(-1, *extra, 1))


@cache
def _palette_shown() -> np.ndarray:
    """(J, 6, 3)."""
    return displayed(np.array(list(COLOURS.values()), np.float32) / 255)


@cache
def _whites_shown() -> np.ndarray:
    """(J, 3): display colour of pure white."""
    return displayed(np.ones((1, 3), np.float32))[:, 0]


def _mix(table: dict[str, tuple[int, int, int]], name: str, blend: tuple[str, float] | None) -> np.ndarray:
    colour = np.array(table[name], np.float32) / 255
    if blend is None:
        return colour
    return (1 - blend[1]) * colour + blend[1] * np.array(table[blend[0]], np.float32) / 255


@cache
def _backgrounds(first: tuple[str, ...]) -> tuple[Behind, ...]:
    """Every pure background, and blends of the expected ones with every other."""
    pure: list[tuple[str, tuple[str, float] | None]] = [(name, None) for name in BACKGROUNDS]
    mixed = [(a, (b, share)) for a in first for b in BACKGROUNDS if b != a for share in SHARES]
    return tuple((name, blend, gradient) for name, blend in [*pure, *mixed] for gradient in (False, True))


@cache
def _backgrounds_shown(first: tuple[str, ...], rows: tuple[float, ...]) -> np.ndarray:
    """(J, B, N, 3) at rows."""
    slope = np.interp(np.array(rows), np.arange(SIZE), np.linspace(1.10, 0.72, SIZE)).astype(np.float32)
    colours = []
    for name, blend, gradient in _backgrounds(first):
        factor = slope if gradient else np.ones_like(slope)
        colours.append(np.clip(_mix(BACKGROUNDS, name, blend) * factor[:, None], 0, 1))
    return displayed(np.stack(colours))


def _look_costs(source: Scene, target: Scene) -> np.ndarray:
    """(J,): how unexpected each look is, nats."""
    every, _, _ = looks()
    expected = {source.tone, target.tone}
    costs = []
    for tone, share, factor in every:
        cost = 0.0
        if share == 1.0:
            cost = 0.0 if tone in expected else 4.0
        else:
            usual = "neutral" in expected and share in (0.2, 0.3)
            cost = 2.5 if usual else 5.0 + (1.5 if tone not in expected else 0)
        costs.append(cost + (0.0 if factor == 1.0 else 3.0 if factor >= 1.8 else 6.0))
    return np.array(costs, np.float32)


def _behind_costs(every: tuple[Behind, ...], source: Scene, target: Scene) -> np.ndarray:
    """(B,): how unexpected each background is, nats."""
    expected = {(scene.background, scene.gradient) for scene in (source, target)}
    costs = []
    for name, blend, gradient in every:
        known = name in (source.background, target.background)
        cost = 0.0 if (name, gradient) in expected else 5.0 if known else 4.0
        if gradient not in (source.gradient, target.gradient):
            cost += 3.0
        if blend is not None:
            towards = blend == (target.background, 0.3) and target.background != source.background
            cost += 1.5 if towards else 3.0 if blend[1] == 0.15 else 6.0
        costs.append(cost)
    return np.array(costs, np.float32)


def _thing_entries(place: int, source: Scene, target: Scene) -> list[tuple[str, tuple[str, float] | None, float]]:
    """(colour, blend, cost in nats) that a thing in this place may have."""
    here = [thing.colour for scene in (source, target) if (thing := scene.at(place)) is not None]
    entries: list[tuple[str, tuple[str, float] | None, float]] = [
        (colour, None, 0.0 if colour in here else 3.0) for colour in COLOURS
    ]
    before, after = source.at(place), target.at(place)
    if before is not None and after is not None and before.colour != after.colour and before.shape == after.shape:
        entries += [(before.colour, (after.colour, share), 1.5 if share == 0.3 else 4.0) for share in SHARES]
    return entries


@dataclass(frozen=True)
class _ThingTable:
    entries: list[tuple[str, tuple[str, float] | None, float]]
    choice: np.ndarray
    """(J,): index of the cheapest entry."""
    opacity: np.ndarray
    """(J,): with that entry."""
    cost: np.ndarray
    """(J,)."""


def _thing_table(fit: Fit, window: Window, source: Scene, target: Scene) -> _ThingTable:
    """What a fitted thing would be under every look, and what that costs."""
    entries = _thing_entries(window.place, source, target)
    names = list(COLOURS)
    pure = _palette_shown()
    blends = [blend is not None for _, blend, _ in entries]
    shown = pure[:, [names.index(name) for name, _, _ in entries]]
    if any(blends):
        mixed = np.stack([_mix(COLOURS, name, blend) for name, blend, _ in entries if blend is not None])
        shown = np.concatenate([shown[:, : len(names)], displayed(mixed)], axis=1)
    x, y = (int(np.clip(round(value), 0, window.depth.shape[0] - 1)) for value in (fit.x, fit.y))
    behind = window.ground[:, y, x]
    wanted = fit.opacity * (fit.colours[0] - behind)
    away = shown - behind
    opacity = (away @ wanted) / np.maximum((away**2).sum(-1), 1e-4)
    opacity = np.where(opacity > FULL, 1.0, np.clip(opacity, 0.05, 1.0))
    left = ((wanted - opacity[..., None] * away) ** 2).sum(-1) / (2 * THING_SIGMA**2)
    before, after = source.at(window.place), target.at(window.place)
    fading = (before is None) != (after is None)
    costs = left + np.array([cost for *_, cost in entries]) + np.where(opacity < 1, 3.0 if fading else 7.0, 0.0)
    choice = costs.argmin(1)
    index = np.arange(len(choice))
    cost = np.minimum(costs[index, choice], THING_CAP)
    chosen = opacity[index, choice]
    if fit.form.material == "striped":
        white = ((fit.colours[1] - _whites_shown()) ** 2).sum(-1) / (2 * (3 * THING_SIGMA) ** 2)
        cost = cost + np.minimum(white, 12.0) * (chosen == 1)
    return _ThingTable(entries, choice, chosen, cost)


def _photo_costs(ground: Ground) -> np.ndarray:
    """(J,): misfit of the photograph under every look, at a grid of pixels."""
    assert ground.photo is not None
    pixels = photograph(ground.photo)[4::9, 4::9].reshape(-1, 3)
    shown = ground.field[4::9, 4::9].reshape(-1, 3)
    wrong = ((displayed(pixels) - shown) ** 2).sum(-1).mean(-1)
    return np.asarray(3 * wrong / (2 * GROUND_SIGMA**2))


def named_thing(fit: Fit, window: Window, colour: str, blend: tuple[str, float] | None, opacity: float) -> Thing:
    """A fit as a thing."""
    cx, cy = place_centre(window.place)
    scale = fit.scale if abs(fit.scale - 1) > 0.03 else 1.0
    return Thing(
        fit.form.shape,
        colour,
        fit.form.size,
        fit.form.material,
        window.place,
        round(fit.x + window.x0 - cx, 2),
        round(fit.y + window.y0 - cy, 2),
        fit.form.letter,
        round(float(opacity), 3),
        blend,
        round(scale, 3),
    )


def name_picture(
    ground: Ground, fits: list[tuple[Window, Fit]], source: Scene, target: Scene, count: int
) -> list[Named]:
    """The `count` cheapest readings, cheapest first."""
    every, _, _ = looks()
    tables = [_thing_table(fit, window, source, target) for window, fit in fits]
    costs = _look_costs(source, target) + sum((table.cost for table in tables), np.zeros(len(every)))
    if ground.photo is not None:
        behinds: tuple[Behind, ...] = ((source.background, None, source.gradient),)
        total = (costs + _photo_costs(ground))[:, None]
    else:
        first = tuple(dict.fromkeys([source.background, target.background]))
        behinds = _backgrounds(first)
        rows = tuple(round(float(row), 2) for row in ground.rows)
        wrong = ((_backgrounds_shown(first, rows) - ground.bands) ** 2).sum((-1, -2))
        total = costs[:, None] + wrong / (2 * GROUND_SIGMA**2) + _behind_costs(behinds, source, target)
    order = np.argsort(total, axis=None)[:count]
    answer = []
    for j, b in zip(*np.unravel_index(order, total.shape), strict=True):
        things = []
        for (window, fit), table in zip(fits, tables, strict=True):
            colour, blend, _ = table.entries[int(table.choice[j])]
            things.append(named_thing(fit, window, colour, blend, float(table.opacity[j])))
        tone, share, factor = every[int(j)]
        name, mixed, gradient = behinds[int(b)]
        strength = round(ground.strength, 3) if ground.style != "natural" else 1.0
        scene = Scene(tuple(things), name, gradient, tone, ground.style, mixed, share, strength, ground.photo)
        answer.append(Named(scene, factor, float(total[j, b])))
    return answer
