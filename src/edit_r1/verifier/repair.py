"""A clearer instruction from a judgment: what an editor missed, said again in words; pure text.

An editor's text encoder reads words rather than logic, and naming what went wrong ("the cup is still red") may ask
for it. So the evidence of a trace stays out, and every point is the question of a principle, put as what must be true.
"""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Judgment, PrincipleResult

MAX_CHARS = 1200
"""Longest repaired instruction: about 300 of the 512 T5 tokens that FLUX.1-Kontext reads."""
PASSED = 0.5
"""Mean verdict, 0 to 1, from which a principle counts as fulfilled."""

_ENDS = ".!?。！？"
_MISSED = "Missed before, make it so:"
_KEPT = "Keep as it was:"
_QUALITY = "Mind the quality:"


def failed_principles(judgment: Judgment) -> tuple[PrincipleResult, ...]:
    """The principles that most traces found unfulfilled, in their order; one without a verdict is not among them."""
    return tuple(one for one in judgment.principles if one.verdict is not None and one.verdict < PASSED)


def clearer_instruction(instruction: str, judgment: Judgment, max_chars: int = MAX_CHARS) -> str | None:
    """The instruction, then what was missed, what must stay as it was and which faults to avoid; one line.

    The original instruction stands first and whole. Points that would pass `max_chars` are left out whole: first the
    preservation points that were fulfilled (they are named, because a new attempt can lose them), then failed points
    from the last. None when nothing failed or no failed point fits.
    """
    failed = failed_principles(judgment)
    kept = [
        one
        for one in judgment.principles
        if one.category == FEATURE_PRESERVATION and one.verdict is not None and one.verdict >= PASSED
    ]
    start = " ".join(instruction.split())
    if start[-1:] not in _ENDS:
        start += "."
    chosen: list[PrincipleResult] = []
    for point in failed:
        if len(_said(start, [*chosen, point])) <= max_chars:
            chosen.append(point)
    if not chosen:
        return None
    for point in kept:
        if len(_said(start, [*chosen, point])) <= max_chars:
            chosen.append(point)
    return _said(start, chosen)


def _said(start: str, points: Sequence[PrincipleResult]) -> str:
    """`start` and the points under the heading of their category."""
    parts = [start]
    headings = {INSTRUCTION_FOLLOWING: _MISSED, FEATURE_PRESERVATION: _KEPT, IMAGE_QUALITY: _QUALITY}
    for category, heading in headings.items():
        questions = [" ".join(point.question.split()) for point in points if point.category == category]
        if questions:
            parts.append(f"{heading} {' '.join(questions)}")
    return " ".join(parts)
