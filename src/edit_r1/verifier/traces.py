"""Writing what `parsing` reads: traces, principles and gold lists in both variants.

Judges that are code (EditWorld's) and the preparation of SFT targets write through this module, so
that one grammar exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edit_r1.records import OutputMode, Principle, Trace, Verdict
from edit_r1.verifier.parsing import questions_of
from edit_r1.verifier.prompts import Variant, check_principles, compact_principle

_TAGS = re.compile(r"</?\s*(?:score|think|thinking)\s*>|^\s*\[(?:Follow|Keep|Quality)\]", re.IGNORECASE)


def clean_evidence(evidence: str | None) -> str | None:
    """Evidence on one line without the grammar's own tags; None for nothing ("", "-")."""
    text = evidence or ""
    while (stripped := " ".join(_TAGS.sub(" ", text).split())) != text:
        text = stripped
    return None if text in ("", "-") else text


def write_trace(
    evidence: Sequence[str | None],
    values: Sequence[int],
    score: float,
    mode: OutputMode,
    variant: Variant,
    questions: Sequence[str] | None = None,
) -> str:
    """One trace as the judge's prompt asks for it.

    `evidence` and `values` (0 or 1) are in the order of the principles; `score` is 0 to 10 and is written
    with one decimal. `questions` are needed by the full variant in modes "verify" and "both".
    Raises ValueError for lengths that differ, no principle, a value or a score out of range.
    """
    return _write(evidence, values, score, f"{score:.1f}", mode, variant, questions)


def _write(
    evidence: Sequence[str | None],
    values: Sequence[int],
    score: float,
    score_text: str,
    mode: OutputMode,
    variant: Variant,
    questions: Sequence[str] | None,
) -> str:
    if not values or len(evidence) != len(values):
        raise ValueError(f"{len(evidence)} evidence texts and {len(values)} values: give one of each per principle")
    if any(value not in (0, 1) for value in values):
        raise ValueError(f"values={list(values)}: each verdict is 0 or 1")
    if not 0 <= score <= 10:
        raise ValueError(f"score={score}: a score is 0 to 10")
    seen = [clean_evidence(text) for text in evidence]
    if variant == "compact":
        lines = _compact_lines(seen, values, mode)
    elif mode == "think":
        lines = [f"{number}. {text or '-'}" for number, text in enumerate(seen, start=1)]
    else:
        if questions is None or len(questions) != len(values):
            raise ValueError("a full trace with verdicts repeats the questions: give one question per value")
        lines = [_full_items(seen, values, questions, mode)]
    if mode != "think":
        lines.append(f'{{"average_score": {sum(values) / len(values):.2f}}}')
    return "\n".join([*lines, f"<score>{score_text}</score>"])


def _compact_lines(seen: Sequence[str | None], values: Sequence[int], mode: OutputMode) -> list[str]:
    words = ["yes" if value else "no" for value in values]
    numbered = list(enumerate(zip(seen, words, strict=True), start=1))
    if mode == "verify":
        return [f"{number} {word}" for number, (_, word) in numbered]
    if mode == "think":
        return [f"{number} {text or '-'}" for number, (text, _) in numbered]
    return [f"{number} {text}: {word}" if text else f"{number} {word}" for number, (text, word) in numbered]


def _full_items(seen: Sequence[str | None], values: Sequence[int], questions: Sequence[str], mode: OutputMode) -> str:
    rows: list[dict[str, str | int | None]] = []
    for text, value, question in zip(seen, values, questions, strict=True):
        row: dict[str, str | int | None] = {"question": question}
        if mode == "both":
            row["evidence"] = text
        rows.append({**row, "score": value})
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[{body}]"


def project(trace: Trace, mode: OutputMode, variant: Variant, questions: Sequence[str] | None = None) -> Trace:
    """A trace of mode "both" rewritten in another mode, with the same score and verdicts.

    The full variant takes the questions from the trace's own text when none are given. `tokens` of the
    result is 0 (unknown) unless nothing changed. Raises ValueError for a trace without verdicts.
    """
    if trace.verdicts is None:
        raise ValueError('this trace has no verdicts (output mode "think"): only a trace of mode "both" is projected')
    if mode == "both":
        return trace
    if questions is None and variant == "full":
        questions = questions_of(trace.text)
    one_decimal = f"{trace.score:.1f}"
    text = _write(
        [verdict.evidence for verdict in trace.verdicts],
        [verdict.value for verdict in trace.verdicts],
        trace.score,
        one_decimal if float(one_decimal) == trace.score else str(trace.score),
        mode,
        variant,
        questions,
    )
    if mode == "think":
        return Trace(text, trace.score, None)
    mean = sum(verdict.value for verdict in trace.verdicts) / len(trace.verdicts)
    bare = tuple(Verdict(verdict.value) for verdict in trace.verdicts)
    return Trace(text, trace.score, bare, average_score=float(f"{mean:.2f}"))


def write_principles(principles: Sequence[Principle], variant: Variant) -> str:
    """A decomposer's answer: compact lines "1 [Follow] ...", or a JSON array of {question, category}."""
    checked = check_principles(principles)
    if variant == "compact":
        return "\n".join(compact_principle(number, principle) for number, principle in enumerate(checked, start=1))
    rows = [{"question": principle.question, "category": principle.category} for principle in checked]
    return json.dumps(rows, ensure_ascii=False)


def write_gold(gold: Sequence[Verdict], questions: Sequence[str]) -> str:
    """A verifier VLM's answer: {"gold": [{question, gold, reason}]}. ValueError for lengths that differ."""
    if len(gold) != len(questions):
        raise ValueError(f"{len(gold)} gold verdicts for {len(questions)} principles: give one per principle")
    rows = [
        {"question": question, "gold": verdict.value, "reason": verdict.evidence}
        for question, verdict in zip(questions, gold, strict=True)
    ]
    return json.dumps({"gold": rows}, ensure_ascii=False)
