"""The parts of an answer that are not its verdicts: thoughts, the score's tag, the average.

Every function keeps the text's length or gives offsets into it, so that a number can be traced to where it stands.
No regular expression here has two ways to read the same characters: the time grows with the text, not its square.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edit_r1.verifier.loose_json import to_ascii_punctuation

MAX_TEXT_CHARS = 200_000
"""Longest text that is read."""
_MAX_NUMBER_CHARS = 60
"""Longest content of a score's tag that is looked at."""

_THOUGHT_TAG = re.compile(r"<\s*+(/\s*+)?think(?:ing)?\s*+>", re.IGNORECASE)
_SCORE = re.compile(r"<\s*+score\s*+>([^<>]*+)<\s*+/\s*+score\s*+>", re.IGNORECASE)
_SCORE_OPEN = re.compile(r"<\s*+score\s*+>", re.IGNORECASE)
_DRESSED_NUMBER = re.compile(
    r"(?:[\s*_`\"'$]|\\[(\[]|\\(?:boxed|text|mathbf|mathrm)\s*+\{)*+"
    r"([0-9]{1,2}+(?:\.[0-9]{1,10}+)?+)\s*+\}*+\s*+"
    r"(?:(?:/|out of)\s*+10(?:\.0++)?+)?+\s*+(?:分|points?+)?+"
    r"(?:[\s*_`\"'$}.]|\\[)\]])*+",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"(?:[\s`*_$}]|\\[)\]]|<\|[a-z_]{1,40}\|>|</[a-z_]{1,40}>|<s>)*+", re.IGNORECASE)
_AVERAGE = re.compile(r"average_score[\"']?\s*+[:=]\s*+[\"']?([^\s\"',}\]]*+)", re.IGNORECASE)
_DECIMAL = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,20})?")


class BadAnswer(Exception):
    """A text breaks the format; the message is the reason. Never leaves the verifier's parsers."""


@dataclass(frozen=True)
class WrittenScore:
    """The final score and where its digits stand."""

    value: float
    """0 to 10."""
    start: int
    """Offset of the first digit."""
    end: int
    """Offset after the last one."""


def answer_of(text: str) -> str:
    """The text with its thoughts blanked out, of the same length. Raises `BadAnswer` when nothing is left."""
    if len(text) > MAX_TEXT_CHARS:
        raise BadAnswer(f"{len(text)} characters, at most {MAX_TEXT_CHARS} are read")
    thoughts: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in _THOUGHT_TAG.finditer(text):
        if tag[1] is None:
            opened = tag.start() if opened is None else opened
        elif opened is None:  # the opening tag stands in some chat templates' prompts, not in the answer
            thoughts = [(0, tag.end())]
        else:
            thoughts.append((opened, tag.end()))
            opened = None
    if opened is not None:
        raise BadAnswer("a <think> block that never ends")
    pieces, kept = [], 0
    for start, end in thoughts:
        pieces += [text[kept:start], " " * (end - start)]
        kept = end
    answer = "".join([*pieces, text[kept:]])
    if not answer.strip():
        raise BadAnswer("an empty answer")
    return answer


def find_score(answer: str) -> WrittenScore:
    """The number in the last score tag, 0 to 10. Raises `BadAnswer` where there is no one final score."""
    plain = to_ascii_punctuation(answer)
    tags = list(_SCORE.finditer(plain))
    if not tags:
        raise BadAnswer("no <score> tag" if not _SCORE_OPEN.search(plain) else "a <score> tag that is not closed")
    last = tags[-1]
    if _SCORE_OPEN.search(plain, last.end()):
        raise BadAnswer("a <score> tag that is not closed")
    numbers = [_DRESSED_NUMBER.fullmatch(tag[1]) if len(tag[1]) <= _MAX_NUMBER_CHARS else None for tag in tags]
    written = {tag[1] if number is None else float(number[1]) for tag, number in zip(tags, numbers, strict=True)}
    if len(written) > 1 and not _NOTHING.fullmatch(plain, last.end()):
        raise BadAnswer(f"{len(tags)} <score> tags that differ, and the last one does not end the text")
    number = numbers[-1]
    if number is None:
        raise BadAnswer(f"the score {last[1].strip()[:40]!r} is not a number from 0 to 10")
    if float(number[1]) > 10:
        raise BadAnswer(f"the score {number[1]} is outside 0 to 10")
    return WrittenScore(float(number[1]), last.start(1) + number.start(1), last.start(1) + number.end(1))


def find_average(answer: str) -> float | None:
    """The mean of the verdicts as the model wrote it last, 0 to 1; None for none. Raises `BadAnswer` for a bad one."""
    found = _AVERAGE.findall(to_ascii_punctuation(answer))
    if not found or found[-1].casefold() in ("null", "none"):
        return None
    if not _DECIMAL.fullmatch(found[-1]) or float(found[-1]) > 1:
        raise BadAnswer(f"the average_score {found[-1][:40]!r} is not a number from 0 to 1")
    return float(found[-1])
