"""The filter of the Hard subset: which instructions are worth a verifier's study, by the paper's criteria (section 2).

The answer is one JSON object, read tolerantly as every answer. A text that holds no decision is never made into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edit_r1.records import Unparsed
from edit_r1.verifier.answer_text import BadAnswer
from edit_r1.verifier.loose_json import AMBIGUOUS, json_values
from edit_r1.verifier.parsing import answer_of
from edit_r1.verifier.prompts import check_instruction
from edit_r1.vlm.protocol import Request

FILTER_VERSION = "hard-1"
"""Changes with the wording: decisions by another one are others."""
KINDS: tuple[str, ...] = (
    "background change", "colour alteration", "material modification", "motion change", "portrait beautification",
    "style transfer", "subject addition", "subject removal", "subject replacement", "text modification",
    "tone transformation",
)  # fmt: skip
"""The paper's eleven kinds of edit."""
OTHER_KINDS = ("multi-step", "other")
"""What fits none of them alone."""

_PROMPT = """\
Instruction: {instruction}

Decide whether this request to edit the image above is hard, and name its kind. It is hard when at least one of these \
holds:
- several steps: it asks for more than one change;
- fine detail: it depends on small parts, exact attributes, text or numbers;
- implicit meaning: what has to change must be inferred, as it is not said;
- precise spatial control: it needs exact positions, directions, sizes or relations between things.
A simple request of one step is not hard, however large the change. Judge the request by what this image shows.

Kinds: {kinds}. Take "multi-step" for several changes of different kinds, "other" when none fits.

Answer with one JSON object and nothing else:
{{"reason": "one sentence that names what makes it hard or simple", "hard": true or false, "category": "the kind"}}"""

_TRUE = {"true", "yes", "hard", "1"}
_FALSE = {"false", "no", "simple", "easy", "0"}
_KIND_OF = {
    **{kind: kind for kind in (*KINDS, *OTHER_KINDS)},
    **{kind.replace("colour", "color"): kind for kind in KINDS},
    "multi step": "multi-step",
}


@dataclass(frozen=True)
class HardAnswer:
    """What the filter says of one request."""

    hard: bool
    category: str
    """One of `KINDS` or `OTHER_KINDS`."""
    reason: str
    """Its own sentence."""


def hard_request(sources: Sequence[bytes], instruction: str) -> Request:
    """The question about one request; sources are pictures as models are shown them.

    Raises ValueError for an empty or over-long instruction.
    """
    text = _PROMPT.format(instruction=check_instruction(instruction), kinds=", ".join((*KINDS, *OTHER_KINDS)))
    return Request((*sources, "\n" + text))


def parse_hard(text: str, truncated: bool = False) -> HardAnswer | Unparsed:
    """The decision in a filter's answer, or why there is none."""
    try:
        if truncated:
            raise BadAnswer("cut at the token limit")
        found = {
            _decision(value) for value in json_values(answer_of(text)) if isinstance(value, dict) and "hard" in value
        }
        if len(found) != 1:
            raise BadAnswer('holds no JSON object with "hard"' if not found else "holds several decisions")
        return found.pop()
    except BadAnswer as bad:
        return Unparsed(text, str(bad))


def _decision(value: dict[str, Any]) -> HardAnswer:
    word = str(value["hard"]).strip().casefold()
    if value["hard"] is AMBIGUOUS or word not in _TRUE | _FALSE:
        raise BadAnswer('"hard" is neither true nor false')
    kind = value.get("category")
    name = " ".join(kind.casefold().replace("_", " ").split()) if isinstance(kind, str) else ""
    if name not in _KIND_OF:
        raise BadAnswer('"category" is none of the kinds')
    reason = value.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise BadAnswer("gives no reason")
    return HardAnswer(word in _TRUE, _KIND_OF[name], " ".join(reason.split()))
