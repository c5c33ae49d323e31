"""The lessons of the tiny verifiers' pretraining: what is seen in pictures, and never whether an edit is good.

Four kinds of lesson, in the numbered lines and the words that judges' evidence uses later:

- a caption of one picture;
- questions about one picture;
- differences between two pictures, asked by noun ("red circle", "background");
- differences between two pictures, asked by the questions that a context's principles ask; the answer is
  what is seen ("was ..., now ..."), without a verdict;

The edited picture is one that the tiny editor painted (`painted`) in a share of the later lessons. And, rarely,
the instruction that leads from one picture to the other. No lesson holds a verdict or a score.
Every picture, edited ones included, belongs to the split it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edit_r1.verifier.prompts import compact_principle
from edit_r1.world import checks, describe, flaws, frozen
from edit_r1.world.edits import MULTI_STEP, Edit, sample_edit
from edit_r1.world.scenes import (
    COLOURS,
    LETTERS,
    MATERIALS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    TONES,
    Damage,
    Scene,
    Thing,
    belongs,
    draw_scene,
    is_valid,
    sample_scene,
)

Picture = tuple[Scene, Damage]

SHARES: dict[str, float] = {"caption": 0.14, "questions": 0.12, "nouns": 0.42, "principles": 0.28, "instruction": 0.04}
"""Share of each kind of lesson."""


@dataclass(frozen=True)
class Rates:
    """How often lessons show what is hard to see."""

    damage: float
    """Chance of a damaged picture, of those that no edit made."""
    letters: tuple[float, ...]
    """Chances of letters put on a thing, one after another."""
    flaw: float
    """Chance that an edited picture gets one more flaw: damage, or a displaced thing."""
    departures: tuple[int, ...]
    """Kinds of `_another`, drawn uniformly."""


COARSE = Rates(damage=0.3, letters=(0.35,), flaw=0.0, departures=(0, 1, 2, 3, 4, 5, 6))
"""The first lessons: colours, shapes, places."""
FINE = Rates(damage=0.45, letters=(0.6, 0.4), flaw=0.35, departures=(0, 1, 2, 3, 4, 4, 4, 5, 6, 6))
"""The later ones: letters, damage and displacements, which the first leave unseen because they are rare."""


@dataclass(frozen=True)
class Lesson:
    """One conversation turn: what is asked about one picture or two, and the lines that answer it."""

    kind: str
    """One of the keys of `SHARES`."""
    parts: tuple[str | int, ...]
    """Texts and indices into `pictures`, in the order in which the model reads them."""
    pictures: tuple[Picture, ...]
    lines: tuple[tuple[str, str], ...]
    """(what the line is about, the line); about: "thing", "move", "background", "tone", "style", "tone and style",
    "sharpness", "colours", "border", "added", "question", "caption" or "instruction"."""

    pixels: tuple[np.ndarray | None, ...] = ()
    """Per picture, uint8 (64, 64, 3), where it was painted by an editor instead of rendered; () when none was."""

    @property
    def answer(self) -> str:
        """The text to learn."""
        if self.kind in ("caption", "instruction"):
            return self.lines[0][1]
        return "\n".join(f"{index} {text}" for index, (_, text) in enumerate(self.lines, 1))


@dataclass(frozen=True)
class Painted:
    """A picture that an editor painted, and what is seen in it."""

    source: Scene
    edit: Edit
    pixels_HWC: np.ndarray
    """uint8 (64, 64, 3)."""
    scene: Scene
    """What is seen in it, with `damage`."""
    damage: Damage


def enrich(rng: np.random.Generator, scene: Scene, rates: Rates) -> Scene:
    """The scene with rare things made frequent: letters, tones and styles. Its split stays the same."""
    for chance in rates.letters:
        if rng.random() >= chance:
            continue
        thing = scene.things[int(rng.integers(len(scene.things)))]
        scene = scene.with_thing(replace(thing, size="large", material="solid", letter=str(rng.choice(LETTERS))))
    if rng.random() < 0.35:
        scene = replace(scene, tone=str(rng.choice(TONES)))
    if rng.random() < 0.35:
        scene = replace(scene, style=str(rng.choice(STYLES)))
    return scene


def small_damage(rng: np.random.Generator, damage: Damage) -> Damage:
    """Now and then a departure below every threshold, as a neural editor's pictures have it."""
    if not damage.none or rng.random() < 0.6:
        return damage
    return Damage(
        noise=round(float(rng.uniform(0, 0.5 * describe.NOISE)), 4),
        blur=round(float(rng.uniform(0.25, 0.75 * describe.BLUR)), 3) if rng.random() < 0.5 else 0.0,
        saturation=round(float(rng.uniform(0.9, 1.1)), 3),
        seed=int(rng.integers(2**31)),
    )


