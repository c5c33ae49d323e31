"""What a verifier is asked about: one edited image with its sources and instruction, checked before any model call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from edit_r1.images import ImageError, Picture, decode_pil, encoded
from edit_r1.records import Principle
from edit_r1.verifier.examples import Example, draw_examples
from edit_r1.verifier.prompts import check_instruction, check_principles, check_sources


@dataclass(frozen=True)
class ScoreItem:
    """One edited image to be judged."""

    sources: tuple[bytes, ...]
    """x_ref, encoded; several for an edit that combines images."""
    edited: bytes
    """x_edit, encoded."""
    instruction: str
    principles: tuple[Principle, ...] | None = None
    """P; None lets the model write them."""


def score_item(
    sources: Sequence[Picture], edited: Picture, instruction: str, principles: Sequence[Principle] | None
) -> ScoreItem:
    """The item, its pictures encoded. Raises ValueError for no source, too many, or what is no picture."""
    given = None if principles is None else tuple(principles)
    return ScoreItem(check_sources(sources), encoded(edited), instruction, given)


def context_key(sources: Sequence[bytes], instruction: str) -> str:
    """Hash of sources and instruction, hexadecimal."""
    digest = hashlib.sha256()
    for part in (*sources, instruction.encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def question_key(item: ScoreItem, *asked: object) -> str:
    """Hash of an item and of how it is asked about (anything that JSON holds), hexadecimal: a cache's key."""
    principles = None
    if item.principles is not None:
        principles = [[principle.question, principle.category] for principle in item.principles]
    digest = hashlib.sha256()
    for part in (json.dumps([*asked, item.instruction, principles]).encode(), item.edited, *item.sources):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def examples_of(key: str) -> tuple[Example, ...]:
    """The worked decompositions that a context with this `context_key` is shown: always the same ones."""
    return draw_examples(int(key[:8], 16))


def check_item(item: ScoreItem, seen: set[bytes] | None = None) -> None:
    """ValueError for what no model should be asked about; pictures in `seen` were checked before."""
    sources = check_sources(item.sources)
    check_instruction(item.instruction)
    if item.principles is not None:
        check_principles(item.principles)
    check_pictures(sources, "source image", seen)
    check_pictures((item.edited,), "edited image", seen)


def check_pictures(pictures: Sequence[bytes], label: str, seen: set[bytes] | None = None) -> None:
    """`ImageError` (a ValueError), naming the `label`, for a picture that cannot be read; adds the others to `seen`."""
    known = set() if seen is None else seen
    for picture in pictures:
        if picture in known:
            continue
        try:
            decode_pil(picture)
        except ImageError as error:
            raise ImageError(f"{label}: {error}") from error
        known.add(picture)
