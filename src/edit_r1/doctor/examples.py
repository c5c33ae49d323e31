"""Edits whose truth is known, made by code: EditWorld's for models that know nothing else, photographs for the rest.

The photographs are in scikit-image's wheel (`coffee`, CC0; `rocket`, public domain); nothing is shipped or fetched.
Where scikit-image is not installed EditWorld's pictures, enlarged, serve every model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from edit_r1.evaluate.probes import black
from edit_r1.images import decode_pil, encode_png
from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle, Sample
from edit_r1.world.checks import checks_for, principle
from edit_r1.world.edits import CATEGORIES, Edit, sample_edit
from edit_r1.world.render import render_one
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.scenes import Scene

EDITWORLD = "EditWorld"
"""`Verifier.domain` of the packaged models."""
ENLARGED = 512
"""Side of an EditWorld picture for a model that was made for photographs, pixels."""
WORLD_EXAMPLES = 6


@dataclass(frozen=True)
class Example:
    """One exact edit, and a request that it does not fulfil."""

    name: str
    source: bytes
    edited: bytes
    """The exact edit."""
    instruction: str
    principles: tuple[Principle, ...]
    other_instruction: str
    """Of another edit of the same source."""
    other_principles: tuple[Principle, ...]

    @property
    def sample(self) -> Sample:
        """As editors take it."""
        return Sample(f"doctor-{self.name}", self.source, self.instruction, "")

    @property
    def black(self) -> bytes:
        """A black picture of the edit's size."""
        return black(self.edited)


def examples_for(domain: str | None) -> tuple[Example, ...]:
    """What a verifier of this domain can be asked about."""
    if domain == EDITWORLD:
        return world_examples(WORLD_EXAMPLES)
    try:
        return photograph_examples()
    except ImportError:
        return tuple(_enlarged(example) for example in world_examples(2))


# --- EditWorld ----------------------------------------------------------------------------------------------------


def world_examples(count: int) -> tuple[Example, ...]:
    """The first contexts of the validation split, with seed 0; the other instruction is drawn anew for the scene."""
    return tuple(_world_example(number, sample) for number, sample in enumerate(make_samples(count, "validation", 0)))


def _world_example(number: int, sample: Sample) -> Example:
    scene, edit = scene_of(sample), edit_of(sample)
    other = _other_edit(scene, edit, np.random.default_rng([0, number]))
    return Example(
        f"EditWorld {number + 1} ({sample.category})",
        sample.source,
        encode_png(render_one(edit.apply(scene))),
        sample.instruction,
        _principles(scene, edit),
        other.instruction,
        _principles(scene, other),
    )


def _other_edit(scene: Scene, edit: Edit, rng: np.random.Generator) -> Edit:
    """An edit of a kind that no step of `edit` is of."""
    taken = {step.category for step in edit.steps}
    for category in rng.permutation([category for category in CATEGORIES if category not in taken]):
        other = sample_edit(rng, scene, str(category), "validation")
        if other is not None:
            return other
    raise AssertionError("every scene has more than one kind of edit")


def _principles(scene: Scene, edit: Edit) -> tuple[Principle, ...]:
    return tuple(principle(check) for check in checks_for(scene, edit))


def _enlarged(example: Example) -> Example:
    return Example(
        example.name, _larger(example.source), _larger(example.edited), example.instruction, example.principles,
        example.other_instruction, example.other_principles,
    )  # fmt: skip


def _larger(image: bytes) -> bytes:
    return encode_png(decode_pil(image).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST))


# --- photographs --------------------------------------------------------------------------------------------------

_SHARP = Principle("Is the picture as sharp and clean as the source, without artefacts?", IMAGE_QUALITY)


def photograph_examples() -> tuple[Example, ...]:
    """Two photographs with things recoloured by mask. Raises ImportError without scikit-image."""
    from skimage import data

    return _coffee(np.asarray(data.coffee())), _rocket(np.asarray(data.rocket()))