def picture(rng: np.random.Generator, split: str, rates: Rates) -> Picture:
    """One picture, damaged at `rates.damage`."""
    scene = enrich(rng, sample_scene(rng, split), rates)
    return scene, flaws.random_damage(rng) if rng.random() < rates.damage else small_damage(rng, Damage())


def _displaced(rng: np.random.Generator, thing: Thing) -> Thing:
    """The thing a few px off, towards the middle of its place."""
    length, angle = float(rng.uniform(*frozen.SMALL_SHIFT)), float(rng.uniform(0, np.pi / 2))
    dx = thing.dx - np.copysign(length * np.cos(angle), thing.dx)
    dy = thing.dy - np.copysign(length * np.sin(angle), thing.dy)
    return replace(thing, dx=round(float(dx), 2), dy=round(float(dy), 2))


def _one_more_flaw(rng: np.random.Generator, source: Scene, edited: Scene, damage: Damage) -> Picture:
    """Damage, or a displaced thing among those that stayed where they were."""
    stayed = [thing for thing in edited.things if source.at(thing.place) == thing]
    if stayed and rng.random() < 0.4:
        return edited.with_thing(_displaced(rng, stayed[int(rng.integers(len(stayed)))])), damage
    return edited, flaws.random_damage(rng) if damage.none else damage


def edited_pair(rng: np.random.Generator, split: str, rates: Rates) -> tuple[Scene, Picture, Edit]:
    """A source, what some editor made of it, and the edit that was asked for: exact at two in five, flawed else."""
    while True:
        source = enrich(rng, sample_scene(rng, split), rates)
        edit = sample_edit(rng, source, MULTI_STEP if rng.random() < 0.2 else None, split)
        if edit is None:
            continue
        name = "careful" if rng.random() < 0.4 else str(rng.choice(list(flaws.FLAWED)))
        edited, damage = flaws.drift(rng, source, *flaws.PROFILES[name](rng, source, edit))
        if rates.flaw and rng.random() < rates.flaw:
            edited, damage = _one_more_flaw(rng, source, edited, damage)
        if belongs(edited, split):
            return source, (edited, small_damage(rng, damage)), edit


def _another(rng: np.random.Generator, thing: Thing, rates: Rates) -> Thing:
    """The thing with one departure: an attribute, a letter, a displacement, or faintness."""
    kind = rates.departures[int(rng.integers(len(rates.departures)))]
    if kind == 0:
        return replace(thing, colour=str(rng.choice(list(COLOURS))))
    if kind == 1:
        return replace(thing, shape=str(rng.choice(SHAPES)))
    if kind == 2:
        return replace(thing, letter=None, size=str(rng.choice(list(SIZES))))
    if kind == 3:
        return replace(thing, letter=None, material=str(rng.choice(MATERIALS)))
    if kind == 4:
        return _displaced(rng, thing)
    if kind == 5:
        return replace(thing, opacity=frozen.WEAK_OPACITY)
    return replace(thing, size="large", material="solid", letter=str(rng.choice(LETTERS)))


def distant_pair(rng: np.random.Generator, split: str, rates: Rates) -> tuple[Scene, Picture]:
    """Two pictures that differ in many places at once, so that "now" cannot be copied from "was"."""
    while True:
        source = enrich(rng, sample_scene(rng, split), rates)
        edited = enrich(rng, draw_scene(rng), rates)
        if rng.random() < 0.5:
            edited = replace(edited, background=source.background, gradient=source.gradient)
        if rng.random() < 0.5:
            edited = replace(edited, tone=source.tone, style=source.style)
        for thing in source.things:
            draw = rng.random()
            if draw < 0.6:
                edited = edited.with_thing(thing if draw < 0.2 else _another(rng, thing, rates))
        if is_valid(edited) and belongs(edited, split):
            damaged = rng.random() < rates.damage
            return source, (edited, flaws.random_damage(rng) if damaged else small_damage(rng, Damage()))


def _numbered(texts: Sequence[str]) -> str:
    return "".join(f"\n{number} {text}" for number, text in enumerate(texts, 1))


def _pair_parts(instruction: str | None, lines: str, task: str) -> tuple[str | int, ...]:
    """The compact judge's layout (`verifier.prompts`) around any lines."""
    asked = f"\nInstruction: {instruction}" if instruction else ""
    return "Source: ", 0, f"{asked}{lines}\nEdited: ", 1, f"\nAnswer: {task}"


def caption_lesson(rng: np.random.Generator, split: str, rates: Rates) -> Lesson:
    return _caption(picture(rng, split, rates))


def _caption(shown: Picture) -> Lesson:
    parts = ("Picture: ", 0, "\nAnswer: describe")
    return Lesson("caption", parts, (shown,), (("caption", describe.caption(*shown)),))


