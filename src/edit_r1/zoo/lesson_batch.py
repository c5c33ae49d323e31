"""Lessons as tensors, built without the Hugging Face processor and equal to what it builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from edit_r1.world.render import render_one
from edit_r1.zoo.seeing import COARSE, FINE, Lesson, Painted, lesson, painted_lesson
from edit_r1.zoo.verifier_model import TOKENS, Batch, patchify, rope_positions

ROUND = 16
"""Lengths are padded to a multiple of this, which bounds the number of different shapes."""
GROUP = 4
"""Batches drawn together and cut by length, so that little is padded."""
PAINTED_SHARE = 0.5
"""Share of lessons on painted pictures, once there are any."""


@dataclass(frozen=True)
class Course:
    """When what is taught; steps are multiples of `GROUP`."""

    fine_from: int = 1660
    """First step of the fine lessons. By then (80,000 samples) colours, shapes, places, tones and styles are seen, and
    letters and damage, at the coarse rates, were still not (small, 48,000 samples)."""
    painted_from: int = 6500
    """First step of lessons on painted pictures."""
    painted_contexts: int = 9600
    """Of the bank of painted pictures."""


def prompt_text(taught: Lesson) -> str:
    """The chat turn up to the answer, every picture's placeholder repeated as the processor does."""
    picture = f"<|vision_start|>{'<|image_pad|>' * TOKENS}<|vision_end|>"
    body = "".join(part if isinstance(part, str) else picture for part in taught.parts)
    return f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"


def collate(tokenizer: Qwen2Tokenizer, taught: Sequence[Lesson]) -> Batch:
    """Lessons as one right-padded batch; only answers and their <|im_end|> are learned."""
    backend = tokenizer.backend_tokenizer
    prompts = [item.ids for item in backend.encode_batch([prompt_text(one) for one in taught])]
    answers = [item.ids for item in backend.encode_batch([f"{one.answer}<|im_end|>" for one in taught])]
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    length = -(-longest // ROUND) * ROUND
    ids_BL = np.full((len(taught), length), tokenizer.pad_token_id, np.int64)
    rows: list[np.ndarray] = []
    targets: list[int] = []
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids_BL[row, : len(prompt) + len(answer)] = prompt + answer
        rows.append(row * length + len(prompt) - 1 + np.arange(len(answer)))
        targets += answer
    pictures = [shown for one in taught for shown in one.pictures]
    given = [pixels for one in taught for pixels in one.pixels or (None,) * len(one.pictures)]
    shown = [
        render_one(*picture) if pixels is None else pixels for picture, pixels in zip(pictures, given, strict=True)
    ]
    pixels_NPC = patchify(np.stack(shown))
    image_token = backend.token_to_id("<|image_pad|>")
    return Batch(
        torch.from_numpy(ids_BL),
        torch.from_numpy(rope_positions(ids_BL, image_token)),
        torch.from_numpy(pixels_NPC),
        torch.from_numpy(np.concatenate(rows)),
        torch.tensor(targets),
    )


def _length(taught: Lesson) -> int:
    """Roughly how long a lesson is; good enough to sort by."""
    texts = (len(part) if isinstance(part, str) else 5 * TOKENS for part in taught.parts)
    return sum(texts) + len(taught.answer)


def batch_for(
    tokenizer: Qwen2Tokenizer, seed: int, step: int, size: int, course: Course, bank: Sequence[Painted] = ()
) -> Batch:
    """The batch of one step, from (seed, step) and the bank: one of `GROUP` batches of like length, in random order."""
    rng = np.random.default_rng([seed, step // GROUP])
    rates = FINE if step >= course.fine_from else COARSE
    painted = step >= course.painted_from
    if painted and not bank:
        raise ValueError(f"step {step} teaches painted pictures and there are none: `python -m edit_r1.zoo.painted`")
    drawn = []
    for _ in range(size * GROUP):
        if painted and rng.random() < PAINTED_SHARE:
            drawn.append(painted_lesson(rng, bank[int(rng.integers(len(bank)))]))
        else:
            drawn.append(lesson(rng, rates=rates))
    taught = sorted(drawn, key=_length)
    index = int(rng.permutation(GROUP)[step % GROUP])
    return collate(tokenizer, taught[index * size : (index + 1) * size])
