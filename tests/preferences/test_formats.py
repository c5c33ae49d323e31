"""Every public format row by row, and that no row whatever ends in anything but a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.preferences.formats import FORMATS, preference_from
from edit_r1.preferences.kinds import Kind
from edit_r1.records import Preference, Rating
from edit_r1.store import PREFERENCES

HERE = Path("/nonexistent")
Paint = Callable[..., bytes]


def read(kind: Kind, row: Any, **options: Any) -> Preference:
    return preference_from(FORMATS[kind], row, HERE, **options)


def test_every_kind_of_the_command_line_has_a_format() -> None:
    assert set(FORMATS) == set(get_args(Kind))


def test_editreward_has_both_scores_and_the_vote(paint: Paint) -> None:
    row = {
        "source_img": {"bytes": paint(0), "path": None}, "left_output_image": {"bytes": paint(1), "path": "x.png"},
        "right_output_image": paint(2), "instruction": "Make the sandwich a hot dog.", "vote_type": "rightvote",
        "left_model": "qwen_edit_seed2025", "right_model": "ovis_u1", "unique_key": "abc-0",
        "left_overall_score": 6.0, "right_overall_score": 4.0, "left_instruction_following_score": 3.0,
        "right_instruction_following_score": float("nan"), "left_quality_aesthetic_score": None,
    }  # fmt: skip
    found = read("editreward", row)
    assert (found.choice, found.origin, found.annotator) == ("second", "abc-0", "editreward")
    assert (found.first.editor, found.first.seed, found.second.editor) == ("qwen_edit", 2025, "ovis_u1")
    assert found.ratings == (Rating("overall", 6.0, 4.0),), "half a rating compares nothing"
    assert found.winner is found.second and found.second.image == paint(2)
    assert found.context.sample.split == "train"
    assert read("editreward", row | {"vote_type": "tie"}).choice == "same"
    with pytest.raises(ValueError, match="vote_type 'both': expected one of leftvote, rightvote, tie"):
        read("editreward", row | {"vote_type": "both"})
    with pytest.raises(ValueError, match="has no vote_type"):
        read("editreward", row | {"vote_type": None})


def test_tiger_keeps_the_order_and_knows_a_picture_of_a_group_again(paint: Paint) -> None:
    row = {
        "id": "7_AvB", "dataset": "3pair", "instruction": "Remove the dog.", "source_image": paint(0),
        "candidate_1": paint(1), "candidate_2": paint(2), "ranking": "A>B", "model_1": "m1", "model_2": "m2",
        "overall_score_1": 6, "overall_score_2": 5,
    }  # fmt: skip
    one = read("tiger", row)
    other = read("tiger", row | {"id": "7_BvC", "candidate_1": paint(2), "candidate_2": paint(3), "ranking": "B=C"})
    assert (one.choice, other.choice, one.origin) == ("first", "same", "3pair/7_AvB")
    assert one.second.id == other.first.id and one.context.sample.id == other.context.sample.id
    assert one.context.sample.split == "test" and one.ratings == (Rating("overall", 6.0, 5.0),)


@pytest.mark.parametrize(
    ("columns", "ranking", "choice"),
    [
        ({}, "A>B", "first"),
        ({}, "A<B", "second"),
        ({"id": "7"}, "A=B=Bad", "same"),
        ({"id": "7", "comparison_type": "AvsB"}, "A=B=Good", "same"),
        ({"id": "7_AvC"}, "C>A", "second"),
        ({"id": "7", "comparison_type": "BvsD"}, "B>D", "first"),
        ({"id": "7_BvC"}, "C > A > B", "second"),
    ],
)
def test_tiger_reads_every_label_of_the_public_rows(
    paint: Paint, columns: dict[str, str], ranking: str, choice: str
) -> None:
    row = {"instruction": "Remove it.", "source_image": paint(0), "candidate_1": paint(1), "candidate_2": paint(2)}
    assert read("tiger", row | columns | {"ranking": ranking}).choice == choice


def test_tiger_refuses_a_ranking_of_other_edits(paint: Paint) -> None:
    row = {"instruction": "Remove it.", "source_image": paint(0), "candidate_1": paint(1), "candidate_2": paint(2)}
    with pytest.raises(ValueError, match="expected B>C, C>B or B=C"):
        read("tiger", row | {"id": "7_BvC", "ranking": "A>B"})


def test_vs_and_compass_name_winners_and_their_order_is_drawn(paint: Paint) -> None:
    chosen = []
    for number in range(40):
        vs = read("vs", {
            "key": ["a", "b"], "instruction": f"Do {number}.", "task_type": "add", "dimension": "overall",
            "input_image": paint(0), "output_images": [paint(1), paint(2)],
        })  # fmt: skip
        compass = read("compass", {
            "source_image": paint(0), "prompt": f"Do {number}.", "winner": paint(1), "loser": paint(2),
            "label": "preference", "dimension": "VQ",
        })  # fmt: skip
        assert vs.winner is not None and vs.winner.image == paint(1) and (vs.aspect, vs.origin) == ("", "a/b")
        assert compass.winner is not None and compass.winner.image == paint(1) and compass.aspect == "VQ"
        assert vs.context.sample.category == "add" and vs.context.sample.split == compass.context.sample.split == "test"
        chosen.append(vs.choice)
    assert 8 < chosen.count("first") < 32
    assert read("compass", {
        "source_image": paint(0), "prompt": "x", "winner": paint(1), "loser": paint(2), "label": "tie",
        "dimension": "IA",
    }).choice == "same"  # fmt: skip
    with pytest.raises(ValueError, match="expected a list of 2, the winner first"):
        read("vs", {"instruction": "x", "dimension": "overall", "input_image": paint(0), "output_images": [paint(1)]})


def test_our_own_rows_hold_all_that_a_preference_holds(paint: Paint) -> None:
    row = {
        "source": [paint(0), paint(9)], "first": paint(1), "second": paint(2), "instruction": "Take the hat of 2.",
        "choice": "same", "annotator": "ann", "category": "add", "aspect": "identity", "first_editor": "e",
        "second_seed": 3, "split": "validation", "simulated": True, "id": 17, "soft_label": 0.5, "votes": 4,
        "principles": [{"question": "Is there a hat?", "category": "Instruction Following"}],
        "ratings": {"overall": [7, 5.5], "none": [None, 2]},
    }  # fmt: skip
    found = read("jsonl", row)
    assert found.context.sample.references == (paint(9),) and found.context.sample.split == "validation"
    assert found.context.principles[0].question == "Is there a hat?" and found.simulated
    assert (found.soft_label, found.votes, found.origin, found.second.seed) == (0.5, 4, "17", 3)
    assert found.ratings == (Rating("overall", 7.0, 5.5),)
    assert PREFERENCES.from_row(PREFERENCES.to_row(found)) == found
    assert read("jsonl", row, split="train").context.sample.split == "train"
    for wrong, said in (
        ({"choice": "left"}, "choice 'left': expected one of first, second, same"),
        ({"soft_label": 1.2}, "0 to 1"),
        ({"soft_label": 0.2, "choice": "first"}, "soft_label=0.2: .* and the choice is first"),
        ({"soft_label": 0.8, "choice": "second"}, "and the choice is second"),
        ({"votes": 0}, "at least 1"),
        ({"ratings": [1]}, "an object of two numbers"),
        ({"ratings": {"overall": [1, float("inf")]}}, "infinite"),
        ({"first_seed": 2**70}, "below 2"),
        ({"instruction": "half \ud800"}, "lone surrogate"),
        ({"instruction": 5}, "write a text"),
        ({"principles": "["}, "not valid JSON"),
        ({"first": "gone.png"}, "no such file"),
        ({"second": "/etc/passwd"}, "outside the data's folder"),
    ):
        with pytest.raises(ValueError, match=said):
            read("jsonl", row | wrong)


def test_swapping_turns_ratings_and_soft_label_too(paint: Paint) -> None:
    row = {"source": paint(0), "first": paint(1), "second": paint(2), "instruction": "x", "choice": "first",
           "ratings": {"overall": [7, 5]}, "soft_label": 0.75, "votes": 4}  # fmt: skip
    found = read("jsonl", row)
    turned = found.swap()
    assert (turned.choice, turned.soft_label, turned.ratings) == ("second", 0.25, (Rating("overall", 5, 7),))
    assert turned.swap() == found


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", sorted(FORMATS))
@settings(max_examples=40)
@given(data=st.data())
def test_any_row_is_a_preference_or_a_reason(kind: Kind, data: st.DataObject) -> None:
    form = FORMATS[kind]
    labels = {"editreward": "leftvote", "tiger": "A>B", "compass": "tie", "jsonl": "same", "vs": ""}
    usual: dict[str, Any] = dict.fromkeys(form.required, b"picture") | {
        "instruction": "do it", "prompt": "do it", "output_images": [b"a", b"b"], "dimension": "overall",
        "vote_type": labels[kind], "ranking": labels[kind], "label": labels[kind], "choice": labels[kind],
    }  # fmt: skip
    names = [*form.required, *form.optional]
    row = {name: value for name, value in usual.items() if name in names}
    row |= data.draw(st.dictionaries(st.sampled_from(names), anything, max_size=3))
    try:
        found = preference_from(form, data.draw(st.just(row) | anything), HERE)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps({name: str(value) for name, value in PREFERENCES.to_row(found).items()}).encode()
