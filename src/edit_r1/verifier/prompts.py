"""The three prompts of the verifier: decompose, judge, verify; each in two variants.

"full" is for real vision-language models: every rule of the paper (2604.27505, section 2) in our own
words, JSON output. "compact" is for models of a few million parameters, which learn the rules from
data and have no room to read them. The order is always source image and instruction first, so that
all candidates of one context share a prefix that a server can cache.

Any change of a wording, of the examples too, changes the variant's entry in `PROMPT_VERSIONS`: judgments of different
versions are not comparable. Judgments, caches and curations record it. The compact wording is what the packaged models
were trained on, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edit_r1.images import Picture, encoded
from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    OutputMode,
    Principle,
)
from edit_r1.verifier.examples import Example
from edit_r1.vlm.protocol import Request

Variant = Literal["full", "compact"]

PROMPT_VERSIONS: dict[Variant, str] = {"full": "full-2", "compact": "compact-1"}
"""The version of each variant's three prompts."""

MAX_INSTRUCTION_CHARS = 2000
"""Longest instruction; far above any real one (ImgEdit's longest is some 400) and safe for the context."""
MAX_PRINCIPLES = 32
"""Most principles judged at once; the paper uses about 10."""
MAX_QUESTION_CHARS = 500
"""Longest principle."""
MAX_SOURCES = 8
"""Most source images of one instruction."""

SHORT_NAMES: dict[str, str] = {
    INSTRUCTION_FOLLOWING: "Follow",
    FEATURE_PRESERVATION: "Keep",
    IMAGE_QUALITY: "Quality",
}
"""Category to the short name that the compact variant writes."""

JUDGE_RULES: tuple[tuple[str, str], ...] = (
    (
        "binary verdicts",
        "Give every principle a verdict of 1 or 0: 1 only when the edited image clearly fulfils it. "
        "If you are uncertain, the verdict is 0.",
    ),
    (
        "significant change",
        "When the instruction asks for a change of position, size, age, distance or another quantity with a range "
        "and names no magnitude, the change must be significant. A shift of less than about 10% of the image does "
        "not count as a change.",
    ),
    (
        "unedited",
        "An edited image that is identical or nearly identical to the source gets the final score 0.",
    ),
    ("white borders", "White borders or padding that the source did not have make the final score 0."),
    (
        "holistic score",
        "The final score is not simply the mean of the verdicts. Weigh whether the image is usable as it is, how "
        "costly the remaining fix would be for a person with an image editor, and the core directive of the "
        "instruction above side points.",
    ),
    (
        "hallucinated change",
        "Unreasonable changes of things the instruction never mentioned lower the final score, also when no "
        "principle asks about them. Content invented without reason is penalised more than content left undone.",
    ),
    (
        "contradicting principle",
        "If a principle contradicts the instruction, ignore that principle: the instruction wins.",
    ),
    ("own left and right", "Left and right of a person mean the person's own left and right, not the viewer's."),
    (
        "bounding boxes",
        "Back every claim about a position with a bounding box [x1, y1, x2, y2], in fractions of width and height.",
    ),
    (
        "complete removal",
        "A removal must be complete: remains, shadows or reflections of the removed thing mean it failed.",
    ),
    (
        "main subject first",
        "Identity of the main subject (face, build, clothing, markings) counts before that of secondary subjects.",
    ),
    (
        "viewpoint",
        "When only the viewpoint changes, an object keeps its identity: compare 3D shape, structure and material, "
        "not pixels.",
    ),
    (
        "revealed areas",
        "Areas newly revealed by a removal or a move must be filled plausibly for the scene.",
    ),
    ("rendering faults", "Check for over-sharpening, over-saturation and colour cast."),
    (
        "re-check",
        "Before the final score re-check in this order: quantity; action or state; negations and comparatives; form "
        "and function; material; position; composition; main subject; environment.",
    ),
    ("edit happened", "Last of all, confirm that an edit happened at all."),
    (
        "anchors",
        "Scale of the final score, 0 to 10, decimals allowed: 0 is unusable (severe artefacts, hard to mend by "
        "hand), 5 is partly usable, 8 is nearly usable with small mending, 10 is usable as it is with nothing to mend.",
    ),
)
"""(name, wording) of each rule the judge's prompt carries."""

_ITEMS_WITH_EVIDENCE = '[{"question": "...", "evidence": "one short sentence, or null", "score": 0 or 1}, ...]'
_ITEMS = '[{"question": "...", "score": 0 or 1}, ...]'

