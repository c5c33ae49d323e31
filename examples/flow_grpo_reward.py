"""flow_grpo: a reward in the form of its rewards.py, with the verifier in the trainer's process.

Copy this file to flow_grpo/edit_rrm.py and add two lines to flow_grpo/rewards.py:

    "edit_rrm": edit_rrm,                                                    # in multi_score's table
    elif score_name == "edit_rrm":                                           # beside image_similarity
        scores, rewards = score_fns[score_name](images, prompts, metadata, ref_images)

The second is needed because the trainer hands `ref_images` only to rewards it knows by name. EDIT_R1_MODEL names the
verifier's folder; it is loaded in bfloat16 on a GPU and in float32 on a CPU, or as EDIT_R1_DTYPE says. Scores are 0
to 1.

flow_grpo adds and averages the scores, so it can leave no image out: an image without a score is judged again, and if
that fails too, this raises and the step stops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from edit_r1 import Verifier
from edit_r1.images import encode_png, from_tensor_CHW
from edit_r1.verifier.scoring import ScoreItem

Reward = Callable[..., tuple[list[float], dict[str, Any]]]


def edit_rrm(device: str | torch.device) -> Reward:
    """The reward function; it loads the verifier once."""
    on = str(device)
    dtype = os.environ.get(
        "EDIT_R1_DTYPE", "float32" if on == "cpu" else "bfloat16"
    )  # float32 would take twice the GPU
    verifier = Verifier.load(os.environ["EDIT_R1_MODEL"], device=on, dtype=dtype)

    def _fn(
        images: torch.Tensor | np.ndarray,
        prompts: Sequence[str],
        metadata: Any,
        ref_images: Sequence[Image.Image | np.ndarray] | torch.Tensor | None = None,
    ) -> tuple[list[float], dict[str, Any]]:
        """images: a tensor (N, 3, H, W) in [0, 1] or an array uint8 (N, H, W, 3); ref_images: as images, or PIL."""
        if ref_images is None:
            raise ValueError("no ref_images: add the line for edit_rrm to multi_score (see the top of this file)")
        rows = zip(_pngs(ref_images), _pngs(images), prompts, strict=True)
        items = [ScoreItem((source,), edited, prompt) for source, edited, prompt in rows]
        judgments = verifier.score_many(items)
        missing = [place for place, one in enumerate(judgments) if one.score is None]
        retried = verifier.score_many([items[place] for place in missing], temperature=1.0, seed=1)
        for place, one in zip(missing, retried, strict=True):
            judgments[place] = one
        scores = [one.score / 10 for one in judgments if one.score is not None]
        if len(scores) < len(items):
            reasons = [str(one.outcomes[0]) for one in judgments if one.score is None]
            raise RuntimeError(f"{len(reasons)} of {len(items)} edits have no score: {reasons[0]}")
        return scores, {}

    return _fn


def _pngs(images: Any) -> list[bytes]:
    if isinstance(images, torch.Tensor):
        images = from_tensor_CHW(images)
    return [encode_png(image) for image in images]
