"""What a row must be to be worth the money: pure functions of a picture's size, a text, and what was seen before.

The limits are ours, chosen and not measured; every one can be turned off.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edit_r1.algo.picture_hash import NEAR
from edit_r1.curate.intake.language import LANGUAGES, language_of
from edit_r1.curate.intake.limits import Limits, Mark
from edit_r1.verifier.prompts import MAX_INSTRUCTION_CHARS, check_signs

_GAPS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class IntakeChecks:
    """Limits of what is taken in. That a picture decodes is always asked for (`edit_r1.images`)."""

    min_side: int = 64
    """Least width and height of every picture, pixels; at least 8, as nothing smaller is decoded."""
    max_side: int = 0
    """Most width and height, pixels; 0 is no limit (50 megapixels are one in any case)."""
    max_aspect: float = 4.0
    """Most times the longer side may be the shorter one, at least 1; 0 is no limit."""
    min_characters: int = 3
    """Least characters of an instruction, without space around it; 1 refuses the empty one alone."""
    max_characters: int = 500
    """Most characters of an instruction, at most 2,000, which is as much as is ever asked."""
    languages: tuple[str, ...] = ()
    """Languages and scripts of `intake.language.LANGUAGES` that instructions may have; none named allows all."""
    unknown_language: bool = True
    """With `languages`: take instructions whose language cannot be told, such as "Vignette"."""
    near_bits: int = NEAR
    """Pictures whose perceptual hashes differ by at most so many bits of 256 count as one; -1 compares pixels alone."""
    most_per_picture: int = 0
    """Rows of one source picture; 0 is no limit. One picture with one instruction is taken once in any case."""
    most_per_instruction: int = 0
    """Rows of one instruction, but for case, punctuation and space; 0 is no limit."""

    def __post_init__(self) -> None:
        if self.min_side < 8 or (self.max_side and self.max_side < self.min_side):
            raise ValueError(f"min_side={self.min_side}, max_side={self.max_side}: from 8 px up, the larger one second")
        if self.max_aspect and self.max_aspect < 1:
            raise ValueError(f"max_aspect={self.max_aspect}: give 1 or more, or 0 for no limit")
        if not 1 <= self.min_characters <= self.max_characters <= MAX_INSTRUCTION_CHARS:
            raise ValueError(
                f"min_characters={self.min_characters}, max_characters={self.max_characters}: give 1 to "
                f"{MAX_INSTRUCTION_CHARS}, the larger one second"
            )
        if odd := [name for name in self.languages if name not in LANGUAGES]:
            raise ValueError(f"languages: {odd[0]!r} cannot be told; known are {', '.join(LANGUAGES)}")
        if not -1 <= self.near_bits <= 100 or min(self.most_per_picture, self.most_per_instruction) < 0:
            raise ValueError(
                f"near_bits={self.near_bits}, most_per_picture={self.most_per_picture}, "
                f"most_per_instruction={self.most_per_instruction}: give -1 to 100 bits, and 0 (no limit) or more rows"
            )


def check_size(width: int, height: int, checks: IntakeChecks) -> str | None:
    """What is wrong with a picture's size in pixels, for a person; None when nothing is."""
    short, long = sorted((width, height))
    if short < checks.min_side:
        return f"smaller than {checks.min_side} px on a side"
    if checks.max_side and long > checks.max_side:
        return f"larger than {checks.max_side} px on a side"
    if checks.max_aspect and long > checks.max_aspect * short:
        return f"longer than {checks.max_aspect:g} times its other side"
    return None


def check_text(instruction: str, checks: IntakeChecks) -> str | None:
    """What is wrong with an instruction by itself, for a person; None when nothing is."""
    text = instruction.strip()
    if not text:
        return "empty"
    if not normalised(text):
        return "holds no word"
    if len(text) < checks.min_characters:
        return f"shorter than {checks.min_characters} characters"
    if len(text) > checks.max_characters:
        return f"longer than {checks.max_characters} characters"
    try:
        check_signs("it", text)
    except ValueError as error:
        return str(error).removeprefix("it ")
    if checks.languages:
        language = language_of(text)
        if language is None:
            return None if checks.unknown_language else "in a language that cannot be told"
        if language not in checks.languages:
            return f"in another language ({language})"
    return None


