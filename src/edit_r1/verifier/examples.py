"""Worked decompositions that the "full" decompose prompt shows, 4 drawn for each query.

`examples.json` beside this file holds 60 of them, written for this project: 5 or 6 for each of the paper's eleven
categories of edit; five of them ask for several steps and stand under the category of the first. Each names a
picture in words (the prompt shows no example images), an instruction, and 9 or 10 principles in the shares that the
prompt asks for. A change there is a change of the prompt: see `prompts.PROMPT_VERSIONS`.
"""

from __future__ import annotations

import importlib.resources
import json
import random
from dataclasses import dataclass

from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, Principle

EXAMPLES_PER_QUERY = 4

_GROUPS = (("follow", INSTRUCTION_FOLLOWING), ("keep", FEATURE_PRESERVATION), ("quality", IMAGE_QUALITY))
"""Key in examples.json and the category of its questions."""


@dataclass(frozen=True)
class Example:
    """One worked decomposition."""

    category: str
    """Kind of edit, one of the paper's eleven."""
    scene: str
    """What the source image shows, in words; continues "The image shows "."""
    instruction: str
    principles: tuple[Principle, ...]

    def principles_json(self) -> str:
        """The answer as the prompt asks for it."""
        rows = [{"question": p.question, "category": p.category} for p in self.principles]
        return json.dumps(rows, ensure_ascii=False)


def draw_examples(seed: int, count: int = EXAMPLES_PER_QUERY) -> tuple[Example, ...]:
    """`count` different examples, drawn uniformly; the same seed draws the same ones in the same order."""
    if not 0 <= count <= len(EXAMPLES):
        raise ValueError(f"count={count}: there are {len(EXAMPLES)} examples to draw from")
    return tuple(random.Random(seed).sample(EXAMPLES, count))


def _read() -> tuple[Example, ...]:
    text = (importlib.resources.files("edit_r1.verifier") / "examples.json").read_text(encoding="utf-8")
    return tuple(
        Example(
            row["category"],
            row["scene"],
            row["instruction"],
            tuple(Principle(question, category) for key, category in _GROUPS for question in row[key]),
        )
        for row in json.loads(text)
    )


EXAMPLES: tuple[Example, ...] = _read()