def questions_lesson(rng: np.random.Generator, split: str, rates: Rates) -> Lesson:
    return _questions(rng, picture(rng, split, rates))


def _questions(rng: np.random.Generator, shown: Picture) -> Lesson:
    items = describe.questions(*shown)
    chosen = [items[int(index)] for index in rng.permutation(len(items))[: int(rng.integers(3, 9))]]
    parts = ("Picture: ", 0, f"{_numbered([question for question, _ in chosen])}\nAnswer: see")
    return Lesson("questions", parts, (shown,), tuple(("question", answer) for _, answer in chosen))


def nouns_lesson(rng: np.random.Generator, split: str, rates: Rates) -> Lesson:
    """Differences asked by noun; half of the pairs are distant."""
    if rng.random() < 0.5:
        return _nouns(rng, *distant_pair(rng, split, rates), None)
    return _nouns(rng, *edited_pair(rng, split, rates))


def _nouns(rng: np.random.Generator, source: Scene, edited: Picture, edit: Edit | None) -> Lesson:
    instruction = edit.instruction if edit is not None and rng.random() < 0.6 else None
    items = []
    for asked, line in describe.differences(source, *edited):
        about = "thing" if asked in PLACES else "move" if asked.startswith("move ") else asked
        before = source.at(PLACES.index(asked)) if about == "thing" else None
        items.append((about, before.name if before is not None and rng.random() < 0.6 else asked, line))
    chosen = [items[int(index)] for index in rng.permutation(len(items))[: int(rng.integers(4, 9))]]
    parts = _pair_parts(instruction, _numbered([asked for _, asked, _ in chosen]), "see")
    lines = tuple((about, line) for about, _, line in chosen)
    return Lesson("nouns", parts, ((source, Damage()), edited), lines)


def about_of(check: checks.Check) -> str:
    """What the evidence of a check is about, as `Lesson.lines` names it."""
    last = check.kind.split()[-1]
    return {"background": "background", "tone": "tone", "style": "style", "look": "tone and style", "added": "added",
            "sharp": "sharpness", "colours": "colours", "border": "border"}.get(last, "thing")  # fmt: skip


def principles_lesson(rng: np.random.Generator, split: str, rates: Rates) -> Lesson:
    """Differences asked by a context's own questions, in their order or shuffled; the answer is what is seen."""
    return _principles(rng, *edited_pair(rng, split, rates))


def _principles(rng: np.random.Generator, source: Scene, shown: Picture, edit: Edit) -> Lesson:
    edited, damage = shown
    asked = checks.checks_for(source, edit)
    if rng.random() < 0.5:
        asked = [asked[int(index)] for index in rng.permutation(len(asked))]
    asked = asked[: int(rng.integers(4, 10))]
    listed = "".join(f"\n{compact_principle(n, checks.principle(check))}" for n, check in enumerate(asked, 1))
    lines = tuple((about_of(check), checks.evidence(check, source, edited, damage)) for check in asked)
    parts = _pair_parts(edit.instruction, listed, "see")
    return Lesson("principles", parts, ((source, Damage()), shown), lines)


def painted_lesson(rng: np.random.Generator, painted: Painted) -> Lesson:
    """A lesson about a picture that an editor painted: a caption, questions, or differences from its source."""
    shown = (painted.scene, painted.damage)
    draw = rng.random()
    if draw < 0.1:
        return replace(_caption(shown), pixels=(painted.pixels_HWC,))
    if draw < 0.2:
        return replace(_questions(rng, shown), pixels=(painted.pixels_HWC,))
    ask = _nouns if draw < 0.5 else _principles
    return replace(ask(rng, painted.source, shown, painted.edit), pixels=(None, painted.pixels_HWC))


def instruction_lesson(rng: np.random.Generator, split: str, rates: Rates) -> Lesson:
    """The instruction that leads from one picture to the other, the edit being exact."""
    while True:
        source = enrich(rng, sample_scene(rng, split), rates)
        edit = sample_edit(rng, source, None, split)
        if edit is not None:
            parts = _pair_parts(None, "", "instruction")
            pictures = ((source, Damage()), (edit.apply(source), Damage()))
            return Lesson("instruction", parts, pictures, (("instruction", edit.instruction),))


LESSONS: dict[str, Callable[[np.random.Generator, str, Rates], Lesson]] = {
    "caption": caption_lesson,
    "questions": questions_lesson,
    "nouns": nouns_lesson,
    "principles": principles_lesson,
    "instruction": instruction_lesson,
}


def lesson(rng: np.random.Generator, split: str = "train", kind: str | None = None, rates: Rates = COARSE) -> Lesson:
    """One lesson of `split`; its kind is drawn by `SHARES` when None."""
    name = kind or str(rng.choice(list(SHARES), p=list(SHARES.values())))
    return LESSONS[name](rng, split, rates)
