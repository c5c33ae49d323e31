"""Best of N with repair: seeds, rounds, what is judged by what, and when it stops. Text and editor are scripted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edit_r1.editors.protocol import EditedImage
from edit_r1.evaluate.best_of import best_attempt, best_of
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import FEATURE_PRESERVATION, INSTRUCTION_FOLLOWING, Principle, Sample
from edit_r1.verifier.scoring import Verifier
from edit_r1.verifier.traces import write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices

PRINCIPLES = (
    Principle("Is it bright?", INSTRUCTION_FOLLOWING),
    Principle("Is the frame unchanged?", FEATURE_PRESERVATION),
)


def picture(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


SAMPLE = Sample("s", picture(0), "Make it bright", "")


class Judge:
    """Scores by brightness; 200 and more fulfils the first principle; 255 gives no score."""

    name = "judge"
    simulated = True

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.asked += requests
        return [[self._answer(request)] * n for request in requests]

    def _answer(self, request: Request) -> Completion:
        level = int(decode_rgb(request.images[-1])[0, 0, 0])
        text = write_trace(["seen"] * 2, (int(level >= 200), 1), level / 25.5, "both", "compact", [])
        return Completion("I cannot say" if level == 255 else text, 5, "stop")


class Painter:
    """Paints the level that `level` says for (instruction, seed); None fails."""

    name = "painter"
    simulated = True

    def __init__(self, level: Callable[[str, int], int | None]) -> None:
        self.level = level
        self.calls: list[tuple[list[str], list[int]]] = []

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        assert all(sample.source == SAMPLE.source for sample in samples)
        self.calls.append(([sample.instruction for sample in samples], list(seeds)))
        levels = [self.level(sample.instruction, seed) for sample, seed in zip(samples, seeds, strict=True)]
        return [EditedImage(None, "refused") if one is None else EditedImage(picture(one)) for one in levels]


def test_a_repair_asks_with_what_was_missed_and_is_judged_by_what_was_asked_first() -> None:
    judge = Judge()
    painter = Painter(lambda text, seed: 210 if "Missed" in text else 20 + seed)
    attempts = best_of(painter, Verifier(judge, variant="compact"), SAMPLE, 3, 2, PRINCIPLES, seed=5)
    assert [(one.round, one.seed) for one in attempts] == [(0, 5), (0, 6), (0, 7), (1, 8), (1, 9), (1, 10)]
    asked = "Make it bright. Missed before, make it so: Is it bright? Keep as it was: Is the frame unchanged?"
    assert painter.calls == [(["Make it bright"] * 3, [5, 6, 7]), ([asked] * 3, [8, 9, 10])]
    assert {request.text.splitlines()[1] for request in judge.asked} == {"Instruction: Make it bright"}
    best = best_attempt(attempts)
    assert best is not None and (best.round, best.seed) == (1, 8)  # the first of equals


def test_a_repair_has_to_be_better() -> None:
    painter = Painter(lambda text, seed: 50)
    attempts = best_of(painter, Verifier(Judge(), variant="compact"), SAMPLE, 2, 3, PRINCIPLES)
    assert len(attempts) == 8
    assert best_attempt(attempts) is attempts[0]


def test_of_one_score_the_surer_edit_is_the_best() -> None:
    """By the expected score, as `rank` orders; the judge is surer of brighter edits."""

    class Sure(Judge):
        def _answer(self, request: Request) -> Completion:
            level = int(decode_rgb(request.images[-1])[0, 0, 0])
            text = "1 yes\n2 yes\n<score>8.0</score>"
            place = text.index("8")
            choices = [TokenChoices(sign, ((sign, 0.0),)) for sign in text]
            digits = (("8", math.log(level / 255)), ("2", math.log(1 - level / 255)))
            choices[place] = TokenChoices("8", digits)
            return Completion(text, len(text), "stop", choices=tuple(choices))

    painter = Painter(lambda text, seed: (100, 220, 150)[seed])
    attempts = best_of(painter, Verifier(Sure(), variant="compact"), SAMPLE, 3, 0, PRINCIPLES)
    assert [one.score for one in attempts] == [8.0] * 3
    assert best_attempt(attempts) is attempts[1]


def test_it_stops_when_nothing_failed_or_nothing_can_be_said() -> None:
    for level in (230, 255, None):
        painter = Painter(lambda text, seed, level=level: level)
        attempts = best_of(painter, Verifier(Judge(), variant="compact"), SAMPLE, 2, 3, PRINCIPLES)
        assert len(painter.calls) == 1
        assert (best_attempt(attempts) is None) == (level != 230)


def test_a_failed_edit_has_no_judgment_and_costs_no_neighbour() -> None:
    painter = Painter(lambda text, seed: None if seed == 0 else 100)
    first, second = best_of(painter, Verifier(Judge(), variant="compact"), SAMPLE, 2, 0, PRINCIPLES)
    assert (first.image, first.error, first.score, first.judgment) == (None, "refused", None, None)
    assert second.score == pytest.approx(100 / 25.5, abs=0.06)


def test_the_bound_of_the_instruction_is_kept() -> None:
    painter = Painter(lambda text, seed: 50)
    best_of(painter, Verifier(Judge(), variant="compact"), SAMPLE, 1, 1, PRINCIPLES, max_chars=62)
    assert painter.calls[1][0] == ["Make it bright. Missed before, make it so: Is it bright?"]


@pytest.mark.parametrize(("samples", "retry"), [(0, 0), (1, -1)])
def test_counts_have_ranges(samples: int, retry: int) -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        best_of(Painter(lambda text, seed: 1), Verifier(Judge()), SAMPLE, samples, retry, PRINCIPLES)
