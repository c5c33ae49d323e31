"""What a picture of EditWorld holds: things in four places, a background, a tone, a style, damage.

A scene is written in names ("large striped red circle, top left"), so that a principle about it can
be checked exactly, plus a few continuous departures that only flawed edits have (a thing that is
faint, half recoloured, slightly moved). Richness was chosen so that a 1-2 M-parameter Qwen2.5-VL
can learn to see it in a few hours on two cores; docs/world.md says how.

Units: pixels of the 64 x 64 picture; x to the right, y down.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from edit_r1.world.photographs import crop_names

SIZE = 64
"""Side of every picture, px."""
CELL = 32
"""Side of one of the four places, px."""

SHAPES = ("circle", "square", "triangle", "star")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 44, 44),
    "orange": (242, 138, 28),
    "yellow": (247, 217, 56),
    "green": (46, 158, 76),
    "blue": (46, 98, 214),
    "purple": (140, 66, 178),
}
SIZES: dict[str, float] = {"small": 7.0, "large": 11.5}
"""Circumscribed radius of a thing, px."""
MATERIALS = ("solid", "striped", "outlined")
LETTERS = ("A", "H", "T", "X")
"""Letters stand on large solid things only, where 64 px can show them."""
PLACES = ("top left", "top right", "bottom left", "bottom right")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (243, 243, 239),
    "grey": (160, 163, 168),
    "sand": (224, 202, 160),
    "sky": (164, 205, 238),
    "mint": (172, 224, 192),
    "navy": (40, 46, 84),
}
TONES = ("neutral", "warm", "cold", "dark")
STYLES = ("natural", "mosaic", "halftone", "hatched")
JITTER = 2.0
"""A thing's centre lies within this many px of its place's centre, in x and in y."""

SPLITS = ("train", "validation", "test", "stress")


@dataclass(frozen=True)
class Thing:
    """One object. The last three fields are 1, None and 1 in every source and every exact target."""

    shape: str
    colour: str
    size: str
    material: str
    place: int
    """Index into `PLACES`."""
    dx: float = 0.0
    """Offset from the centre of the place, px."""
    dy: float = 0.0
    letter: str | None = None
    opacity: float = 1.0
    """1 opaque; below 0.6 the thing counts as a faint trace of itself."""
    blend: tuple[str, float] | None = None
    """(colour, t): the colour is mixed with a share t of another; below 0.5 the name stays."""
    scale: float = 1.0
    """Factor on the radius."""

    @property
    def name(self) -> str:
        """How instructions and principles refer to it: unique within a source scene."""
        return f"{self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y), px."""
        return place_centre(self.place, self.dx, self.dy)

    @property
    def radius(self) -> float:
        """px."""
        return SIZES[self.size] * self.scale


@dataclass(frozen=True)
class Scene:
    """A whole picture before any damage."""

    things: tuple[Thing, ...]
    """In the order of their places; at most one a place."""
    background: str = "white"
    gradient: bool = False
    """False: plain; True: a vertical gradient of the background's colour."""
    tone: str = "neutral"
    style: str = "natural"
    background_blend: tuple[str, float] | None = None
    """(background, t): mixed with a share t of another; None in sources and exact targets."""
    tone_strength: float = 1.0
    style_strength: float = 1.0
    photo: str | None = None
    """Name of the photograph crop behind the things (stress split only); `background` is then ignored."""

    def at(self, place: int) -> Thing | None:
        """The thing in a place, or None."""
        return next((thing for thing in self.things if thing.place == place), None)

    def find(self, name: str) -> Thing | None:
        """The thing of that name ("red circle"), or None."""
        return next((thing for thing in self.things if thing.name == name), None)

    def with_thing(self, thing: Thing) -> Scene:
        """The scene with `thing` in its place, whatever stood there."""
        others = [other for other in self.things if other.place != thing.place]
        return replace(self, things=tuple(sorted([*others, thing], key=lambda item: item.place)))

    def without(self, place: int) -> Scene:
        """The scene with nothing in `place`."""
        return replace(self, things=tuple(thing for thing in self.things if thing.place != place))