_FULL_OUTPUT: dict[OutputMode, str] = {
    "both": (
        "Answer in this order and add nothing after it.\n"
        "1. Your reasoning in brief: what the edited image shows against the source.\n"
        "2. A JSON list, one object per principle, in the order given, the question copied word for word; the "
        f"evidence says what you saw, with boxes where positions matter:\n{_ITEMS_WITH_EVIDENCE}\n"
        '3. The mean of the verdicts: {"average_score": a number from 0 to 1}\n'
        "4. The final score: <score>a number from 0 to 10</score>"
    ),
    "verify": (
        "Answer in this order, without any reasoning, and add nothing after it.\n"
        "1. A JSON list, one object per principle, in the order given, the question copied word for word:\n"
        f"{_ITEMS}\n"
        '2. The mean of the verdicts: {"average_score": a number from 0 to 1}\n'
        "3. The final score: <score>a number from 0 to 10</score>"
    ),
    "think": (
        "Answer in this order and add nothing after it.\n"
        "1. Your reasoning: principle by principle, what the edited image shows against the source.\n"
        "2. The final score: <score>a number from 0 to 10</score>"
    ),
}

_COMPACT_OUTPUT: dict[OutputMode, str] = {"both": "think and verify", "verify": "verify", "think": "think"}

_DECOMPOSE_TASK = f"""\
You prepare the checklist by which an edit of this image will be judged; the edited image does not exist yet.
Turn the instruction into about 10 principles: yes/no questions about the edited image, for which yes is good.
- 3 to 4 of category "{INSTRUCTION_FOLLOWING}": what the instruction asks for, the core directive first, one point \
a question; name exact things, places, colours, counts and texts.
- 3 to 4 of category "{FEATURE_PRESERVATION}": what this image shows that must stay as it is; the main subject's \
identity first; nothing the instruction changes, and nothing that must change with it.
- 2 to 3 of category "{IMAGE_QUALITY}": realism, sharpness, edges, light and shadow, artefacts where the edit is.
Each question can be answered from the two images alone, asks one thing, and contradicts neither the instruction \
nor another question.
Output one JSON array of {{"question": "...", "category": "..."}} and nothing else."""

_VERIFY_TASK = """\
You are the reference by which other judges are checked. Decide for each principle whether the edited image \
fulfils it. The reference judgments below were written by other models and may be wrong: do not copy them. The \
images and the text decide.
Rules:
- gold is 1 only when the edited image clearly fulfils the principle; if you are uncertain, it is 0.
- If the image is unedited, the principles of the core edit are 0; the others are judged as they are.
- Unless the magnitude is given, a shift of less than 10% of the image is insufficient.
- If a principle contradicts the instruction, the instruction wins.
- Left and right of a person are the person's own.
- A removal must be complete."""

_VERIFY_OUTPUT = """\
Output one JSON object and nothing else, the list as long as the principles and in their order:
{"gold": [{"question": "...", "gold": 0 or 1, "reason": "one sentence"}, ...]}"""


def check_instruction(instruction: str) -> str:
    """The instruction without surrounding space; ValueError when it is empty, over-long or no text."""
    text = instruction.strip()
    check_signs("the instruction", text)
    if not text:
        raise ValueError("the instruction is empty: say in words what the edit should do")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise ValueError(
            f"the instruction has {len(text)} characters, at most {MAX_INSTRUCTION_CHARS} are read: shorten it"
        )
    return text


def check_principles(principles: Sequence[Principle]) -> tuple[Principle, ...]:
    """The principles, one line each; ValueError for none, too many, an unusable question or a foreign category."""
    if not principles:
        raise ValueError("no principles: give at least one, or let the model write them")
    if len(principles) > MAX_PRINCIPLES:
        raise ValueError(f"{len(principles)} principles, at most {MAX_PRINCIPLES} are judged at once: leave some out")
    checked = []
    for number, principle in enumerate(principles, start=1):
        question = " ".join(principle.question.split())
        if not question:
            raise ValueError(f"principle {number} is empty: write a yes/no question or leave it out")
        if len(question) > MAX_QUESTION_CHARS:
            raise ValueError(
                f"principle {number} has {len(question)} characters, at most {MAX_QUESTION_CHARS}: shorten or split it"
            )
        check_signs(f"principle {number}", question)
        if principle.category not in CATEGORIES:
            raise ValueError(f"principle {number} has category {principle.category!r}: use one of {list(CATEGORIES)}")
        checked.append(Principle(question, principle.category))
    return tuple(checked)


def check_signs(label: str, text: str) -> str:
    """The text; ValueError, naming the `label`, for what no tokenizer, hash or file takes."""
    if "\x00" in text:
        raise ValueError(f"{label} holds a null byte: send plain text")
    if any("\ud800" <= sign <= "\udfff" for sign in text):  # also what Python makes of arguments that are no UTF-8
        raise ValueError(f"{label} holds half of a surrogate pair, or bytes that are no UTF-8: write it in UTF-8")
    return text


def check_sources(sources: Sequence[Picture]) -> tuple[bytes, ...]:
    """The sources, encoded. ValueError for no source image, too many, or what is no sequence of pictures."""
    given: object = sources
    if isinstance(given, bytes | str) or not isinstance(given, Sequence):
        raise ValueError(
            f"the sources are {type(given).__name__}: give a sequence of images, bytes or Pillow's, such as [image]"
        )
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise ValueError(f"{len(sources)} source images: give 1 to {MAX_SOURCES}, as a sequence of images")
    return tuple(encoded(source) for source in sources)


