"""What is seen, in words: the one vocabulary of captions, differences and judges' evidence.

The zoo's pretraining teaches these phrases (seeing); judges' traces use the same phrases before
each verdict, so that cold-start SFT has only the judging left to teach.
"""

from __future__ import annotations

from dataclasses import replace

from edit_r1.world.scenes import PLACES, Damage, Scene, Thing

FAINT = 0.6
"""Below this opacity a thing is a faint trace of itself."""
SHIFT = 2.5
"""A thing displaced by more than this many px within its place, against the source, is called shifted."""
BLEND = 0.5
"""From this share on, a mixed colour goes by the other colour's name."""
STRONG = 0.6
"""From this strength on, a tone or style counts as there."""
NOISE = 0.03
"""From this standard deviation on, a picture is called noisy."""
BLUR = 0.8
"""From this sigma on, px, a picture is called blurry."""
SATURATION = 1.4
"""From this factor on, a picture is called oversaturated."""


def seen_colour(thing: Thing) -> str:
    """The colour's name as it is seen."""
    return thing.blend[0] if thing.blend is not None and thing.blend[1] >= BLEND else thing.colour


def seen_size(thing: Thing) -> str:
    """small or large, by the nearer radius."""
    return "small" if thing.radius < 9.25 else "large"


def seen_background(scene: Scene) -> str:
    """ "plain sky", "navy gradient", or "photograph"."""
    if scene.photo is not None:
        return "photograph"
    blend = scene.background_blend
    name = blend[0] if blend is not None and blend[1] >= BLEND else scene.background
    return f"{name} gradient" if scene.gradient else f"plain {name}"


def seen_tone(scene: Scene) -> str:
    return scene.tone if scene.tone_strength >= STRONG else "neutral"


def seen_style(scene: Scene) -> str:
    return scene.style if scene.style_strength >= STRONG else "natural"


def look_words(thing: Thing) -> str:
    """ "faint large solid red circle with X"."""
    words = [seen_size(thing), thing.material, seen_colour(thing), thing.shape]
    if thing.opacity < FAINT:
        words.insert(0, "faint")
    if thing.letter:
        words += ["with", thing.letter]
    return " ".join(words)


def thing_words(thing: Thing | None, place: int) -> str:
    """ "large solid red circle top left", or "nothing top left"."""
    return f"{look_words(thing) if thing else 'nothing'} {PLACES[place]}"


def is_shifted(before: Thing, after: Thing) -> bool:
    """True when a thing that stayed in its place is displaced by more than `SHIFT` px."""
    return before.place == after.place and float((after.dx - before.dx) ** 2 + (after.dy - before.dy) ** 2) > SHIFT**2


def offset_words(dx: float, dy: float) -> str:
    """Whole px from a point, "3 left 2 top"; none is "0 right 0 bottom"."""
    across, down = round(dx), round(dy)
    return f"{abs(across)} {'left' if across < 0 else 'right'} {abs(down)} {'top' if down < 0 else 'bottom'}"


def moved_words(before: Thing, after: Thing) -> str:
    """How far a thing that stayed in its place is off from where it stood, "moved 4 right 0 bottom"."""
    return f"moved {offset_words(after.dx - before.dx, after.dy - before.dy)}"


def _compared(before: str, after: str) -> str:
    """ "was A, now B, unchanged", or "..., change": two sides and whether they are the same."""
    return f"was {before}, now {after}, {'unchanged' if before == after else 'change'}"


def change_words(before: Thing | None, after: Thing | None) -> str:
    """What differs between two things: "unchanged", "new", "gone", or "change of colour and shape"."""
    if before is None or after is None:
        return "unchanged" if before is after else "new" if before is None else "gone"
    pairs = {
        "colour": (seen_colour(before), seen_colour(after)),
        "shape": (before.shape, after.shape),
        "size": (seen_size(before), seen_size(after)),
        "material": (before.material, after.material),
        "letter": (before.letter, after.letter),
        "strength": (before.opacity < FAINT, after.opacity < FAINT),
    }
    differing = [name for name, (first, second) in pairs.items() if first != second]
    if is_shifted(before, after):
        differing.append("place")
    return f"change of {' and '.join(differing)}" if differing else "unchanged"


def place_line(source: Scene, edited: Scene, place: int) -> str:
    """ "was large solid red circle top left, now large solid blue circle top left, change of colour"."""
    before, after = source.at(place), edited.at(place)
    return f"was {thing_words(before, place)}, now {thing_words(after, place)}, {change_words(before, after)}"


def elsewhere_line(before: Thing, found: Thing | None) -> str:
    """A thing wherever it stands now: "was large solid red circle, now large solid red circle, unchanged"."""
    words = change_words(before, found) if found is None or found.place == before.place else _look_change(before, found)
    return f"was {look_words(before)}, now {look_words(found) if found else 'not found'}, {words}"


