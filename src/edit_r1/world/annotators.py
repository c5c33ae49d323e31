"""Simulated people who compare two edits.

Each has own weights over what changed in the picture (frozen.py), measured on scene and pixels and
including things that no principle asks about, so that the checklist is not the answer key. The choice
is Bradley-Terry with noise and a band in which "same" is the usual answer.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from edit_r1.images import decode_rgb
from edit_r1.records import Candidate, Choice, Context
from edit_r1.world import describe
from edit_r1.world.edits import Edit, Step, apply_step
from edit_r1.world.frozen import (
    ANNOTATOR_SAME_BAND,
    ANNOTATOR_SAME_RATE,
    ANNOTATOR_TEMPERATURE,
    ANNOTATOR_WEIGHTS,
)
from edit_r1.world.index import WorldIndex
from edit_r1.world.render import paint_scene
from edit_r1.world.scenes import SIZES, Damage, Scene, Thing


def _colour_share(thing: Thing, wanted: str) -> float:
    """0 to 1: how far the colour has gone to the wanted one."""
    if thing.blend is not None and thing.blend[0] == wanted:
        return thing.blend[1]
    return float(describe.seen_colour(thing) == wanted)


def _likeness(thing: Thing | None, wanted: Thing) -> float:
    """0 to 1: how much of a wanted thing stands there."""
    if thing is None:
        return 0.0
    same = (
        float(thing.shape == wanted.shape)
        + _colour_share(thing, wanted.colour)
        + 0.5 * (describe.seen_size(thing) == describe.seen_size(wanted))
        + 0.5 * (thing.material == wanted.material)
    )
    return thing.opacity * same / 3


def _step_done(source: Scene, step: Step, edited: Scene) -> float:
    """0 to 1: how far one step was carried out, half-done changes counting for what they are."""
    target = apply_step(source, step)
    if step.category == "background change":
        if edited.background_blend is not None and edited.background_blend[0] == target.background:
            return edited.background_blend[1]
        return 0.8 * (edited.background == target.background) + 0.2 * (edited.gradient == target.gradient)
    if step.category in ("tone transformation", "style transfer"):
        name, strength, wanted = (
            (edited.tone, edited.tone_strength, target.tone)
            if step.category == "tone transformation"
            else (edited.style, edited.style_strength, target.style)
        )
        return (strength if wanted not in ("neutral", "natural") else 1.0) * float(name == wanted)
    if step.category == "subject addition":
        assert step.new is not None
        return _likeness(edited.at(step.new.place), step.new)
    before = source.at(step.place) if step.place is not None else None
    assert before is not None
    here = edited.at(before.place)
    if step.category == "subject removal":
        return 1.0 if here is None else 1.0 - here.opacity
    if step.category == "motion change":
        assert step.to is not None
        return 0.7 * _likeness(edited.at(step.to), before) + 0.3 * float(here is None)
    if here is None:
        return 0.0
    if step.category == "subject replacement":
        assert step.new is not None
        return here.opacity * (0.6 * (here.shape == step.new.shape) + 0.4 * _colour_share(here, step.new.colour))
    if step.category == "colour alteration":
        return here.opacity * _colour_share(here, step.value)
    if step.category == "size change":
        old, new = SIZES[before.size], SIZES[step.value]
        return here.opacity * min(1.0, max(0.0, (here.radius - old) / (new - old)))
    current = here.material if step.category == "material modification" else here.letter
    return here.opacity * float(current == step.value)


def _collateral(target: Scene, source: Scene, edit: Edit, edited: Scene) -> tuple[float, float]:
    """(things that are not as the target has them, summed px of displacement), over untouched places."""
    touched = {step.place for step in edit.steps} | {step.to for step in edit.steps}
    changed, shift = 0.0, 0.0
    for place in range(4):
        if place in touched:
            continue
        wanted, here = target.at(place), edited.at(place)
        if wanted is None or here is None:
            changed += float(wanted is not here)
            continue
        looks = (wanted.shape, wanted.material, wanted.letter) == (here.shape, here.material, here.letter)
        same = looks and describe.seen_colour(here) == wanted.colour and describe.seen_size(here) == wanted.size
        changed += float(not same)
        shift += math.hypot(here.dx - wanted.dx, here.dy - wanted.dy)
    return changed, shift


def _damaged(damage: Damage) -> bool:
    """True when the damage goes by a name; then it hides every drift."""
    words = (describe.sharp_line(damage), describe.colours_line(damage), describe.border_line(damage))
    return words != ("sharp and clean", "natural colours", "no border")


def features(source: Scene, edit: Edit, edited: Scene, damage: Damage, image: bytes) -> dict[str, float]:
    """What an annotator notices, each about 0 to 1 (things changed: a count); keys as in `ANNOTATOR_WEIGHTS`."""
    target = edit.apply(source)
    kinds = {step.category for step in edit.steps}
    changed, shift = _collateral(target, source, edit, edited)
    behind = describe.seen_background(edited) != describe.seen_background(target)
    look = (describe.seen_tone(edited) != describe.seen_tone(target)) + (
        describe.seen_style(edited) != describe.seen_style(target)
    )
    pixels = decode_rgb(image).astype(np.float32) / 255
    difference = float(np.abs(pixels - paint_scene(named_only(edited))).mean())
    return {
        "done": sum(_step_done(source, step, edited) for step in edit.steps) / len(edit.steps),
        "collateral": changed,
        "shift": min(shift / 4, 2.0),
        "background": float(behind and "background change" not in kinds),
        "look": float(look) if not kinds & {"tone transformation", "style transfer"} else float(look > 1),
        "noise": min(damage.noise / 0.06, 1.5),
        "blur": min(damage.blur / 1.5, 1.5),
        "border": float(damage.border > 0),
        "saturation": min(max(damage.saturation - 1, 0.0), 1.5),
        "drift": 0.0 if _damaged(damage) else min(difference / 0.03, 2.0),
        "contrast": float(pixels.mean(axis=-1).std()) / 0.25,
    }


def named_only(edited: Scene) -> Scene:
    """The picture as words have it: departures below their thresholds are taken out."""
    blend = edited.background_blend
    return replace(
        edited,
        tone=describe.seen_tone(edited),
        style=describe.seen_style(edited),
        tone_strength=1.0,
        style_strength=1.0,
        background_blend=blend if blend is not None and blend[1] >= describe.BLEND else None,
    )


def utility(weights: dict[str, float], noticed: dict[str, float]) -> float:
    """What one annotator makes of it: `done` and `contrast` please, everything else costs."""
    pleasing = weights["done"] * noticed["done"] + weights["contrast"] * noticed["contrast"]
    return pleasing - sum(weights[key] * noticed[key] for key in weights if key not in ("done", "contrast"))


class SimulatedAnnotator:
    """One of the people in `ANNOTATOR_WEIGHTS`."""

    simulated = True

    def __init__(self, person: str, index: WorldIndex) -> None:
        """Raises ValueError for a person that does not exist."""
        if person not in ANNOTATOR_WEIGHTS:
            raise ValueError(f"person={person!r}: choose one of {', '.join(ANNOTATOR_WEIGHTS)}")
        self.name = f"simulated/{person}"
        self._weights = ANNOTATOR_WEIGHTS[person]
        self._index = index

    def utility(self, context: Context, candidate: Candidate) -> float:
        """This person's own utility of one candidate, in units of the choice's logit."""
        sample = context.sample
        known = self._index.context(sample.source, sample.instruction)
        edited, damage = self._index.picture(sample.source, sample.instruction, candidate.image)
        return utility(self._weights, features(known.scene, known.edit, edited, damage, candidate.image))

    def choose(self, context: Context, first: Candidate, second: Candidate) -> Choice:
        """Better edit of two; swapping the two swaps the answer.

        P(first) = sigmoid((u_first - u_second) / ANNOTATOR_TEMPERATURE) (Bradley-Terry); inside the band
        |u_first - u_second| < ANNOTATOR_SAME_BAND the answer is "same" at ANNOTATOR_SAME_RATE.
        """
        left, right = sorted((first, second), key=lambda candidate: candidate.id)
        seed = hashlib.sha256(f"{self.name}|{context.sample.id}|{left.id}|{right.id}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        difference = self.utility(context, left) - self.utility(context, right)
        if abs(difference) < ANNOTATOR_SAME_BAND and rng.random() < ANNOTATOR_SAME_RATE:
            return "same"
        better = left if rng.random() < 1 / (1 + math.exp(-difference / ANNOTATOR_TEMPERATURE)) else right
        return "first" if better is first else "second"
