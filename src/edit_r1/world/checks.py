"""Principles of EditWorld: a question in English that is also a machine-checkable form.

A question and its check are two spellings of one thing: `question(check)` writes the English and
`parse_question` reads it back, so a principle that went through a decomposer, a Parquet file and a
prompt can still be checked exactly against (source scene, edited scene, damage).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle
from edit_r1.world import describe
from edit_r1.world.edits import Edit, Step
from edit_r1.world.scenes import COLOURS, MATERIALS, PLACES, SHAPES, SIZES, Damage, Scene, Thing


@dataclass(frozen=True)
class Check:
    """What a principle asks, by kind; unused fields are empty."""

    kind: str
    """One of the keys of `TEMPLATES`."""
    thing: str = ""
    """A thing of the source by its name, "red circle"."""
    value: str = ""
    place: str = ""
    """One of `PLACES`."""


TEMPLATES: dict[str, tuple[str, str]] = {
    "at": (INSTRUCTION_FOLLOWING, "Is the {thing} now in the {place}?"),
    "attribute": (INSTRUCTION_FOLLOWING, "Is the {thing} now {value}?"),
    "letter": (INSTRUCTION_FOLLOWING, "Does the {thing} now show the letter {value}?"),
    "gone": (INSTRUCTION_FOLLOWING, "Is the {thing} gone?"),
    "empty": (INSTRUCTION_FOLLOWING, "Is the {place} now empty?"),
    "new shape": (INSTRUCTION_FOLLOWING, "Is there now a {value} in the {place}?"),
    "new look": (INSTRUCTION_FOLLOWING, "Is the new thing in the {place} {value}?"),
    "replaced shape": (INSTRUCTION_FOLLOWING, "Is there now a {value} in place of the {thing}?"),
    "replaced colour": (INSTRUCTION_FOLLOWING, "Is the thing in place of the {thing} {value}?"),
    "background": (INSTRUCTION_FOLLOWING, "Is the background now {value}?"),
    "tone": (INSTRUCTION_FOLLOWING, "Is the tone now {value}?"),
    "style": (INSTRUCTION_FOLLOWING, "Is the style now {value}?"),
    "keep": (FEATURE_PRESERVATION, "Is the {thing} unchanged?"),
    "keep rest": (FEATURE_PRESERVATION, "Apart from its {value}, is the {thing} unchanged?"),
    "keep size": (FEATURE_PRESERVATION, "Are size and material kept in place of the {thing}?"),
    "keep background": (FEATURE_PRESERVATION, "Is the background unchanged?"),
    "keep tone": (FEATURE_PRESERVATION, "Is the tone unchanged?"),
    "keep style": (FEATURE_PRESERVATION, "Is the style unchanged?"),
    "keep look": (FEATURE_PRESERVATION, "Are tone and style unchanged?"),
    "nothing added": (FEATURE_PRESERVATION, "Is nothing added?"),
    "nothing else added": (FEATURE_PRESERVATION, "Is nothing added outside the {place}?"),
    "sharp": (IMAGE_QUALITY, "Is the picture sharp and free of noise?"),
    "colours": (IMAGE_QUALITY, "Are the colours natural?"),
    "border": (IMAGE_QUALITY, "Is the picture free of a white border?"),
}
"""Per kind: its category and its question."""

_GROUPS = {
    "thing": rf"(?P<thing>(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))",
    "place": rf"(?P<place>{'|'.join(PLACES)})",
    "value": r"(?P<value>[A-Za-z ,]+?)",
}
_PATTERNS = {
    kind: re.compile(re.escape(text).replace(r"\{", "{").replace(r"\}", "}").format(**_GROUPS))
    for kind, (_, text) in TEMPLATES.items()
}


def question(check: Check) -> str:
    """The check in English."""
    return TEMPLATES[check.kind][1].format(thing=check.thing, value=check.value, place=check.place)


def principle(check: Check) -> Principle:
    """The check as a principle record."""
    return Principle(question(check), TEMPLATES[check.kind][0])


def parse_question(text: str) -> Check | None:
    """The check that a question spells, or None when it is none of ours."""
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(text.strip())
        if match:
            return Check(kind, **match.groupdict())
    return None


def _step_checks(scene: Scene, step: Step) -> list[Check]:
    """Instruction Following of one step; the first is its core."""
    thing = scene.at(step.place) if step.place is not None else None
    name = thing.name if thing else ""
    if step.category == "background change":
        return [Check("background", value=step.value)]
    if step.category == "tone transformation":
        return [Check("tone", value=step.value)]
    if step.category == "style transfer":
        return [Check("style", value=step.value)]
    if step.category == "subject removal":
        return [Check("gone", name)]
    if step.category == "text modification":
        return [Check("letter", name, step.value)]
    if step.category == "motion change":
        assert step.place is not None and step.to is not None
        return [Check("at", name, place=PLACES[step.to]), Check("empty", place=PLACES[step.place])]
    if step.category == "subject addition":
        assert step.new is not None
        look = f"{step.new.size}, {step.new.material} and {step.new.colour}"
        place = PLACES[step.new.place]
        return [Check("new shape", value=step.new.shape, place=place), Check("new look", value=look, place=place)]
    if step.category == "subject replacement":
        assert step.new is not None
        return [Check("replaced shape", name, step.new.shape), Check("replaced colour", name, step.new.colour)]
    return [Check("attribute", name, step.value)]


_CHANGES = {
    "colour alteration": "colour",
    "material modification": "material",
    "size change": "size",
    "text modification": "letter",
    "motion change": "place",
}


def checks_for(scene: Scene, edit: Edit) -> list[Check]:
    """Every check of a context, in the order Instruction Following, Feature Preservation, Image Quality."""
    checks = [check for step in edit.steps for check in _step_checks(scene, step)]
    steps = {step.place: step for step in edit.steps if step.place is not None}
    for thing in scene.things:
        step = steps.get(thing.place)
        if step is None:
            checks.append(Check("keep", thing.name))
        elif step.category in _CHANGES:
            checks.append(Check("keep rest", thing.name, _CHANGES[step.category]))
        elif step.category == "subject replacement":
            checks.append(Check("keep size", thing.name))
    kinds = {step.category for step in edit.steps}
    if "background change" not in kinds:
        checks.append(Check("keep background"))
    if "tone transformation" in kinds and "style transfer" not in kinds:
        checks.append(Check("keep style"))
    elif "style transfer" in kinds and "tone transformation" not in kinds:
        checks.append(Check("keep tone"))
    elif not kinds & {"tone transformation", "style transfer"}:
        checks.append(Check("keep look"))
    goals = [step.to for step in edit.steps if step.to is not None]
    if len(scene.things) + len(goals) < 4 and len(goals) < 2:
        checks.append(Check("nothing else added", place=PLACES[goals[0]]) if goals else Check("nothing added"))
    return [*checks, Check("sharp"), Check("colours"), Check("border")]


def core_checks(scene: Scene, edit: Edit) -> list[Check]:
    """The one check of each step without which the step was not done."""
    return [_step_checks(scene, step)[0] for step in edit.steps]


def _same_look(before: Thing, after: Thing | None, but: str = "") -> bool:
    """True when a thing kept every seen attribute except `but` (and its place, which the caller looks at)."""
    if after is None or after.opacity < describe.FAINT:
        return False
    pairs = {
        "colour": (describe.seen_colour(before), describe.seen_colour(after)),
        "shape": (before.shape, after.shape),
        "size": (describe.seen_size(before), describe.seen_size(after)),
        "material": (before.material, after.material),
        "letter": (before.letter, after.letter),
    }
    return all(first == second for attribute, (first, second) in pairs.items() if attribute != but)


def _source_thing(check: Check, source: Scene) -> Thing | None:
    return source.find(check.thing) if check.thing else None


def _attribute(check: Check, before: Thing, after: Thing | None) -> bool:
    if after is None or after.opacity < describe.FAINT:
        return False
    if check.value in COLOURS:
        return describe.seen_colour(after) == check.value
    if check.value in MATERIALS:
        return after.material == check.value
    return check.value in SIZES and describe.seen_size(after) == check.value


def _keep_rest(check: Check, before: Thing, edited: Scene) -> bool:
    if check.value != "place":
        after = edited.at(before.place)
        return _same_look(before, after, check.value) and after is not None and not describe.is_shifted(before, after)
    here = [thing for thing in edited.things if describe.seen_colour(thing) == before.colour]
    found = [thing for thing in here if thing.shape == before.shape]
    return any(_same_look(before, thing) for thing in found)


def _holds_for_thing(check: Check, source: Scene, edited: Scene) -> bool:
    """Checks about one thing of the source."""
    before = _source_thing(check, source)
    if before is None:
        return False
    after = edited.at(before.place)
    visible = after is not None and after.opacity >= describe.FAINT
    if check.kind == "attribute":
        return _attribute(check, before, after)
    if check.kind == "letter":
        return visible and after is not None and after.letter == check.value
    if check.kind == "gone":
        return after is None or (describe.seen_colour(after), after.shape) != (before.colour, before.shape)
    if check.kind == "at":
        moved = edited.at(PLACES.index(check.place))
        return moved is not None and moved.opacity >= describe.FAINT and (
            (moved.shape, describe.seen_colour(moved)) == (before.shape, before.colour)
        )  # fmt: skip
    if check.kind == "replaced shape":
        return visible and after is not None and after.shape == check.value
    if check.kind == "replaced colour":
        return visible and after is not None and describe.seen_colour(after) == check.value
    if check.kind == "keep":
        return _same_look(before, after) and after is not None and not describe.is_shifted(before, after)
    if check.kind == "keep size":
        return visible and after is not None and (
            (describe.seen_size(after), after.material) == (describe.seen_size(before), before.material)
        )  # fmt: skip
    return _keep_rest(check, before, edited)


def _new_look(check: Check, edited: Scene) -> bool:
    thing = edited.at(PLACES.index(check.place))
    if thing is None or thing.opacity < describe.FAINT:
        return False
    return check.value == f"{describe.seen_size(thing)}, {thing.material} and {describe.seen_colour(thing)}"


def _new_shape(check: Check, edited: Scene) -> bool:
    thing = edited.at(PLACES.index(check.place))
    return thing is not None and thing.opacity >= describe.FAINT and thing.shape == check.value


_GLOBAL: dict[str, Callable[[Check, Scene, Scene, Damage], bool]] = {
    "empty": lambda check, source, edited, damage: edited.at(PLACES.index(check.place)) is None,
    "new shape": lambda check, source, edited, damage: _new_shape(check, edited),
    "new look": lambda check, source, edited, damage: _new_look(check, edited),
    "background": lambda check, source, edited, damage: describe.seen_background(edited) == check.value,
    "tone": lambda check, source, edited, damage: describe.seen_tone(edited) == check.value,
    "style": lambda check, source, edited, damage: describe.seen_style(edited) == check.value,
    "keep background": lambda check, source, edited, damage: (
        describe.seen_background(source) == describe.seen_background(edited)
    ),
    "keep tone": lambda check, source, edited, damage: describe.seen_tone(source) == describe.seen_tone(edited),
    "keep style": lambda check, source, edited, damage: describe.seen_style(source) == describe.seen_style(edited),
    "keep look": lambda check, source, edited, damage: (
        (describe.seen_tone(source), describe.seen_style(source))
        == (describe.seen_tone(edited), describe.seen_style(edited))
    ),
    "nothing added": lambda check, source, edited, damage: _added(check, source, edited) == "nothing added",
    "nothing else added": lambda check, source, edited, damage: _added(check, source, edited) == "nothing added",
    "sharp": lambda check, source, edited, damage: describe.sharp_line(damage) == "sharp and clean",
    "colours": lambda check, source, edited, damage: describe.colours_line(damage) == "natural colours",
    "border": lambda check, source, edited, damage: describe.border_line(damage) == "no border",
}


def _added(check: Check, source: Scene, edited: Scene) -> str:
    return describe.added_line(source, edited, PLACES.index(check.place) if check.place else None)


def holds(check: Check, source: Scene, edited: Scene, damage: Damage) -> bool:
    """The gold verdict of one principle."""
    if check.kind in _GLOBAL:
        return _GLOBAL[check.kind](check, source, edited, damage)
    return _holds_for_thing(check, source, edited)


def evidence(check: Check, source: Scene, edited: Scene, damage: Damage) -> str:
    """What is seen that settles the check, in the words of `describe`."""
    before = _source_thing(check, source)
    if check.kind in ("at", "empty", "new shape", "new look"):
        return describe.place_line(source, edited, PLACES.index(check.place))
    if check.kind == "keep rest" and check.value == "place" and before is not None:
        return describe.elsewhere_line(before, edited.find(before.name))
    if before is not None:
        return describe.place_line(source, edited, before.place)
    lines: dict[str, Callable[[], str]] = {
        "background": lambda: describe.background_line(source, edited),
        "tone": lambda: describe.tone_line(source, edited),
        "style": lambda: describe.style_line(source, edited),
        "look": lambda: describe.look_line(source, edited),
        "added": lambda: _added(check, source, edited),
        "sharp": lambda: describe.sharp_line(damage),
        "colours": lambda: describe.colours_line(damage),
        "border": lambda: describe.border_line(damage),
    }
    return lines[check.kind.split()[-1]]()
