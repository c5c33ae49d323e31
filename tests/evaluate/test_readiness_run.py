"""Readiness measured end to end with a judge whose scores are known: what is asked, kept, probed and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edit_r1.evaluate import probes
from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.evaluate.editor_runs import MadeEdit
from edit_r1.evaluate.readiness import best_of_g_lift, near_pair_accuracy, rank_correlation
from edit_r1.evaluate.readiness_run import (
    GOOD,
    REPEATS,
    Groups,
    JudgeAsked,
    JudgmentStore,
    judge_groups,
    judged_as,
    measure,
    numbers,
    probe_edits,
    trace_rewards,
)
from edit_r1.evaluate.readiness_verdict import ReadinessThresholds, verdict
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Judgment, Principle, Sample
from edit_r1.verifier.head_judge import HeadJudge
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.verifier.traces import write_trace
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.protocol import Completion, Request, Sampling

KINDS = ("colour", "style")


def picture(level: int) -> bytes:
    return encode_png(np.full((32, 32, 3), level, np.uint8))


def task(n: int) -> Task:
    principles = (Principle(f"Is it like {n}?", "Instruction Following"),)
    return Task(Sample(f"s{n}", picture(n), f"Make it like {n}", KINDS[n % 2]), principles=principles)


class Judge:
    """Scores a tenth of the mean level over 20, plus noise by the trace's number; level 250 and more is unreadable."""

    name = "judge"
    simulated = True

    def __init__(self, noise: float = 0.0, fails: bool = False) -> None:
        self.noise, self.fails = noise, fails
        self.asked: list[tuple[Request, Sampling, int]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.asked += [(request, sampling, n) for request in requests]
        return [[self._answer(request, trace) for trace in range(n)] for request in requests]

    def _answer(self, request: Request, trace: int) -> Completion:
        if self.fails:
            return Completion("", 0, "error", "gone")
        level = float(decode_rgb(request.images[-1]).mean())
        if level >= 250:
            return Completion("?", 1, "stop")
        score = min(10.0, max(0.0, level / 20 + self.noise * (trace % 2 * 2 - 1)))
        return Completion(write_trace(["seen"], (1,), score, "both", "compact", []), 5, "stop")


def score_of(judgment: Judgment) -> float | None:
    return judgment.score


def made(tmp_path: Path, levels: Sequence[Sequence[int | None]]) -> list[list[MadeEdit]]:
    groups = []
    for c, row in enumerate(levels):
        group = []
        for g, level in enumerate(row):
            path = tmp_path / f"{c}-{g}.png"
            if level is not None:
                path.write_bytes(picture(level))
            group.append(
                MadeEdit(task(c), g, None if level is None else path, None if level is not None else "refused")
            )
        groups.append(group)
    return groups


def store(tmp_path: Path, judge: Judge) -> JudgmentStore:
    return JudgmentStore(tmp_path / "judgments", Verifier(judge, variant="compact"))


LEVELS = [[100, 120, 140], [60, None, 200], [40, 41, 20], [180, 255, 160]]


def test_groups_are_judged_once_and_unreadable_stays_absent(tmp_path: Path) -> None:
    edits, judge = made(tmp_path, LEVELS), Judge(noise=0.5)
    groups = judge_groups(store(tmp_path, judge), edits, JudgeAsked(4), score_of)
    assert groups.rewards_CG == ((5.0, 6.0, 7.0), (3.0, 10 - 0.25), (2.0, 2.0, 1.0), (9.0, None, 8.0))
    assert groups.repeats_CGN[0][0] == (4.5, 5.5, 4.5, 5.5) and groups.repeats_CGN[3][1] == ()
    assert (groups.unparsed, groups.traces, groups.judged) == (4, 44, 11)
    assert all(n == 4 and sampling.temperature == 1.0 for _, sampling, n in judge.asked)
    again = Judge(noise=0.5)
    assert judge_groups(store(tmp_path, again), edits, JudgeAsked(4), score_of) == groups and not again.asked
    assert judge_groups(store(tmp_path, again), edits, JudgeAsked(4, seed=1), score_of) and len(again.asked) == 11


def test_a_greedy_reward_has_sampled_repeats(tmp_path: Path) -> None:
    judge = Judge(noise=0.5)
    groups = judge_groups(store(tmp_path, judge), made(tmp_path, [[100, 120]]), JudgeAsked(1), score_of)
    assert groups.rewards_CG == ((4.5, 5.5),) and len(groups.repeats_CGN[0][0]) == REPEATS
    assert sorted({(sampling.temperature, n) for _, sampling, n in judge.asked}) == [(0.0, 1), (1.0, REPEATS)]


def test_a_judge_that_is_gone_ends_the_run_and_leaves_nothing_false(tmp_path: Path) -> None:
    edits = made(tmp_path, LEVELS)
    with pytest.raises(ValueError, match="gives no answers"):
        judge_groups(store(tmp_path, Judge(fails=True)), edits, JudgeAsked(2), score_of)
    assert not list((tmp_path / "judgments").glob("*"))


class Flaky(Judge):
    """Every second trace never comes."""

    def _answer(self, request: Request, trace: int) -> Completion:
        return Completion("", 0, "error", "gone") if trace % 2 else super()._answer(request, trace)


def test_traces_that_never_came_are_no_unparsed_ones_and_are_asked_for_again(tmp_path: Path) -> None:
    edits = made(tmp_path, [[100, 120], [255, 140]])
    groups = judge_groups(store(tmp_path, Flaky()), edits, JudgeAsked(4), score_of)
    assert (groups.lost, groups.unparsed, groups.traces) == (8, 2, 8)
    assert measure(groups, [], 4, None, None).unparsed == 2 / 8
    assert not list((tmp_path / "judgments").glob("*")), "half of an answer was kept as the whole one"
    (edit,) = made(tmp_path, [[100]])[0]
    unasked = replace(edit, task=replace(edit.task, sample=replace(edit.task.sample, instruction="")))
    bad = judge_groups(store(tmp_path, Judge()), [[edit, unasked]], JudgeAsked(2), score_of)
    assert (bad.lost, bad.unparsed, bad.traces) == (0, 2, 4), "an edit that cannot be asked about is no lost call"
    again = Judge()
    whole = judge_groups(store(tmp_path, again), edits, JudgeAsked(4), score_of)
    assert (whole.lost, whole.traces, len(again.asked)) == (0, 16, 4)


class Head:
    """A head whose logit is the mean level over 100."""

    name = "head"
    simulated = True

    def __init__(self) -> None:
        self.asked = 0

    def logits(self, requests: Sequence[Request]) -> list[float | str]:
        self.asked += len(requests)
        return [float(decode_rgb(request.images[-1]).mean()) / 100 for request in requests]


def test_a_head_is_asked_once_and_never_measures_its_own_choice(tmp_path: Path) -> None:
    head = Head()
    kept = JudgmentStore(tmp_path / "judgments", HeadJudge(head))  # type: ignore[arg-type]
    asked = JudgeAsked(1, draws=False)
    groups = judge_groups(kept, made(tmp_path, [[100, 120, 140], [60, None, 200]]), asked, score_of)
    assert groups.rewards_CG[0][0] == pytest.approx(10 / (1 + np.exp(-1))) and head.asked == 5
    measured = measure(groups, probe_edits(kept, groups, None, asked, score_of), 1, None, None)
    assert measured.reliability.single == 1 and measured.reliability.var_traces == 0
    assert measured.lift is None, "its own answer, read twice, says nothing of its choice"
    assert (measured.unparsed, measured.probed) == (0, 2)
    truths = [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert measure(groups, [], 1, truths, "people").lift.share == pytest.approx(1)
    assert judged_as(HeadJudge(head), "a") != judged_as(HeadJudge(head), "b")  # type: ignore[arg-type]


def test_a_damaged_judgment_is_told(tmp_path: Path) -> None:
    item = ScoreItem((picture(1),), picture(2), "do it", (Principle("Is it?", "Instruction Following"),))
    kept = store(tmp_path, Judge())
    kept.judge([item, item], 2, None, 0)
    (path,) = (tmp_path / "judgments").glob("*.json")
    path.write_text('{"outcomes": 3}')
    with pytest.raises(ValueError, match="remove it"):
        kept.judge([item], 2, None, 0)


def test_every_probe_is_of_the_best_edit_and_judged_beside_it(tmp_path: Path) -> None:
    edits, judge = made(tmp_path, LEVELS), Judge()
    kept = store(tmp_path, judge)
    groups = judge_groups(kept, edits, JudgeAsked(2), score_of)
    before = len(judge.asked)
    found = probe_edits(kept, groups, None, JudgeAsked(2), score_of)
    assert [one.edit.seed for one in found] == [2, 2, 0]  # the third context has no good edit
    assert [one.task.sample.id for one in found] == ["s0", "s1", "s3"]
    assert set(found[0].scores) == set(probes.PROBES) and all(one.score is not None for one in found)
    assert found[0].scores[probes.COPY] == 0.0 and found[0].scores[probes.BLACK] == 0.0
    assert found[0].scores[probes.SWAPPED] == found[0].score  # this judge is blind to the instruction
    assert found[0].pictures[probes.OTHER] == edits[1][2].image()  # of another kind
    assert [one.swapped for one in found] == ["Make it like 1", "Make it like 0", "Make it like 0"]
    asked = [request.text for request, _, _ in judge.asked[before:]]
    # The edit and its probes, once with another context's edit under it; a blurred flat picture is the picture itself.
    assert sum("Make it like 1" in text and "Is it like 1?" in text for text in asked) == 7
    seeds = {sampling.seed for _, sampling, _ in judge.asked[before:]}
    assert seeds.isdisjoint({sampling.seed for _, sampling, _ in judge.asked[:before]})


def test_the_reference_chooses_where_there_is_one(tmp_path: Path) -> None:
    kept = store(tmp_path, Judge())
    groups = judge_groups(kept, made(tmp_path, LEVELS[:2]), JudgeAsked(2), score_of)
    found = probe_edits(kept, groups, [[9.0, 1.0, None], [GOOD - 1, 0.0]], JudgeAsked(2), score_of)
    assert [(one.task.sample.id, one.edit.seed) for one in found] == [("s0", 0)]
    assert probes.OTHER not in found[0].scores and found[0].swapped == ""
    assert probe_edits(kept, groups, [[0.0] * 3, [0.0] * 2], JudgeAsked(2), score_of) == []


def test_contexts_of_one_source_leave_two_probes_unmeasured_and_passed_by_nobody(tmp_path: Path) -> None:
    edits = made(tmp_path, LEVELS)
    alike = [
        [replace(one, task=replace(one.task, sample=replace(one.task.sample, source=picture(7)))) for one in group]
        for group in edits
    ]
    kept = store(tmp_path, Judge())
    groups = judge_groups(kept, alike, JudgeAsked(2), score_of)
    measured = measure(groups, probe_edits(kept, groups, None, JudgeAsked(2), score_of), 2, None, None)
    assert [one.name for one in measured.probes] == list(probes.PROBES)
    checks = {one.name: one for one in verdict(measured, ReadinessThresholds(min_probed=1), probes.NO_EDIT)}
    for name in (probes.OTHER, probes.SWAPPED):
        assert checks[name].passed is False and checks[name].remedy == "give contexts of more sources"
    assert checks[probes.BLACK].value is not None


def test_the_measures_are_those_of_the_formulas(tmp_path: Path) -> None:
    kept = store(tmp_path, Judge(noise=0.5))
    groups = judge_groups(kept, made(tmp_path, LEVELS), JudgeAsked(2), score_of)
    truths = [[5.0, 4.0, 9.0], [1.0, 3.0], [2.0, 2.0, 2.0], [None, 1.0, 2.0]]
    measured = measure(groups, probe_edits(kept, groups, truths, JudgeAsked(2), score_of), 2, truths, "people")
    judged = [[5.0, 6.0, 7.0], [3.0, 9.75], [2.0, 2.0, 1.0], [8.0]]
    known = [[5.0, 4.0, 9.0], [1.0, 3.0], [2.0, 2.0, 2.0], [2.0]]
    assert measured.lift == best_of_g_lift(judged, known) and measured.lift_by == "people"
    assert measured.rank == rank_correlation(judged, known)[0]
    assert measured.near == near_pair_accuracy(judged, known, 2.0)
    assert measured.no_spread.mean == 0 and measured.unparsed == pytest.approx(2 / 22)
    assert numbers(measured)["probes"][probes.COPY]["cost"] > 0
    alone = measure(groups, [], 2, None, None)
    assert alone.rank is None and alone.reference is None and alone.lift_by == "other traces of the judge"
    assert alone.probed == 0 and {probe.name for probe in alone.probes} == set(probes.PROBES)


def test_halves_of_the_traces_measure_the_lift_without_a_reference() -> None:
    repeats = (((1.0, 8.0), (2.0, 2.0), ()), ((3.0,), (4.0, 4.0)))
    groups = Groups((task(0), task(1)), ((), ()), ((None,), (None,)), repeats, 0, 7, 0.0)
    assert measure(groups, [], 2, None, None).lift.gain.mean == pytest.approx(2.0 - 5.0)


def test_the_reward_of_a_trace_alone(tmp_path: Path) -> None:
    verifier = Verifier(Judge(noise=1.0), variant="compact")
    judgment = verifier.score([picture(0)], picture(100), "do it", (Principle("Is it?", "Image Quality"),), traces=2)
    assert trace_rewards(judgment, score_of) == [4.0, 6.0]
    assert trace_rewards(judgment, lambda one: one.categories["Image Quality"]) == [1.0, 1.0]
    assert judged_as(verifier, "a") != judged_as(verifier, "b")
    served = [
        Verifier(OpenAIVLM("http://127.0.0.1:9/v1", "o9", server_sampling=free), variant="compact")
        for free in (False, True)
    ]
    assert judged_as(served[0], "served:o9") != judged_as(served[1], "served:o9")
    for one in served:
        one.close()


def test_judgments_by_other_prompts_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Verifier(Judge(), variant="compact", principles_variant="full")
    before = judged_as(full, "a")
    assert before != judged_as(Verifier(Judge(), variant="compact"), "a")
    for variant in ("compact", "full"):
        with monkeypatch.context() as other:
            other.setitem(PROMPT_VERSIONS, variant, "of tomorrow")
            assert judged_as(full, "a") != before
