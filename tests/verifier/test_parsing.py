"""Parsing: what real models write is read, nothing is invented, nothing raises."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import (
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Principle,
    Trace,
    Unparsed,
    Verdict,
)
from edit_r1.verifier.parsing import (
    MAX_TEXT_CHARS,
    parse_completion,
    parse_gold,
    parse_principles,
    parse_trace,
    questions_of,
)
from edit_r1.verifier.traces import clean_evidence, project, write_gold, write_principles, write_trace
from edit_r1.vlm.protocol import Completion

PRINCIPLES = (
    Principle("Is the shirt red?", INSTRUCTION_FOLLOWING),
    Principle("Is the hat still black?", FEATURE_PRESERVATION),
    Principle("Is the picture sharp?", IMAGE_QUALITY),
)
QUESTIONS = [principle.question for principle in PRINCIPLES]
FULL = write_trace(["red all over", "the hat is red too", None], [1, 0, 1], 4.5, "both", "full", QUESTIONS)
COMPACT = write_trace(["was white, now red", "was black, now red", None], [1, 0, 1], 4.5, "both", "compact")


def values(outcome: Trace | Unparsed) -> list[int]:
    assert isinstance(outcome, Trace), outcome
    assert outcome.verdicts is not None
    return [verdict.value for verdict in outcome.verdicts]


def items(*rows: dict, score: str = "<score>4.5</score>") -> str:
    return json.dumps(list(rows)) + '\n{"average_score": 0.67}\n' + score


def rows_of(*answers: object, key: str = "score") -> list[dict]:
    return [{"question": question, key: answer} for question, answer in zip(QUESTIONS, answers, strict=True)]


@pytest.mark.parametrize("text", [FULL, COMPACT])
def test_a_trace_as_asked_for(text: str) -> None:
    trace = parse_trace(text, PRINCIPLES, "both", tokens=7)
    assert isinstance(trace, Trace)
    assert values(trace) == [1, 0, 1]
    assert (trace.score, trace.average_score, trace.tokens, trace.text) == (4.5, 0.67, 7, text)
    assert trace.verdicts is not None
    assert trace.verdicts[2].evidence is None
    assert parse_trace(text, 3, "both", tokens=7) == trace


def test_the_compact_example_of_the_brief() -> None:
    text = (
        "1 was large solid red circle top left, now large solid blue circle top left: yes\n"
        '2 was plain grey, now plain grey: no\n{"average_score": 0.50}\n<score>4.5</score>'
    )
    trace = parse_trace(text, 2, "both")
    assert isinstance(trace, Trace)
    assert trace.verdicts == (
        Verdict(1, "was large solid red circle top left, now large solid blue circle top left"),
        Verdict(0, "was plain grey, now plain grey"),
    )
    assert (trace.score, trace.average_score) == (4.5, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{FULL}\n```",
        FULL.replace("]\n", "]\n```\n").replace("[{", "Here is my judgment:\n```json\n[{"),
        FULL.replace("},\n", "},\n\n").replace("}]", "},]"),
        re.sub(r'"', "'", FULL.replace("null", "None")),
        FULL.replace('"', "”").replace(":", "：").replace(",", "，"),
        items(*rows_of(True, False, True)),
        items(*rows_of("yes", "No.", "Yes")),
        items(*rows_of(1.0, "0", "1")),
        items(*rows_of(1, "uncertain", 1, key="verdict")),
        "\n".join(json.dumps(row) for row in rows_of(1, 0, 1)) + "\n<score>4.5</score>",
        json.dumps({"verdicts": rows_of(1, 0, 1), "average_score": 0.67}) + "<score>4.5</score>",
        "<think>It may deserve <score>9</score>, no.</think>\n" + FULL,
        "It may deserve <score>9</score>, no.</think>\n" + FULL,
        "The shirt spans [0.1, 0.2, 0.5, 0.9] and the hat [0, 0, 1].\n" + FULL,
        "1. Is the shirt red? It is: yes\n2. the hat: no\nSo:\n" + FULL,
        FULL.replace("<score>4.5</score>", "＜score＞４.５＜/score＞"),
        FULL.replace("4.5", "4.5/10"),
        FULL.replace("4.5", " 4.50 / 10 "),
        FULL.replace("4.5", "**4.5**"),
        FULL.replace("<score>", "<Score>").replace("</score>", "</SCORE>"),
        "A draft: <score>9</score>\n" + FULL,
        FULL + "\n<score>4.5</score>\nThat is my score.",
        FULL + "<|im_end|>",
        items(*(rows_of(1, 0, 1)[index] for index in (2, 0, 1))),
        COMPACT.replace("1 was", "1. [Follow] was").replace("3 yes", "3) Yes."),
        COMPACT.replace(": yes", "：是").replace(": no", "：否"),
        "\n".join([COMPACT.splitlines()[index] for index in (1, 0, 2, 3, 4)]),
        "Let me see.\n" + COMPACT,
    ],
)
def test_what_real_models_write_is_read(text: str) -> None:
    trace = parse_trace(text, PRINCIPLES, "both")
    assert values(trace) == [1, 0, 1]
    assert isinstance(trace, Trace)
    assert trace.score == 4.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("The edit is fine, 8 out of 10.", "no <score>"),
        (FULL.replace("</score>", ""), "not closed"),
        (FULL + "\n<score>", "not closed"),
        (FULL.replace("4.5", "11"), "outside"),
        (FULL.replace("4.5", "-1"), "not a number"),
        (FULL.replace("4.5", "4.5/5"), "not a number"),
        (FULL.replace("4.5", "45%"), "not a number"),
        (FULL.replace("4.5", "4-5"), "not a number"),
        (FULL.replace("4.5", "4,5"), "not a number"),
        (FULL.replace("4.5", "N/A"), "not a number"),
        (FULL.replace("4.5", "nan"), "not a number"),
        (FULL.replace("4.5", "1e1"), "not a number"),
        (FULL.replace("4.5", "½"), "not a number"),
        (FULL + " or rather <score>5</score> I think", "differ"),
        ("<think>" + FULL, "never ends"),
        ("<score>4.5</score>", "no verdicts"),
        (items(*rows_of(1, 0, 1)[:2]), "2 verdicts for 3"),
        (items(*rows_of(1, 0, 1), *rows_of(1, 0, 0)), "6 verdicts for 3"),
        (items(*rows_of(1, 0.5, 1)), "not 0 or 1"),
        (items(*rows_of(1, None, 1)), "not 0 or 1"),
        (items(*rows_of(1, 2, 1)), "not 0 or 1"),
        (items({**rows_of(1, 0, 1)[0], "verdict": 0}, *rows_of(1, 0, 1)[1:]), "not 0 or 1"),
        (FULL.replace("0.67", "6.7"), "average_score"),
        (FULL.replace("0.67", "high"), "average_score"),
        (COMPACT.replace("3 yes", "2 yes"), r"\[1, 2, 2\], not for 1 to 3"),
        (COMPACT.replace("3 yes\n", ""), "not for 1 to 3"),
        (COMPACT.replace("3 yes", "3 yes\n4 yes"), "not for 1 to 3"),
        ("x" * (MAX_TEXT_CHARS + 1), "characters"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, reason: str) -> None:
    outcome = parse_trace(text, PRINCIPLES, "both", tokens=3)
    assert isinstance(outcome, Unparsed)
    assert re.search(reason, outcome.reason), outcome.reason
    assert (outcome.text, outcome.tokens, outcome.failed_call) == (text, 3, False)


def test_a_truncated_text_is_never_a_score() -> None:
    for mode in ("think", "verify", "both"):
        assert isinstance(parse_trace(FULL, PRINCIPLES, mode, truncated=True), Unparsed)
    assert isinstance(parse_principles(write_principles(PRINCIPLES, "full"), truncated=True), Unparsed)
    assert isinstance(parse_gold("1 yes", 1, truncated=True), Unparsed)


def test_completions() -> None:
    assert isinstance(parse_completion(Completion(FULL, 9, "stop"), PRINCIPLES, "both"), Trace)
    cut = parse_completion(Completion(FULL, 9, "length"), PRINCIPLES, "both")
    assert isinstance(cut, Unparsed)
    assert (cut.failed_call, cut.tokens) == (False, 9)
    lost = parse_completion(Completion("", 0, "error", "time-out"), PRINCIPLES, "both")
    assert isinstance(lost, Unparsed)
    assert lost.failed_call
    assert "time-out" in lost.reason


def test_renamed_questions_are_taken_only_when_unambiguous() -> None:
    def with_questions(*questions: str) -> str:
        return items(*({"question": q, "score": s} for q, s in zip(questions, (1, 0, 1), strict=True)))

    numbered = with_questions("1. is the shirt red", "[Keep] Hat black?", "Sharp?")
    assert values(parse_trace(numbered, PRINCIPLES, "both")) == [1, 0, 1]
    # One renamed question takes the place that is left, wherever it stands.
    moved = parse_trace(with_questions("Does the hat keep its colour?", QUESTIONS[0], QUESTIONS[2]), PRINCIPLES, "both")
    assert values(moved) == [0, 1, 1]
    for unclear in (
        ("Sharpness fine?", QUESTIONS[0], "Hat unchanged?"),  # reordered and renamed
        ("Is the hat black?", "Is the shirt quite red?", QUESTIONS[2]),  # paraphrases in the wrong order
        (QUESTIONS[0], QUESTIONS[0], QUESTIONS[0]),  # one principle answered three times
    ):
        assert isinstance(parse_trace(with_questions(*unclear), PRINCIPLES, "both"), Unparsed)


def test_doubled_principles_keep_their_order() -> None:
    doubled = (PRINCIPLES[0], PRINCIPLES[0], PRINCIPLES[1])
    text = items(*({"question": p.question, "score": s} for p, s in zip(doubled, (1, 0, 1), strict=True)))
    assert values(parse_trace(text, doubled, "both")) == [1, 0, 1]


def test_think_mode_needs_the_score_alone() -> None:
    for text in ("It is good. <score>8</score>", FULL.replace("4.5", "8"), "1 was a, now b\n<score>8.0</score>"):
        trace = parse_trace(text, PRINCIPLES, "think")
        assert isinstance(trace, Trace)
        assert (trace.score, trace.verdicts, trace.average_score) == (8.0, None, None)


def test_a_missing_average_is_none() -> None:
    trace = parse_trace(re.sub(r"\{\"average_score.*", "", COMPACT), PRINCIPLES, "both")
    assert isinstance(trace, Trace)
    assert trace.average_score is None


def test_principles_both_variants() -> None:
    for variant in ("full", "compact"):
        assert parse_principles(write_principles(PRINCIPLES, variant)) == PRINCIPLES
    assert parse_principles('```json\n[{"question": "Is it red?", "category": "instruction_following"},]\n```') == (
        Principle("Is it red?", INSTRUCTION_FOLLOWING),
    )
    assert parse_principles('{"principles": [{"question": "Same?", "category": "Keep"}]}') == (
        Principle("Same?", FEATURE_PRESERVATION),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        '[{"question": "", "category": "Keep"}]',
        '[{"question": "Is it red?", "category": "Beauty"}]',
        '[{"question": "Is it red?"}]',
        '[{"question": 3, "category": "Keep"}]',
        json.dumps([{"question": "Is it red?", "category": "Keep"}] * 33),
        "1 [Beauty] Is it red?",
        "1 [Keep]",
    ],
)
def test_bad_principles(text: str) -> None:
    assert isinstance(parse_principles(text), Unparsed)


def test_gold() -> None:
    gold = (Verdict(1, "it is red"), Verdict(0, "red too"), Verdict(1))
    assert parse_gold(write_gold(gold, QUESTIONS), PRINCIPLES) == gold
    assert parse_gold(write_gold(gold, QUESTIONS), 3) == gold
    assert isinstance(parse_gold(write_gold(gold, QUESTIONS), 4), Unparsed)
    assert parse_gold("1 seen: yes\n2 no", 2) == (Verdict(1, "seen"), Verdict(0))
    with pytest.raises(ValueError, match="3 gold verdicts for 2"):
        write_gold(gold, QUESTIONS[:2])


def test_questions_of_a_full_trace() -> None:
    assert list(questions_of(FULL)) == QUESTIONS
    assert questions_of(COMPACT) == ()


evidence_texts = st.one_of(st.none(), st.text(max_size=40))
score_values = st.integers(0, 100).map(lambda tenths: tenths / 10)


@given(
    points=st.lists(st.tuples(evidence_texts, st.integers(0, 1)), min_size=1, max_size=12),
    score=score_values,
    mode=st.sampled_from(["think", "verify", "both"]),
    variant=st.sampled_from(["full", "compact"]),
)
def test_round_trip(points: list[tuple[str | None, int]], score: float, mode: str, variant: str) -> None:
    seen, wanted = [text for text, _ in points], [value for _, value in points]
    questions = [f"Is point {number} fulfilled?" for number in range(len(points))]
    text = write_trace(seen, wanted, score, mode, variant, questions)
    trace = parse_trace(text, [Principle(question, IMAGE_QUALITY) for question in questions], mode)
    assert isinstance(trace, Trace), trace
    assert trace.score == score
    if mode == "think":
        assert trace.verdicts is None
        return
    assert values(trace) == wanted
    assert trace.average_score == float(f"{sum(wanted) / len(wanted):.2f}")
    if mode == "both":
        assert trace.verdicts is not None
        assert [verdict.evidence for verdict in trace.verdicts] == [clean_evidence(text) for text in seen]
        for other in ("think", "verify"):
            shorter = project(trace, other, variant, questions)
            parsed = parse_trace(shorter.text, len(points), other)
            assert parsed == shorter
            assert shorter.score == score


@st.composite
def mutated_traces(draw: st.DrawFn) -> str:
    """A good trace with a few cuts, repeats and insertions."""
    text = draw(st.sampled_from([FULL, COMPACT, f"```json\n{FULL}\n```", "<think>hm</think>" + COMPACT]))
    pieces = [
        "<score>",
        "</score>",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        ",",
        "1",
        "9",
        "yes",
        "\n",
        "：",
        "</think>",
        "/10",
        ".",
    ]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.just(""), st.sampled_from(pieces), st.just(text[start:end] * 2), st.text(max_size=3)))
        text = text[:start] + piece + text[end:]
    return text


@given(text=st.one_of(mutated_traces(), st.text(max_size=200)), mode=st.sampled_from(["think", "verify", "both"]))
def test_no_exception_and_no_invented_number(text: str, mode: str) -> None:
    for principles in (PRINCIPLES, 3):
        outcome = parse_trace(text, principles, mode)
        if isinstance(outcome, Unparsed):
            assert outcome.reason
            continue
        assert 0 <= outcome.score <= 10
        written = re.findall(
            r"[0-9]+(?:\.[0-9]+)?", text.translate(str.maketrans("０１２３４５６７８９．", "0123456789."))
        )
        assert outcome.score in map(float, written)
        if mode != "think":
            assert len(values(outcome)) == 3
            assert outcome.average_score is None or outcome.average_score in map(float, written)


@given(text=st.one_of(mutated_traces(), st.text(max_size=200)))
def test_other_parsers_never_raise(text: str) -> None:
    for result in (parse_principles(text), parse_gold(text, 3), parse_gold(text, PRINCIPLES)):
        assert isinstance(result, Unparsed) or len(result) > 0


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{'a':" * 20_000, "[" * 900 + "]" * 900, '{"score": ' + "1" * 5000 + "}"]
)
def test_hostile_brackets_neither_raise_nor_hang(text: str) -> None:
    assert isinstance(parse_trace(text + "<score>5</score>", PRINCIPLES, "both"), Unparsed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 5.0), "0 evidence texts"),
        ((["a"], [1, 0], 5.0), "1 evidence texts and 2 values"),
        ((["a"], [2], 5.0), "each verdict is 0 or 1"),
        ((["a"], [1], 10.5), "score=10.5"),
        ((["a"], [1], float("nan")), "score=nan"),
    ],
)
def test_write_trace_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        write_trace(*arguments, "both", "compact")


def test_a_full_trace_with_verdicts_needs_questions() -> None:
    with pytest.raises(ValueError, match="one question per value"):
        write_trace(["a"], [1], 5.0, "both", "full")


def test_project_keeps_an_uneven_score_and_takes_questions_from_the_text() -> None:
    trace = parse_trace(FULL.replace("4.5", "4.25"), PRINCIPLES, "both")
    assert isinstance(trace, Trace)
    shorter = project(trace, "verify", "full")
    assert shorter.score == 4.25
    assert parse_trace(shorter.text, PRINCIPLES, "verify") == shorter
    assert project(trace, "both", "full") is trace
    with pytest.raises(ValueError, match="no verdicts"):
        project(Trace("<score>1</score>", 1.0, None), "verify", "full")
