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
    """Every pure background, blends of the expected ones with every other, slight blends of all."""
    pure: list[tuple[str, tuple[str, float] | None]] = [(name, None) for name in BACKGROUNDS]
    mixed = [
        (a, (b, share))
        for a in BACKGROUNDS
        for b in BACKGROUNDS
        for share in (SHARES if a in first else SHARES[:1])
        if a != b
    ]
    return tuple((name, blend, gradient) for name, blend in [*pure, *mixed] for gradient in (False, True))


@cache
def _backgrounds_shown(first: tuple[str, ...], rows: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(J, B, 3 N) display colours at rows, and their squared lengths (J, B)."""
    slope = np.interp(np.array(rows), np.arange(SIZE), np.linspace(1.10, 0.72, SIZE)).astype(np.float32)
    colours = []
    for name, blend, gradient in _backgrounds(first):
        factor = slope if gradient else np.ones_like(slope)
        colours.append(np.clip(_mix(BACKGROUNDS, name, blend) * factor[:, None], 0, 1))
    shown = displayed(np.stack(colours))
    shown = np.ascontiguousarray(shown.reshape(*shown.shape[:2], -1))
    return shown, (shown**2).sum(-1)


def _look_costs(source: Scene, target: Scene) -> np.ndarray:
    """(J,): how unexpected each look is, nats."""
    return _costs_of_looks(frozenset({source.tone, target.tone}))


@cache
def _costs_of_looks(expected: frozenset[str]) -> np.ndarray:
    every, _, _ = looks()
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
    return _costs_of_behinds(every, source.background, source.gradient, target.background, target.gradient)


@cache
def _costs_of_behinds(every: tuple[Behind, ...], before: str, graded: bool, after: str, regraded: bool) -> np.ndarray:
    expected = {(before, graded), (after, regraded)}
    costs = []
    for name, blend, gradient in every:
        cost = 0.0 if (name, gradient) in expected else 5.0 if name in (before, after) else 4.0
        if gradient not in (graded, regraded):
            cost += 3.0
        if blend is not None:
            towards = blend == (after, 0.3) and after != before
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
    costs = left + np.array([cost for *_, cost in entries]) + np.where(opacity < 1, 3.0 if fading else 16.0, 0.0)
    choice = costs.argmin(1)
    index = np.arange(len(choice))
    cost = np.minimum(costs[index, choice], THING_CAP)
    chosen = opacity[index, choice]
    if fit.form.material == "striped":
        white = ((fit.colours[1] - _whites_shown()) ** 2).sum(-1) / (2 * (3 * THING_SIGMA) ** 2)
        cost = cost + np.minimum(white, 12.0) * (chosen == 1)
    return _ThingTable(entries, choice, chosen, cost)


def surprise(scene: Scene, saturation: float, source: Scene, target: Scene) -> float:
    """How unexpected a reading is, nats, whatever the pixels say."""
    every, _, _ = looks()
    factor = min(SATURATIONS, key=lambda value: abs(value - saturation))
    share = min(STRENGTHS, key=lambda value: abs(value - scene.tone_strength))
    look = (scene.tone, 1.0 if scene.tone == "neutral" else share, factor)
    cost = float(_look_costs(source, target)[every.index(look)])
    behind = (scene.background, scene.background_blend, scene.gradient)
    if scene.photo is None:
        cost += float(_behind_costs((behind,), source, target)[0])
    if scene.style not in (source.style, target.style):
        cost += 4.0
    elif scene.style != "natural" and scene.style_strength < 0.8:
        cost += 2.0
    for place in range(4):
        cost += _thing_surprise(scene.at(place), source.at(place), target.at(place))
    return cost


def _thing_surprise(thing: Thing | None, before: Thing | None, after: Thing | None) -> float:
    """Nats for what stands in a place, given what may be expected there."""
    usual = [item for item in (before, after) if item is not None]
    if thing is None:
        return 0.0 if before is None or after is None else 6.0
    if not usual:
        return 6.0 + (5.0 if thing.opacity < 1 else 0.0)
    cost = min(3.0 * (thing.colour != item.colour) + 6.0 * (_form(thing) != _form(item)) for item in usual)
    near = min((thing.dx - item.dx) ** 2 + (thing.dy - item.dy) ** 2 for item in usual)
    cost += (2.0 if near > 4 else 0.0) + (2.0 if thing.blend is not None else 0.0)
    return cost + ((3.0 if len(usual) == 1 else 16.0) if thing.opacity < 1 else 0.0)


def _form(thing: Thing) -> tuple[str, str, str, str | None]:
    return thing.shape, thing.size, thing.material, thing.letter


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


def _smallest(costs: np.ndarray, count: int) -> np.ndarray:
    """Flat indices of the `count` smallest costs, in any order."""
    return np.argpartition(costs, count, axis=None)[:count] if count > 1 else np.array([costs.argmin()])


class Namer:
    """Names the readings of one picture on one ground."""

    def __init__(self, ground: Ground, source: Scene, target: Scene) -> None:
        self._ground, self._source, self._target = ground, source, target
        self._tables: dict[int, tuple[Fit, _ThingTable]] = {}
        look_costs = _look_costs(source, target)
        if ground.photo is not None:
            self._behinds: tuple[Behind, ...] = ((source.background, None, source.gradient),)
            self._costs = (look_costs + _photo_costs(ground))[:, None]
            return
        first = tuple(sorted({source.background, target.background}))
        self._behinds = _backgrounds(first)
        rows = tuple(round(float(row), 2) for row in ground.rows)
        shown, squares = _backgrounds_shown(first, rows)
        seen = ground.bands.ravel()
        wrong = squares - 2 * (shown @ seen) + seen @ seen
        behind_costs = _behind_costs(self._behinds, source, target)
        self._costs = look_costs[:, None] + wrong / np.float32(2 * GROUND_SIGMA**2) + behind_costs

    def _table(self, window: Window, fit: Fit) -> _ThingTable:
        if id(fit) not in self._tables:
            # The fit is kept with its table, so that its id stays its own.
            self._tables[id(fit)] = (fit, _thing_table(fit, window, self._source, self._target))
        return self._tables[id(fit)][1]

    def readings(self, fits: list[tuple[Window, Fit]], count: int) -> list[Named]:
        """Up to 1.5 `count` of the cheapest readings, of different kinds."""
        every, _, factors = looks()
        tables = [self._table(window, fit) for window, fit in fits]
        zero = np.zeros(len(every), np.float32)
        total = self._costs + sum((table.cost for table in tables), zero)[:, None].astype(np.float32)
        # Saturation, tone and opacity trade against each other: also bring the best readings without one of them.
        faint = sum(((table.opacity < 1).astype(np.float32) for table in tables), zero)[:, None]
        handicaps = [60 * faint, 60 * (factors > 1).astype(np.float32)] if count > 1 else []
        picks = [int(index) for index in _smallest(total, max(1, count // 2))]
        picks += [int(index) for handicap in handicaps for index in _smallest(total + handicap, max(1, count // 2))]
        answer = []
        for j, b in zip(*np.unravel_index(list(dict.fromkeys(picks)), total.shape), strict=True):
            scene = self._scene(fits, tables, int(j), int(b))
            answer.append(Named(scene, every[int(j)][2], float(total[j, b])))
        return answer

    def _scene(self, fits: list[tuple[Window, Fit]], tables: list[_ThingTable], look: int, behind: int) -> Scene:
        things = []
        for (window, fit), table in zip(fits, tables, strict=True):
            colour, blend, _ = table.entries[int(table.choice[look])]
            things.append(named_thing(fit, window, colour, blend, float(table.opacity[look])))
        tone, share, _ = looks()[0][look]
        name, mixed, gradient = self._behinds[behind]
        ground = self._ground
        strength = round(float(ground.strength), 3) if ground.style != "natural" else 1.0
        return Scene(tuple(things), name, gradient, tone, ground.style, mixed, share, strength, ground.photo)
