"""One stochastic step of a flow-matching sampler: its mean, its std, its log-probability, and its KL.

Legend: B samples, L latent tokens, C latent channels. sigma runs down from 1 (noise) to 0 (image).

The deterministic sampler moves by x' = x + v dt with dt = sigma' - sigma < 0. The stochastic sampler
of Flow-GRPO has the same marginals and noise of scale s = eta sqrt(sigma / (1 - sigma)):

    mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,    std = s sqrt(-dt)

Two places need care. At sigma = 1 the scale s is infinite: `sigma_cap` stands in for sigma in 1 - sigma
*inside s*, as published implementations do with the schedule's second sigma. The last step (sigma' = 0)
would leave its noise in the image: it has no stochastic form here and raises.

Every function here is pure and keeps the dtype of its inputs; call it in float32 or better.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

KLScale = Literal["with_dt", "without_dt"]
"""Which published KL a beta belongs to. with_dt (the default everywhere): (mean - mean_ref)^2 / (2 std^2)
with std = s sqrt(-dt), the KL of the two Gaussians that are sampled from. without_dt: divided by 2 s^2,
smaller by |dt|, so that the same beta is a weaker penalty."""


def noise_scale(sigma_B: Tensor, eta: float, sigma_cap_B: Tensor) -> Tensor:
    """s = eta sqrt(sigma / (1 - min(sigma, sigma_cap))), shape [B].

    sigma_B: in (0, 1]. sigma_cap_B: below 1; the schedule's second sigma. Only the first step of a
    schedule is above it, so every other step has the exact scale.
    """
    if bool((sigma_cap_B >= 1).any()):
        raise ValueError(
            f"sigma_cap={sigma_cap_B.max().item()}: the noise scale is infinite at sigma = 1; "
            "pass the schedule's second sigma, which is below 1"
        )
    return eta * torch.sqrt(sigma_B / (1 - torch.minimum(sigma_B, sigma_cap_B)))


def transition(
    latents_BLC: Tensor, velocity_BLC: Tensor, sigma_B: Tensor, sigma_next_B: Tensor, eta: float, sigma_cap_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean [B, L, C] and std [B] of x' given x, the equations of this module's docstring.

    With eta = 0 the mean is exactly x + v dt, bit for bit what the Euler sampler computes, and std is 0.
    Raises ValueError for eta < 0, for a step that does not go down, and for eta > 0 on the last step.
    """
    if eta < 0:
        raise ValueError(f"eta={eta}: the noise level is 0 (deterministic) or more; usual values are 0.7 to 0.9")
    dt_B = sigma_next_B - sigma_B
    if bool((dt_B >= 0).any()):
        raise ValueError("sigma_next >= sigma: sigmas must decrease; pass sigmas[i] and sigmas[i + 1] of one schedule")
    if eta > 0 and bool((sigma_next_B <= 0).any()):
        raise ValueError(
            "sigma_next = 0: the last step would leave its noise in the image; take it with eta = 0 "
            "and do not train on it"
        )
    scale_B = noise_scale(sigma_B, eta, sigma_cap_B)
    half_square_B = scale_B.square() / (2 * sigma_B)
    keep_B11 = (1 + half_square_B * dt_B)[:, None, None]
    push_B11 = (1 + half_square_B * (1 - sigma_B))[:, None, None]
    mean_BLC = latents_BLC * keep_B11 + velocity_BLC * push_B11 * dt_B[:, None, None]
    return mean_BLC, scale_B * torch.sqrt(-dt_B)


def log_probability(next_BLC: Tensor, mean_BLC: Tensor, std_B: Tensor, mask_BL: Tensor | None = None) -> Tensor:
    """log N(x'; mean, std^2) averaged over the unmasked latent dimensions, shape [B].

    Averaged, not summed: clip ranges near 1e-4 belong to this scale. mask_BL is true where a token is
    real and false where it is padding; None means that all are real. std_B must be positive.
    """
    std_B11 = std_B[:, None, None]
    log_density_BLC = -((next_BLC - mean_BLC).square()) / (2 * std_B11.square())
    log_density_BLC = log_density_BLC - torch.log(std_B11) - 0.5 * math.log(2 * math.pi)
    return _mean_over_latents(log_density_BLC, mask_BL)


def gaussian_kl(
    mean_BLC: Tensor,
    reference_mean_BLC: Tensor,
    std_B: Tensor,
    dt_B: Tensor,
    scale: KLScale = "with_dt",
    mask_BL: Tensor | None = None,
) -> Tensor:
    """KL between two Gaussians of equal std, averaged over the unmasked latent dimensions, shape [B].

    std_B is s sqrt(-dt), as `transition` returns it, and dt_B = sigma' - sigma < 0. See `KLScale`.
    """
    variance_B = std_B.square()
    if scale == "without_dt":
        variance_B = variance_B / -dt_B
    square_BLC = (mean_BLC - reference_mean_BLC).square() / (2 * variance_B[:, None, None])
    return _mean_over_latents(square_BLC, mask_BL)


def _mean_over_latents(values_BLC: Tensor, mask_BL: Tensor | None) -> Tensor:
    if mask_BL is None:
        return values_BLC.mean(dim=(1, 2))
    weights_BL1 = mask_BL.to(values_BLC.dtype)[:, :, None]
    counts_B = weights_BL1.sum(dim=(1, 2)) * values_BLC.shape[2]
    if bool((counts_B == 0).any()):
        raise ValueError("mask_BL masks every token of a sample: drop that sample instead")
    # where, not a product: padding may hold NaN, and NaN * 0 is NaN.
    kept_BLC = torch.where(mask_BL[:, :, None].bool(), values_BLC, torch.zeros_like(values_BLC))
    return kept_BLC.sum(dim=(1, 2)) / counts_B