def compact_principle(number: int, principle: Principle) -> str:
    """ "1 [Follow] Is the circle red?"."""
    return f"{number} [{SHORT_NAMES[principle.category]}] {principle.question}"


def _source_parts(sources: tuple[bytes, ...], label: str) -> list[str | bytes]:
    """`label`: image, or numbered when there are several."""
    if len(sources) == 1:
        return [f"{label}: ", sources[0]]
    parts: list[str | bytes] = []
    for number, source in enumerate(sources, start=1):
        parts += [f"{label} {number}: ", source, "\n"]
    return parts[:-1]


def _context_parts(
    sources: Sequence[bytes], edited: bytes, instruction: str, principles: Sequence[Principle], task: str
) -> list[str | bytes]:
    """The full variant's parts up to the edited image: sources, instruction, task, principles, edited image."""
    checked = check_principles(principles)
    listed = "\n".join(f"{n}. [{p.category}] {p.question}" for n, p in enumerate(checked, start=1))
    return [
        *_source_parts(check_sources(sources), "Source image"),
        f"\nInstruction: {check_instruction(instruction)}\n\n{task}\n\nPrinciples:\n{listed}\n\nEdited image: ",
        edited,
    ]


def _compact_context_parts(
    sources: Sequence[bytes], edited: bytes, instruction: str, principles: Sequence[Principle]
) -> list[str | bytes]:
    """The compact variant's parts up to the edited image."""
    lines = [compact_principle(n, p) for n, p in enumerate(check_principles(principles), start=1)]
    one_line = " ".join(check_instruction(instruction).split())
    return [
        *_source_parts(check_sources(sources), "Source"),
        "\n".join([f"\nInstruction: {one_line}", *lines, "Edited: "]),
        edited,
    ]


def judge_request(
    sources: Sequence[bytes],
    edited: bytes,
    instruction: str,
    principles: Sequence[Principle],
    mode: OutputMode,
    variant: Variant,
) -> Request:
    """What the verifier reads for one quadruple (x_edit, x_ref, q, P); images encoded.

    The system text is left free: a pool of judges varies it. Raises ValueError for a bad input.
    """
    if variant == "compact":
        parts = _compact_context_parts(sources, edited, instruction, principles)
        return Request((*parts, f"\nAnswer: {_COMPACT_OUTPUT[mode]}"))
    rules = "\n".join(f"- {wording}" for _, wording in JUDGE_RULES)
    task = (
        "Judge how well the edited image, which follows below, carries out this instruction on the source image. "
        f"Be strict and exact.\nRules:\n{rules}"
    )
    parts = _context_parts(sources, edited, instruction, principles, task)
    return Request((*parts, f"\n\n{_FULL_OUTPUT[mode]}"))


def decompose_request(
    sources: Sequence[bytes], instruction: str, examples: Sequence[Example], variant: Variant
) -> Request:
    """Asks for the principles of (x_ref, q). `examples` (the paper draws 4) are shown in "full" only."""
    text = check_instruction(instruction)
    if variant == "compact":
        one_line = " ".join(text.split())
        source_parts = _source_parts(check_sources(sources), "Source")
        return Request((*source_parts, f"\nInstruction: {one_line}\nList the principles."))
    shown = "".join(
        f"\n\nExample {number}. The image shows {example.scene}\nInstruction: {example.instruction}\n"
        f"{example.principles_json()}"
        for number, example in enumerate(examples, start=1)
    )
    return Request(
        (
            *_source_parts(check_sources(sources), "Source image"),
            f"\nInstruction: {text}\n\n{_DECOMPOSE_TASK}{shown}\n\nNow the array for the source image and "
            "instruction given at the top:",
        )
    )


def verify_request(
    sources: Sequence[bytes],
    edited: bytes,
    instruction: str,
    principles: Sequence[Principle],
    traces: Sequence[str],
    variant: Variant,
) -> Request:
    """Asks for gold verdicts; `traces` of all candidates' judges are shown as references, not to be copied."""
    numbered = enumerate(traces, start=1)
    if variant == "compact":
        shown = "".join(f"\nReference {number}:\n{trace.strip()}" for number, trace in numbered)
        parts = _compact_context_parts(sources, edited, instruction, principles)
        return Request((*parts, f"{shown}\nAnswer: gold"))
    shown = "".join(f"\n\n<reference_{number}>\n{trace.strip()}\n</reference_{number}>" for number, trace in numbered)
    references = f"\n\nReference judgments, not to be copied:{shown}" if shown else ""
    parts = _context_parts(sources, edited, instruction, principles, _VERIFY_TASK)
    return Request((*parts, f"{references}\n\n{_VERIFY_OUTPUT}"))
