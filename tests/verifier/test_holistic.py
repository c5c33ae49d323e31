"""The holistic baseline: what of an answer is a score, and that nothing else becomes one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.images import encode_png
from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Trace, Unparsed
from edit_r1.verifier.holistic import (
    HOLISTIC_VERSION,
    HolisticJudge,
    consistency_request,
    parse_scores,
    quality_request,
)
from edit_r1.verifier.items import ScoreItem
from edit_r1.vlm.protocol import Completion, Request, Sampling


def picture(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"reasoning": "good", "score": [8, 7.5]}', (8, 7.5)),
        ('```json\n{"reasoning": "the "red" hat, it\'s fine", "score": [10, 0]}\n```', (10, 0)),
        ('<think>maybe [1, 2]</think>{"score": ["9", "8/10"]}', (9, 8)),
        ("{'scores': [3, 4,],}", (3, 4)),
        ('{"reasoning": "never closed, "score": [6, 5]', (6, 5)),
        ("Score: (6, 5)", (6, 5)),
        ('{"score": [3.9215686274509802, 1e0]}', (3.9215686274509802, 1)),
        ("I would say [6, 5].", (6, 5)),
        ('{"score": [6, 5]} and again {"score": [6.0, 5]}', (6, 5)),
        ('{"score": [８, ７]}', (8, 7)),
    ],
)
def test_what_is_read(text: str, scores: tuple[float, float]) -> None:
    assert parse_scores(text) == scores


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty answer"),
        ("It is nice.", "no scores"),
        ("8", "no scores"),
        ('{"score": 8}', "not two numbers"),
        ('{"score": [8]}', "not two numbers"),
        ('{"score": [8, 7, 6]}', "not two numbers"),
        ('{"score": [8, null]}', "not a number from 0 to 10"),
        ('{"score": [8, 11]}', "not a number from 0 to 10"),
        ('{"score": [8, -1]}', "not a number from 0 to 10"),
        ('{"score": [8, "high"]}', "not a number from 0 to 10"),
        ('{"score": [8, 70%]}', "no"),
        ('{"score": [8, 7/5]}', "no"),
        ('{"score": [8, true]}', "not a number from 0 to 10"),
        ('{"score": [8, 7]} or rather {"score": [3, 2]}', "that differ"),
        ('{"score": [8, 7], "score": [1, 1]}', "not two numbers"),
        ("[1, 2] or [3, 4]", "no scores"),
        ("<think>[8, 7]", "never ends"),
    ],
)
def test_what_is_no_score(text: str, said: str) -> None:
    outcome = parse_scores(text)
    assert isinstance(outcome, Unparsed)
    assert said in outcome.reason


def test_a_text_that_was_cut_is_no_answer() -> None:
    assert isinstance(parse_scores('{"score": [8, 7]}', truncated=True), Unparsed)


@given(st.text(alphabet='{}[]",:scoreSCORE0123456789./ \n<think>', max_size=200))
def test_any_text_gives_two_scores_in_range_or_a_reason(text: str) -> None:
    outcome = parse_scores(text)
    if isinstance(outcome, Unparsed):
        assert outcome.reason
    else:
        assert all(0 <= score <= 10 for score in outcome)


def test_the_wording_is_pinned_to_its_version() -> None:
    requests = [consistency_request([b"s"], b"e", "Make it {blue}"), quality_request(b"e")]
    digest = hashlib.sha256("\0".join(request.text for request in requests).encode()).hexdigest()[:12]
    assert (HOLISTIC_VERSION, digest) == ("holistic-1", "7c2c7df1d5bd")
    assert "Make it {blue}" in requests[0].text
    assert requests[0].images == (b"s", b"e") and requests[1].images == (b"e",)
    several = consistency_request([b"s", b"t"], b"e", "Combine them")
    assert several.images == (b"s", b"t", b"e")


class Grader:
    """Answers by the edit's brightness and the number of pictures."""

    name = "grader"
    simulated = True

    def __init__(self, consistency: Sequence[str], quality: Sequence[str]) -> None:
        self.answers = {2: consistency, 1: quality}

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [[self._answer(text) for text in self.answers[len(request.images)][:n]] for request in requests]

    @staticmethod
    def _answer(text: str) -> Completion:
        return Completion(text, 3, "error", "gone") if text == "gone" else Completion(text, 3, "stop")


ITEM = ScoreItem((picture(10),), picture(200), "Make it bright")


def test_overall_is_the_root_of_the_smaller_ones_by_hand() -> None:
    judge = HolisticJudge(Grader(['{"score": [8, 6]}'], ['{"score": [7, 9]}']))
    (judgment,) = judge.score_many([ITEM])
    assert judgment.score == pytest.approx(math.sqrt(6 * 7))
    assert judgment.categories == {
        INSTRUCTION_FOLLOWING: pytest.approx(0.8), FEATURE_PRESERVATION: pytest.approx(0.6),
        IMAGE_QUALITY: pytest.approx(0.7),
    }  # fmt: skip
    assert (judgment.prompts, judgment.principles, judgment.expected_score) == ("holistic-1", (), None)


def test_half_an_answer_is_none() -> None:
    judge = HolisticJudge(Grader(['{"score": [8, 8]}', "?", '{"score": [2, 2]}'], ['{"score": [8, 8]}'] * 2 + ["?"]))
    (judgment,) = judge.score_many([ITEM], traces=3)
    assert (judgment.score, judgment.traces, judgment.unparsed) == (8, 3, 2)
    assert [type(outcome) for outcome in judgment.outcomes] == [Trace, Unparsed, Unparsed]
    assert judgment.outcomes[1].reason.startswith("consistency: ")  # type: ignore[union-attr]
    assert judgment.outcomes[2].reason.startswith("quality: ")  # type: ignore[union-attr]
    (lost,) = HolisticJudge(Grader(["gone"], ['{"score": [8, 8]}'])).score_many([ITEM])
    assert lost.score is None
    assert isinstance(lost.outcomes[0], Unparsed) and lost.outcomes[0].failed_call


def test_a_bad_item_costs_no_neighbour() -> None:
    judge = HolisticJudge(Grader(['{"score": [8, 8]}'], ['{"score": [8, 8]}']))
    bad = ScoreItem((b"nothing",), picture(200), "x")
    first, second = judge.score_many([bad, ITEM])
    assert (first.score, second.score) == (None, 8)
    with pytest.raises(ValueError, match="traces=0"):
        judge.score_many([ITEM], traces=0)
