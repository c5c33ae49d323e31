"""Edits with their exact targets, and the English that asks for them.

Ten of the paper's eleven categories (size change stands in for portrait beautification, which has
no counterpart here), and "multi-step" instructions of two edits for the Hard subset. Every target
is a valid scene of the same split as its source, so no combination crosses splits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from edit_r1.world.describe import look_words
from edit_r1.world.phrases import ask
from edit_r1.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    MATERIALS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TONES,
    Scene,
    Thing,
    belongs,
    is_valid,
    random_thing,
)

CATEGORIES = (
    "background change",
    "colour alteration",
    "material modification",
    "motion change",
    "size change",
    "style transfer",
    "subject addition",
    "subject removal",
    "subject replacement",
    "text modification",
    "tone transformation",
)
"""The paper's, with size change for portrait beautification."""
MULTI_STEP = "multi-step"


@dataclass(frozen=True)
class Step:
    """One elementary change."""

    category: str
    """One of `CATEGORIES`."""
    place: int | None = None
    """Where the changed thing stands in the source; None for global changes and additions."""
    value: str = ""
    """The new colour, material, size, letter, background ("plain navy"), tone, style; or the replacing shape."""
    to: int | None = None
    """Where a thing goes (motion change, subject addition)."""
    new: Thing | None = None
    """The added or replacing thing."""


@dataclass(frozen=True)
class Edit:
    """An instruction and what it means."""

    instruction: str
    category: str
    """One of `CATEGORIES`, or "multi-step"."""
    steps: tuple[Step, ...]

    def apply(self, scene: Scene) -> Scene:
        """The exact target."""
        for step in self.steps:
            scene = apply_step(scene, step)
        return scene


def background_name(scene: Scene) -> str:
    """ "plain navy" or "navy gradient"."""
    return f"{scene.background} gradient" if scene.gradient else f"plain {scene.background}"


def _with_background(scene: Scene, value: str) -> Scene:
    gradient = value.endswith(" gradient")
    name = value.removesuffix(" gradient").removeprefix("plain ")
    return replace(scene, background=name, gradient=gradient, photo=None)


def apply_step(scene: Scene, step: Step) -> Scene:
    """The scene after one step.

    Raises:
        ValueError: when the step's thing is not there.
    """
    if step.category == "background change":
        return _with_background(scene, step.value)
    if step.category == "tone transformation":
        return replace(scene, tone=step.value)
    if step.category == "style transfer":
        return replace(scene, style=step.value)
    if step.category == "subject addition":
        assert step.new is not None
        return scene.with_thing(step.new)
    thing = scene.at(step.place) if step.place is not None else None
    if thing is None:
        raise ValueError(f"{step.category}: nothing stands in place {step.place}")
    if step.category == "subject removal":
        return scene.without(thing.place)
    if step.category == "motion change":
        assert step.to is not None
        return scene.without(thing.place).with_thing(replace(thing, place=step.to))
    return scene.with_thing(changed(thing, step))


def changed(thing: Thing, step: Step) -> Thing:
    """A thing after a step that changes it where it stands."""
    if step.category == "subject replacement":
        assert step.new is not None
        return step.new
    attribute = {
        "colour alteration": "colour",
        "material modification": "material",
        "size change": "size",
        "text modification": "letter",
    }[step.category]
    changes: dict[str, str] = {attribute: step.value}
    return replace(thing, **changes)  # type: ignore[arg-type]  # every value is a str, every attribute takes one


def _other(rng: np.random.Generator, options: tuple[str, ...] | list[str], current: str | None) -> str:
    return str(rng.choice([option for option in options if option != current]))