def normalised(instruction: str) -> str:
    """The instruction without what makes no other request of it: case, punctuation, space, forms of one character.

    A minus before a digit and a plus are kept: "by -10" is not "by 10".
    """
    text = unicodedata.normalize("NFKC", instruction).casefold()
    text = re.sub(r"(?<!\w)-(?=\d)", " minus ", text).replace("+", " plus ")
    return _GAPS.sub(" ", text).strip()


Sources = Sequence[tuple[bytes, bytes | None]]
"""(exact, perceptual hash) of every picture of a row."""


@dataclass
class Seen:
    """What was taken in so far, in hashes: 32 bytes a picture and some 100 a row. Rows come in one by one."""

    checks: IntakeChecks
    ids: set[int] = field(default_factory=set)
    """Hashes of 64 bits, as all below."""
    asked: set[int] = field(default_factory=set)
    """Of (picture, instruction)."""
    _exact: dict[bytes, int] = field(default_factory=dict)
    _numbers: list[int] = field(default_factory=list)
    """Of the pictures that stand in `_words`."""
    _words_4N: np.ndarray = field(default_factory=lambda: np.zeros((4, 1024), np.uint64))
    """Perceptual hashes in words, with room for more; a word of all pictures lies together, which is eight times as
    fast to compare as a picture's words together."""

    def __post_init__(self) -> None:
        self.limits = Limits(self.checks.most_per_picture, self.checks.most_per_instruction)
        """Near copies count for the first one."""

    def picture(self, exact: bytes, near: bytes | None) -> int:
        """The number of the picture that this one is, or is a near copy of.

        Args:
            exact: of its pixels (`algo.picture_hash.exact_hash`).
            near: `perceptual_hash`; None for a flat one, which is near no other.
        """
        if exact in self._exact:
            return self._exact[exact]
        number = len(self._exact)
        if near is not None and self.checks.near_bits >= 0:
            found = self._near(near)
            if found is None:
                self._add(near, number)
            else:
                number = found
        self._exact[exact] = number
        return number

    def refuse(self, row_id: str, sources: Sources, instruction: str) -> str | Mark:
        """Why a row is not taken in after those before it, for a person; or what the limits count it by once it is
        taken, and then rows after it are compared with it.

        sources: of every picture.
        """
        asked, mark = self._of(sources, instruction)
        name = _hash(row_id)
        if asked in self.asked:
            return "asks what an earlier row asks of the same picture"
        if name in self.ids:
            return "has the id of an earlier row"
        if reason := self.limits.full(mark):
            return reason
        self.asked.add(asked)
        self.ids.add(name)
        return mark

    def add(self, sources: Sources, instruction: str) -> None:
        """A row that was taken elsewhere: others are compared with it, and it counts."""
        asked, mark = self._of(sources, instruction)
        self.asked.add(asked)
        self.limits.count(mark)

    def _of(self, sources: Sources, instruction: str) -> tuple[int, Mark]:
        first, *others = (self.picture(exact, near) for exact, near in sources)
        text = normalised(instruction)
        return _hash(f"{first} {others} {text}"), self.limits.mark(first, _hash(text))

    def _add(self, near: bytes, number: int) -> None:
        place = len(self._numbers)
        if place == self._words_4N.shape[1]:
            self._words_4N = np.concatenate([self._words_4N, np.zeros_like(self._words_4N)], axis=1)
        self._words_4N[:, place] = np.frombuffer(near, np.uint64)
        self._numbers.append(number)

    def _near(self, near: bytes) -> int | None:
        """The picture with the smallest distance, the first of equals, when it is near enough."""
        count = len(self._numbers)
        if not count:
            return None
        bits_N = np.zeros(count, np.uint16)
        for word_N, own in zip(self._words_4N[:, :count], np.frombuffer(near, np.uint64), strict=True):
            bits_N += np.bitwise_count(word_N ^ own)
        place = int(bits_N.argmin())
        return self._numbers[place] if bits_N[place] <= self.checks.near_bits else None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
