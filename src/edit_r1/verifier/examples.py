"""Expert-written decompositions that the "full" decompose prompt shows, 4 drawn for each query.

Each names a picture in words (the prompt shows no example images), an instruction and its principles.
The eleven categories of the paper are covered; two instructions have several steps.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle

EXAMPLES_PER_QUERY = 4


@dataclass(frozen=True)
class Example:
    """One worked decomposition."""

    category: str
    """Kind of edit, one of the paper's eleven, or "multi-step"."""
    scene: str
    """What the source image shows, in one sentence."""
    instruction: str
    principles: tuple[Principle, ...]

    def principles_json(self) -> str:
        """The answer as the prompt asks for it."""
        rows = [{"question": p.question, "category": p.category} for p in self.principles]
        return json.dumps(rows, ensure_ascii=False)


def draw_examples(seed: int, count: int = EXAMPLES_PER_QUERY) -> tuple[Example, ...]:
    """`count` different examples, drawn uniformly; the same seed draws the same ones in the same order."""
    if not 0 <= count <= len(EXAMPLES):
        raise ValueError(f"count={count}: there are {len(EXAMPLES)} examples to draw from")
    return tuple(random.Random(seed).sample(EXAMPLES, count))


def _example(
    category: str, scene: str, instruction: str, follow: list[str], keep: list[str], quality: list[str]
) -> Example:
    groups = ((INSTRUCTION_FOLLOWING, follow), (FEATURE_PRESERVATION, keep), (IMAGE_QUALITY, quality))
    return Example(
        category, scene, instruction, tuple(Principle(question, name) for name, group in groups for question in group)
    )


