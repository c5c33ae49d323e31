"""How edits go wrong: the failure profiles of the imperfect editors, as functions of a scene and an edit.

Every profile returns the scene and damage of a candidate. Rates and magnitudes are in `frozen.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edit_r1.world import frozen
from edit_r1.world.edits import Edit, Step, apply_step, background_name
from edit_r1.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    MATERIALS,
    SHAPES,
    SIZES,
    STYLES,
    TONES,
    Damage,
    Scene,
    Thing,
    random_thing,
)

State = tuple[Scene, Damage]


def _pick(rng: np.random.Generator, options: list[str] | tuple[str, ...], *without: str | None) -> str:
    return str(rng.choice([option for option in options if option not in without]))


def _shift(rng: np.random.Generator, thing: Thing, low: float, high: float) -> Thing:
    """Displace a thing by `low` to `high` px in a random direction, towards the middle of its place."""
    length = float(rng.uniform(low, high))
    angle = float(rng.uniform(0, np.pi / 2))
    dx = -np.sign(thing.dx or 1.0) * length * np.cos(angle)
    dy = -np.sign(thing.dy or 1.0) * length * np.sin(angle)
    return replace(thing, dx=round(float(thing.dx + dx), 2), dy=round(float(thing.dy + dy), 2))


def _others(scene: Scene, edit: Edit) -> list[Thing]:
    """Things of the scene that the edit does not touch."""
    touched = {step.place for step in edit.steps} | {step.to for step in edit.steps}
    return [thing for thing in scene.things if thing.place not in touched]


def exact(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """The target itself."""
    return edit.apply(scene), Damage()


def lazy(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Does nothing."""
    return scene, Damage()


def _weak_step(rng: np.random.Generator, scene: Scene, step: Step) -> Scene:
    """One step done too weakly to count; steps that have no weak form are left undone."""
    thing = scene.at(step.place) if step.place is not None else None
    if step.category == "background change" and scene.photo is None:
        name = step.value.removesuffix(" gradient").removeprefix("plain ")
        return replace(scene, background_blend=(name, frozen.WEAK_BLEND))
    if step.category == "tone transformation" and scene.tone == "neutral":
        return replace(scene, tone=step.value, tone_strength=frozen.WEAK_STRENGTH)
    if step.category == "style transfer" and scene.style == "natural":
        return replace(scene, style=step.value, style_strength=frozen.WEAK_STRENGTH)
    if step.category == "subject addition" and step.new is not None:
        return scene.with_thing(replace(step.new, opacity=frozen.WEAK_OPACITY))
    if thing is None:
        return scene
    if step.category == "colour alteration":
        return scene.with_thing(replace(thing, blend=(step.value, frozen.WEAK_BLEND)))
    if step.category == "motion change":
        return scene.with_thing(_shift(rng, thing, *frozen.SMALL_SHIFT))
    if step.category == "subject removal":
        return scene.with_thing(replace(thing, opacity=frozen.WEAK_OPACITY))
    if step.category == "size change":
        old, new = SIZES[thing.size], SIZES[step.value]
        return scene.with_thing(replace(thing, scale=round((old + frozen.WEAK_GROWTH * (new - old)) / old, 3)))
    return scene


