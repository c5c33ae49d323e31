"""The prompts carry every rule of the paper, and refuse input that no model should be asked about."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest

from edit_r1.records import CATEGORIES, FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle
from edit_r1.verifier import prompts
from edit_r1.verifier.examples import EXAMPLES, Example, draw_examples
from edit_r1.verifier.parsing import parse_principles

PRINCIPLES = [
    Principle("Is the circle blue?", INSTRUCTION_FOLLOWING),
    Principle("Is the background\n still grey?", FEATURE_PRESERVATION),
    Principle("Is the picture sharp?", IMAGE_QUALITY),
]

# Each rule of paper.md, "Rules the judge's prompt must carry", and phrases that only that rule brings.
RULES = {
    "0/1 per principle": ["1 or 0"],
    "uncertain means 0": ["uncertain, the verdict is 0"],
    "range-like change must be significant": ["position, size, age, distance", "names no magnitude", "significant"],
    "a shift under 10 percent does not count": ["less than about 10% of the image"],
    "unedited scores 0": ["identical or nearly identical", "final score 0"],
    "white borders": ["White borders"],
    "score is not the mean of the verdicts": ["not simply the mean"],
    "usable as is": ["usable as it is"],
    "cost of the remaining fix": ["costly the remaining fix"],
    "core directive above side points": ["core directive", "above side points"],
    "unmentioned changes": ["never mentioned"],
    "hallucination penalised more": ["penalised more"],
    "instruction wins over a contradicting principle": ["contradicts the instruction", "the instruction wins"],
    "a person's own left and right": ["person's own left and right"],
    "boxes for positions": ["bounding box"],
    "complete removal": ["removal must be complete"],
    "main subject first": ["Identity of the main subject", "before that of secondary"],
    "identity under a new viewpoint": ["only the viewpoint changes", "3D shape, structure and material", "not pixels"],
    "revealed areas plausible": ["newly revealed", "plausibly"],
    "rendering faults": ["over-sharpening, over-saturation and colour cast"],
    "re-check in order": [
        "quantity; action or state; negations and comparatives; form and function; material; position; composition; "
        "main subject; environment"
    ],
    "an edit happened": ["Last of all, confirm that an edit happened"],
    "anchor 0": ["0 is unusable (severe artefacts"],
    "anchor 5": ["5 is partly usable"],
    "anchor 8": ["8 is nearly usable"],
    "anchor 10": ["10 is usable as it is with nothing to mend"],
    "evidence before each verdict, may be null": ['"evidence": "one short sentence, or null", "score": 0 or 1'],
    "the mean of the verdicts": ['{"average_score": a number from 0 to 1}'],
    "order of the output": ["1. Your reasoning", "2. A JSON list", "3. The mean", "4. The final score"],
    "score tag": ["<score>"],
}


@pytest.mark.parametrize("rule", RULES)
def test_judge_prompt_carries_the_rule(rule: str) -> None:
    text = " ".join(prompts.judge_request([b"s"], b"e", "Make it blue", PRINCIPLES, "both", "full").text.split())
    positions = [text.find(phrase) for phrase in RULES[rule]]
    assert -1 not in positions
    assert positions == sorted(positions)


# paper.md, step 1 "Decompose".
DECOMPOSE_RULES = {
    "about 10 principles": ["about 10 principles"],
    "3 to 4 for following": ['3 to 4 of category "Instruction Following"'],
    "3 to 4 for keeping": ['3 to 4 of category "Feature Preservation"'],
    "2 to 3 for quality": ['2 to 3 of category "Image Quality"'],
    "yes is good": ["yes/no questions about the edited image, for which yes is good"],
    "core directive first": ["the core directive first"],
    "the main subject's identity first": ["the main subject's identity first"],
    "nothing that must change": ["nothing the instruction changes"],
    "answerable from the images": ["answered from the two images alone"],
    "one thing a question": ["asks one thing"],
    "no contradiction": ["contradicts neither the instruction nor another question"],
    "a JSON array": ['one JSON array of {"question": "...", "category": "..."}'],
}
# paper.md, step 4 "Verify".
VERIFY_RULES = {
    "references are not copied": ["may be wrong: do not copy them"],
    "images and text decide": ["The images and the text decide"],
    "gold is 0 or 1": ["gold is 1 only when", '"gold": 0 or 1'],
    "uncertain means 0": ["uncertain, it is 0"],
    "unedited zeroes the core edit only": ["unedited, the principles of the core edit are 0; the others are judged"],
    "a shift under 10 percent is insufficient": ["less than 10% of the image is insufficient"],
    "instruction wins": ["contradicts the instruction, the instruction wins"],
    "own left and right": ["the person's own"],
    "complete removal": ["removal must be complete"],
    "one-sentence reasons": ['"reason": "one sentence"'],
    "same length and order": ["as long as the principles and in their order"],
}


@pytest.mark.parametrize("rule", DECOMPOSE_RULES)
def test_decompose_prompt_carries_the_rule(rule: str) -> None:
    text = " ".join(prompts.decompose_request([b"s"], "Make it blue", (), "full").text.split())
    assert all(phrase in text for phrase in DECOMPOSE_RULES[rule])


@pytest.mark.parametrize("rule", VERIFY_RULES)
def test_verify_prompt_carries_the_rule(rule: str) -> None:
    text = " ".join(prompts.verify_request([b"s"], b"e", "Make it blue", PRINCIPLES, ["a"], "full").text.split())
    assert all(phrase in text for phrase in VERIFY_RULES[rule])


def test_rules_have_names_of_their_own() -> None:
    names = [name for name, _ in prompts.JUDGE_RULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("variant", ["full", "compact"])
@pytest.mark.parametrize("sources", [[b"s"], [b"s", b"t"]])
def test_all_edits_of_a_group_share_everything_up_to_the_edited_image(variant: str, sources: list[bytes]) -> None:
    group = [
        [
            prompts.judge_request(sources, edited, "Make it blue", PRINCIPLES, "both", variant),
            prompts.verify_request(sources, edited, "Make it blue", PRINCIPLES, [f"trace of {edited!r}"], variant),
        ]
        for edited in (b"e1", b"e2", b"e3")
    ]
    for requests in zip(*group, strict=True):
        prefixes = [request.parts[: request.parts.index(request.images[-1])] for request in requests]
        assert prefixes[0] == prefixes[1] == prefixes[2]
        assert [part for part in prefixes[0] if isinstance(part, bytes)] == sources
        shared = "".join(part for part in prefixes[0] if isinstance(part, str))
        assert shared.index("Instruction: Make it blue") < shared.index("Is the circle blue?")
        assert requests[0].images == (*sources, b"e1")
    judge = group[0][0].text
    if variant == "full":
        assert judge.index("Instruction: Make it blue") < judge.index("Rules:") < judge.index("Edited image: ")


def _fingerprint(variant: str) -> str:
    """Hash of the wording of all three prompts, examples included."""
    requests = [prompts.judge_request([b"s"], b"e", "x", PRINCIPLES, m, variant) for m in ("both", "verify", "think")]
    requests.append(prompts.decompose_request([b"s"], "x", EXAMPLES, variant))
    requests.append(prompts.verify_request([b"s"], b"e", "x", PRINCIPLES, ["a trace"], variant))
    return hashlib.sha256("\0".join(request.text for request in requests).encode()).hexdigest()[:16]


def test_a_change_of_wording_is_a_new_version() -> None:
    """When this fails: a new entry in PROMPT_VERSIONS, then the new hash here. Never for "compact"."""
    assert {prompts.PROMPT_VERSIONS[variant]: _fingerprint(variant) for variant in ("full", "compact")} == {
        "full-2": "f26b612ae9a2df41",
        "compact-1": "f55d4d634f0af64a",
    }


def test_full_modes_ask_for_what_they_need() -> None:
    texts = {
        mode: prompts.judge_request([b"s"], b"e", "x", PRINCIPLES, mode, "full").text
        for mode in ("think", "verify", "both")
    }
    assert '"evidence"' in texts["both"]
    assert "without any reasoning" in texts["verify"]
    assert '"evidence"' not in texts["verify"]
    assert "JSON" not in texts["think"]
    assert all("<score>" in text for text in texts.values())


@pytest.mark.parametrize(("mode", "end"), [("both", "think and verify"), ("think", "think"), ("verify", "verify")])
def test_compact_judge_prompt_is_exact(mode: str, end: str) -> None:
    request = prompts.judge_request([b"s"], b"e", " Make it\nblue ", PRINCIPLES, mode, "compact")
    assert request.parts == (
        "Source: ",
        b"s",
        "\nInstruction: Make it blue\n1 [Follow] Is the circle blue?\n2 [Keep] Is the background still grey?\n"
        "3 [Quality] Is the picture sharp?\nEdited: ",
        b"e",
        f"\nAnswer: {end}",
    )


def test_compact_decompose_prompt_is_exact() -> None:
    request = prompts.decompose_request([b"s"], "Make it blue", draw_examples(0), "compact")
    assert request.parts == ("Source: ", b"s", "\nInstruction: Make it blue\nList the principles.")


def test_compact_verify_prompt_is_exact() -> None:
    request = prompts.verify_request([b"s"], b"e", "Make it blue", PRINCIPLES[:1], ["1 yes\n", "1 no"], "compact")
    assert request.parts == (
        "Source: ",
        b"s",
        "\nInstruction: Make it blue\n1 [Follow] Is the circle blue?\nEdited: ",
        b"e",
        "\nReference 1:\n1 yes\nReference 2:\n1 no\nAnswer: gold",
    )


def test_full_decompose_prompt_shows_the_examples_and_names_the_counts() -> None:
    examples = draw_examples(3)
    text = prompts.decompose_request([b"s"], "Make it blue", examples, "full").text
    assert all(example.principles_json() in text for example in examples)
    assert all(category in text for category in CATEGORIES)
    assert "about 10 principles" in text
    assert text.count("3 to 4") == 2
    assert "2 to 3" in text


@pytest.mark.parametrize("variant", ["full", "compact"])
def test_verify_prompt_shows_every_reference(variant: str) -> None:
    text = prompts.verify_request([b"s"], b"e", "x", PRINCIPLES, ["trace one", "trace two"], variant).text
    assert text.index("trace one") < text.index("trace two")
    if variant == "full":
        assert "do not copy" in text
        assert "10%" in text
        assert "core edit are 0" in text
        assert '{"gold"' in text


def test_several_sources_are_numbered() -> None:
    request = prompts.judge_request([b"a", b"b"], b"e", "x", PRINCIPLES, "both", "compact")
    assert request.text.startswith("Source 1: <image>\nSource 2: <image>\nInstruction: x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": " \n"}, "empty"),
        ({"instruction": "x" * (prompts.MAX_INSTRUCTION_CHARS + 1)}, "2001 characters, at most 2000"),
        ({"principles": []}, "no principles"),
        ({"principles": PRINCIPLES * 11}, "33 principles, at most 32"),
        ({"principles": [Principle(" ", IMAGE_QUALITY)]}, "principle 1 is empty"),
        ({"principles": [Principle("x" * 501, IMAGE_QUALITY)]}, "501 characters"),
        ({"principles": [Principle("x", "Beauty")]}, "'Beauty'"),
        ({"sources": []}, "0 source images"),
        ({"sources": [b"s"] * 9}, "9 source images"),
        ({"sources": b"png"}, "the sources are bytes: give a sequence"),
        ({"sources": ["before.png"]}, "a picture is str: give an image file's bytes"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    arguments = {"sources": [b"s"], "edited": b"e", "instruction": "x", "principles": PRINCIPLES, **change}
    for variant in ("full", "compact"):
        with pytest.raises(ValueError, match=message):
            prompts.judge_request(**arguments, mode="both", variant=variant)


ELEVEN = {
    "background change",
    "colour alteration",
    "material modification",
    "motion change",
    "portrait beautification",
    "style transfer",
    "subject addition",
    "subject removal",
    "subject replacement",
    "text modification",
    "tone transformation",
}


def test_sixty_examples_spread_evenly_over_the_eleven_categories() -> None:
    counts = Counter(example.category for example in EXAMPLES)
    assert (len(EXAMPLES), set(counts)) == (60, ELEVEN)
    assert set(counts.values()) == {5, 6}
    assert len({example.instruction for example in EXAMPLES}) == len({example.scene for example in EXAMPLES}) == 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.instruction[:40])
def test_every_example_obeys_the_rules_of_the_prompt(example: Example) -> None:
    counts = [sum(p.category == category for p in example.principles) for category in CATEGORIES]
    assert counts[0] in (3, 4) and counts[1] in (3, 4) and counts[2] in (2, 3) and 9 <= sum(counts) <= 11
    assert prompts.check_principles(example.principles) == example.principles
    questions = [principle.question for principle in example.principles]
    assert len({question.casefold() for question in questions}) == len(questions)
    for question in questions:
        assert re.fullmatch(r"(Is|Are|Does|Do|Was|Were|Has|Have|Can) .+[^ ]\?", question), question
        assert 4 <= len(question.split()) <= 20 and question.count("?") == 1, question
        # Only the two images are at hand, and a "maybe" has no verdict.
        assert not re.search(r"\b(should|might|maybe|beautiful|good|nice|instruction|prompt)\b", question), question
    assert len(example.scene.split()) >= 5 and example.scene.endswith(".") and example.scene[0].islower()
    assert prompts.check_instruction(example.instruction) == example.instruction
    assert parse_principles(example.principles_json()) == example.principles


def test_four_examples_are_drawn_by_seed() -> None:
    assert draw_examples(5) == draw_examples(5) != draw_examples(6)
    assert len(set(draw_examples(5))) == 4
    assert {example for seed in range(200) for example in draw_examples(seed)} == set(EXAMPLES)
    with pytest.raises(ValueError, match="count=99: there are 60"):
        draw_examples(0, 99)
