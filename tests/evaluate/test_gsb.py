"""GSB from preferences, files and counts, against the formula by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.gsb import OUTCOMES, gsb_document, gsb_of_counts, gsb_of_preferences, read_outcomes
from edit_r1.records import Candidate, Choice, Context, Preference, Sample


def preference(source: int, first: str, second: str, choice: Choice, annotator: str = "Ann") -> Preference:
    sample = Sample(f"s{source}", bytes([source]), "do it", "add")
    edits = [
        Candidate(f"{source}-{name}-{place}", sample.id, b"", name, 0) for place, name in enumerate((first, second))
    ]
    return Preference(Context(sample, (), ""), edits[0], edits[1], choice, annotator)


ANSWERS = [
    preference(0, "new", "old", "first"),
    preference(0, "old", "new", "second", "Bob"),
    preference(1, "old", "new", "first"),
    preference(1, "new", "old", "same", "Bob"),
    preference(2, "new", "third", "first"),
    preference(2, "old", "third", "first"),
    preference(3, "new", "new", "first"),
]


def test_whoever_stands_first_the_new_editor_is_counted() -> None:
    found = gsb_of_preferences(ANSWERS, "new", "old")
    assert (found["good"], found["same"], found["bad"], found["n"]) == (2, 1, 1, 4)
    assert found["gsb"] == pytest.approx((2 - 1) / 4) and found["ci95"][0] == -0.5 and found["ci95"][1] == 1
    assert gsb_of_preferences(ANSWERS, "new")["good"] == 3 and gsb_of_preferences(ANSWERS, "new")["n"] == 5
    assert gsb_of_preferences(ANSWERS, "old", "new")["gsb"] == pytest.approx(-1 / 4)
    assert gsb_of_preferences(ANSWERS, "new", "old", ["Bob"])["n"] == 2
    with pytest.raises(ValueError, match="no answer compares 'newer' with another editor; has 'new', 'old', 'third'"):
        gsb_of_preferences(ANSWERS, "newer")


@given(st.lists(st.tuples(st.sampled_from(sorted(OUTCOMES)), st.integers(0, 3)), min_size=1, max_size=30))
def test_it_is_the_formula(rows: list[tuple[str, int]]) -> None:
    found = gsb_document([OUTCOMES[name] for name, _ in rows], [place for _, place in rows])
    counted = {name: sum(one == name for one, _ in rows) for name in OUTCOMES}
    assert {name: found[name] for name in OUTCOMES} == counted and found["n"] == len(rows)
    assert found["gsb"] == pytest.approx((counted["good"] - counted["bad"]) / len(rows))
    assert (found["ci95"] is None) == (len({place for _, place in rows}) == 1)


def test_counts_are_independent_comparisons() -> None:
    found = gsb_of_counts(31, 40, 12)
    assert found["gsb"] == pytest.approx(19 / 83) and found["ci95"][0] < 19 / 83 < found["ci95"][1]
    assert set(found) == {"good", "same", "bad", "gsb", "ci95", "n"}


def test_a_file_of_answers(tmp_path: Path) -> None:
    rows = [{"choice": "good", "id": 1}, {"choice": "bad", "id": "1"}, {"choice": "same"}]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcomes, clusters = read_outcomes(path)
    assert outcomes == [1, -1, 0] and clusters[0] == clusters[1] != clusters[2]
    path.write_text(json.dumps(rows))
    assert read_outcomes(path) == (outcomes, clusters)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"choice": "better"}', "row 1: write"),
        ('{"choice": "good"}\n[]', "row 2: write"),
        ('{"choice": "good", "id": [1]}', "the id is of type list"),
        ("", "holds no answer"),
        ("{", "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        read_outcomes(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_outcomes(path)
