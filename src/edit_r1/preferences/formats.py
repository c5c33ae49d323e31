"""How each public format spells a pair: a function per format from a row to a `Preference`.

Column names and labels are those of the public data (docs/preferences.md names the revisions):

- editreward: TIGER-Lab/EditReward-Data, two outputs left and right, scores of both, a vote;
- tiger: TIGER-Lab/EditReward-Bench, two candidates of a group of two to four, a ranking (`verifier.tiger_labels`);
- vs: EditScore/EditReward-Bench, two outputs of which the first is the winner, a dimension;
- compass: DogNeverSleep/EditReward-Compass, winner and loser, "preference" or "tie", a dimension;
- jsonl: our own, a row each with source, first, second, instruction and choice.

Ids are made from content, so one picture of one context is one candidate in however many pairs it stands.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edit_r1.preferences.kinds import Kind
from edit_r1.records import Candidate, Choice, Context, Preference, Rating, Sample
from edit_r1.verifier.inputs import check_unicode, picture_of, principles_of
from edit_r1.verifier.items import context_key
from edit_r1.verifier.prompts import check_instruction
from edit_r1.verifier.tiger_labels import choice_of, letters_of

WHOLE = "overall"
"""The dimension of a benchmark that means the edit as a whole: no aspect of its own."""


@dataclass(frozen=True)
class PairParts:
    """What a row says, before pictures are read."""

    source: Any
    """A picture or a list of them, as `verifier.inputs.picture_of` takes one."""
    first: Any
    second: Any
    instruction: Any
    choice: Choice
    annotator: str = ""
    category: str = ""
    aspect: str = ""
    first_editor: str = ""
    second_editor: str = ""
    first_seed: int = 0
    second_seed: int = 0
    split: str = ""
    principles: Any = None
    ratings: tuple[Rating, ...] = ()
    soft_label: float | None = None
    votes: int | None = None
    simulated: bool = False
    origin: str = ""


@dataclass(frozen=True)
class Format:
    """One public format."""

    parts: Callable[[Mapping[str, Any]], PairParts]
    """Raises ValueError for a row that is not of the format."""
    required: tuple[str, ...]
    """Columns without which it is another format."""
    optional: tuple[str, ...] = ()
    split: str = "train"
    """Where its pairs belong unless the caller says otherwise; those of a benchmark are never trained on."""
    winner_first: bool = False
    """The data names a winner and not what an annotator saw first, so the order is drawn."""


def preference_from(kind: Format, row: Any, root: Path, split: str = "", allow_outside: bool = False) -> Preference:
    """The pair of a row; pictures are read relative to `root` and not decoded.

    Raises:
        ValueError: (ImageError is one) for a row that is not of the format, with what is wrong and what to do.
    """
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a row of type {type(row).__name__}: write an object with {', '.join(kind.required)}")
    missing = [name for name in kind.required if row.get(name) in (None, [], "")]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}: a row needs {', '.join(kind.required)}")
    preference = _preference(kind.parts(row), root, split, kind.split, allow_outside)
    return preference.swap() if kind.winner_first and _turned(preference) else preference


def _preference(parts: PairParts, root: Path, split: str, usual: str, allow_outside: bool) -> Preference:
    if not isinstance(parts.instruction, str):
        raise ValueError(f"instruction of type {type(parts.instruction).__name__}: write a text")
    check_unicode("instruction", parts.instruction)
    check_instruction(parts.instruction)
    given = parts.source if isinstance(parts.source, list) else [parts.source]
    sources = tuple(picture_of(one, "source", root, allow_outside) for one in given)
    first = picture_of(parts.first, "first", root, allow_outside)
    second = picture_of(parts.second, "second", root, allow_outside)
    name = context_key(sources, parts.instruction)[:16]
    sample = Sample(
        id=name,
        source=sources[0],
        instruction=parts.instruction,
        category=parts.category,
        split=split or parts.split or usual,
        references=sources[1:],
    )
    written = () if parts.principles in (None, "", []) else principles_of(parts.principles)
    return Preference(
        context=Context(sample, written, "data" if written else "", parts.simulated),
        first=Candidate(candidate_id(name, first), name, first, parts.first_editor, parts.first_seed),
        second=Candidate(candidate_id(name, second), name, second, parts.second_editor, parts.second_seed),
        choice=parts.choice,
        annotator=parts.annotator,
        simulated=parts.simulated,
        aspect=parts.aspect,
        soft_label=parts.soft_label,
        votes=parts.votes,
        ratings=parts.ratings,
        origin=parts.origin,
    )


def candidate_id(sample_id: str, image: bytes) -> str:
    """The id of a picture as an edit of a context: the same bytes give the same id."""
    return f"{sample_id}-{hashlib.sha256(image).hexdigest()[:12]}"


def _turned(preference: Preference) -> bool:
    """Whether the winner of a pair comes second: drawn by the content, so that every run draws alike."""
    names = sorted((preference.first.id, preference.second.id))
    return hashlib.sha256("\n".join([*names, preference.aspect]).encode()).digest()[0] % 2 == 1


def _text(row: Mapping[str, Any], name: str) -> str:
    """A text or a whole number as text; "" where there is none."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} of type {type(value).__name__}: write a text")
    text = str(value)
    check_unicode(name, text)
    return text


