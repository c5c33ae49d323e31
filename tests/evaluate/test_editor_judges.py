"""Judges of editor benchmarks: what is asked, what is read, and that nothing is invented."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.evaluate.editor_judges import (
    HolisticJudge,
    JudgedEdit,
    VerifierEditJudge,
    imgedit_score,
    parse_scores,
    viescore,
)
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Principle, Sample, Unparsed
from edit_r1.verifier import holistic
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.verifier.traces import write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling


def picture(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


PRINCIPLES = (Principle("Is it bright?", "Instruction Following"), Principle("Is it clean?", "Image Quality"))


def edit(level: int, instruction: str = "Make {kind} bright", category: str = "color_alter") -> JudgedEdit:
    return JudgedEdit(
        Task(Sample(f"t{level}", picture(0), instruction, category), principles=PRINCIPLES), picture(level)
    )


class Scripted:
    """Answers by (request, how often that request was asked before)."""

    name = "scripted"
    simulated = True

    def __init__(self, answer: Callable[[Request, int], str | None]) -> None:
        self.answer = answer
        self.asked: list[Request] = []
        self.samplings: list[Sampling] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        rows = []
        for request in requests:
            text = self.answer(request, sum(one == request for one in self.asked))
            self.asked.append(request)
            self.samplings.append(sampling)
            rows.append([Completion("", 0, "error", "gone") if text is None else Completion(text, 5, "stop")] * n)
        return rows


def scores(*values: float) -> str:
    return f'It looks fine.\n{{"scores": [{", ".join(map(str, values))}]}}'


def test_viescore_asks_two_questions_and_takes_the_smaller_scores() -> None:
    vlm = Scripted(lambda request, _: scores(8, 6) if len(request.images) == 2 else scores(7, 9.5))
    judge = HolisticJudge("viescore", vlm)
    (grade,) = judge.grade([edit(200)], retries=2)
    assert grade.parts == {"SC": 6, "PQ": 7, "O": sqrt(42)} and grade.score == sqrt(42)
    assert (grade.unparsed, grade.reason, len(vlm.asked)) == (0, None, 2)
    semantic, quality = vlm.asked
    assert [int(decode_rgb(image)[0, 0, 0]) for image in semantic.images] == [0, 200]
    assert "this instruction:\nMake {kind} bright\n" in semantic.text
    assert len(quality.images) == 1 and "bright" not in quality.text
    assert all(sampling.temperature == 0 for sampling in vlm.samplings)
    assert "not comparable with published numbers" in judge.note


def test_imgedit_asks_once_and_averages() -> None:
    vlm = Scripted(lambda request, _: scores(5, 4, 3))
    (grade,) = HolisticJudge("imgedit", vlm).grade([edit(9)], 0)
    assert grade.parts == {"compliance": 5, "quality": 4, "consistency": 3, "mean": 4} and len(vlm.asked) == 1
    assert "Kind of edit: color alter." in vlm.asked[0].text


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4), st.lists(st.floats(1, 5), min_size=3, max_size=3))
def test_combinations_by_hand(four: list[float], three: list[float]) -> None:
    a, b, c, d = four
    sc, pq = (a if a < b else b), (c if c < d else d)
    assert viescore({"SC": (a, b), "PQ": (c, d)}) == {"SC": sc, "PQ": pq, "O": pytest.approx((sc * pq) ** 0.5)}
    assert imgedit_score({"ImgEdit": tuple(three)})["mean"] == pytest.approx(np.mean(three))


def test_only_what_could_not_be_read_is_asked_again_and_sampled() -> None:
    def answer(request: Request, before: int) -> str:
        return scores(7, 7) if len(request.images) == 2 or before == 2 else "I like it, 9 of 10!"

    vlm = Scripted(answer)
    (grade,) = HolisticJudge("viescore", vlm, seed=5).grade([edit(1)], retries=2)
    assert grade.score == 7 and grade.unparsed == 2
    assert [len(request.images) for request in vlm.asked] == [2, 1, 1, 1]
    assert [sampling.temperature for sampling in vlm.samplings] == [0, 0, 0.7, 0.7]
    assert [sampling.seed for sampling in vlm.samplings] == [5, 5, 6, 7]


def test_what_stays_unreadable_has_no_score_and_costs_no_neighbour() -> None:
    def answer(request: Request, before: int) -> str | None:
        level = int(decode_rgb(request.images[-1])[0, 0, 0])
        return "nothing" if level == 1 else None if level == 2 else scores(10, 10)

    broken = JudgedEdit(edit(4).task, b"no picture")
    grades = HolisticJudge("viescore", Scripted(answer)).grade([edit(1), edit(2), edit(3), broken], retries=1)
    assert [grade.score for grade in grades] == [None, None, 10, None]
    assert [grade.failed_call for grade in grades] == [False, True, False, False]
    assert grades[0].unparsed == 4 and "SC: no scores" in grades[0].reason
    assert set(grades[0].parts.values()) == {None} and "edited image" in grades[3].reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"scores": [8, 6.5]}', (8, 6.5)),
        ("<think>maybe {\"scores\": [1, 1]}</think>\n```json\n{'scores': [8, 6],}\n```", (8, 6)),
        ('{"scores": [8, 6]} and again {"scores": [8, 6]}', (8, 6)),
        ('{"scores": [success, restraint]} {"scores": [3, 4]}', (3, 4)),
        ('{"scores": [8, 6]} or {"scores": [2, 2]}', None),
        ('{"scores": [8]}', None),
        ('{"scores": [8, 6, 7]}', None),
        ('{"scores": [8, 11]}', None),
        ('{"scores": [8, -1]}', None),
        ('{"scores": [8, true]}', None),
        ('{"scores": [8, "6"]}', None),
        ('{"scores": 8}', None),
        ('{"scores": [8, 6], "scores": [1, 1]}', None),
        ("[8, 6]", None),
        ("8/10 and 6/10", None),
        ("", None),
    ],
)
def test_scores_are_read_or_they_are_not(text: str, found: tuple[float, ...] | None) -> None:
    read = parse_scores(text, 2, 0, 10)
    assert read == found if found is not None else isinstance(read, Unparsed) and read.reason
    assert isinstance(parse_scores(text, 2, 0, 10, truncated=True), Unparsed)


junk = st.text(st.sampled_from('{}[]":,scores0123456789.-einf \n<think>/'), max_size=120)


@given(st.one_of(junk, st.text(max_size=80)))
def test_no_text_raises_or_gives_a_number_out_of_range(text: str) -> None:
    read = parse_scores(text, 2, 1, 5)
    assert isinstance(read, Unparsed) or (len(read) == 2 and all(1 <= value <= 5 for value in read))


@given(st.lists(st.floats(0, 10).map(lambda x: round(x, 3)), min_size=2, max_size=2), st.text(max_size=40))
def test_what_was_written_is_what_is_read(values: list[float], before: str) -> None:
    text = before.replace("{", "(").replace("[", "(").replace("<", "(").replace("/", "|").replace("#", "|")
    read = parse_scores(f"{text}\n{json.dumps({'scores': values})}", 2, 0, 10)
    assert read == tuple(values) or isinstance(read, Unparsed)
    assert parse_scores(json.dumps({"scores": values}), 2, 0, 10) == tuple(values)


def test_our_verifier_grades_by_checklist_and_asks_again_when_unread() -> None:
    def answer(request: Request, before: int) -> str | None:
        level = int(decode_rgb(request.images[-1])[0, 0, 0])
        if level == 2:
            return None
        if level == 1 and before < 2:
            return "I cannot say"
        return write_trace(["seen"] * 2, (1, 0), 6.5, "both", "compact", [])

    vlm = Scripted(answer)
    judge = VerifierEditJudge(Verifier(vlm, variant="compact"))
    again, gone, good = judge.grade([edit(1), edit(2), edit(3)], retries=2)
    assert good.parts == {"score": 6.5, "Instruction Following": 10, "Feature Preservation": None, "Image Quality": 0}
    assert again.score == 6.5 and again.unparsed == 2 and not again.failed_call
    assert gone.score is None and gone.failed_call
    (lost,) = VerifierEditJudge(Verifier(Scripted(lambda *_: "?"), variant="compact")).grade([edit(1)], retries=1)
    assert lost.score is None and not lost.failed_call and lost.unparsed == 2
    assert judge.settings["prompts"] == "compact-1"


class OneLost(Scripted):
    """The second answer to every request never comes."""

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        rows = super().generate(requests, sampling, n)
        return [[row[0], Completion("", 0, "error", "gone"), *row[2:]] for row in rows]


def test_a_mean_of_fewer_traces_says_so() -> None:
    trace = write_trace(["seen"] * 2, (1, 0), 6.5, "both", "compact", [])
    judge = VerifierEditJudge(Verifier(OneLost(lambda *_: trace), variant="compact"), traces=3)
    (grade,) = judge.grade([edit(1)], retries=2)
    assert grade.score == 6.5 and grade.failed_call and "no answer came" in str(grade.reason) and grade.unparsed == 0


def test_a_judge_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="holistic ones are"):
        HolisticJudge("verifier", Scripted(lambda *_: ""))


def test_calls_draw_other_random_numbers_and_the_same_call_the_same() -> None:
    trace = write_trace(["seen"] * 2, (1, 0), 6.5, "both", "compact", [])
    vlm = Scripted(lambda *_: trace)
    judge = VerifierEditJudge(Verifier(vlm, variant="compact"), traces=2, seed=7)
    for chunk in ([edit(1), edit(2)], [edit(3), edit(4)], [edit(1), edit(2)]):
        assert [grade.score for grade in judge.grade(chunk, retries=0)] == [6.5, 6.5]
    first, second, again = (vlm.samplings[start].seed for start in (0, 2, 4))
    assert first != second and first == again and judge.grade([], retries=0) == []


def test_viescore_is_the_judge_that_evaluate_reward_measures() -> None:
    """The same questions about the same edit, and the same O."""
    one = edit(200)
    sample = replace(one.task.sample, references=(picture(50),))
    several = JudgedEdit(replace(one.task, sample=sample), one.image)
    vlm = Scripted(lambda request, _: scores(8, 6) if len(request.images) > 1 else scores(7, 9.5))
    here = [grade.score for grade in HolisticJudge("viescore", vlm).grade([one, several], retries=0)]
    asked = list(vlm.asked)
    items = [ScoreItem(each.task.sample.sources, each.image, each.task.sample.instruction) for each in (one, several)]
    there = [judgment.score for judgment in holistic.HolisticJudge(vlm).score_many(items)]
    assert here == there == [sqrt(42)] * 2 and vlm.asked[len(asked) :] == asked
    assert [len(request.images) for request in asked] == [2, 1, 3, 1]
