"""Checks of a decomposition that need no model: what the principles leave out, repeat, contradict or cannot find.

| kind | what it means |
| --- | --- |
| uncovered | a part of the instruction whose words no principle takes up |
| contradiction | two principles that no picture fulfils together |
| duplicate | two principles of the same words |
| near duplicate | two principles of nearly the same words that ask the same |
| unfailable | a principle that no edited image could fail: about images as such, the source alone, or "A or not A" |
| about the request | a principle about the instruction and not about the image |
| not yes/no | a question that yes and no do not answer |
| count | a category with fewer or more principles than the paper's 3-4, 3-4 and 2-3 |

Findings are told and counted, and nothing is left out for them. The checks know English alone (`curate.words`); a
decomposition in another language gets counts and word-for-word duplicates. They look at words and not at meaning:
precision and recall on planted faults are in docs/results/curation_quality.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from edit_r1.curate.words import (
    ALSO_OTHER_WORDS,
    DESCRIBING,
    EDIT_VERBS,
    KEEP_VERBS,
    POINTING,
    RELATIONS,
    are_antonyms,
    content,
    exclusive_class,
    has_antonym,
    in_english_letters,
    is_english,
    is_negation,
    particle,
    stem,
    words_of,
)
from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle
from edit_r1.verifier.questions import repeats

Kind = Literal[
    "uncovered", "contradiction", "duplicate", "near duplicate", "unfailable", "about the request",
    "not yes/no", "count"
]  # fmt: skip

CHECKS = 4
"""Version of the checks: findings of another one are made anew."""
WANTED: dict[str, tuple[int, int]] = {
    INSTRUCTION_FOLLOWING: (3, 4),
    FEATURE_PRESERVATION: (3, 4),
    IMAGE_QUALITY: (2, 3),
}
"""Principles per category, least and most (paper, section 2)."""
COVERED = 0.5
"""Share of a part's words above which principles of Instruction Following that take them up cover it."""
NEAR = 0.8
"""Jaccard index of the words of two questions from which on they are near duplicates."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    kind: Kind
    told: str
    """In words, for a person."""
    principles: tuple[int, ...] = ()
    """Places of the principles that it is about, from 0; empty for the decomposition as a whole."""


def check_principles(instruction: str, principles: Sequence[Principle]) -> list[Finding]:
    """Everything that the checks find, by kind in the order of the table."""
    questions = [principle.question for principle in principles]
    found = _duplicates(questions)
    # Of most of the questions: one without a common word ("Background consistency") is a fault to be told.
    if is_english(instruction) and 2 * sum(map(is_english, questions)) >= len(questions):
        same = {finding.principles for finding in found}
        found = [
            *uncovered(instruction, principles),
            *_contradictions(principles),
            *found,
            *(near for near in _near_duplicates(questions) if near.principles not in same),
            *(
                finding
                for place, question in enumerate(questions)
                if in_english_letters(question)
                for finding in check_question(place, question)
            ),
        ]
    return [*found, *_counts(principles)]


# --- coverage

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_JOINT = re.compile(
    r",?\s+(?:and\s+then|and\s+also|and|then|but|while|plus|as\s+well\s+as)\s+|,\s*(?:then\s+|also\s+)?|;\s*",
    re.IGNORECASE,
)
_WISH = re.compile(r"^(?:i\s+(?:want|would|need)|the\s+.+?\s+should\b|let\b)", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:(?:first|second|third|next|then|also|finally|lastly|afterwards|please)\b[,:]?\s*)+", re.IGNORECASE
)


def parts_of(instruction: str) -> list[str]:
    """The steps of an instruction: sentences, and clauses that begin with a verb of editing or a wish.

    "Make the hat red and blue" is one, "make the hat red and remove the dog" two. A piece that begins with neither
    belongs to the step before it.
    """
    parts: list[str] = []
    for sentence in _SENTENCE.split(instruction.strip()):
        bounds = [0]
        for joint in _JOINT.finditer(sentence):
            if _begins_step(sentence[joint.end() :]):
                bounds += [joint.start(), joint.end()]
        bounds.append(len(sentence))
        for start, end in zip(bounds[::2], bounds[1::2], strict=True):
            part = sentence[start:end].strip(" ,.;!?")
            if part and (not parts or start > 0 or _begins_step(part)):
                parts.append(part)
            elif part:
                parts[-1] = f"{parts[-1]}; {part}"
    return parts


def _begins_step(text: str) -> bool:
    bare = _LEAD.sub("", text.strip())
    words = words_of(bare)
    if not words:
        return False
    if _WISH.match(bare):
        return True
    if len(words) < 2 or words[0] not in EDIT_VERBS:
        return False
    if words[0] in DESCRIBING:
        return words[1] in POINTING
    return words[0] not in ALSO_OTHER_WORDS or words[1] in POINTING or words[1] in ("a", "an")


def uncovered(instruction: str, principles: Sequence[Principle]) -> list[Finding]:
    """The parts of an instruction of several parts that no principle takes up.

    A part is taken up when more than `COVERED` of its words stand in principles of Instruction Following; what is to be
    kept may be in Feature Preservation too. A principle counts that holds two of the part's words, or one that says
    which part is meant: no other part has it, and it is no colour, number or place.
    """
    parts = parts_of(instruction)
    if len(parts) < 2:
        return []
    wanted_of = [_wanted(part) for part in parts]
    found = []
    for number, (part, wanted) in enumerate(zip(parts, wanted_of, strict=True)):
        if not wanted:
            continue
        elsewhere = {word for other, words in enumerate(wanted_of) if other != number for word in words}
        telling = {word for word in wanted - elsewhere if not exclusive_class(word)}
        keeps = _begins_with(part, KEEP_VERBS)
        taken: set[str] = set()
        for principle in principles:
            if principle.category == INSTRUCTION_FOLLOWING or (keeps and principle.category == FEATURE_PRESERVATION):
                shared = wanted & set(content(principle.question))
                if len(shared) >= min(2, len(wanted)) or shared & telling:
                    taken |= shared
        if len(taken) <= COVERED * len(wanted):
            missing = ", ".join(sorted(wanted - taken))
            found.append(Finding("uncovered", f"no principle takes up {part!r} (words: {missing})"))
    return found


def _wanted(part: str) -> set[str]:
    """The words of a part that say what is edited, and into what."""
    words = words_of(_LEAD.sub("", part))
    return {word for word in content(" ".join(words[_begins_with(part, EDIT_VERBS) :])) if word not in _VAGUE}


def _begins_with(part: str, verbs: frozenset[str]) -> bool:
    words = words_of(_LEAD.sub("", part))
    return bool(words) and words[0] in verbs


_VAGUE_WORDS = """make change style tone colour color part area side want would should need let around away rid rest
remain instead appearance effect mood way bit little slightly completely fully"""
_VAGUE = frozenset(map(stem, _VAGUE_WORDS.split()))
"""Words of instructions that say little about what is edited."""


# --- contradictions and repetitions


def _contradictions(principles: Sequence[Principle]) -> list[Finding]:
    found = []
    for (a, first), (b, second) in combinations(enumerate(principles), 2):
        why = contradiction(first, second)
        if why:
            found.append(Finding("contradiction", f"{first.question!r} against {second.question!r}: {why}", (a, b)))
    return found


def contradiction(first: Principle, second: Principle) -> str | None:
    """Why no picture fulfils both, in words; None when that cannot be said.

    Conservative: apart from what contradicts, both must be of the same words in the same order.
    """
    a, b = _predicated(first.question), _predicated(second.question)
    if not a or not b:
        return None
    plain_a, plain_b = [w for w in a if not is_negation(w)], [w for w in b if not is_negation(w)]
    if plain_a == plain_b and len(plain_a) > 0 and (len(a) - len(plain_a)) % 2 != (len(b) - len(plain_b)) % 2:
        return "one negates the other"
    if plain_a == a and plain_b == b and len(a) == len(b) > 1:
        differing = [(x, y, place) for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        if len(differing) == 1:
            x, y, place = differing[0]
            last = place == len(a) - 1  # before that it may tell two things apart: "the left arm", "the right arm"
            kinds = {exclusive_class(x), exclusive_class(y)}
            if kinds == {"number"} or (last and kinds in ({"colour"}, {"place"})):
                return f"{x} and {y} exclude each other"
            if last and are_antonyms(x, y):
                return f"{x} and {y} are opposites"
    return _changed_and_kept(first, second) or _changed_and_kept(second, first)


_STATES = frozenset(map(stem, ("unchanged", "unaltered", "untouched", "intact", "identical", "preserved")))


def _changed_and_kept(change: Principle, kept: Principle) -> str | None:
    """For "Is the hat now red?" and "Is the hat unchanged?": the second asks for what the first forbids."""
    if change.category != INSTRUCTION_FOLLOWING or kept.category != FEATURE_PRESERVATION:
        return None
    said = words_of(change.question)
    subject = [word for word in content(kept.question) if word not in _STATES]
    states = [word for word in content(kept.question) if word in _STATES]
    if "now" not in said or not states or not subject or len(content(kept.question)) != len(subject) + len(states):
        return None
    edited = content(change.question)
    if edited[: len(subject)] == subject and len(edited) > len(subject) and _only_subject(kept.question):
        return "what is to change cannot be unchanged"
    return None


def _only_subject(question: str) -> bool:
    """ "Is the hat unchanged?", and not "Apart from ..., is the hat unchanged?"."""
    return bool(re.match(r"^(?:is|are|does|do|has|have)\b", question.strip(), re.IGNORECASE))


def _predicated(question: str) -> list[str]:
    """Content words, with "free of" and "without" read as a negation, and states that words of their own express."""
    text = re.sub(r"\bfree (?:of|from)\b", "no", question, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:any|still|now|clearly|visibly|completely|fully)\b", " ", text, flags=re.IGNORECASE)
    return content(text) + particle(text)


def _duplicates(questions: Sequence[str]) -> list[Finding]:
    return [
        Finding("duplicate", f"{questions[place]!r} is asked twice", (first, place))
        for place, first in repeats(questions).items()
    ]


def _near_duplicates(questions: Sequence[str]) -> list[Finding]:
    found = []
    for (a, first), (b, second) in combinations(enumerate(questions), 2):
        if near_duplicates(first, second):
            found.append(Finding("near duplicate", f"{first!r} and {second!r} ask nearly the same", (a, b)))
    return found


def near_duplicates(first: str, second: str) -> bool:
    """Whether two questions share nearly all their words, and none that sets them apart: a colour, a number, a place, a
    relation ("on the table", "under the table"), a negation, a word with an opposite."""
    related, other = (RELATIONS & set(words_of(question)) for question in (first, second))
    if related - other and other - related:
        return False
    a, b = set(_predicated(first)), set(_predicated(second))
    if not a or not b or len(a & b) < NEAR * len(a | b):
        return False
    apart = a ^ b
    telling = [w for w in apart if exclusive_class(w) or is_negation(w) or has_antonym(w)]
    # One word on each side is mostly a different subject ("the hat", "the coat") of one question.
    return not telling and not (a - b and b - a)


# --- single questions

_AUXILIARY = (
    r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|must|may|might|isn't|aren't|doesn't|don't|"
    r"hasn't|haven't|cannot|can't)\b"
)
_ASKS = re.compile(rf"^{_AUXILIARY}|[,:]\s*{_AUXILIARY}", re.IGNORECASE)
_OPEN = re.compile(
    r"^(?:what|which|who|whom|whose|how|why|where|when|to what extent|in what|at which|on which|describe|list|name|"
    r"rate|count|explain|compare)\b",
    re.IGNORECASE,
)
_PICTURE = (
    r"(?:(?:edited|output|result(?:ing)?|new|final|generated|second) )?(?:image|picture|photo(?:graph)?|result|output)"
)
_END = r"(?: at all| here| present)?\W*$"
_AS_SUCH = tuple(
    re.compile(f"^{form}{_END}", re.IGNORECASE)
    for form in (
        rf"(?:is|was) (?:this|it|the {_PICTURE}|there) (?:really |actually )?an? (?:{_PICTURE}|digital file|file)",
        rf"is there (?:an?|any) {_PICTURE}",
        rf"does (?:the|this|an?) {_PICTURE} exist",
        rf"does (?:the|this|an?) {_PICTURE} have (?:any )?(?:pixels|colou?rs|a (?:width|height|size|resolution))",
        rf"does (?:the|this|an?) {_PICTURE} (?:show|contain|depict|display) (?:something|anything|(?:some )?content)",
        rf"(?:is|can) (?:the|this) {_PICTURE} (?:be )?(?:visible|viewed|seen|displayed|opened|available|given)",
        rf"is (?:the|this) {_PICTURE} (?:rectangular|two-dimensional|made of pixels)",
        rf"(?:has|was) (?:the|an?) {_PICTURE} (?:been )?(?:provided|given|generated|produced|created|made|returned)",
        rf"can (?:you|one|we|a person) (?:see|view|open|look at) (?:the|this|an?) {_PICTURE}",
    )
)
_EITHER = re.compile(r"\b(?:or not|may or may not|either way|one way or another|regardless)\b", re.IGNORECASE)
_REQUEST = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|can|could|should|would) (?:(?:the|this|your|that|user'?s?|editing|edit|"
    r"original|given) )*(?:instructions?|requests?|prompts?|commands?|tasks?|user)\b(?! (?:been )?(?:followed|"
    r"fulfilled|carried|executed|respected|visible|satisfied|met|done|completed|implemented|applied)\b)",
    re.IGNORECASE,
)
_SOURCE = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|had) (?:there .{1,60}\bin )?the (?:original|source|input|unedited|initial|"
    r"reference) (?:image|picture|photo|photograph)\b",
    re.IGNORECASE,
)
_COMPARES = re.compile(
    r"\b(?:edited|output|result|new image|same|match(?:es|ed)?|identical|kept|keep|preserved?|unchanged|"
    r"maintain(?:s|ed)?|still|retain(?:s|ed)?|recogni[sz]able|consistent|remain(?:s|ed)?|differ(?:s|ent)?|intact|visible)"
    r"\b",
    re.IGNORECASE,
)


def check_question(place: int, question: str) -> list[Finding]:
    """What is wrong with one question by itself: at most one finding."""
    text = " ".join(question.replace("’", "'").split())
    if _REQUEST.match(text):
        return [Finding("about the request", f"{question!r} is about the instruction, not about the image", (place,))]
    if any(pattern.match(text) for pattern in _AS_SUCH):
        return [Finding("unfailable", f"{question!r} is true of any image", (place,))]
    if _EITHER.search(text):
        return [Finding("unfailable", f"{question!r} is true either way", (place,))]
    if _SOURCE.match(text) and not _COMPARES.search(_SOURCE.sub("", text)):
        return [Finding("unfailable", f"{question!r} is about the source alone, whatever the edit is", (place,))]
    if _tautology(text):
        return [Finding("unfailable", f"{question!r} says of a thing what it is called", (place,))]
    if _OPEN.match(text) or not _ASKS.search(text):
        return [Finding("not yes/no", f"{question!r} is no question for yes or no", (place,))]
    return []


def _tautology(question: str) -> bool:
    """ "Is the cat a cat?", and with an adjective; "Is the red hat still red?" asks something and is none."""
    match = re.match(r"^(?:is|are) (?:the|this|these|those) (.+?) (?:an? )?(\w+)\W*$", question, re.IGNORECASE)
    if match is None or re.search(r"\b(?:now|still|also|again)\b", question, re.IGNORECASE):
        return False
    subject = content(match[1])
    return bool(subject) and stem(match[2].lower()) == subject[-1] and bool(re.search(r"\ban? \w+\W*$", question))


# --- counts


def _counts(principles: Sequence[Principle]) -> list[Finding]:
    counted = Counter(principle.category for principle in principles)
    return [
        Finding("count", f"{category}: {counted[category]}, asked for are {least} to {most}")
        for category, (least, most) in WANTED.items()
        if not least <= counted[category] <= most
    ]
