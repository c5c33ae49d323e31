"""Lessons as tensors, built without the Hugging Face processor and equal to what it builds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import Qwen2Tokenizer

from edit_r1.world.render import render
from edit_r1.zoo.seeing import COARSE, FINE, Lesson, lesson
from edit_r1.zoo.verifier_model import TOKENS, Batch, patchify, rope_positions

ROUND = 16
"""Lengths are padded to a multiple of this, which bounds the number of different shapes."""
GROUP = 4
"""Batches drawn together and cut by length, so that little is padded."""
FINE_FROM = 1660
"""First step of the fine lessons; a multiple of `GROUP`. By then (80,000 samples) colours, shapes, places, tones
and styles are seen, and letters and damage, at the coarse rates, were still not (small, 48,000 samples)."""


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
    pixels_NPC = patchify(render([scene for scene, _ in pictures], [damage for _, damage in pictures]))
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


def batch_for(tokenizer: Qwen2Tokenizer, seed: int, step: int, size: int) -> Batch:
    """The batch of one step, from (seed, step) alone: one of `GROUP` batches of similar length, in random order."""
    rng = np.random.default_rng([seed, step // GROUP])
    rates = FINE if step >= FINE_FROM else COARSE
    taught = sorted((lesson(rng, rates=rates) for _ in range(size * GROUP)), key=_length)
    index = int(rng.permutation(GROUP)[step % GROUP])
    return collate(tokenizer, taught[index * size : (index + 1) * size])
