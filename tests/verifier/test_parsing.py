"""Parsing: what real models write is read, nothing is invented, nothing raises."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

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
from edit_r1.verifier.answer_text import answer_of, find_score
from edit_r1.verifier.loose_json import AMBIGUOUS, _Reader, json_values
from edit_r1.verifier.parsing import (
    MAX_TEXT_CHARS,
    parse_completion,
    parse_gold,
    parse_principles,
    parse_trace,
    questions_of,
)
from edit_r1.verifier.prompts import check_principles
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
        FULL.replace("},\n", "}, // seen in both pictures\n").replace("[{", "[  # my verdicts\n{"),
        FULL.replace("},\n", "} /* next */,\n"),
        FULL.replace("},\n", "}\n"),
        FULL.replace('"score"', "score").replace('"question"', "question"),
        FULL.replace("the hat is red too", 'the sign says "RED" and it\'s red').replace('\\"', '"'),
        FULL.replace("the hat is red too", "the hat\nis red too"),
        FULL.replace("the hat is red too", "about \\(50\\%\\) red"),
        FULL.replace('"question"', "“question”").replace('"score"', "score"),
        re.sub(r'"([^"\n]*)"', "‘\\1’", FULL),
        FULL.replace('"score": 1', '"score": True').replace('"score": 0', '"score": False').replace("null", "None"),
        FULL.replace('"score": 1', '"score": "**Yes**"').replace('"score": 0', '"score": no'),
        FULL.replace("<score>4.5</score>", "**<score>4.5</score>**"),
        FULL.replace("4.5", "\\boxed{4.5}"),
        FULL.replace("4.5", "$\\boxed{4.5/10}$"),
        FULL.replace("4.5", "\\(4.5\\)"),
        FULL.replace("4.5", "4.5分"),
        FULL.replace("4.5", '"4.5".'),
        FULL.replace("<score>4.5</score>", "\\boxed{<score>4.5</score>}"),
        "A draft: <score>9</score>\n" + FULL.replace("<score>4.5</score>", "**<score>4.5</score>**\n```"),
        "<think>first</think>\n" + FULL.replace('{"average', '<think>second: <score>9</score></think>{"average'),
        "<thinking>\n[{'question': 'x', 'score': 0}]</thinking>" + FULL,
        "<think>a <think>nested</think> thought</think>" + FULL,
        FULL + "\n<score> 4.50 </score> stands.",
        # A plan that only lists what will be asked, and a final score as JSON, are no verdicts.
        json.dumps([{"question": question, "category": "Follow"} for question in QUESTIONS]) + "\n" + FULL,
        items(*rows_of(1, 0, 1), {"average_score": 0.67}, {"score": 4.5}),
        json.dumps([{"question": one["question"], "judgment": {"score": one["score"]}} for one in rows_of(1, 0, 1)])
        + "<score>4.5</score>",
        json.dumps([{"score": 1}, {"score": 0}, {"score": 1}]) + '\n{"score": 4.5}\n<score>4.5</score>',
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
        (FULL.replace("4.5", "4.5" + " " * 100), "not a number"),
        (FULL.replace("<score>4.5</score>", "\\\\boxed{4.5}"), "no <score>"),
        (FULL.replace("<score>4.5</score>", "Score: 4.5/10"), "no <score>"),
        (FULL + "\n<score>5</score> or <score>4.5</score>, I think", "differ"),
        ("<think>one</think>" + FULL + "<think>", "never ends"),
        (FULL.replace('"score": 0', '"score": 0, "score": 1'), "two values for one key"),
        (items(*rows_of(1, "partly", 1)), "not 0 or 1"),
        (items(*rows_of(1, "pass", 1)), "not 0 or 1"),
        (items(*rows_of(1, [0], 1)), "not 0 or 1"),
        # What stands in the place of a verdict may not be passed over, and its place be taken by something else.
        (items(*rows_of(1, 0, 1)[:2], {"question": QUESTIONS[2]}, {"question": "Overall?", "score": 1}), "4 verdicts"),
        (items(*rows_of(1, 0, 1)[:2], {"question": QUESTIONS[2]}), "without a verdict: 'Is the picture sharp"),
        (
            json.dumps(
                {"1": rows_of(1, 0, 1)[0], "2": {"question": "?"}, "3": rows_of(1, 0, 1)[1], "4": rows_of(1, 0, 1)[2]}
            )
            + "<score>4</score>",
            "4 verdicts",
        ),
        (items({"score": 1}, {"score": 0.5}, {"score": 0}, {"score": 1}), "4 verdicts for 3"),
        (
            "\n".join(json.dumps(row) for row in [*rows_of(1, 0, 1), {"question": "?"}]) + "<score>4</score>",
            "4 verdicts",
        ),
        # Numbered lines before JSON are a draft of it.
        ("1. the shirt: yes\n2. the hat: yes\n3. sharp: yes\n" + items(*rows_of(1, 0, 1)[:2]), "2 verdicts for 3"),
        ("1. the shirt: yes\n2. the hat: yes\n3. sharp: yes\n" + FULL.replace("}]", ""), "2 verdicts for 3"),
        ("1. the shirt: yes\n2. the hat: yes\n3. sharp: yes\n" + FULL.replace("}", ";"), "cannot be read"),
        ("[1, 0, 1]\n<score>4.5</score>", "no verdicts"),
        (FULL[: len(FULL) // 2], "no <score>"),
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
        '[{"question": "Is it \\u0000 red?", "category": "Keep"}]',
        "1 [Keep] Is it \x00 red?",
    ],
)
def test_bad_principles(text: str) -> None:
    assert isinstance(parse_principles(text), Unparsed)


@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["Keep", "follow", "Beauty"])), max_size=4))
def test_principles_that_are_read_can_be_asked_about(rows: list[tuple[str, str]]) -> None:
    """What a prompt does not take must not be stored as a context: every later step would end on it."""
    text = json.dumps([{"question": question, "category": category} for question, category in rows])
    found = parse_principles(text)
    assert isinstance(found, Unparsed) or check_principles(found) == found


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


ASCII = str.maketrans("０１２３４５６７８９．＜＞／：，", "0123456789.<>/:,")
DRESSES = {
    "fence": lambda text: f"```json\n{text}\n```",
    "trailing comma": lambda text: text.replace("}]", "},]"),
    "comment": lambda text: text.replace("},\n", "}, // as seen\n"),
    "no comma": lambda text: text.replace("},\n", "}\n"),
    "python": lambda text: text.replace("null", "None"),
    "single quotes": lambda text: text.replace('"', "'"),
    "curly quotes": lambda text: re.sub(r'"([^"\n]*)"', "“\\1”", text),
    "full width": lambda text: text.replace(":", "：").replace(",", "，"),
    "bold": lambda text: text.replace("<score>", "**<score>").replace("</score>", "</score>**"),
    "boxed": lambda text: text.replace("<score>4.5", "<score>\\boxed{4.5}"),
    "out of ten": lambda text: text.replace("4.5</", "4.5/10</"),
    "thought": lambda text: f"<think>maybe <score>9</score></think>{text}",
    "end of a thought": lambda text: f"maybe <score>9</score></think>{text}",
    "draft": lambda text: f"<score>9</score>\n{text}",
    "end token": lambda text: f"{text}<|im_end|>",
}


@given(
    text=st.sampled_from([FULL, COMPACT]),
    names=st.lists(st.sampled_from(sorted(DRESSES)), min_size=1, max_size=5, unique=True),
    mode=st.sampled_from(["think", "verify", "both"]),
)
def test_any_mix_of_dresses_gives_the_original_or_nothing(text: str, names: list[str], mode: str) -> None:
    for name in names:
        text = DRESSES[name](text)
    for principles in (PRINCIPLES, 3):
        outcome = parse_trace(text, principles, mode)
        if isinstance(outcome, Trace):
            assert outcome.score == 4.5
            assert mode == "think" or (values(outcome), outcome.average_score) == ([1, 0, 1], 0.67)
        else:
            # Only what the table refuses: a fence or a bold mark glued into another dress's place.
            assert len(names) > 1, outcome.reason


@given(text=st.one_of(mutated_traces(), st.text(max_size=200)), mode=st.sampled_from(["think", "verify", "both"]))
def test_no_exception_and_no_invented_number(text: str, mode: str) -> None:
    plain = text.translate(ASCII).casefold()
    for principles in (PRINCIPLES, 3):
        outcome = parse_trace(text, principles, mode)
        if isinstance(outcome, Unparsed):
            assert outcome.reason
            continue
        assert 0 <= outcome.score <= 10
        # The first number after the last opening tag, read again in the plainest way.
        inside = plain[plain.rindex("<score>") + len("<score>") :].split("<")[0]
        assert outcome.score == float(re.findall(r"[0-9]+(?:\.[0-9]+)?", inside)[0])
        where = find_score(answer_of(text))
        written = text.translate(ASCII)  # without casefold, which makes some signs two
        assert float(written[where.start : where.end]) == where.value == outcome.score
        if mode == "think":
            continue
        assert len(values(outcome)) == 3
        assert values(outcome).count(1) <= len(re.findall("1|yes|true|是", plain))
        assert values(outcome).count(0) <= len(re.findall("0|no|false|否|uncertain|unsure", plain))
        if outcome.average_score is not None:
            after = plain.rindex("average_score")
            assert outcome.average_score == float(re.findall(r"[0-9]+(?:\.[0-9]+)?", plain[after:])[0])


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(value=st.one_of(st.lists(json_like, max_size=4), st.dictionaries(st.text(), json_like, max_size=4)))
def test_strict_json_is_read_as_json(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=1)):
        assert json_values(f"Here: {text} and so on") == [json.loads(text)]


@given(value=st.lists(st.dictionaries(st.text(max_size=8), st.one_of(st.booleans(), st.none(), st.text(max_size=12)))))
def test_python_literals_are_read_as_python(value: object) -> None:
    text = repr(value)
    if "\\x" not in text and "\\U" not in text:  # Python's escapes of single bytes are not read
        assert json_values(f"```python\n{text}\n```") == [value]


def test_two_values_for_one_key_are_neither() -> None:
    assert json_values('{"a": 1, "b": 2, "a": 1}') == [{"a": 1, "b": 2}]
    assert json_values("[0.0003412672423256761]") == [[0.0003412672423256761]]  # 19 decimals, as a program writes it
    assert json_values('{"a": 1, "a": 0}') == [{"a": AMBIGUOUS}]
    assert json_values('{"a": 1, "a": true}') == [{"a": AMBIGUOUS}]
    assert json_values("[1, 2,, 3] [4") == []
    assert json_values('{"a": "\\ud83d\\ude00 \\ud83d"}') == [{"a": "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"}]


@given(text=st.one_of(mutated_traces(), st.text(max_size=200)))
def test_other_parsers_never_raise(text: str) -> None:
    for result in (parse_principles(text), parse_gold(text, 3), parse_gold(text, PRINCIPLES)):
        assert isinstance(result, Unparsed) or len(result) > 0


# Each would take hours where a pattern or a loop has two ways to read the same characters.
HOSTILE = [
    *("[", "{'a':", '["', "<think>", "</think>", "< ", "[/*", '["#', '"[', '["\\', "[[1,2],", "'\" ", '{"score": 1, '),
    *("<score>8" + " " * 40 + "x</score>", "average_score ", "1 a: yes\n", "1 : ", "1", "*", "\n", "<score>"),
    *("1 a" + " " * 190_000 + "b\n", "1 yes" + " " * 190_000 + "b\n", "<" + " " * 190_000, "[/*" + "* " * 95_000),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", HOSTILE, ids=lambda unit: repr(unit[:12]))
def test_hostile_text_neither_raises_nor_hangs(unit: str) -> None:
    end = "<score>5</score>"
    text = unit * ((MAX_TEXT_CHARS - len(end)) // len(unit)) + end
    for outcome in (parse_trace(text, PRINCIPLES, "both"), parse_principles(text), parse_gold(text, PRINCIPLES)):
        assert isinstance(outcome, Unparsed)
    megabyte = unit * (1 + 1_000_000 // len(unit))
    refused = parse_trace(megabyte, PRINCIPLES, "both")
    assert isinstance(refused, Unparsed) and "are read" in refused.reason


def test_brackets_that_open_nothing_cost_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Counter[str]()
    for name in ("value", "_quoted", "_bare"):
        original = getattr(_Reader, name)

        def counted(reader: _Reader, *depth: int, name: str = name, original: Callable = original) -> object:
            steps[name] += 1
            return original(reader, *depth)

        monkeypatch.setattr(_Reader, name, counted)
    for text in ("[" * 200_000, "[1," * 66_000, '["a",' * 40_000, '{"a":' * 40_000, "[[1]," * 40_000):
        steps.clear()
        json_values(text)
        assert sum(steps.values()) <= 3 * 200_000


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
