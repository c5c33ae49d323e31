"""The filter's answers: decisions, and everything that is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import Unparsed
from edit_r1.verifier.hard_filter import KINDS, OTHER_KINDS, HardAnswer, hard_request, parse_hard


def answer(hard: Any = True, category: Any = "style transfer", reason: Any = "Two steps.") -> str:
    return json.dumps({"reason": reason, "hard": hard, "category": category})


@given(st.booleans(), st.sampled_from((*KINDS, *OTHER_KINDS)), st.text("abc \"'é.", min_size=1).filter(str.strip))
def test_every_written_answer_is_read(hard: bool, kind: str, reason: str) -> None:
    found = parse_hard("Here it is:\n" + answer(hard, kind.upper(), reason))
    assert found == HardAnswer(hard, kind, " ".join(reason.split()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("HARD", "no JSON object"),
        (answer() + answer(False), "several decisions"),
        (answer("perhaps"), "neither true nor false"),
        (answer(None), "neither true nor false"),
        (answer(category="cooking"), "none of the kinds"),
        (answer(category=None), "none of the kinds"),
        (answer(reason=" "), "no reason"),
        (answer(reason=3), "no reason"),
        ('{"hard": true, "hard": false, "reason": "x", "category": "other"}', "neither true nor false"),
        ("<think>" + answer(), "never ends"),
        ("", "empty"),
    ],
)
def test_what_is_no_decision(text: str, reason: str) -> None:
    found = parse_hard(text)
    assert isinstance(found, Unparsed) and reason in found.reason
    assert isinstance(parse_hard(answer(), truncated=True), Unparsed)


@given(st.text("{}[]\"':,hardtrue false_reasoncategory\n", max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse_hard(text)
    assert isinstance(found, Unparsed) or (found.reason and found.category in (*KINDS, *OTHER_KINDS))


def test_the_question_carries_the_criteria() -> None:
    asked = hard_request((b"png",), " Add a hat. ")
    assert asked.parts[0] == b"png" and "Instruction: Add a hat.\n" in asked.text
    for words in ("several steps", "fine detail", "implicit meaning", "precise spatial control", *KINDS):
        assert words in asked.text
    with pytest.raises(ValueError, match="empty"):
        hard_request((b"png",), " ")
