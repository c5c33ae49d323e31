"""TRL-style reward function: called as reward(prompts, completions, **columns), one value or None per completion.

    trainer = GRPOTrainer(..., reward_funcs=edit_rrm)      # or any trainer with the same convention

`completions` are the edited images (PIL, or chat messages whose last image part is the edit); the data set has a
column `source` with the image before the edit, and `instruction`, or the prompt itself is the instruction.
EDIT_R1_MODEL names the verifier's folder, EDIT_R1_DEVICE where it is loaded (cpu, cuda:1); in bfloat16 on a GPU and in
float32 on a CPU, or as EDIT_R1_DTYPE says. Rewards are 0 to 1.

Here a failure has a word of its own: None. TRL leaves such a completion out of the reward and its group's baseline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from PIL import Image

from edit_r1 import Verifier
from edit_r1.images import encode_png
from edit_r1.verifier.scoring import ScoreItem


@cache
def _verifier() -> Verifier:
    on = os.environ.get("EDIT_R1_DEVICE", "cpu")
    dtype = os.environ.get(
        "EDIT_R1_DTYPE", "float32" if on == "cpu" else "bfloat16"
    )  # float32 would take twice the GPU
    return Verifier.load(os.environ["EDIT_R1_MODEL"], device=on, dtype=dtype)


def edit_rrm(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    source: Sequence[Image.Image],
    instruction: Sequence[str] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """One reward per completion, in order; None where there is no judgment."""
    texts = prompts if instruction is None else instruction
    rows = zip(source, completions, texts, strict=True)
    items = [ScoreItem((encode_png(before),), encode_png(_image(after)), str(text)) for before, after, text in rows]
    scores = [judgment.score for judgment in _verifier().score_many(items)]
    if log_metric is not None and scores:
        log_metric("edit_rrm/without_score", scores.count(None) / len(scores))
    return [None if score is None else score / 10 for score in scores]


def _image(completion: Any) -> Image.Image:
    """The edit: the completion itself, or the last image in its messages."""
    if isinstance(completion, Image.Image):
        return completion
    parts = [part for message in completion for part in message["content"] if isinstance(part, dict)]
    return next(part["image"] for part in reversed(parts) if part.get("type") == "image")