@dataclass(frozen=True)
class Damage:
    """What a bad editor does to the whole picture after painting it."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise, in units of the full range 0 to 1."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur, px."""
    border: int = 0
    """Width of a white border, px."""
    saturation: float = 1.0
    """Factor on the chroma; 1 leaves it."""
    seed: int = 0
    """Of the noise."""

    @property
    def none(self) -> bool:
        return self.noise == 0 and self.blur == 0 and self.border == 0 and self.saturation == 1.0


def place_centre(place: int, dx: float = 0.0, dy: float = 0.0) -> tuple[float, float]:
    """(x, y) in px of the centre of a place plus an offset."""
    return (place % 2) * CELL + CELL / 2 + dx, (place // 2) * CELL + CELL / 2 + dy


def is_valid(scene: Scene) -> bool:
    """True for what a source or an exact target may be: unique names, one thing a place, letters where they show."""
    names = [thing.name for thing in scene.things]
    places = [thing.place for thing in scene.things]
    lettered = [thing for thing in scene.things if thing.letter]
    return (
        1 <= len(names) <= 4
        and len(set(names)) == len(names)
        and len(set(places)) == len(places)
        and all(thing.size == "large" and thing.material == "solid" for thing in lettered)
    )


def content_key(scene: Scene) -> str:
    """The combination that decides a scene's split: which things stand together on which background."""
    return "|".join([scene.background, *sorted(thing.name for thing in scene.things)])


def split_of(scene: Scene) -> str:
    """The only split in which this combination may be a source or a target: 80 % train, 10 % validation, 10 % test."""
    bucket = int.from_bytes(hashlib.sha256(content_key(scene).encode()).digest()[:4], "big") % 20
    return "train" if bucket < 16 else "validation" if bucket < 18 else "test"


def belongs(scene: Scene, split: str) -> bool:
    """True when `scene` may be used in `split`; the stress split draws from the test combinations."""
    return split_of(scene) == ("test" if split == "stress" else split)


def random_thing(rng: np.random.Generator, place: int) -> Thing:
    """A thing with every attribute drawn uniformly; a third of the large solid ones carry a letter."""
    size = str(rng.choice(list(SIZES)))
    material = str(rng.choice(MATERIALS))
    lettered = size == "large" and material == "solid" and rng.random() < 0.5
    return Thing(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        size=size,
        material=material,
        place=place,
        dx=round(float(rng.uniform(-JITTER, JITTER)), 2),
        dy=round(float(rng.uniform(-JITTER, JITTER)), 2),
        letter=str(rng.choice(LETTERS)) if lettered else None,
    )


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A valid scene of any split: `count` things (1 to 4; drawn when None), mostly neutral in tone and style."""
    while True:
        number = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.35, 0.3, 0.2])) if count is None else count
        places = sorted(int(place) for place in rng.permutation(4)[:number])
        scene = Scene(
            things=tuple(random_thing(rng, place) for place in places),
            background=str(rng.choice(list(BACKGROUNDS))),
            gradient=bool(rng.random() < 0.4),
            tone=str(rng.choice(TONES, p=[0.7, 0.1, 0.1, 0.1])),
            style=str(rng.choice(STYLES, p=[0.7, 0.1, 0.1, 0.1])),
        )
        if is_valid(scene):
            return scene


def sample_scene(rng: np.random.Generator, split: str = "train", count: int | None = None) -> Scene:
    """A source scene of `split`, drawn until its combination belongs there.

    Raises:
        ValueError: for a split that does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    while True:
        scene = draw_scene(rng, count)
        if belongs(scene, split):
            return replace(scene, photo=str(rng.choice(crop_names()))) if split == "stress" else scene


def to_json(scene: Scene, damage: Damage | None = None) -> str:
    """The hidden state of a rendered picture, as records carry it."""
    return json.dumps({"scene": asdict(scene), "damage": asdict(damage or Damage())}, sort_keys=True)


def from_json(text: str) -> tuple[Scene, Damage]:
    """The inverse of `to_json`."""
    state = json.loads(text)
    fields = state["scene"]
    things = []
    for item in fields.pop("things"):
        blend = item.pop("blend")
        things.append(Thing(**item, blend=tuple(blend) if blend else None))
    background_blend = fields.pop("background_blend")
    scene = Scene(
        things=tuple(things), background_blend=tuple(background_blend) if background_blend else None, **fields
    )
    return scene, Damage(**state["damage"])
