"""The checks of a decomposition on real sentences, and on any text at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.coverage import (
    Finding,
    check_principles,
    check_question,
    contradiction,
    near_duplicates,
    parts_of,
    uncovered,
)
from edit_r1.curate.findings import FAULTS, KINDS, FindingsTally, context_findings
from edit_r1.curate.words import are_antonyms, content, is_english, stem, words_of
from edit_r1.records import CATEGORIES, Context, Principle, Sample
from edit_r1.verifier.examples import EXAMPLES

FOLLOW, KEEP, QUALITY = CATEGORIES


def follow(*questions: str) -> list[Principle]:
    return [Principle(question, FOLLOW) for question in questions]


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


@pytest.mark.parametrize(
    ("instruction", "parts"),
    [
        ("Make the hat red and blue.", 1),
        ("Make the hat red and remove the dog.", 2),
        ("Add a lighthouse near the cliff, visible in the foreground near the path.", 1),
        ("Remove the tree on the left, and increase the size of the kangaroo on the right.", 2),
        ("First move the red circle to the top left, then the green star should be gone.", 2),
        ("Take away the smaller book, then open the laptop and switch the lamp on.", 3),
        ("Put a cat and a dog on the sofa.", 1),
        ("Change the sky to sunset. Also add two birds; keep the boat as it is.", 3),
        ("I want a plain grey background instead. Also paint the red square blue.", 2),
        ("Add a dog near the fence, close to the road, and sand dunes with warm light.", 1),
        ("Give her a red uniform and a whistle, and have a dog beside her.", 1),
        ("Remove the bird and light the lamp.", 2),
        ("Replace the man with a snowman sitting in the same pose, surrounded by snow.", 1),
    ],
)
def test_an_instruction_is_cut_where_a_new_step_begins(instruction: str, parts: int) -> None:
    assert len(parts_of(instruction)) == parts


@given(
    st.text(max_size=80), st.sampled_from([" and remove the ", ", then add a ", ". Keep the "]), st.text(max_size=40)
)
def test_no_word_is_lost_or_invented_by_the_cut(first: str, joint: str, second: str) -> None:
    text = first + joint + second
    kept = [word for part in parts_of(text) for word in words_of(part)]
    dropped = {"and", "then", "also", "but", "while", "plus", "as", "well"}
    assert [word for word in kept if word not in dropped] == [word for word in words_of(text) if word not in dropped]


def test_a_part_that_no_principle_takes_up_is_told() -> None:
    instruction = "Make the hat red and remove the small dog from the bench."
    about_hat = follow("Is the hat red?", "Is the whole hat red, brim included?")
    [finding] = uncovered(instruction, [*about_hat, Principle("Is the bench unchanged?", KEEP)])
    assert "remove the small dog" in finding.told and finding.principles == ()
    assert uncovered(instruction, [*about_hat, *follow("Is the small dog gone?")]) == []
    assert uncovered("Make the hat red.", []) == []  # of one part nothing is asked


def test_what_is_kept_may_be_covered_by_feature_preservation() -> None:
    instruction = "Remove the power lines but keep the pylons."
    lines = follow("Are all power lines gone?")
    assert len(uncovered(instruction, lines)) == 1
    assert uncovered(instruction, [*lines, Principle("Do both pylons still stand?", KEEP)]) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Is the dog gone?", FOLLOW), ("Is the dog unchanged?", KEEP)),
        (("Is there a white border?", QUALITY), ("Is the picture free of a white border?", QUALITY)),
        (("Are there two cats on the sofa?", FOLLOW), ("Are there three cats on the sofa?", KEEP)),
        (("Is the car blue?", FOLLOW), ("Is the car red?", KEEP)),
        (("Is the red circle now blue?", FOLLOW), ("Is the red circle unchanged?", KEEP)),
        (("Is the lamp on?", FOLLOW), ("Is the lamp not on?", FOLLOW)),
        (("Is the lamp on?", FOLLOW), ("Is the lamp still off?", KEEP)),
        (("Are the lights switched off?", FOLLOW), ("Are the lights switched on?", KEEP)),
        (("Is the window open?", FOLLOW), ("Is the window still closed?", KEEP)),
        (("Is the cup on the left?", FOLLOW), ("Is the cup on the right?", KEEP)),
    ],
)
def test_contradictions(first: tuple[str, str], second: tuple[str, str]) -> None:
    a, b = Principle(*first), Principle(*second)
    assert contradiction(a, b) and contradiction(b, a)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Is the red circle unchanged?", KEEP), ("Is the blue circle unchanged?", KEEP)),
        (("Is the left arm raised?", FOLLOW), ("Is the right arm lowered?", FOLLOW)),
        (("Is the left arm raised?", FOLLOW), ("Is the right arm raised?", FOLLOW)),
        (("Is the red circle now blue?", FOLLOW), ("Apart from its colour, is the red circle unchanged?", KEEP)),
        (("Is the dog gone?", FOLLOW), ("Is the cat unchanged?", KEEP)),
        (("Is the acne on her right cheek gone?", FOLLOW), ("Is the acne on her left cheek gone?", FOLLOW)),
        (("Is the star next to the red circle now blue?", FOLLOW), ("Is the red circle unchanged?", KEEP)),
        (("Is the wall above the sofa clean?", KEEP), ("Is the wall below the sofa clean?", KEEP)),
        (("Is the cup on the table?", FOLLOW), ("Is the cup off the table?", KEEP)),
        (("Is no arm left hanging at his side?", FOLLOW), ("Are his arms crossed?", FOLLOW)),
    ],
)
def test_what_may_both_be_true_is_no_contradiction(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert contradiction(Principle(*first), Principle(*second)) is None


def test_duplicates_and_near_duplicates() -> None:
    found = check_principles("Make the hat red.", follow("Is the hat red?", "is the hat RED", "Is the coat kept?"))
    assert [(one.kind, one.principles) for one in found if one.kind in FAULTS] == [("duplicate", (0, 1))]
    assert near_duplicates("Is the hat red all over?", "Is the hat all red?")
    assert near_duplicates("Are the edges of the hat clean?", "Are the hat's edges clean?")
    assert not near_duplicates("Is the hat red?", "Is the hat blue?")
    assert not near_duplicates("Are the woman's old shoes unchanged?", "Are the woman's old gloves unchanged?")
    assert not near_duplicates("Is the lamp on the table lit?", "Is no lamp on the table lit?")
    assert not near_duplicates("Is the lamp on?", "Is the lamp off?")
    assert not near_duplicates("Is the dog inside the house sharp?", "Is the dog outside the house sharp?")
    assert not near_duplicates("Is the floor under the table clean?", "Is the floor on the table clean?")
    assert not near_duplicates("Is the first chair gone?", "Is the second chair gone?")
    assert near_duplicates("Is the dog in the picture gone?", "Is the dog gone?")


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is this an image?", "unfailable"),
        ("Is the edited image an image?", "unfailable"),
        ("Does the image exist?", "unfailable"),
        ("Does the edited image show something?", "unfailable"),
        ("Is the hat either red or not?", "unfailable"),
        ("Does the source image show a dog?", "unfailable"),
        ("Is the cat a cat?", "unfailable"),
        ("Does the instruction ask for a red hat?", "about the request"),
        ("Is the user's request clear?", "about the request"),
        ("What colour is the hat?", "not yes/no"),
        ("How many dogs are there?", "not yes/no"),
        ("The hat is red.", "not yes/no"),
        ("Rate the realism from 1 to 5.", "not yes/no"),
    ],
)
def test_questions_that_check_nothing(question: str, kind: str) -> None:
    assert kinds(check_question(0, question)) == [kind]


@pytest.mark.parametrize(
    "question",
    [
        "Is the picture free of artefacts?",
        "Is the image sharp?",
        "Has the instruction been followed?",
        "Is the original background preserved?",
        "Does the edited image still show the dog of the source image?",
        "Apart from its colour, is the hat unchanged?",
        "In the edited image, is the dog gone?",
        "Is the red hat still red?",
        "Is there a dog in the image?",
        "Is the image an oil painting?",
        "Don't the edges show halos?",
    ],
)
def test_questions_that_check_something(question: str) -> None:
    assert check_question(0, question) == []


def test_the_worked_examples_have_no_faults() -> None:
    """Sixty decompositions written by hand: what is found there would be found in good data."""
    found = [
        (one.instruction, fault.told) for one in EXAMPLES for fault in check_principles(one.instruction, one.principles)
    ]
    assert found == []


def test_other_languages_get_counts_and_repetitions_alone() -> None:
    asked = [Principle("帽子是红色的吗？", FOLLOW), Principle("帽子是红色的吗？", FOLLOW)]
    assert not is_english("把帽子变成红色") and not is_english("Rends le chapeau rouge")
    assert set(kinds(check_principles("把帽子变成红色", asked))) == {"duplicate", "count"}


def test_one_question_without_a_common_word_hides_no_fault() -> None:
    asked = follow("Is the hat red?", "Is the hat not red?", "Background consistency")
    found = [one for one in check_principles("Make the hat red.", asked) if one.kind in FAULTS]
    assert [(one.kind, one.principles) for one in found] == [("contradiction", (0, 1)), ("not yes/no", (2,))]
    foreign = [*asked[:2], Principle("帽子是红色的吗？", FOLLOW)]
    found = [one for one in check_principles("Make the hat red.", foreign) if one.kind in FAULTS]
    assert [(one.kind, one.principles) for one in found] == [("contradiction", (0, 1))]


def test_counts_by_category() -> None:
    found = check_principles("Make the hat red.", follow("Is the hat red?"))
    assert [one.told.split(",")[0] for one in found if one.kind == "count"] == [
        f"{FOLLOW}: 1", f"{KEEP}: 0", f"{QUALITY}: 0"
    ]  # fmt: skip


QUESTIONS = st.lists(
    st.tuples(st.text(min_size=1, max_size=60) | st.sampled_from(["Is the hat red?", "Is the hat not red?", "or not"]),
              st.sampled_from(CATEGORIES)),
    max_size=6,
)  # fmt: skip


@given(st.text(max_size=120) | st.just("Make the hat red and remove the dog."), QUESTIONS)
def test_any_text_is_checked_without_an_error(instruction: str, asked: list[tuple[str, str]]) -> None:
    principles = [Principle(*one) for one in asked]
    found = check_principles(instruction, principles)
    assert found == check_principles(instruction, principles)
    for finding in found:
        assert finding.kind in KINDS and finding.told
        assert all(0 <= place < len(principles) for place in finding.principles)


@given(
    st.lists(st.sampled_from(["Make the hat red and remove the dog.", "Make it blue."]), max_size=6), st.integers(0, 6)
)
def test_counts_of_parts_add_up(instructions: list[str], cut: int) -> None:
    whole, merged, parts = FindingsTally(), FindingsTally(), (FindingsTally(), FindingsTally())
    for number, instruction in enumerate(instructions):
        context = Context(Sample(f"s{number}", b"", instruction, "x"), tuple(follow("Is the hat red?")), "d")
        found = context_findings(context)
        whole.add(context, found)
        parts[number >= cut].add(context, found)
    for part in reversed(parts):
        merged.add_counts(json.loads(json.dumps(part.counts())))
    assert merged.as_dict() == whole.as_dict()
    told = whole.as_dict()
    two = sum("dog" in instruction for instruction in instructions)
    assert told["contexts"] == len(instructions) and told["faulty"] == two == told["kinds"]["uncovered"]["contexts"]
    assert told["principles"][FOLLOW] == ({"1": len(instructions)} if instructions else {})


def test_stems_and_opposites() -> None:
    for a, b in (("crying", "cry"), ("shelves", "shelf"), ("boxes", "box"), ("dogs", "dog's"), ("two", "2"),
                 ("stopped", "stop"), ("colour", "colors"), ("grey", "gray"), ("removed", "remove")):  # fmt: skip
        assert stem(a) == stem(b), (a, b)
    for a, b in (("dog", "dot"), ("red", "reed"), ("king", "kid"), ("bed", "bid")):
        assert stem(a) != stem(b)
    assert are_antonyms(stem("gone"), stem("unchanged")) and not are_antonyms(stem("red"), stem("blue"))
    assert content("Is the picture of the two dogs now in the top left?") == ["2", "dog", "top", "left"]
