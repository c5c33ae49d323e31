"""A benchmark on disk: nothing is paid twice, nothing is lost by a kill, nothing missing becomes a number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.editors.protocol import EditedImage
from edit_r1.evaluate.editor_benchmarks import Task, benchmark_of
from edit_r1.evaluate.editor_judges import Grade, JudgedEdit, Scale
from edit_r1.evaluate.editor_runs import begin, grade_edits, judge_slug, known_editors, read_edits, sample_edits, slug
from edit_r1.evaluate.editor_tables import comparison, editor_document, group_table, paired
from edit_r1.evaluate.judge_identity import answering_identity, fingerprint, judge_identity
from edit_r1.evaluate.ready_edits import ReadyEdits
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.verifier.choice import ModelChoice


def picture(level: int) -> bytes:
    return encode_png(np.full((8, 8, 3), level, np.uint8))


TASKS = [
    Task(
        Sample(f"t/{n}", picture(n), f"edit {n}", "colour" if n < 3 else "style"),
        "en" if n % 2 else "cn",
        n != 4,
        (f"p{n}",),
    )
    for n in range(5)
]


class Painter:
    """Paints 10 * task + seed; fails on what `fails` names, and dies after `dies` calls."""

    simulated = True

    def __init__(self, name: str = "painter", fails: Sequence[str] = (), dies: int = 10**6) -> None:
        self.name, self.fails, self.dies = name, fails, dies
        self.made: list[tuple[str, int]] = []
        self.calls = 0

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        self.calls += 1
        if self.calls > self.dies:
            raise KeyboardInterrupt
        keys = [(sample.id, seed) for sample, seed in zip(samples, seeds, strict=True)]
        self.made += keys
        return [
            EditedImage(None, "refused") if name in self.fails else EditedImage(picture(10 * int(name[-1]) + seed))
            for name, seed in keys
        ]


class Counter:
    """Grades by a table of (task, seed) to score; None is an answer that cannot be read, "gone" one that never came."""

    kind = "verifier"
    name = "counter"
    scale = Scale("score", ("score", "half"), 0, 10)
    note = "counts"

    def __init__(self, table: dict[str, float | str | None] | None = None) -> None:
        self.table = table or {}
        self.settings = {"version": 1}
        self.asked: list[str] = []

    def grade(self, edits: Sequence[JudgedEdit], retries: int) -> list[Grade]:
        self.asked += [edit.task.sample.id for edit in edits]
        return [self._one(self.table.get(edit.task.sample.id, 5.0)) for edit in edits]

    def _one(self, score: float | str | None) -> Grade:
        if score == "partly":
            return Grade(4.0, {"score": 4.0, "half": 2.0}, failed_call=True, reason="no answer came")
        if score == "gone":
            return Grade(None, {}, failed_call=True, reason="no answer came")
        if score is None:
            return Grade(None, {"score": None, "half": None}, 3, reason="no JSON")
        return Grade(float(score), {"score": float(score), "half": float(score) / 2})

    def close(self) -> None: ...


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    killed = Painter(dies=2)
    with pytest.raises(KeyboardInterrupt):
        sample_edits(tmp_path, killed, {"steps": 3}, TASKS, [0, 1], at_once=3)
    assert len(killed.made) == 6
    rest = Painter()
    made = sample_edits(tmp_path, rest, {"steps": 3}, TASKS, [0, 1], at_once=3)
    assert sorted(killed.made + rest.made) == sorted((task.sample.id, seed) for task in TASKS for seed in (0, 1))
    assert [one.key for one in made] == [(task.sample.id, seed) for task in TASKS for seed in (0, 1)]
    assert made[3].image() == picture(11)
    again = Painter()
    assert sample_edits(tmp_path, again, {"steps": 3}, TASKS, [0, 1]) == made and not again.made
    assert read_edits(tmp_path, "painter", TASKS, [0, 1]) == made
    with pytest.raises(ValueError, match="steps differ"):
        sample_edits(tmp_path, again, {"steps": 4}, TASKS, [0])
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_edit_is_told_and_tried_again_next_time(tmp_path: Path) -> None:
    first = sample_edits(tmp_path, Painter(fails=["t/1"]), {}, TASKS, [0])
    assert [one.error for one in first] == [None, "refused", None, None, None] and first[1].path is None
    again = Painter()
    assert all(one.path for one in sample_edits(tmp_path, again, {}, TASKS, [0])) and again.made == [("t/1", 0)]


def test_an_editor_that_is_gone_is_not_asked_for_ever(tmp_path: Path) -> None:
    gone = Painter(fails=[task.sample.id for task in TASKS])
    with pytest.raises(ValueError, match=r"makes no pictures \(refused\)"):
        sample_edits(tmp_path, gone, {}, TASKS, [0, 1], at_once=2)
    assert gone.calls == 3


def test_a_benchmark_folder_is_of_one_benchmark(tmp_path: Path) -> None:
    begin(tmp_path, benchmark_of("a", TASKS))
    begin(tmp_path, benchmark_of("a", TASKS).part(2))
    with pytest.raises(ValueError, match="revision differ"):
        begin(tmp_path, benchmark_of("a", TASKS[:2]))
    with pytest.raises(ValueError, match="holds no editor 'x'"):
        read_edits(tmp_path, "x", TASKS, [0])


def test_grades_are_kept_one_by_one_and_an_outage_is_no_grade(tmp_path: Path) -> None:
    made = sample_edits(tmp_path, Painter(fails=["t/3"]), {}, TASKS, [0])
    judge = Counter({"t/1": None, "t/2": "gone"})
    graded = grade_edits(tmp_path, "painter", judge, "files:1", made, retries=1, at_once=2)
    assert [None if one.grade is None else one.grade.score for one in graded] == [5.0, None, None, None, 5.0]
    assert [one.reason for one in graded] == [None, "no JSON", "no answer came", "refused", None]
    again = Counter({"t/2": 8.0})
    graded = grade_edits(tmp_path, "painter", again, "files:1", made, retries=1)
    assert again.asked == ["t/2"] and graded[2].grade.score == 8.0
    # Half of an answer is told of now, and asked for again as a whole.
    partly = Counter({task.sample.id: "partly" for task in TASKS})
    graded = grade_edits(tmp_path, "painter", partly, "files:0", made)
    assert graded[0].grade.score == 4.0 and graded[0].reason == "no answer came"
    whole = Counter()
    assert grade_edits(tmp_path, "painter", whole, "files:0", made)[0].grade.score == 5.0 and len(whole.asked) == 4
    # More retries ask again about what could not be read; a replaced picture is graded anew.
    made[0].path.write_bytes(picture(99))
    more = Counter({"t/1": 3.0})
    graded = grade_edits(tmp_path, "painter", more, "files:1", made, retries=2)
    assert more.asked == ["t/0", "t/1"] and graded[1].grade.score == 3.0
    assert known_editors(tmp_path) == ["painter"]
    other = Counter()
    grade_edits(tmp_path, "painter", other, "files:2", made)
    assert len(other.asked) == 4 and judge_slug(other, "files:1") != judge_slug(other, "files:2")
    path = next((tmp_path / "editors/painter/grades" / judge_slug(other, "files:2")).glob("t-0*.json"))
    path.write_text("[]")
    with pytest.raises(ValueError, match="remove it"):
        grade_edits(tmp_path, "painter", other, "files:2", made)


def test_a_judge_that_is_gone_ends_the_run_and_keeps_what_is_graded(tmp_path: Path) -> None:
    made = sample_edits(tmp_path, Painter(), {}, TASKS, [0])
    with pytest.raises(ValueError, match="gives no answers"):
        grade_edits(tmp_path, "painter", Counter({"t/2": "gone", "t/3": "gone"}), "i", made, at_once=2)
    rest = Counter()
    grade_edits(tmp_path, "painter", rest, "i", made)
    assert rest.asked == ["t/2", "t/3", "t/4"]


def test_ready_edits_are_read_by_layout_and_stand_for_no_other_seed(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "p0.png").write_bytes(picture(1))
    (folder / "p1-s4.png").write_bytes(picture(2))
    (folder / "p2.png").write_bytes(b"broken")
    editor = ReadyEdits(folder, TASKS, first_seed=3)
    found = editor.edit([TASKS[0].sample, TASKS[0].sample, TASKS[1].sample, TASKS[2].sample], [3, 4, 4, 3])
    assert [one.image for one in found] == [picture(1), None, picture(2), None]
    assert "no picture" in found[1].error and "p2.png" in found[3].error
    outside = [Task(Sample("x", picture(0), "e", ""), ready=("../secret",))]
    (tmp_path / "secret.png").write_bytes(picture(5))
    assert ReadyEdits(folder, outside, 0).edit([outside[0].sample], [0])[0].image is None
    with pytest.raises(ValueError, match="no such folder"):
        ReadyEdits(tmp_path / "none", TASKS, 0)


def test_replaced_ready_edits_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    for level in (1, 2):
        (folder / "p0.png").write_bytes(picture(level))
        made = sample_edits(tmp_path / "out", ReadyEdits(folder, TASKS, 0), {}, TASKS[:1], [0], refresh=True)
        assert made[0].image() == picture(level)


@given(st.text(max_size=80))
def test_a_slug_is_a_plain_file_name(name: str) -> None:
    made = slug(name)
    assert (
        0 < len(made) <= 60
        and not made.startswith((".", "-"))
        and set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    )
    assert slug(name + "x") != made


# --- tables --------------------------------------------------------------------------------------------------------


def _graded(tmp_path: Path, name: str, table: dict[str, float | str | None]) -> list:
    made = sample_edits(tmp_path, Painter(name, fails=["t/3"] if name == "b" else ()), {}, TASKS, [0])
    return grade_edits(tmp_path, name, Counter(table), "i", made)


def test_means_are_over_what_has_a_score(tmp_path: Path) -> None:
    graded = _graded(tmp_path, "a", {"t/0": 2.0, "t/1": None, "t/2": 4.0, "t/3": 9.0, "t/4": 6.0})
    table = group_table(graded, Counter.scale)
    assert table.mean == {"score": pytest.approx(21 / 4), "half": pytest.approx(21 / 8)}
    assert table.official["score"] == pytest.approx(((2 + 4) / 2 + (9 + 6) / 2) / 2)
    assert (table.edits, table.scored) == (5, 4) and table.ci95[0] < 21 / 4 < table.ci95[1]
    document = editor_document("x", "r", "a", Counter(), graded, 2)
    assert (document["unparsed"], document["unparsed_answers"], document["no_picture"]) == (1, 3, 0)
    assert {name: row["scored"] for name, row in document["categories"].items()} == {"colour": 2, "style": 2}
    assert document["languages"]["en"]["mean"]["score"] == 9.0 and document["intersection"]["scored"] == 3
    json.dumps(document, allow_nan=False)


def test_nothing_scored_is_nothing_and_not_0(tmp_path: Path) -> None:
    graded = _graded(tmp_path, "a", dict.fromkeys([task.sample.id for task in TASKS]))
    table = group_table(graded, Counter.scale)
    assert table.mean["score"] is None and table.official["score"] is None and table.ci95 is None


def test_two_editors_are_compared_on_what_both_have(tmp_path: Path) -> None:
    a = _graded(tmp_path, "a", {"t/0": 6.0, "t/1": 5.2, "t/2": 1.0, "t/3": 10.0, "t/4": 6.0})
    b = _graded(tmp_path, "b", {"t/0": 2.0, "t/1": 5.0, "t/2": 3.0, "t/3": 0.0, "t/4": None})
    assert [(x.edit.key[0], y.edit.key[0]) for x, y in paired(a, b)] == [(f"t/{n}", f"t/{n}") for n in range(3)]
    found = comparison(a, b, ("a", "b"), Counter.scale)
    assert found["difference"] == pytest.approx((4 + 0.2 - 2) / 3)
    assert (found["good"], found["same"], found["bad"], found["pairs"], found["unpaired"]) == (1, 1, 1, 3, 2)
    assert found["gsb"] == 0 and found["gsb_ci95"][0] < 0 < found["gsb_ci95"][1]
    own = found["kinds"].pop("colour")
    assert not found["kinds"] and own["editor"] == pytest.approx(12.2 / 3) and own["against"] == pytest.approx(10 / 3)
    assert own["pairs"] == 3 and all(own[name] == found[name] for name in ("difference", "ci95", "same", "gsb_ci95"))
    whole = comparison(a, _graded(tmp_path, "c", {"t/3": 4.0, "t/4": 5.6}), ("a", "c"), Counter.scale)
    assert whole["official_difference"] == pytest.approx(((1 + 0.2 - 4) / 3 + (6 + 0.4) / 2) / 2)
    assert whole["official_ci95"][0] < whole["official_difference"] < whole["official_ci95"][1]
    assert [(one["good"], one["same"], one["bad"]) for one in whole["kinds"].values()] == [(1, 1, 1), (1, 1, 0)]
    assert comparison(a, b, ("a", "b"), Scale("score", ("score",), 1, 5))["same_band"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no task with a score of both"):
        comparison(a[3:4], b, ("a", "b"), Counter.scale)


def test_a_fingerprint_follows_content_not_path(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
        (tmp_path / name / "README.md").write_text(name)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    (tmp_path / "two/config.json").write_text("{}")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    assert judge_identity(tmp_path / "one") == f"files:{fingerprint(tmp_path / 'one')}"
    assert judge_identity("NAME", "http://x/v1") == "served:NAME" and judge_identity("a/b") == "hub:a/b"
    with pytest.raises(ValueError, match="holds no checkpoint"):
        fingerprint(tmp_path)


def test_answers_in_another_precision_or_by_other_principles_are_another_judges(tmp_path: Path) -> None:
    for run in ("a", "b"):  # two trainings, whose results are both called "model"
        (tmp_path / run / "model").mkdir(parents=True)
        (tmp_path / run / "model" / "model.safetensors").write_bytes(run.encode() * 99)
    writers = [str(tmp_path / run / "model") for run in ("a", "b")]
    served = ModelChoice(model="judge", endpoint="http://127.0.0.1:1/v1")
    found = [
        answering_identity(ModelChoice(), "files:1"),
        answering_identity(ModelChoice(dtype="bfloat16"), "files:1"),
        answering_identity(ModelChoice(backend="vllm"), "files:1"),
        *(answering_identity(ModelChoice(principles_model=writer), "files:1") for writer in writers),
        answering_identity(ModelChoice(principles_model=writers[0], dtype="bfloat16"), "files:1"),
        answering_identity(ModelChoice(principles_model="w", principles_endpoint="http://x/v1"), "files:1"),
        answering_identity(served, "served:judge"),
        answering_identity(replace(served, principles_model=writers[0], dtype="bfloat16"), "served:judge"),
    ]
    assert len(set(found)) == len(found) and found[0] == "files:1"
    assert answering_identity(replace(served, dtype="bfloat16"), "served:judge") == found[-2] == "served:judge"
