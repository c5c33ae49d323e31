"""Only tokens that are learned go through the LM head, on a CPU too.

TRL's fused head leaves out positions without a label where it has Triton, and elsewhere scores all of them, so that
tiles keep their shapes for devices that compile them. torch on a CPU compiles nothing, and of a verifier's tokens the
prompt and its pictures are the larger part. What is left out has no loss and no gradient.
"""

from __future__ import annotations

import torch
from trl.trainer import utils

_with_triton = utils._use_triton


def _leaves_out(device: torch.device) -> bool:
    return device.type == "cpu" or bool(_with_triton(device))


def score_learned_tokens() -> None:
    """From now on, in this process; TRL asks `_use_triton` in its fused forward for this alone."""
    utils._use_triton = _leaves_out
