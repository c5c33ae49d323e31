"""What a pretrained verifier sees: greedy accuracy on held-out scenes, per kind of thing seen.

The lessons are drawn at the fine rates, so that rare things are there to be measured.

A token counts as right when it is the likeliest one after the true answer so far; a line (or one side
of it) counts when all its tokens are right, which is greedy decoding's exact match given the lines
before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from edit_r1.world.scenes import COLOURS, LETTERS, MATERIALS, PLACES, SHAPES, SIZES
from edit_r1.zoo.lesson_batch import collate
from edit_r1.zoo.seeing import FINE, Lesson, lesson
from edit_r1.zoo.verifier_model import FastForward

SLOTS: dict[str, str] = {
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(MATERIALS, "material"),
    **dict.fromkeys(LETTERS, "letter"),
    **dict.fromkeys(PLACES, "place"),
    "with": "lettered",
    "nothing": "nothing",
    "faint": "faint",
    "unchanged": "unchanged",
}
"""Word of a line about a thing: what seeing it takes. The last four measure recall."""
CHUNK = 32


def _marks(tokenizer: Qwen2Tokenizer, taught: Lesson) -> Iterator[tuple[str, str | None]]:
    """Per token of the answer: the name of its unit (a line's side), and its slot's name or None."""
    text = taught.answer
    starts, lines = [0], text.split("\n")
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for start, end in tokenizer.backend_tokenizer.encode(f"{text}<|im_end|>").offsets:
        number = min(int(np.searchsorted(starts, start, side="right")) - 1, len(lines) - 1)
        line = lines[number]
        about, said = taught.lines[min(number, len(taught.lines) - 1)]
        cut = line.find(", now")
        side = "" if cut < 0 or about == "caption" else " now" if start - starts[number] >= cut else " was"
        if about == "thing" and said.endswith("change of place"):  # displaced, and nothing else
            side = f"{side} displaced"
        name = f"{about}: {said}" if about in ("sharpness", "colours", "border") else about + side
        word = text[start:end].strip()
        slot = f"{SLOTS[word]}{side}" if about in ("thing", "caption") and word in SLOTS else None
        yield f"{number}|{taught.kind} {name}" if about == "thing" else f"{number}|{name}", slot


@torch.no_grad()
def probe(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, count: int = 96, seed: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Accuracy on `count` held-out lessons of each of four kinds.

    Returns:
        {"lines": {name: [accuracy, units]}, "slots": {name: [accuracy, tokens]}}
    """
    units: dict[str, list[bool]] = defaultdict(list)
    slots: dict[str, list[bool]] = defaultdict(list)
    forward = FastForward(model, compiled=False)
    for number, kind in enumerate(("caption", "questions", "nouns", "principles")):
        rng = np.random.default_rng([seed, number])
        held_out = [lesson(rng, "validation", kind, FINE) for _ in range(count)]
        for begin in range(0, count, CHUNK):
            taught = held_out[begin : begin + CHUNK]
            batch = collate(tokenizer, taught)
            right = iter((forward(batch).argmax(-1) == batch.targets).tolist())
            for one in taught:
                whole: dict[str, bool] = {}
                for (unit, slot), hit in zip(list(_marks(tokenizer, one)), right, strict=False):
                    whole[unit] = whole.get(unit, True) and hit
                    if slot:
                        slots[slot].append(hit)
                for unit, hit in whole.items():
                    units[unit.partition("|")[2]].append(hit)
    table = {"lines": units, "slots": slots}
    return {
        name: {key: [round(float(np.mean(hits)), 4), len(hits)] for key, hits in sorted(part.items())}
        for name, part in table.items()
    }
