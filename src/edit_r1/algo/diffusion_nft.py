"""DiffusionNFT: reinforcement on the forward process, by flow matching towards good samples and away from bad ones.

Zheng et al., "DiffusionNFT: Online Diffusion Reinforcement with Forward Process" (arXiv 2509.16117). For a finished
sample x_0 of the old policy with optimality r in [0, 1], noise e, level sigma, and x = (1 - sigma) x_0 + sigma e:

    v+ = (1 - beta) v_old + beta v,    v- = (1 + beta) v_old - beta v
    loss = r D(v+) + (1 - r) D(v-),    D(u) = |x_0(u) - x_0|^2 / sg(mean |x_0(u) - x_0|),    x_0(u) = x - sigma u
    r = 1/2 + 1/2 clip(A / Z, -1, 1)

with the advantage A of the sample in its group. The old policy follows the trained one after every iteration,
theta_old <- eta theta_old + (1 - eta) theta, with a decay eta that `decay_after` gives. D is the paper's
self-normalised regression of x_0. Neither the sampler nor its noise enters: samples may come from any solver, and what
is learned from is how the good samples differ from the bad ones, not which random step led there.

Legend: M rows, L latent tokens, C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

FLOOR = 1e-5
"""Least mean error that D is divided by."""

DecaySchedule = Literal["constant", "rising", "late"]
"""How the decay of an average goes with the number of optimiser steps; `decay_after` has the equations."""
PUBLISHED_DECAY: dict[DecaySchedule, float] = {"rising": 0.5, "late": 0.999}
"""What the published schedules rise to."""


def decay_after(updates: int, schedule: DecaySchedule, most: float) -> float:
    """eta after so many optimiser steps (from 1), at most `most`, in [0, 1).

        constant   most
        rising     min(0.001 n, most)                              published with 0.5: "decay_type" 1, the default there
        late       0 before step 75, then min(0.0075 (n - 75), most)     with 0.999: "decay_type" 2, for its OCR reward

    Names are ours; github.com/NVlabs/DiffusionNFT, scripts/train_nft_sd3.py (its type 0 is constant with 0). A small
    decay learns fast, a large one is stable. Raises ValueError for a number of steps below 0.
    """
    if updates < 0:
        raise ValueError(f"updates={updates}: a number of optimiser steps, 0 or more")
    if schedule == "constant":
        return most
    if schedule == "rising":
        return min(0.001 * updates, most)
    return 0.0 if updates < 75 else min(0.0075 * (updates - 75), most)


def optimality(advantages_M: Tensor, scale: float) -> Tensor:
    """r in [0, 1] of each row; `scale` is Z, in units of the advantage. Raises ValueError for scale <= 0."""
    if scale <= 0:
        raise ValueError(f"scale={scale}: advantages are divided by it; use a positive number, usually 5")
    return 0.5 + 0.5 * (advantages_M / scale).clamp(-1, 1)


def nft_loss(
    velocity_MLC: Tensor,
    old_MLC: Tensor,
    noisy_MLC: Tensor,
    clean_MLC: Tensor,
    sigma_M: Tensor,
    optimality_M: Tensor,
    beta: float = 1.0,
) -> Tensor:
    """The loss of each row, (M,), a mean over latents; divided by beta, so that beta leaves the gradient at v = v_old.

    velocity: of the policy, with a gradient; old: of the policy that drew the samples, without. beta: how far the two
    implicit policies lie from the old one; a smaller one lets the policy move further from it. Raises ValueError for
    beta <= 0 or an optimality outside [0, 1].
    """
    if beta <= 0:
        raise ValueError(f"beta={beta}: use a positive number, usually 1")
    if bool(((optimality_M < 0) | (optimality_M > 1)).any()):
        raise ValueError("an optimality lies outside [0, 1]: leave rows without a judgment out")
    old_MLC = old_MLC.detach()
    positive_MLC = (1 - beta) * old_MLC + beta * velocity_MLC
    negative_MLC = (1 + beta) * old_MLC - beta * velocity_MLC
    parts = [
        _self_normalised(noisy_MLC - sigma_M[:, None, None] * each_MLC, clean_MLC)
        for each_MLC in (positive_MLC, negative_MLC)
    ]
    return (optimality_M * parts[0] + (1 - optimality_M) * parts[1]) / beta


def _self_normalised(predicted_MLC: Tensor, clean_MLC: Tensor) -> Tensor:
    error_MLC = predicted_MLC - clean_MLC
    weight_M = error_MLC.detach().abs().mean(dim=(1, 2)).clamp_min(FLOOR)
    return torch.square(error_MLC).mean(dim=(1, 2)) / weight_M
