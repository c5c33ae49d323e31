"""The English of EditWorld's instructions: at least five phrasings a category."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

PHRASES: dict[str, tuple[str, ...]] = {
    "background change": (
        "Change the background to {value}.",
        "Make the background {value}.",
        "Replace the background with {value}.",
        "I want a {value} background instead.",
        "Give the picture a {value} backdrop.",
        "Swap the backdrop for {value}.",
    ),
    "colour alteration": (
        "Make the {thing} {value}.",
        "Change the colour of the {thing} to {value}.",
        "Paint the {thing} {value}.",
        "Recolour the {thing} in {value}.",
        "Turn the {thing} {value}.",
        "The {thing} should be {value}.",
    ),
    "material modification": (
        "Make the {thing} {value}.",
        "Turn the {thing} into a {value} one.",
        "Draw the {thing} {value}.",
        "The {thing} should look {value}.",
        "Change the {thing} so that it is {value}.",
        "Give the {thing} a {value} look.",
    ),
    "motion change": (
        "Move the {thing} to the {to}.",
        "Put the {thing} in the {to}.",
        "Shift the {thing} into the {to} corner.",
        "The {thing} should be in the {to}.",
        "Bring the {thing} over to the {to}.",
        "Place the {thing} {to} instead.",
    ),
    "size change": (
        "Make the {thing} {value}.",
        "Change the {thing} so that it is {value}.",
        "Resize the {thing} to {value}.",
        "The {thing} should be {value}.",
        "I want the {thing} to be {value}.",
        "Draw the {thing} {value} instead.",
    ),
    "style transfer": (
        "Redraw the picture in {value} style.",
        "Give the whole picture a {value} style.",
        "Change the style to {value}.",
        "Turn this into a {value} picture.",
        "Make everything look {value} in style.",
        "Render it in a {value} style.",
    ),
    "subject addition": (
        "Add a {new} in the {to}.",
        "Put a {new} in the {to}.",
        "Place a {new} {to}.",
        "Insert a {new} in the {to}.",
        "I want a {new} in the {to}.",
        "Draw a {new} in the {to} corner.",
    ),
    "subject removal": (
        "Remove the {thing}.",
        "Delete the {thing}.",
        "Take away the {thing}.",
        "Erase the {thing} from the picture.",
        "Get rid of the {thing}.",
        "The {thing} should be gone.",
    ),
    "subject replacement": (
        "Replace the {thing} with a {new_name}.",
        "Swap the {thing} for a {new_name}.",
        "Turn the {thing} into a {new_name}.",
        "Put a {new_name} where the {thing} is.",
        "Exchange the {thing} for a {new_name}.",
        "Instead of the {thing} draw a {new_name}.",
    ),
    "text modification": (
        "Write the letter {value} on the {thing}.",
        "Put the letter {value} on the {thing}.",
        "The {thing} should show the letter {value}.",
        "Make the {thing} carry the letter {value}.",
        "Letter the {thing} with {value}.",
        "I want to read {value} on the {thing}.",
    ),
    "tone transformation": (
        "Give the picture a {value} tone.",
        "Make the whole picture {value} in tone.",
        "Change the tone to {value}.",
        "Shift the mood to a {value} tone.",
        "Apply a {value} tone to everything.",
        "The picture should have a {value} tone.",
    ),
}
"""Filled from `edits.step_words`; {thing} is unique in the source scene."""

JOINTS = (
    "{first}, then {second}.",
    "{first} and {second}.",
    "First {first}, then {second}.",
    "{first}. Also {second}.",
)


def ask(rng: np.random.Generator, steps: Sequence[tuple[str, dict[str, str]]]) -> str:
    """An instruction for one step or two, each given as (category, words to fill its phrasing with)."""
    sentences = []
    for category, words in steps:
        options = PHRASES[category]
        sentences.append(options[int(rng.integers(len(options)))].format(**words))
    sentences = [_article(sentence) for sentence in sentences]
    if len(sentences) == 1:
        return sentences[0]
    joint = JOINTS[int(rng.integers(len(JOINTS)))]
    first, second = (sentence.rstrip(".") for sentence in sentences)
    if joint.startswith("First"):
        first = _inside(first)
    return joint.format(first=first, second=_inside(second))


def _article(sentence: str) -> str:
    """ "a orange star" becomes "an orange star"."""
    return re.sub(r"\b([Aa]) (?=orange|outlined)", r"\1n ", sentence)


def _inside(sentence: str) -> str:
    """A sentence that no longer stands at the beginning: its first letter small, unless it is I."""
    return sentence if sentence.startswith("I ") else sentence[0].lower() + sentence[1:]
