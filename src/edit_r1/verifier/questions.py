"""When two questions are one: the same words, whatever their case, white space and punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from edit_r1.records import Principle
from edit_r1.verifier.loose_json import to_ascii_punctuation

_NUMBERING = re.compile(r"\s*+[0-9]{1,3}+\s*+[.):](?![0-9])\s*+")
_TAG = re.compile(r"\s*+\[[^\]]*+\]")
_PIECE = re.compile(r"(?:(?<!\w)-)?[0-9]++(?:[.,:/][0-9]++)*+|[^\W_]++|[^\w\s]")
"""A number with its sign and its point, a word, or a single sign."""


def question_words(question: str) -> tuple[str, ...]:
    """The words of a question without numbering, category tag, case, white space and punctuation.

    Numbers keep sign and point, and signs that are no punctuation ("+", "$") count as words: "A+" is not "A".
    """
    bare = unicodedata.normalize("NFKC", to_ascii_punctuation(question))
    for front in (_NUMBERING, _TAG):
        if match := front.match(bare):
            bare = bare[match.end() :]
    return tuple(piece for piece in _PIECE.findall(bare.casefold()) if _says_something(piece))


def _says_something(piece: str) -> bool:
    return piece[-1].isalnum() or (unicodedata.category(piece)[0] == "S" and piece not in "`^")


def repeats(questions: Sequence[str]) -> dict[int, int]:
    """The places of questions that were asked before, each with the place of the first of its words, from 0."""
    first: dict[tuple[str, ...], int] = {}
    found: dict[int, int] = {}
    for place, question in enumerate(questions):
        words = question_words(question) or (question.strip(),)
        if first.setdefault(words, place) != place:
            found[place] = first[words]
    return found


def each_once(principles: Sequence[Principle]) -> tuple[Principle, ...]:
    """The principles without those whose question stands before them; their order stays."""
    again = repeats([principle.question for principle in principles])
    return tuple(principle for place, principle in enumerate(principles) if place not in again)