def _look_change(before: Thing, found: Thing) -> str:
    """`change_words` of a thing that stands in another place now."""
    return change_words(before, replace(found, place=before.place, dx=before.dx, dy=before.dy))


def background_line(source: Scene, edited: Scene) -> str:
    """ "was plain sky, now navy gradient, change"."""
    return _compared(seen_background(source), seen_background(edited))


def tone_line(source: Scene, edited: Scene) -> str:
    return _compared(f"{seen_tone(source)} tone", f"{seen_tone(edited)} tone")


def style_line(source: Scene, edited: Scene) -> str:
    return _compared(f"{seen_style(source)} style", f"{seen_style(edited)} style")


def look_line(source: Scene, edited: Scene) -> str:
    """Tone and style in one line."""
    sides = [f"{seen_tone(scene)} tone {seen_style(scene)} style" for scene in (source, edited)]
    return _compared(*sides)


def sharp_line(damage: Damage) -> str:
    """ "sharp and clean", "noisy", "blurry" or "blurry and noisy"."""
    faults = [name for name, bad in (("blurry", damage.blur >= BLUR), ("noisy", damage.noise >= NOISE)) if bad]
    return " and ".join(faults) or "sharp and clean"


def colours_line(damage: Damage) -> str:
    """ "natural colours" or "oversaturated"."""
    return "oversaturated" if damage.saturation >= SATURATION else "natural colours"


def border_line(damage: Damage) -> str:
    """ "no border" or "white border"."""
    return "white border" if damage.border > 0 else "no border"


def added_line(source: Scene, edited: Scene, allowed: int | None = None) -> str:
    """ "nothing added", or "added" and what now stands in places that were empty, `allowed` excepted."""
    added = [
        thing_words(thing, thing.place)
        for thing in edited.things
        if source.at(thing.place) is None and thing.place != allowed
    ]
    return f"added {' and '.join(added)}" if added else "nothing added"


def caption(scene: Scene, damage: Damage | None = None) -> str:
    """The whole picture in one line, place by place."""
    damage = damage or Damage()
    places = [thing_words(scene.at(place), place) for place in range(4)]
    whole = [seen_background(scene), f"{seen_tone(scene)} tone", f"{seen_style(scene)} style"]
    return ", ".join([*places, *whole, sharp_line(damage), colours_line(damage), border_line(damage)])


def questions(scene: Scene, damage: Damage | None = None) -> list[tuple[str, str]]:
    """Every (question, answer) about one picture that its caption settles; none is about an edit."""
    damage = damage or Damage()
    items: list[tuple[str, str]] = []
    for place, name in enumerate(PLACES):
        thing = scene.at(place)
        items.append((f"What is in the {name}?", thing_words(thing, place)))
        if thing is None:
            continue
        items += [
            (f"What colour is the thing in the {name}?", seen_colour(thing)),
            (f"What shape is the thing in the {name}?", thing.shape),
            (f"How large is the thing in the {name}?", seen_size(thing)),
            (f"What is the thing in the {name} like, solid, striped or outlined?", thing.material),
            (f"Which letter is on the thing in the {name}?", thing.letter or "none"),
            (f"Where is the {seen_colour(thing)} {thing.shape}?", name),
            (f"How far off the middle of the {name} is the thing?", offset_words(thing.dx, thing.dy)),
        ]
    items += [
        ("What is the background?", seen_background(scene)),
        ("Which tone has the picture?", f"{seen_tone(scene)} tone"),
        ("Which style has the picture?", f"{seen_style(scene)} style"),
        ("Is the picture sharp?", sharp_line(damage)),
        ("Are the colours natural?", colours_line(damage)),
        ("Is there a border?", border_line(damage)),
        ("How many things are there?", str(len(scene.things))),
    ]
    return items


def differences(source: Scene, edited: Scene, damage: Damage | None = None) -> list[tuple[str, str]]:
    """(what is asked about, what was and now is) for every part of two pictures, in a fixed order."""
    damage = damage or Damage()
    lines = [
        (name, place_line(source, edited, place))
        for place, name in enumerate(PLACES)
        if source.at(place) is not None or edited.at(place) is not None
    ]
    pairs = [(name, source.at(place), edited.at(place)) for place, name in enumerate(PLACES)]
    moves = [(f"move {name}", moved_words(was, now)) for name, was, now in pairs if was is not None and now is not None]
    return [
        *lines,
        *moves,
        ("background", background_line(source, edited)),
        ("tone", tone_line(source, edited)),
        ("style", style_line(source, edited)),
        ("tone and style", look_line(source, edited)),
        ("sharpness", sharp_line(damage)),
        ("colours", colours_line(damage)),
        ("border", border_line(damage)),
        ("added", added_line(source, edited)),
    ]