EXAMPLES: tuple[Example, ...] = (
    _example(
        "background change",
        "a grey tabby cat sitting on a wooden kitchen counter beside a blue mug.",
        "Put the cat on a sandy beach at sunset.",
        [
            "Is the background a sandy beach?",
            "Does the sky show a sunset, with warm light low over the horizon?",
            "Is the cat sitting on the sand rather than floating above it?",
            "Are the kitchen counter and the rest of the kitchen gone?",
        ],
        [
            "Is it the same grey tabby cat, with the same markings and face?",
            "Does the cat keep its sitting pose?",
            "Does the cat keep its proportions?",
        ],
        [
            "Does the light on the cat match the warm light of the sunset?",
            "Is the outline of the fur free of halos and leftovers of the kitchen?",
            "Does the cat cast a plausible shadow on the sand?",
        ],
    ),
    _example(
        "colour alteration",
        "a woman in a white shirt and a black hat standing beside a silver bicycle.",
        "Make the shirt red.",
        [
            "Is the woman's shirt red?",
            "Is the whole shirt red, sleeves and collar included?",
            "Is the red clearly visible and not just a tint?",
        ],
        [
            "Is the hat still black?",
            "Is the bicycle still silver?",
            "Are the woman's face, hair and skin colour unchanged?",
            "Do the shirt's cut, folds and buttons stay as they were?",
        ],
        [
            "Do the folds of the shirt keep natural light and shadow in the new colour?",
            "Does the red end cleanly at the shirt's edges?",
            "Is the picture free of a red cast elsewhere?",
        ],
    ),
    _example(
        "material modification",
        "a smooth white ceramic vase with three tulips on an oak table.",
        "Turn the vase into hammered copper.",
        [
            "Does the vase look like copper, with its reddish metallic colour?",
            "Does the vase's surface show hammer marks?",
            "Does the surface reflect its surroundings as metal would?",
        ],
        [
            "Does the vase keep its shape and size?",
            "Are there still the same three tulips, in the same arrangement?",
            "Is the table still oak with the same grain?",
            "Does the vase stand in the same place?",
        ],
        [
            "Are the reflections on the vase consistent with the light of the room?",
            "Are the vase's edges sharp and free of artefacts?",
        ],
    ),
    _example(
        "motion change",
        "a brown dog standing still on a lawn, seen from the side, a fence behind it.",
        "Make the dog jump over the fence.",
        [
            "Is the dog in the air, with all four paws off the ground?",
            "Is the dog above or crossing the fence?",
            "Is the dog's body stretched as in a jump, with its legs in a fitting position?",
        ],
        [
            "Is it the same brown dog, with the same coat and build?",
            "Does the fence keep its form and place?",
            "Is the lawn unchanged where the dog does not cover it?",
        ],
        [
            "Is the dog's anatomy right, with four legs and natural joints?",
            "Is the grass where the dog stood filled plausibly?",
            "Does the dog's shadow fit its new position?",
        ],
    ),
    _example(
        "portrait beautification",
        "a close portrait of a middle-aged man with freckles, a scar on his chin and tired eyes.",
        "Smooth his skin a little and brighten his eyes, keep the freckles.",
        [
            "Does the man's skin look smoother than in the source?",
            "Are the man's eyes brighter than in the source?",
            "Are the freckles still visible?",
            "Is the smoothing slight rather than heavy?",
        ],
        [
            "Is the man recognisable as the same person?",
            "Is the scar on his chin still there?",
            "Do his hair, clothing and expression stay the same?",
        ],
        [
            "Does the skin keep natural pores instead of looking like wax?",
            "Are the eyes natural, without glowing whites?",
        ],
    ),
    _example(
        "style transfer",
        "a photograph of a narrow street with three parked cars and a church tower at its end.",
        "Make it look like a watercolour painting.",
        [
            "Does the whole picture look like a watercolour painting?",
            "Are soft washes and bleeding pigment visible?",
            "Does it no longer look like a photograph in any part?",
        ],
        [
            "Is the church tower still at the end of the street?",
            "Are there still three parked cars in their places?",
            "Do the street's perspective and layout stay as they were?",
            "Do the main colours of the buildings remain recognisable?",
        ],
        [
            "Is the style even over the whole picture?",
            "Do the cars and buildings stay readable, without smeared shapes?",
        ],
    ),
    _example(
        "subject addition",
        "an empty park bench under a large tree, a path in front of it.",
        "Add an old man reading a newspaper at the left end of the bench.",
        [
            "Is there a man on the bench?",
            "Does the man look old?",
            "Is he holding a newspaper and reading it?",
            "Does he sit at the left end of the bench as seen by the viewer?",
        ],
        [
            "Is the bench unchanged where he does not cover it?",
            "Are the tree and the path unchanged?",
            "Was nobody and nothing else added?",
        ],
        [
            "Is the man's size right for the bench?",
            "Do light and shadow on the man fit the scene?",
            "Are his hands and face free of deformations?",
        ],
    ),
    _example(
        "subject removal",
        "a lake with a red rowing boat in the foreground and its reflection on the water, mountains behind.",
        "Remove the boat.",
        [
            "Is the red boat gone completely?",
            "Is the boat's reflection gone too?",
            "Is there no trace left, such as oars, a rope or a blurred patch?",
        ],
        [
            "Do the mountains keep their form and place?",
            "Does the rest of the lake keep its colour and waves?",
            "Is the sky unchanged?",
        ],
        [
            "Is the place of the boat filled with water that continues its surroundings?",
            "Is the filled area as sharp as the water around it?",
        ],
    ),
    _example(
        "subject replacement",
        "a bowl with two green apples on a checked tablecloth.",
        "Replace the apples with oranges.",
        [
            "Are there oranges in the bowl?",
            "Are both apples gone?",
            "Are there exactly two oranges?",
            "Do the oranges have the colour and the dimpled skin of oranges?",
        ],
        [
            "Does the bowl stay the same in shape, colour and place?",
            "Is the checked tablecloth unchanged?",
            "Do the fruits lie where the apples lay?",
        ],
        [
            "Do the oranges rest in the bowl with plausible contact and shadow?",
            "Are the oranges' edges clean?",
        ],
    ),
    _example(
        "text modification",
        "a shop front with a green sign that reads 'OPEN', a bakery window under it.",
        "Change the sign to read 'CLOSED'.",
        [
            "Does the sign read 'CLOSED'?",
            "Is every letter right, with none missing or doubled?",
            "Is the word 'OPEN' gone?",
        ],
        [
            "Is the sign still green, with the same shape and place?",
            "Do the new letters have the font, colour and size of the old ones as far as they fit?",
            "Is the bakery window unchanged?",
        ],
        [
            "Do the letters follow the sign's perspective?",
            "Are the letters sharp and free of artefacts?",
        ],
    ),
    _example(
        "tone transformation",
        "a city square at noon with a fountain and people walking.",
        "Make it night.",
        [
            "Is the sky dark as at night?",
            "Is the whole scene lit as at night, with no sunlight left?",
            "Are lamps or windows lit where a city has them at night?",
        ],
        [
            "Is the fountain in the same place with the same form?",
            "Are the same people in the same places?",
            "Do the buildings keep their form?",
        ],
        [
            "Are the shadows consistent with the light sources of the night?",
            "Are details still readable, without heavy noise or crushed blacks?",
        ],
    ),
    _example(
        "multi-step",
        "a desk with a closed laptop, a yellow lamp that is off, and two books.",
        "Open the laptop, switch the lamp on and take away the smaller book.",
        [
            "Is the laptop open?",
            "Is the lamp on and giving light?",
            "Is the smaller book gone?",
            "Is the larger book still there?",
        ],
        [
            "Is it the same laptop, in the same place?",
            "Is the lamp still yellow, with the same form?",
            "Are the desk and the wall unchanged apart from the lamp's light?",
        ],
        [
            "Does the lamp's light fall plausibly on the desk and the things on it?",
            "Is the place of the smaller book filled like the desk around it?",
            "Does the open laptop have right proportions and perspective?",
        ],
    ),
    _example(
        "multi-step",
        "a girl in a yellow raincoat on the left of a bridge, holding a closed umbrella.",
        "Move the girl to the middle of the bridge and have her hold the umbrella open, in her left hand.",
        [
            "Does the girl stand in the middle of the bridge, clearly away from where she was?",
            "Is the umbrella open?",
            "Does she hold the umbrella in her own left hand?",
            "Is the left part of the bridge, where she stood, free?",
        ],
        [
            "Is she the same girl, with the same face and hair?",
            "Is her raincoat still yellow?",
            "Does the umbrella keep its colour?",
            "Does the bridge keep its form?",
        ],
        [
            "Is the area where she stood filled plausibly?",
            "Does the girl's size fit the perspective at her new place?",
        ],
    ),
)