def _propose(rng: np.random.Generator, scene: Scene, category: str) -> Step | None:
    """A step of that category, or None when the scene cannot take one; validity is the caller's check."""
    empty = [place for place in range(4) if scene.at(place) is None]
    thing = scene.things[int(rng.integers(len(scene.things)))]
    if category == "background change":
        names = [f"plain {name}" for name in BACKGROUNDS] + [f"{name} gradient" for name in BACKGROUNDS]
        different = [name for name in names if scene.background not in name or scene.photo is not None]
        return Step(category, value=str(rng.choice(different)))
    if category == "tone transformation":
        return Step(category, value=_other(rng, TONES, scene.tone))
    if category == "style transfer":
        return Step(category, value=_other(rng, STYLES, scene.style))
    if category == "subject addition":
        if not empty or len(scene.things) == 4:
            return None
        place = int(rng.choice(empty))
        return Step(category, to=place, new=replace(random_thing(rng, place), letter=None))
    if category == "subject removal":
        return Step(category, place=thing.place) if len(scene.things) > 1 else None
    if category == "motion change":
        return Step(category, place=thing.place, to=int(rng.choice(empty))) if empty else None
    if category == "subject replacement":
        new = replace(thing, shape=_other(rng, SHAPES, thing.shape), colour=_other(rng, list(COLOURS), thing.colour))
        return Step(category, place=thing.place, value=new.shape, new=new)
    if category == "text modification":
        if thing.size != "large" or thing.material != "solid":
            return None
        return Step(category, place=thing.place, value=_other(rng, LETTERS, thing.letter))
    if thing.letter is not None and category in ("material modification", "size change"):
        return None
    options: dict[str, tuple[list[str], str]] = {
        "colour alteration": (list(COLOURS), thing.colour),
        "material modification": (list(MATERIALS), thing.material),
        "size change": (list(SIZES), thing.size),
    }
    values, current = options[category]
    return Step(category, place=thing.place, value=_other(rng, values, current))


def _valid(scene: Scene, steps: tuple[Step, ...], split: str) -> bool:
    for step in steps:
        scene = apply_step(scene, step)
        if not is_valid(scene):
            return False
    # A photograph leaves the background name as it was drawn, so the same rule holds in the stress split.
    return belongs(scene, split)


def _disjoint(first: Step, second: Step) -> bool:
    """True when the two steps touch different things, places and globals."""
    touched = [{step.place, step.to} - {None} for step in (first, second)]
    return first.category != second.category and not (touched[0] & touched[1])


TRIES = 100
"""Bounded search per category: in the small splits most targets fall outside."""


def sample_edit(
    rng: np.random.Generator, scene: Scene, category: str | None = None, split: str = "train"
) -> Edit | None:
    """A random edit of `scene` whose target stays in `split`; None when none was found in a bounded search.

    Args:
        category: one of `CATEGORIES` or "multi-step"; drawn uniformly from `CATEGORIES` when None.

    Raises:
        ValueError: for a category that does not exist.
    """
    if category is not None and category != MULTI_STEP and category not in CATEGORIES:
        raise ValueError(f"category={category!r}: choose one of {', '.join((*CATEGORIES, MULTI_STEP))}")
    wanted = [category] if category else [str(name) for name in rng.permutation(CATEGORIES)]
    for name in wanted:
        for _ in range(TRIES):
            names = [str(item) for item in rng.permutation(CATEGORIES)[:2]] if name == MULTI_STEP else [name]
            proposed = [_propose(rng, scene, item) for item in names]
            steps = tuple(step for step in proposed if step is not None)
            if len(steps) < len(names) or (len(steps) == 2 and not _disjoint(*steps)):
                continue
            if _valid(scene, steps, split):
                words = [(step.category, step_words(scene, step)) for step in steps]
                return Edit(ask(rng, words), name, steps)
    return None


def to_json(edit: Edit) -> str:
    """The hidden meaning of an instruction, as records carry it."""
    return json.dumps(asdict(edit), sort_keys=True)


def from_json(text: str) -> Edit:
    """The inverse of `to_json`."""
    state = json.loads(text)
    steps = []
    for item in state["steps"]:
        new = item.pop("new")
        steps.append(Step(**item, new=Thing(**new) if new else None))
    return Edit(state["instruction"], state["category"], tuple(steps))


def step_words(scene: Scene, step: Step) -> dict[str, str]:
    """The names that phrasings are filled with."""
    thing = scene.at(step.place) if step.place is not None else None
    words = {"value": step.value, "to": PLACES[step.to] if step.to is not None else ""}
    words["thing"] = thing.name if thing else ""
    words["place"] = PLACES[step.place] if step.place is not None else ""
    words["new"] = look_words(step.new) if step.new else ""
    words["new_name"] = step.new.name if step.new else ""
    return words
