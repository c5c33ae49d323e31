"""When two questions are one, on hand-made cases and on any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import CATEGORIES, Principle
from edit_r1.verifier.questions import each_once, question_words, repeats


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Is the hat red?", "is  the HAT red"),
        ("Is the hat red?", "3. Is the hat red?"),
        ("Is the hat red?", "[Follow] Is the hat red ?"),
        ("Is the hat red?", "**Is the hat red?**"),
        ("Is the woman's hat well-lit?", "Is the woman’s hat well lit?"),
        ("Is it 20% larger?", "Is it 20 % larger?"),
        ("帽子是红色的吗？", "帽子是红色的吗?"),
        ("Is the hat ｒｅｄ？", "Is the hat red?"),
    ],
)
def test_one_question(first: str, second: str) -> None:
    assert question_words(first) == question_words(second) != ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Is the hat red?", "Is the hat now red?"),
        ("Is the text now 'A+'?", "Is the text now 'A'?"),
        ("Does it show 1.5?", "Does it show 15?"),
        ("Does it show 1.5?", "Does it show 1 5?"),
        ("Does it show -5?", "Does it show 5?"),
        ("3.5 metres: is the tower so high?", "4.5 metres: is the tower so high?"),
        ("logo 是红色的吗？", "logo 是蓝色的吗？"),
        ("Is the price $5?", "Is the price €5?"),
    ],
)
def test_two_questions(first: str, second: str) -> None:
    assert question_words(first) != question_words(second)


def test_each_question_is_kept_once_in_its_first_place() -> None:
    asked = ["Is it red?", "Is it sharp?", "is it RED", "?", "!", "?", "Is it red ?"]
    principles = [Principle(question, CATEGORIES[place % 3]) for place, question in enumerate(asked)]
    assert repeats(asked) == {2: 0, 5: 3, 6: 0}
    assert [one.question for one in each_once(principles)] == ["Is it red?", "Is it sharp?", "?", "!"]
    assert each_once(principles)[0].category == CATEGORIES[0]
    assert each_once([]) == ()


@given(st.lists(st.text(max_size=20) | st.sampled_from(["Is it red?", "is it red", "是吗？", "1) -1.5"]), max_size=8))
def test_brute_force_twin(questions: list[str]) -> None:
    said = [question_words(question) or (question.strip(),) for question in questions]
    earlier = {
        place: next(first for first in range(place) if said[first] == words)
        for place, words in enumerate(said)
        if words in said[:place]
    }
    assert repeats(questions) == earlier
    kept = each_once([Principle(question, CATEGORIES[0]) for question in questions])
    assert bool(kept) == bool(questions) and len(kept) == len(set(said))
