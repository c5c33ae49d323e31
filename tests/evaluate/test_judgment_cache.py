"""Judgments on disk: what a key depends on, what is kept, and what damage costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.judgment_cache import Grade, JudgmentCache, grade_of, judgment_key
from edit_r1.records import CATEGORIES, Judgment, Principle, Trace, Unparsed
from edit_r1.verifier.items import ScoreItem

ITEM = ScoreItem((b"source",), b"edit", "Make it blue", (Principle("Is it blue?", CATEGORIES[0]),))
GRADE = Grade(7.5, (1.0, 0.5, None), 7.2, (7.0, 8.0, None))
LOST = Grade(None, reason="no <score> tag", traces=(None,))


def test_a_key_depends_on_everything_that_shapes_a_judgment() -> None:
    keys = [
        judgment_key(ITEM, "j", 2, None, 0),
        judgment_key(replace(ITEM, sources=(b"other",)), "j", 2, None, 0),
        judgment_key(replace(ITEM, sources=(b"source", b"edit"), edited=b""), "j", 2, None, 0),
        judgment_key(replace(ITEM, edited=b"other"), "j", 2, None, 0),
        judgment_key(replace(ITEM, instruction="Make it red"), "j", 2, None, 0),
        judgment_key(replace(ITEM, principles=None), "j", 2, None, 0),
        judgment_key(replace(ITEM, principles=(Principle("Is it blue?", CATEGORIES[1]),)), "j", 2, None, 0),
        judgment_key(ITEM, "k", 2, None, 0),
        judgment_key(ITEM, "j", 3, None, 0),
        judgment_key(ITEM, "j", 2, 0.7, 0),
        judgment_key(ITEM, "j", 2, None, 1),
        judgment_key(ITEM, "j", 2, None, 0, expected=True),
        judgment_key(ITEM, "j", 2, None, 0, resized=True),
    ]
    assert len(set(keys)) == len(keys)
    assert judgment_key(ITEM, "j", 1, None, 0) == judgment_key(ITEM, "j", 1, None, 5)  # greedy: no seed


def test_what_is_put_is_found_by_the_next_run_and_by_no_other_judge(tmp_path: Path) -> None:
    first = JudgmentCache(tmp_path, "judge")
    first.put({"a": GRADE, "b": LOST, "c": Grade(None, reason="timed out", failed=True)})
    assert (first.get("a"), first.get("c") is not None, first.found) == (GRADE, True, 0)
    second = JudgmentCache(tmp_path, "judge")
    assert [second.get(key) for key in "abca"] == [GRADE, LOST, None, GRADE]
    assert second.found == 2
    assert JudgmentCache(tmp_path, "another").get("a") is None
    assert JudgmentCache(None, "judge").get("a") is None


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    JudgmentCache(tmp_path, "judge").put({"a": GRADE})
    file = next(tmp_path.glob("*.jsonl"))
    file.write_bytes(file.read_bytes() + b'{"key": "b", "score": 9')
    JudgmentCache(tmp_path, "judge").put({"c": LOST})
    found = JudgmentCache(tmp_path, "judge")
    assert [found.get(key) for key in "abc"] == [GRADE, None, LOST]


@given(
    st.one_of(
        st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=4)
    )
)
def test_no_value_on_disk_becomes_a_score_out_of_range(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = JudgmentCache(Path(folder), "judge")
        cache.put({"a": GRADE})
        file = next(Path(folder).glob("*.jsonl"))
        row = json.loads(file.read_text())
        for name in ("score", "expected", "categories", "traces"):
            file.write_text(json.dumps(row | {name: value}) + "\n")
            grade = JudgmentCache(Path(folder), "judge").get("a")
            assert grade is None or grade.score is None or 0 <= grade.score <= 10


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="name another folder with --cache"):
        JudgmentCache(tmp_path / "file", "judge")


def judgment(*outcomes: Trace | Unparsed, score: float | None) -> Judgment:
    return Judgment(score, len(outcomes), 0, None, (), {CATEGORIES[0]: 1.0}, "m", 0.0, outcomes=outcomes)


def test_what_is_kept_of_a_judgment() -> None:
    parsed, odd = Trace("t", 8.0, None), Unparsed("?", "no <score> tag")
    gone = Unparsed("", "no answer came: timed out", failed_call=True)
    assert grade_of(judgment(parsed, odd, score=8.0)) == Grade(8.0, (1.0, None, None), None, (8.0, None))
    assert grade_of(judgment(odd, score=None)) == Grade(
        None, (1.0, None, None), None, (None,), "no <score> tag", failed=False
    )
    assert grade_of(judgment(parsed, gone, score=8.0)).failed  # not the number of traces that was asked for
    lost = grade_of(judgment(odd, gone, score=None))
    assert (lost.failed, lost.reason) == (True, "no answer came: timed out")
