"""The prompts carry every rule of the paper, and refuse input that no model should be asked about."""

from __future__ import annotations

import pytest

from edit_r1.records import CATEGORIES, FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle
from edit_r1.verifier import prompts
from edit_r1.verifier.examples import EXAMPLES, draw_examples

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
    "order of the output": ["1. Your reasoning", "2. A JSON list", "3. The mean", "4. The final score"],
    "score tag": ["<score>"],
}


@pytest.mark.parametrize("rule", RULES)
def test_judge_prompt_carries_the_rule(rule: str) -> None:
    text = " ".join(prompts.judge_request([b"s"], b"e", "Make it blue", PRINCIPLES, "both", "full").text.split())
    positions = [text.find(phrase) for phrase in RULES[rule]]
    assert -1 not in positions
    assert positions == sorted(positions)


def test_the_source_and_the_instruction_come_first_so_that_candidates_share_a_prefix() -> None:
    first = prompts.judge_request([b"s"], b"e1", "Make it blue", PRINCIPLES, "both", "full")
    second = prompts.judge_request([b"s"], b"e2", "Make it blue", PRINCIPLES, "both", "full")
    assert first.parts[:3] == second.parts[:3]
    assert first.images == (b"s", b"e1")
    assert first.text.index("Instruction: Make it blue") < first.text.index("Rules:") < first.text.index("Edited image")


def test_full_modes_ask_for_what_they_need() -> None:
    texts = {
        mode: prompts.judge_request([b"s"], b"e", "x", PRINCIPLES, mode, "full").text
        for mode in ("think", "verify", "both")
    }
    assert '"evidence"' in texts["both"]
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
        ({"sources": b"png"}, "not bytes"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    arguments = {"sources": [b"s"], "edited": b"e", "instruction": "x", "principles": PRINCIPLES, **change}
    for variant in ("full", "compact"):
        with pytest.raises(ValueError, match=message):
            prompts.judge_request(**arguments, mode="both", variant=variant)


def test_examples_cover_the_eleven_categories_with_the_papers_counts() -> None:
    assert len({example.category for example in EXAMPLES} - {"multi-step"}) == 11
    for example in EXAMPLES:
        counts = [sum(p.category == category for p in example.principles) for category in CATEGORIES]
        assert counts[0] in (3, 4)
        assert counts[1] in (3, 4)
        assert counts[2] in (2, 3)
        assert all(p.question.endswith("?") for p in example.principles)
    assert draw_examples(5) == draw_examples(5)
    assert len(set(draw_examples(5))) == 4
    with pytest.raises(ValueError, match="count=99"):
        draw_examples(0, 99)
