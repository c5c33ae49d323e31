"""The best of N edits by a verifier, and further attempts with a clearer instruction.

Every attempt is judged by the same principles against the instruction as it was given: what the editor is asked may
change, what it is judged by may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edit_r1.editors.protocol import Editor
from edit_r1.records import Judgment, Principle, Sample
from edit_r1.verifier.judgments import best_first
from edit_r1.verifier.repair import MAX_CHARS, clearer_instruction
from edit_r1.verifier.scoring import ScoreItem, Verifier


@dataclass(frozen=True)
class Attempt:
    """One edit: what was asked, what came, what was said of it."""

    round: int
    """0 for the instruction as given, k after k repairs."""
    seed: int
    instruction: str
    """What the editor was asked."""
    image: bytes | None
    """Encoded; None when the editor failed."""
    error: str | None
    """Why there is no image."""
    judgment: Judgment | None
    """None without an image."""

    @property
    def score(self) -> float | None:
        """0 to 10; None without an image, or when no trace could be parsed."""
        return None if self.judgment is None else self.judgment.score


def best_attempt(attempts: Sequence[Attempt]) -> Attempt | None:
    """The highest score, of equals the highest expected score, else the first: a repair has to be better.

    None when none has a score.
    """
    scored = [attempt for attempt in attempts if attempt.judgment is not None and attempt.score is not None]
    places = best_first([attempt.judgment for attempt in scored if attempt.judgment is not None])
    return scored[places[0]] if scored else None


def best_of(
    editor: Editor,
    verifier: Verifier,
    sample: Sample,
    samples: int,
    retry: int = 0,
    principles: Sequence[Principle] | None = None,
    traces: int = 1,
    seed: int = 0,
    max_chars: int = MAX_CHARS,
) -> tuple[Attempt, ...]:
    """`samples` edits, judged; then up to `retry` rounds of as many, asked with what the best one so far missed.

    Every round edits the source anew, with seeds that no other round has (seed, seed + 1, ...). It ends early when the
    best has no failed principle, when nothing could be judged, or when no clearer instruction can be made.

    Args:
        principles: what all are judged by; None lets the verifier write them, from the source and instruction alone.
        max_chars: longest repaired instruction; what the editor's text encoder reads at most.

    Raises:
        ValueError: for bad input, and `UnparsedPrinciples` as `Verifier.principles`.
    """
    if samples < 1 or retry < 0:
        raise ValueError(f"samples={samples}, retry={retry}: ask for at least 1 sample and 0 or more repairs")
    given = verifier.principles([sample.source], sample.instruction) if principles is None else tuple(principles)
    attempts: list[Attempt] = []
    asked: str | None = sample.instruction
    for number in range(retry + 1):
        if asked is None:
            break
        seeds = range(seed + number * samples, seed + (number + 1) * samples)
        edits = editor.edit([replace(sample, instruction=asked)] * samples, list(seeds))
        made = [
            Attempt(number, one_seed, asked, edit.image, edit.error, None)
            for one_seed, edit in zip(seeds, edits, strict=True)
        ]
        attempts += _judged(made, verifier, sample, given, traces, seed)
        best = best_attempt(attempts)
        if best is None or best.judgment is None:
            break
        asked = clearer_instruction(sample.instruction, best.judgment, max_chars)
    return tuple(attempts)


def _judged(
    attempts: Sequence[Attempt],
    verifier: Verifier,
    sample: Sample,
    principles: Sequence[Principle],
    traces: int,
    seed: int,
) -> list[Attempt]:
    places = [place for place, attempt in enumerate(attempts) if attempt.image is not None]
    items = [
        ScoreItem(sample.sources, image, sample.instruction, tuple(principles))
        for attempt in attempts
        if (image := attempt.image) is not None
    ]
    judged = dict(zip(places, verifier.score_many(items, traces, seed=seed, expected=True), strict=True))
    return [replace(attempt, judgment=judged.get(place)) for place, attempt in enumerate(attempts)]