def _one_of(row: Mapping[str, Any], name: str, choices: Mapping[str, Choice]) -> Choice:
    value = row.get(name)
    if not isinstance(value, str) or value.strip() not in choices:
        raise ValueError(f"{name} {value!r:.60}: expected one of {', '.join(choices)}")
    return choices[value.strip()]


def _number(value: Any, name: str) -> float | None:
    """A finite number; None for a missing one or NaN, which Parquet writes for missing ones."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} of type {type(value).__name__}: write a number")
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ValueError(f"{name} is infinite: write a number, or leave it out")
    return float(value)


def _ratings(row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> tuple[Rating, ...]:
    """Ratings whose two columns both hold a number; half a rating compares nothing."""
    found = []
    for name, (first, second) in columns.items():
        values = _number(row.get(first), first), _number(row.get(second), second)
        if values[0] is not None and values[1] is not None:
            found.append(Rating(name, values[0], values[1]))
    return tuple(found)


_SCALES = ("overall", "instruction_following", "quality_aesthetic")
_LEFT_RIGHT = {scale: (f"left_{scale}_score", f"right_{scale}_score") for scale in _SCALES}
_SEED = re.compile(r"_seed(\d{1,18})$")


def _editor(name: str) -> tuple[str, int]:
    """ "qwen_edit_seed2025" is the editor "qwen_edit" with seed 2025."""
    found = _SEED.search(name)
    return (name[: found.start()], int(found[1])) if found else (name, 0)


def _editreward(row: Mapping[str, Any]) -> PairParts:
    left, left_seed = _editor(_text(row, "left_model"))
    right, right_seed = _editor(_text(row, "right_model"))
    return PairParts(
        source=row["source_img"],
        first=row["left_output_image"],
        second=row["right_output_image"],
        instruction=row["instruction"],
        choice=_one_of(row, "vote_type", {"leftvote": "first", "rightvote": "second", "tie": "same"}),
        annotator="editreward",
        first_editor=left,
        second_editor=right,
        first_seed=left_seed,
        second_seed=right_seed,
        ratings=_ratings(row, _LEFT_RIGHT),
        origin=_text(row, "unique_key"),
    )


_TIGER_SCALES = {
    "score": ("score_1", "score_2"),
    "overall": ("overall_score_1", "overall_score_2"),
    "instruction_following": ("instruction_following_1", "instruction_following_2"),
    "visual_quality": ("visual_quality_1", "visual_quality_2"),
}


def _tiger(row: Mapping[str, Any]) -> PairParts:
    first, first_seed = _editor(_text(row, "model_1"))
    second, second_seed = _editor(_text(row, "model_2"))
    names = letters_of(_text(row, "comparison_type"), _text(row, "id")) or ("A", "B")
    return PairParts(
        source=row["source_image"],
        first=row["candidate_1"],
        second=row["candidate_2"],
        instruction=row["instruction"],
        choice=choice_of(_text(row, "ranking"), names),
        annotator="tiger",
        first_editor=first,
        second_editor=second,
        first_seed=first_seed,
        second_seed=second_seed,
        ratings=_ratings(row, _TIGER_SCALES),
        origin="/".join(part for part in (_text(row, "dataset"), _text(row, "id")) if part),
    )


def _vs(row: Mapping[str, Any]) -> PairParts:
    outputs = row["output_images"]
    if not isinstance(outputs, list) or len(outputs) != 2:
        raise ValueError(f"output_images of type {type(outputs).__name__}: expected a list of 2, the winner first")
    keys = row.get("key") or []
    keys = keys if isinstance(keys, list) else [keys]
    dimension = _text(row, "dimension")
    return PairParts(
        source=row["input_image"],
        first=outputs[0],
        second=outputs[1],
        instruction=row["instruction"],
        choice="first",
        annotator="vs",
        category=_text(row, "task_type"),
        aspect="" if dimension == WHOLE else dimension,
        origin="/".join(str(key) for key in keys),
    )


def _compass(row: Mapping[str, Any]) -> PairParts:
    return PairParts(
        source=row["source_image"],
        first=row["winner"],
        second=row["loser"],
        instruction=row["prompt"],
        choice=_one_of(row, "label", {"preference": "first", "tie": "same"}),
        annotator="compass",
        category=_text(row, "category") or _text(row, "task_type"),
        aspect=_text(row, "dimension"),
        origin=_text(row, "id"),
    )


def _own(row: Mapping[str, Any]) -> PairParts:
    ratings = row.get("ratings") or {}
    if isinstance(ratings, str):
        try:
            ratings = json.loads(ratings)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'ratings: not valid JSON ({error}): write {{"overall": [7, 5]}}') from error
    if not isinstance(ratings, dict) or not all(isinstance(two, list) and len(two) == 2 for two in ratings.values()):
        raise ValueError('ratings: write an object of two numbers a name, such as {"overall": [7, 5]}')
    for name in ratings:
        check_unicode("ratings", name)
    pairs = {name: {"first": two[0], "second": two[1]} for name, two in ratings.items()}
    soft = _number(row.get("soft_label"), "soft_label")
    if soft is not None and not 0 <= soft <= 1:
        raise ValueError(f"soft_label={soft}: the share of votes for `first` is 0 to 1")
    choice = _one_of(row, "choice", {choice: choice for choice in get_args(Choice)})
    if soft is not None and (soft - 0.5) * {"first": 1, "same": 0, "second": -1}[choice] < 0:
        raise ValueError(f"soft_label={soft}: the share of votes for `first`, and the choice is {choice}: mend one")
    votes = row.get("votes")
    if votes is not None and (isinstance(votes, bool) or not isinstance(votes, int) or votes < 1):
        raise ValueError(f"votes={votes!r:.40}: write how many annotators answered, at least 1")
    return PairParts(
        source=row["source"],
        first=row["first"],
        second=row["second"],
        instruction=row["instruction"],
        choice=choice,
        annotator=_text(row, "annotator"),
        category=_text(row, "category"),
        aspect=_text(row, "aspect"),
        first_editor=_text(row, "first_editor"),
        second_editor=_text(row, "second_editor"),
        first_seed=_seed(row, "first_seed"),
        second_seed=_seed(row, "second_seed"),
        split=_text(row, "split"),
        principles=row.get("principles"),
        ratings=tuple(rating for name, two in pairs.items() for rating in _ratings(two, {name: ("first", "second")})),
        soft_label=soft,
        votes=votes,
        simulated=row.get("simulated") is True,
        origin=_text(row, "id"),
    )


def _seed(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{name}={value!r:.40}: write a whole number below 2^63")
    return value


OWN_COLUMNS = (
    "annotator", "category", "aspect", "first_editor", "second_editor", "first_seed", "second_seed", "split",
    "principles", "ratings", "soft_label", "votes", "simulated", "id",
)  # fmt: skip
"""What a row of our own JSON lines may hold beside the required keys."""

FORMATS: dict[Kind, Format] = {
    "editreward": Format(
        _editreward,
        ("source_img", "left_output_image", "right_output_image", "instruction", "vote_type"),
        ("left_model", "right_model", "unique_key", *(name for pair in _LEFT_RIGHT.values() for name in pair)),
    ),
    "tiger": Format(
        _tiger,
        ("source_image", "candidate_1", "candidate_2", "instruction", "ranking"),
        (
            "id",
            "dataset",
            "comparison_type",
            "model_1",
            "model_2",
            *(name for pair in _TIGER_SCALES.values() for name in pair),
        ),
        split="test",
    ),
    "vs": Format(
        _vs,
        ("input_image", "output_images", "instruction", "dimension"),
        ("key", "task_type"),
        split="test",
        winner_first=True,
    ),
    "compass": Format(
        _compass,
        ("source_image", "winner", "loser", "prompt", "label", "dimension"),
        ("id", "category", "task_type"),
        split="test",
        winner_first=True,
    ),
    "jsonl": Format(_own, ("source", "first", "second", "instruction", "choice"), OWN_COLUMNS),
}
