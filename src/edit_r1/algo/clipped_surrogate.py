"""The clipped surrogate of PPO: min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = exp(log p - log p_old)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surrogate:
    """Per element, all of the shape of the log-probabilities."""

    objective: Tensor
    """min(rho A, clip(rho) A): to be maximised; carries the gradient."""
    ratio: Tensor
    """rho, detached."""
    clipped: Tensor
    """bool: the clip decides, so that the element has no gradient."""


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: float) -> Surrogate:
    """The surrogate of every element; the three tensors broadcast.

    clip_range: eps, in (0, 1); near 1e-4 when log-probabilities are averaged over latent dimensions.
    `old_log_prob` and `advantage` must not carry a gradient.
    """
    if not 0 < clip_range < 1:
        raise ValueError(
            f"clip_range={clip_range}: it must lie in (0, 1), usually 1e-5 to 1e-3 for images, 0.2 for text"
        )
    if old_log_prob.requires_grad or advantage.requires_grad:
        raise ValueError("old_log_prob or advantage requires a gradient: detach it, it belongs to the sampling policy")
    ratio = torch.exp(log_prob - old_log_prob)
    unclipped = ratio * advantage
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantage
    decided = (clipped < unclipped).detach()
    return Surrogate(torch.minimum(unclipped, clipped), ratio.detach(), decided)