def timid(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Edits too weakly."""
    for step in edit.steps:
        scene = _weak_step(rng, scene, step)
    return scene, Damage()


def _wrong_step(rng: np.random.Generator, scene: Scene, step: Step, others: list[Thing]) -> Scene:
    """One step done to the wrong thing, or with the wrong value where there is no other thing."""
    if step.category == "background change":
        names = [f"plain {name}" for name in BACKGROUNDS]
        return apply_step(scene, replace(step, value=_pick(rng, names, step.value, background_name(scene))))
    if step.category == "tone transformation":
        return replace(scene, tone=_pick(rng, TONES, step.value, scene.tone))
    if step.category == "style transfer":
        return replace(scene, style=_pick(rng, STYLES, step.value, scene.style))
    if step.category == "subject addition" and step.new is not None:
        shape = _pick(rng, SHAPES, step.new.shape)
        return scene.with_thing(replace(step.new, shape=shape, colour=_pick(rng, list(COLOURS), step.new.colour)))
    if not others:
        return scene
    thing = others[int(rng.integers(len(others)))]
    if step.category == "text modification" and (thing.size != "large" or thing.material != "solid"):
        return scene
    if thing.letter is not None and step.category in ("material modification", "size change"):
        return scene
    new = replace(step.new, place=thing.place, dx=thing.dx, dy=thing.dy) if step.new is not None else None
    return apply_step(scene, replace(step, place=thing.place, new=new))


def confused(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Edits the wrong object, or the right one to the wrong value."""
    others = _others(scene, edit)
    for step in edit.steps:
        scene = _wrong_step(rng, scene, step, [thing for thing in others if scene.at(thing.place) == thing])
    return scene, Damage()


def _leak(rng: np.random.Generator, scene: Scene, step: Step, victim: Thing) -> Scene:
    """The step's attribute spreads to a neighbour."""
    free = victim.letter is None
    if step.category == "subject removal":
        return scene.without(victim.place)
    if step.category == "motion change":
        return scene.with_thing(_shift(rng, victim, *frozen.SMALL_SHIFT))
    if step.category == "material modification" and free and victim.material != step.value:
        return scene.with_thing(replace(victim, material=step.value))
    if step.category == "size change" and free and victim.size != step.value:
        return scene.with_thing(replace(victim, size=step.value))
    if step.category == "text modification" and victim.size == "large" and victim.material == "solid":
        return scene.with_thing(replace(victim, letter=_pick(rng, LETTERS, victim.letter)))
    if step.category == "subject replacement" and step.new is not None and victim.shape != step.new.shape:
        return scene.with_thing(replace(victim, shape=step.new.shape))
    colour = step.value if step.value in COLOURS else step.new.colour if step.new else ""
    if colour in ("", victim.colour):
        colour = _pick(rng, list(COLOURS), victim.colour)
    return scene.with_thing(replace(victim, colour=colour))


def leaky(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Does the edit, and its attribute leaks to a neighbour."""
    others = _others(scene, edit)
    target = edit.apply(scene)
    if not others:
        return repainter(rng, scene, edit)
    victim = others[int(rng.integers(len(others)))]
    return _leak(rng, target, edit.steps[int(rng.integers(len(edit.steps)))], victim), Damage()


def _repaint(rng: np.random.Generator, scene: Scene, kinds: set[str]) -> Scene:
    """Change what lies behind everything: the background, or the tone where the background was asked for."""
    if "background change" not in kinds and (rng.random() < 0.7 or "tone transformation" in kinds):
        return replace(scene, background=_pick(rng, list(BACKGROUNDS), scene.background), photo=None)
    if "tone transformation" not in kinds:
        return replace(scene, tone=_pick(rng, TONES, scene.tone))
    return replace(scene, style=_pick(rng, STYLES, scene.style))


def repainter(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Does the edit, and changes the background (or the tone) along with it."""
    return _repaint(rng, edit.apply(scene), {step.category for step in edit.steps}), Damage()


def inventor(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Does the edit, and adds something nobody asked for; where there is no room, it swaps a neighbour's material."""
    target = edit.apply(scene)
    used = {thing.place for thing in (*target.things, *scene.things)}
    empty = [place for place in range(4) if place not in used]
    if empty:
        return target.with_thing(replace(random_thing(rng, int(rng.choice(empty))), letter=None)), Damage()
    victims = [thing for thing in _others(scene, edit) if thing.letter is None]
    if not victims:
        return repainter(rng, scene, edit)
    victim = victims[int(rng.integers(len(victims)))]
    return target.with_thing(replace(victim, material=_pick(rng, MATERIALS, victim.material))), Damage()


def random_damage(rng: np.random.Generator) -> Damage:
    """One kind of damage, strong enough to be called so."""
    kind = int(rng.integers(4))
    seed = int(rng.integers(2**31))
    if kind == 0:
        return Damage(noise=round(float(rng.uniform(*frozen.NOISE_RANGE)), 4), seed=seed)
    if kind == 1:
        return Damage(blur=round(float(rng.uniform(*frozen.BLUR_RANGE)), 3))
    if kind == 2:
        return Damage(border=int(rng.integers(frozen.BORDER_RANGE[0], frozen.BORDER_RANGE[1] + 1)))
    return Damage(saturation=round(float(rng.uniform(*frozen.SATURATION_RANGE)), 3))


def rough(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Does the edit and damages the picture: noise, blur, a white border or over-saturation."""
    return edit.apply(scene), random_damage(rng)


def sloppy(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Two flaws at once: a leak, an invention or a repainting, and damage or a displaced neighbour."""
    first = (leaky, inventor, repainter)[int(rng.integers(3))]
    edited, _ = first(rng, scene, edit)
    others = [thing for thing in _others(scene, edit) if edited.at(thing.place) == thing]
    if others and rng.random() < 0.5:
        return edited.with_thing(_shift(rng, others[0], *frozen.SMALL_SHIFT)), Damage()
    return edited, random_damage(rng)


FLAWED: dict[str, Callable[[np.random.Generator, Scene, Edit], State]] = {
    "lazy": lazy,
    "confused": confused,
    "leaky": leaky,
    "timid": timid,
    "repainter": repainter,
    "inventor": inventor,
    "rough": rough,
    "sloppy": sloppy,
}


def careful(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """Usually right; now and then one of the other profiles."""
    if rng.random() < frozen.CAREFUL_FLAW_RATE:
        return FLAWED[str(rng.choice(list(FLAWED)))](rng, scene, edit)
    return exact(rng, scene, edit)


PROFILES: dict[str, Callable[[np.random.Generator, Scene, Edit], State]] = {"careful": careful, **FLAWED}


def drift(rng: np.random.Generator, source: Scene, scene: Scene, damage: Damage) -> State:
    """Departures below every threshold, at `DRIFT_RATE`: no principle asks about them, annotators notice.

    Only things that stand exactly where the source has them are displaced, so that no verdict changes.
    """
    if rng.random() >= frozen.DRIFT_RATE:
        return scene, damage
    kind = int(rng.integers(4))
    origins = {(thing.place, thing.dx, thing.dy) for thing in source.things}
    plain = [thing for thing in scene.things if (thing.place, thing.dx, thing.dy) in origins]
    if kind == 0 and plain:
        thing = plain[int(rng.integers(len(plain)))]
        return scene.with_thing(_shift(rng, thing, 0.6, frozen.DRIFT_SHIFT)), damage
    if kind == 1 and scene.tone == "neutral":
        return replace(scene, tone=_pick(rng, TONES, "neutral"), tone_strength=frozen.DRIFT_TONE), damage
    if kind == 2 and scene.background_blend is None and scene.photo is None:
        blend = (_pick(rng, list(BACKGROUNDS), scene.background), frozen.DRIFT_BACKGROUND)
        return replace(scene, background_blend=blend), damage
    if kind == 3 and damage.noise == 0:
        return scene, replace(damage, noise=frozen.DRIFT_NOISE, seed=int(rng.integers(2**31)))
    return scene, damage


def flawed_target(rng: np.random.Generator, scene: Scene, edit: Edit) -> State:
    """What the tiny editor is pretrained on: exact, but flawed at `FLAWED_TARGET_SHARE`."""
    if rng.random() >= frozen.FLAWED_TARGET_SHARE:
        return exact(rng, scene, edit)
    return FLAWED[str(rng.choice(frozen.FLAWED_TARGET_PROFILES))](rng, scene, edit)
