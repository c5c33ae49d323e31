"""From a model's text to a `Trace`, principles or gold verdicts; or to `Unparsed` with the reason.

Never an exception, and never an invented number. That means: the score is the number that stands, in digits (full-width
ones too), in the last <score> tag outside of thoughts; average_score stands in digits after that key; every verdict is
one of the words below, written by the model for that principle. Both variants are read, told apart by content.

| what models write                                   | what becomes of it |
| --- | --- |
| a text cut at the token limit                       | Unparsed, whatever it holds: its end is not known |
| more than 200,000 characters                        | Unparsed |
| <think>...</think>, <thinking>, also without the    | not the answer: only what stands outside is read |
| opening tag (it stands in the prompt)               | |
| a thought that is never closed                      | Unparsed: what was meant as the answer is not known |
| code fences, markdown bold, LaTeX around tags       | read |
| 8, 8.5, ８.５, **8**, $8$, \\boxed{8}, "8", 8分 in a tag | read |
| 8/10, 8 out of 10                                   | 8; any other denominator is Unparsed: its scale is a guess |
| 4-5, 4,5, 45%, 1e1, -1, 11, N/A in a tag            | Unparsed |
| \\boxed{8}, "score: 8", "8/10" without a tag          | Unparsed: it may be the average, or a draft |
| several tags of one value                           | that value |
| several tags that differ                            | the last one if nothing follows it (drafts), else Unparsed |
| a tag that is not closed after the last good one    | Unparsed |
| JSON in single, curly or full-width quotes, with    | read, see `loose_json`; an object that cannot be read is no |
| trailing commas, comments, Python literals          | verdict, and then the count is wrong |
| verdicts 0/1, 1.0, true/false, yes/no, 是/否, "Yes."  | read |
| "uncertain", "unsure"                               | 0, as the prompt says |
| any other verdict (0.5, 2, null, "partly", "pass")  | Unparsed |
| two verdicts that contradict each other in one object | Unparsed |
| more or fewer verdicts than principles              | Unparsed, also when average_score would allow a guess |
| a question without a verdict among the verdicts     | Unparsed |
| numbered lines beside JSON with verdicts            | a draft: the JSON alone is read, or the text is Unparsed |
| questions left out                                  | the order of the principles |
| questions reordered, word for word                  | each verdict goes to its principle |
| one question renamed                                | it takes the place that is left |
| several renamed, in the principles' order           | read, unless one resembles another principle more than its own |
| renamed and reordered; one answered twice           | Unparsed |
| average_score missing or null                       | None |
| average_score outside 0 to 1 or no number           | Unparsed |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from edit_r1.records import CATEGORIES, OutputMode, Principle, Trace, Unparsed, Verdict
from edit_r1.verifier.answer_text import MAX_TEXT_CHARS, BadAnswer, answer_of, find_average, find_score
from edit_r1.verifier.loose_json import json_values, to_ascii_punctuation
from edit_r1.verifier.prompts import MAX_PRINCIPLES, MAX_QUESTION_CHARS, SHORT_NAMES, check_signs
from edit_r1.verifier.questions import question_words
from edit_r1.vlm.protocol import Completion

__all__ = [
    "CUT",
    "MAX_TEXT_CHARS",
    "NO_ANSWER",
    "parse_completion",
    "parse_gold",
    "parse_principles",
    "parse_trace",
    "parse_written",
    "questions_of",
]

CUT = "cut at the token limit"
"""The reason of an answer that was not let to its end."""
NO_ANSWER = "no answer came"
"""How the reason of a failed call begins."""

_LINE = re.compile(r"\s*+([0-9]{1,3})(?:[.):]\s++|、\s*+|\s++)(?:\[(\w++)\]\s*+)?(\S.*+)?")

_OPENS_ITEM = re.compile(r"\{\s*+[\"']?(?:question|principle|criterion)[\"']?\s*+:")

_WORDS: dict[str, Literal[0, 1]] = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "是"), 1),
    **dict.fromkeys(("0", "0.0", "no", "false", "否", "uncertain", "unsure"), 0),
}
_VERDICT_KEYS = ("score", "verdict", "value", "answer", "result", "gold")
_QUESTION_KEYS = ("question", "principle", "criterion")
_EVIDENCE_KEYS = ("evidence", "reason", "explanation", "reasoning")
_CATEGORY_NAMES: dict[str, str] = {
    **{category.casefold(): category for category in CATEGORIES},
    **{short.casefold(): category for category, short in SHORT_NAMES.items()},
}


def parse_trace(
    text: str,
    principles: Sequence[Principle] | int,
    mode: OutputMode,
    tokens: int = 0,
    truncated: bool = False,
) -> Trace | Unparsed:
    """Phi: the trace in `text`, or why there is none.

    `principles`, or only their number (then the verdicts' order is taken as it stands); `tokens` is the
    text's length and is passed through; `truncated` says that it was cut at the token limit. Score 0 to 10.
    """
    try:
        return _trace(text, principles, mode, tokens, truncated)
    except BadAnswer as bad:
        return Unparsed(text, str(bad), tokens)


def parse_completion(
    completion: Completion, principles: Sequence[Principle] | int, mode: OutputMode
) -> Trace | Unparsed:
    """`parse_trace` of a completion; one that never came is a failed call."""
    if completion.finish == "error":
        reason = f"{NO_ANSWER}: {completion.error or 'unknown error'}"
        return Unparsed(completion.text, reason, completion.tokens, failed_call=True)
    return parse_trace(completion.text, principles, mode, completion.tokens, completion.finish == "length")


def parse_principles(text: str, truncated: bool = False) -> tuple[Principle, ...] | Unparsed:
    """A decomposer's answer: a JSON array of {question, category}, or lines "1 [Follow] ..."."""
    try:
        if truncated:
            raise BadAnswer(CUT)
        return _principles(answer_of(text))
    except BadAnswer as bad:
        return Unparsed(text, str(bad))


def parse_written(completion: Completion) -> tuple[Principle, ...] | Unparsed:
    """`parse_principles` of a completion; one that never came is a failed call."""
    if completion.finish == "error":
        return Unparsed(completion.text, f"{NO_ANSWER}: {completion.error}", failed_call=True)
    return parse_principles(completion.text, truncated=completion.finish == "length")


def parse_gold(
    text: str, principles: Sequence[Principle] | int, truncated: bool = False
) -> tuple[Verdict, ...] | Unparsed:
    """A verifier VLM's gold verdicts with their reasons, in the order of the principles (of the text, for a number)."""
    try:
        if truncated:
            raise BadAnswer(CUT)
        return _verdicts(answer_of(text), principles)
    except BadAnswer as bad:
        return Unparsed(text, str(bad))


def questions_of(text: str) -> tuple[str, ...]:
    """The questions that a full trace repeats, in the order of the text; empty for a compact one."""
    found = (_first_text(item, _QUESTION_KEYS) for item in _items(text))
    return tuple(question for question in found if question is not None)


def _trace(
    text: str, principles: Sequence[Principle] | int, mode: OutputMode, tokens: int, truncated: bool
) -> Trace | Unparsed:
    if truncated:
        raise BadAnswer(CUT)
    answer = answer_of(text)
    score = find_score(answer).value
    if mode == "think":
        return Trace(text, score, None, tokens=tokens)
    return Trace(text, score, _verdicts(answer, principles), find_average(answer), tokens)


def _verdicts(answer: str, principles: Sequence[Principle] | int) -> tuple[Verdict, ...]:
    """One verdict per principle, in their order, from JSON items or from numbered lines."""
    n = principles if isinstance(principles, int) else len(principles)
    items = _items(answer)
    if not items and _OPENS_ITEM.search(to_ascii_punctuation(answer)):
        raise BadAnswer("the verdicts are JSON that cannot be read")  # numbered lines beside it are a draft of it
    if not items:
        lines = _compact_verdicts(answer)
        if _numbers(lines) == list(range(1, n + 1)):
            return tuple(verdict for _, verdict in sorted(lines, key=lambda line: line[0]))
        raise BadAnswer(
            f"verdicts for the principles {_numbers(lines)}, not for 1 to {n}" if lines else "no verdicts in the answer"
        )
    if len(items) != n:
        raise BadAnswer(f"{len(items)} verdicts for {n} principles")
    verdicts = [_item_verdict(item) for item in items]
    if isinstance(principles, int):
        return tuple(verdicts)
    return tuple(verdicts[index] for index in _order([_first_text(item, _QUESTION_KEYS) for item in items], principles))


def _numbers(lines: Sequence[tuple[int, Verdict]]) -> list[int]:
    return sorted(number for number, _ in lines)


def _compact_verdicts(answer: str) -> list[tuple[int, Verdict]]:
    """Lines "1 was red, now blue: yes" or "1 yes" as (number, verdict)."""
    found: list[tuple[int, Verdict]] = []
    for line in answer.splitlines():
        head = _LINE.fullmatch(to_ascii_punctuation(line))
        if head is None or not head[3]:
            continue
        seen, colon, word = head[3].rpartition(":")
        value = _word(word)
        if value is not None:
            evidence = line[head.start(3) : head.start(3) + len(seen)] if colon else ""
            found.append((int(head[1]), Verdict(value, evidence.strip() or None)))
    return found


def _items(answer: str) -> list[dict[str, Any]]:
    """Every JSON object that holds a verdict, in the order of the text."""
    return list(_among(json_values(answer), in_list=False, depth=0))


def _among(siblings: Sequence[Any], in_list: bool, depth: int) -> Iterator[dict[str, Any]]:
    """The verdicts' objects among the values of one list or object, and inside these.

    Where one is a verdict, another that asks a question and holds none is one too: left out, it would leave its
    principle to whatever else stands there. So is a number that is no verdict in a list without questions.
    """
    if depth > 6:  # deeper than any wrapping that models put around the list
        return
    known = [value for value in siblings if isinstance(value, dict) and _holds_verdict(value)]
    unasked = in_list and not any(map(_asks, known))
    for value in siblings:
        if isinstance(value, list):
            yield from _among(value, True, depth + 1)
        elif isinstance(value, dict) and _holds_verdict(value):
            yield value
        elif isinstance(value, dict):
            inside = list(_among(list(value.values()), False, depth + 1))
            yield from inside
            expected = _asks(value) or (unasked and _scalars(value))
            if known and not inside and expected and "average_score" not in value:
                yield value


def _holds_verdict(value: dict[str, Any]) -> bool:
    """With a question whatever stands as the verdict, without one only what is a verdict: other objects have scores."""
    scalars = _scalars(value)
    return bool(scalars) and "average_score" not in value and (_asks(value) or _word(scalars[0]) is not None)


def _asks(value: dict[str, Any]) -> bool:
    return any(key in value for key in _QUESTION_KEYS)


def _scalars(value: dict[str, Any]) -> list[Any]:
    return [value[key] for key in _VERDICT_KEYS if key in value and not isinstance(value[key], list | dict)]


def _word(value: Any) -> Literal[0, 1] | None:
    """0 or 1 for a verdict as models write it; None for anything else."""
    if isinstance(value, str):
        return _WORDS.get(to_ascii_punctuation(value).strip().rstrip(".。").strip("*").rstrip(".。").casefold())
    if isinstance(value, bool | int | float):
        return 1 if value == 1 else 0 if value == 0 else None
    return None


def _item_verdict(item: dict[str, Any]) -> Verdict:
    """The verdict of one JSON object; two keys that contradict each other are an error."""
    written = [item[key] for key in _VERDICT_KEYS if key in item]
    if not written:
        raise BadAnswer(f"a question without a verdict: {(_first_text(item, _QUESTION_KEYS) or '')[:60]!r}")
    values = {_word(value) for value in written}
    value = values.pop()
    if value is None or values:
        raise BadAnswer(f"the verdict {str(written)[:60]} is not 0 or 1")
    return Verdict(value, _first_text(item, _EVIDENCE_KEYS))


def _first_text(item: dict[str, Any], keys: Sequence[str]) -> str | None:
    """The first non-empty text under one of the keys, on one line."""
    for key in keys:
        if isinstance(item.get(key), str) and item[key].strip():
            return " ".join(item[key].split())
    return None


def _order(questions: Sequence[str | None], principles: Sequence[Principle]) -> list[int]:
    """For each principle the index of the item that answers it.

    Word-for-word questions (numbering, case and punctuation apart) find their principle; one that is left
    takes the place that is left; several keep their own places, if all others kept theirs and no paraphrase
    resembles another open principle more than its own.
    """
    item_words = [question_words(question or "") for question in questions]
    principle_words = [question_words(principle.question) for principle in principles]
    item_at: list[int | None] = [None] * len(principles)
    unmatched = []
    for index, words in enumerate(item_words):
        same = [place for place, other in enumerate(principle_words) if other == words and item_at[place] is None]
        if same and words:
            item_at[index if index in same else same[0]] = index
        elif words and words in principle_words:
            raise BadAnswer(f"one principle is answered twice: {questions[index]!r}")
        else:
            unmatched.append(index)
    open_places = [place for place, index in enumerate(item_at) if index is None]
    if len(unmatched) > 1:
        if open_places != unmatched:
            raise BadAnswer("the verdicts' questions are reordered and renamed: which verdict answers which is unclear")
        for index in unmatched:
            likeness = {place: _likeness(item_words[index], principle_words[place]) for place in open_places}
            if max(likeness.values()) > likeness[index]:
                raise BadAnswer(f"question {index + 1} resembles another principle more than its own")
    for place, index in zip(open_places, unmatched, strict=True):
        item_at[place] = index
    return [index for index in item_at if index is not None]


def _likeness(first: Sequence[str], second: Sequence[str]) -> float:
    """Jaccard index of two sets of words, 0 to 1."""
    union = set(first) | set(second)
    return len(set(first) & set(second)) / len(union) if union else 0.0


def _principles(answer: str) -> tuple[Principle, ...]:
    rows = [row for value in json_values(answer) for row in _principle_rows(value)]
    if not rows:
        matches = [_LINE.fullmatch(line) for line in answer.splitlines()]
        rows = [(match[3], match[2]) for match in matches if match and match[2]]
    if not rows:
        raise BadAnswer("no principles in the answer")
    if len(rows) > MAX_PRINCIPLES:
        raise BadAnswer(f"{len(rows)} principles, at most {MAX_PRINCIPLES} are judged at once")
    return tuple(_principle(question, category) for question, category in rows)


def _principle_rows(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """(question, category) of every object that asks something."""
    if isinstance(value, dict):
        asked = [value[key] for key in _QUESTION_KEYS if key in value]
        if asked:
            yield asked[0], value.get("category")
            return
        value = list(value.values())
    if isinstance(value, list) and depth <= 6:
        for inner in value:
            yield from _principle_rows(inner, depth + 1)


def _principle(question: Any, category: Any) -> Principle:
    text = " ".join(question.split()) if isinstance(question, str) else ""
    if not text or len(text) > MAX_QUESTION_CHARS:
        raise BadAnswer(
            f"a question that is empty or longer than {MAX_QUESTION_CHARS} characters: {str(question)[:40]!r}"
        )
    try:
        check_signs("a question", text)
    except ValueError as error:
        raise BadAnswer(f"{error}: {text[:40]!r}") from error
    name = " ".join(category.replace("_", " ").split()).casefold() if isinstance(category, str) else ""
    if name not in _CATEGORY_NAMES:
        raise BadAnswer(f"the category {str(category)[:40]!r} is none of {list(CATEGORIES)}")
    return Principle(text, _CATEGORY_NAMES[name])
