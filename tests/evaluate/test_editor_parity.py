"""Official numbers of the editor benchmarks against twins that read the judge's raw answers and nothing of ours.

Edits are graded from scripted texts (unreadable ones, answers that never come, retries, several kinds and languages),
and the document is held against a slow count from the papers' definitions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.evaluate.editor_judges import HolisticJudge, JudgedEdit
from edit_r1.evaluate.editor_runs import GradedEdit, MadeEdit
from edit_r1.evaluate.editor_tables import editor_document
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Sample
from edit_r1.vlm.protocol import Completion, Request, Sampling

RETRIES = 1
UNREADABLE = ("I like it.", '{"scores": [11, 2]}', '{"scores": [3]}', '{"scores": [3, 3, 3, 3]}', "")
Answers = tuple[str | None, ...]
"""What comes at each attempt; None for nothing."""
Row = tuple[str, str, Answers, Answers]
"""Kind of edit, language, answers to the first question and to the second one."""


def picture(level: int) -> bytes:
    return encode_png(np.full((8, 8, 3), level, np.uint8))


def written(scores: Sequence[float]) -> str:
    return f"It was looked at.\n{json.dumps({'scores': list(scores)})}"


def attempts(count: int, low: float, high: float) -> st.SearchStrategy[Answers]:
    numbers = st.lists(st.sampled_from([low, 3.5, 4.0, high]), min_size=count, max_size=count).map(written)
    one = st.one_of(numbers, numbers, st.sampled_from(UNREADABLE), st.none())
    return st.lists(one, min_size=RETRIES + 1, max_size=RETRIES + 1).map(tuple)


def rows(count: int, low: float, high: float) -> st.SearchStrategy[list[Row]]:
    answers = attempts(count, low, high)
    kinds, languages = st.sampled_from(["color_alter", "style_change", "ps_human"]), st.sampled_from(["en", "cn"])
    return st.lists(st.tuples(kinds, languages, answers, answers), min_size=1, max_size=6)


class Scripted:
    """Edit n is a picture of level n + 1; a question of one picture is the second one."""

    name = "scripted"
    simulated = True

    def __init__(self, found: Sequence[Row]) -> None:
        self.rows = found
        self.asked: dict[tuple[int, int], int] = defaultdict(int)

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [[self._answer(request)] for request in requests]

    def _answer(self, request: Request) -> Completion:
        place, question = int(decode_rgb(request.images[-1])[0, 0, 0]) - 1, 3 if len(request.images) == 1 else 2
        answer = self.rows[place][question][self.asked[place, question]]  # type: ignore[misc]
        self.asked[place, question] += 1
        return Completion("", 0, "error", "gone") if answer is None else Completion(answer, 9, "stop")


def document_of(kind: str, found: Sequence[Row]) -> dict[str, Any]:
    """What `evaluate editor` prints of these answers."""
    tasks = [Task(Sample(f"t{n}", picture(0), "edit it", row[0]), row[1]) for n, row in enumerate(found)]
    judge = HolisticJudge(kind, Scripted(found))
    grades = judge.grade([JudgedEdit(task, picture(n + 1)) for n, task in enumerate(tasks)], RETRIES)
    graded = [
        # As `grade_edits` has it: what never came is no grade.
        GradedEdit(MadeEdit(task, 0, Path(f"{n}.png")), None if grade.failed_call else grade, grade.reason)
        for n, (task, grade) in enumerate(zip(tasks, grades, strict=True))
    ]
    return editor_document(kind, "r", "painter", judge, graded, RETRIES)


def first_readable(answers: Answers, count: int, low: float, high: float) -> list[float] | None:
    """The first answer that is a JSON object with so many numbers in range on its last line."""
    for answer in answers:
        lines = (answer or "").splitlines() or [""]
        try:
            scores = json.loads(lines[-1])["scores"]
        except (ValueError, TypeError):
            continue
        if len(scores) == count and all(low <= score <= high for score in scores):
            return [float(score) for score in scores]
    return None


def macro(values: list[tuple[str, float]]) -> float | None:
    """The mean of each kind, and the plain mean of these."""
    kinds: dict[str, list[float]] = {}
    for kind, value in values:
        kinds.setdefault(kind, []).append(value)
    means = [sum(own) / len(own) for own in kinds.values()]
    return sum(means) / len(means) if means else None


def near(value: float | None) -> Any:
    return None if value is None else pytest.approx(value)


@settings(max_examples=60, deadline=None)
@given(rows(2, 0, 10))
def test_gedit(found: list[Row]) -> None:
    """SC and PQ the smaller of their two, O = sqrt(SC * PQ) of every edit; means per kind, then over kinds."""
    document = document_of("viescore", found)
    official: dict[str, list[tuple[str, float]]] = {"SC": [], "PQ": [], "O": []}
    languages: dict[str, list[tuple[str, float]]] = {}
    lost = 0
    for kind, language, first, second in found:
        semantic, quality = (first_readable(answers, 2, 0, 10) for answers in (first, second))
        languages.setdefault(language, [])
        if semantic is None or quality is None:
            last = [answers[-1] for answers, read in ((first, semantic), (second, quality)) if read is None]
            lost += all(answer is not None for answer in last)
            continue
        sc, pq = min(semantic), min(quality)
        for name, value in (("SC", sc), ("PQ", pq), ("O", (sc * pq) ** 0.5)):
            official[name].append((kind, value))
        languages[language].append((kind, (sc * pq) ** 0.5))
    assert document["official"] == {name: near(macro(values)) for name, values in official.items()}
    assert (document["scored"], document["unparsed"]) == (len(official["O"]), lost)
    assert document["no_answer"] == len(found) - document["scored"] - lost
    for name, values in languages.items():
        assert document["languages"][name]["official"]["O"] == near(macro(values))
    for name, own in document["categories"].items():
        assert own["official"]["O"] == near(macro([one for one in official["O"] if one[0] == name]))


@settings(max_examples=60, deadline=None)
@given(rows(3, 1, 5))
def test_imgedit(found: list[Row]) -> None:
    """The mean of three scores of 1 to 5 for every edit; means per kind, then over kinds."""
    document = document_of("imgedit", found)
    means = []
    for kind, _, answers, _ in found:
        scores = first_readable(answers, 3, 1, 5)
        if scores is not None:
            means.append((kind, sum(scores) / 3))
    assert document["official"]["mean"] == near(macro(means)) and document["scored"] == len(means)
    low_high = document["official_ci95"]
    assert (low_high is None) == (len(means) < 2)
    if low_high is not None:
        assert 1 <= low_high[0] <= low_high[1] <= 5
