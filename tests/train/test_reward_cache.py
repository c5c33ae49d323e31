from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edit_r1.records import Principle
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.reward_cache import Grade, GradeCache, grade_key
from edit_r1.verifier.scoring import ScoreItem

ITEM = ScoreItem((b"source",), b"edit", "make it red", (Principle("Is it red?", "Instruction Following"),))
GRADE = Grade(7.5, (1.0, None, 0.5), ((1.0, 2.0, 3.0, 4.0),))


def test_trap_18_everything_that_shapes_a_judgment_is_in_the_key():
    base = (ITEM, "judge 1", JudgeSettings())
    others = [
        (replace(ITEM, sources=(b"other",)), *base[1:]),
        (replace(ITEM, sources=(b"source", b"source")), *base[1:]),
        (replace(ITEM, edited=b"other"), *base[1:]),
        (replace(ITEM, instruction="make it blue"), *base[1:]),
        (replace(ITEM, principles=None), *base[1:]),
        (replace(ITEM, principles=(Principle("Is it red?", "Image Quality"),)), *base[1:]),
        (ITEM, "judge 2", JudgeSettings()),
        (ITEM, "judge 1", JudgeSettings(seed=1)),
        (ITEM, "judge 1", JudgeSettings(traces=2)),
        (ITEM, "judge 1", JudgeSettings(temperature=0.5)),
    ]
    keys = {grade_key(*other) for other in [base, *others]}
    assert len(keys) == 1 + len(others)
    assert grade_key(*base) == grade_key(ITEM, "judge 1", JudgeSettings(batch_size=3, timeout_s=1.0))


def test_a_cache_on_disk_outlives_its_process_and_a_torn_line(tmp_path):
    cache = GradeCache(tmp_path / "cache")
    cache.put({"a": GRADE, "b": Grade(None, (None, None, None))})
    assert cache.get(["a"]) == [None]
    cache.publish()
    assert cache.get(["a", "b"]) == [GRADE, None]
    assert (cache.hits, cache.misses) == (1, 2)
    other = GradeCache(tmp_path / "cache", writer=1)  # another process writes a file of its own
    assert other.get(["a"]) == [GRADE]
    other.put({"c": replace(GRADE, score=1.0)})
    with (tmp_path / "cache" / "grades-0.jsonl").open("a") as file:
        file.write('{"key": "d", "sco')
    again = GradeCache(tmp_path / "cache")
    assert again.get(["a", "c", "d"]) == [GRADE, replace(GRADE, score=1.0), None]
    again.put({"e": GRADE})
    assert GradeCache(tmp_path / "cache").get(["e", "a"]) == [GRADE, GRADE]  # the torn line took no other with it


def test_memory_is_bounded_and_the_oldest_go_first():
    cache = GradeCache(entries=2)
    for key in "abc":
        cache.put({key: GRADE})
        cache.publish()
    assert cache.get(["a", "b", "c"]) == [None, GRADE, GRADE]
    none = GradeCache(entries=0)
    none.put({"a": GRADE})
    none.publish()
    assert none.get(["a"]) == [None]
    with pytest.raises(ValueError, match="entries=-1"):
        GradeCache(entries=-1)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot hold the reward cache"):
        GradeCache(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [{"score": "9"}, {"score": 11}, {"score": float("nan")}, {"score": True}, {"categories": [1.0]},
     {"categories": [2, None, None]}, {"boxes": [[1, 2]]}],
    ids=str,
)  # fmt: skip
def test_no_line_on_disk_becomes_a_reward_out_of_range(tmp_path, change):
    GradeCache(tmp_path).put({"a": GRADE})
    file = tmp_path / "grades-0.jsonl"
    file.write_text(json.dumps(json.loads(file.read_text()) | change) + "\n")
    assert GradeCache(tmp_path).get(["a"]) == [None]