def _coffee(pixels_HWC: np.ndarray) -> Example:
    """400 x 600: a red cup on a red saucer, on a wooden table. Masks are ellipses that were fitted by hand."""
    hue_HW, saturation_HW, _ = _hsv(pixels_HWC)
    saucer_HW = _ellipse(pixels_HWC, (274, 230), (204, 161)) & ~_ellipse(pixels_HWC, (280, 118), (104, 84))
    red_HW = ((hue_HW < 15) | (hue_HW > 245)) & (saturation_HW > 150)
    spoon = Principle("Is the spoon gone, with no trace of it left on the saucer?", INSTRUCTION_FOLLOWING)
    return Example(
        "coffee",
        encode_png(pixels_HWC),
        encode_png(_turned(pixels_HWC, saucer_HW & red_HW, 90)),
        "Make the red cup and its saucer green",
        (
            Principle("Is the outside of the cup green?", INSTRUCTION_FOLLOWING),
            Principle("Is the saucer green?", INSTRUCTION_FOLLOWING),
            Principle("Is the spoon on the saucer unchanged?", FEATURE_PRESERVATION),
            Principle("Is the table still of reddish-brown wood?", FEATURE_PRESERVATION),
            _SHARP,
        ),
        "Remove the spoon from the saucer",
        (
            spoon,
            Principle("Are the cup and the saucer still red?", FEATURE_PRESERVATION),
            Principle("Is the table still of reddish-brown wood?", FEATURE_PRESERVATION),
            _SHARP,
        ),
    )


def _rocket(pixels_HWC: np.ndarray) -> Example:
    """427 x 640: a white rocket between towers, under a blue evening sky."""
    hue_HW, saturation_HW, _ = _hsv(pixels_HWC)
    blue_HW = (hue_HW > 135) & (hue_HW < 190) & (saturation_HW > 50)
    return Example(
        "rocket",
        encode_png(pixels_HWC),
        encode_png(_turned(pixels_HWC, blue_HW, -70)),
        "Turn the blue sky green",
        (
            Principle("Is the sky green?", INSTRUCTION_FOLLOWING),
            Principle("Is the rocket in the middle still white, in the same place?", FEATURE_PRESERVATION),
            Principle("Are the lattice towers unchanged?", FEATURE_PRESERVATION),
            _SHARP,
        ),
        "Make the rocket bright red",
        (
            Principle("Is the rocket bright red?", INSTRUCTION_FOLLOWING),
            Principle("Is the sky still blue?", FEATURE_PRESERVATION),
            Principle("Are the lattice towers unchanged?", FEATURE_PRESERVATION),
            _SHARP,
        ),
    )


def _hsv(pixels_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value, 0 to 255 each, as Pillow's HSV."""
    hsv_HWC = np.asarray(Image.fromarray(pixels_HWC).convert("HSV")).astype(np.int64)
    return hsv_HWC[..., 0], hsv_HWC[..., 1], hsv_HWC[..., 2]


def _ellipse(pixels_HWC: np.ndarray, centre: tuple[int, int], radii: tuple[int, int]) -> np.ndarray:
    """True (H, W) inside; `centre` and `radii` as (x, y) in pixels."""
    y, x = np.mgrid[: pixels_HWC.shape[0], : pixels_HWC.shape[1]]
    inside: np.ndarray = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1
    return inside


def _turned(pixels_HWC: np.ndarray, mask_HW: np.ndarray, shift: int) -> np.ndarray:
    """The picture with hues turned by `shift` of 256 inside the mask; every other pixel is as it was."""
    hue_HW, saturation_HW, value_HW = _hsv(pixels_HWC)
    hsv_HWC = np.stack([(hue_HW + shift) % 256, saturation_HW, value_HW], axis=-1).astype(np.uint8)
    turned_HWC = np.asarray(Image.fromarray(hsv_HWC, "HSV").convert("RGB"))
    return np.where(mask_HW[..., None], turned_HWC, pixels_HWC)
