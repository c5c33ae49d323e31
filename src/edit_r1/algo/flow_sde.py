"""One stochastic step of a flow-matching sampler: its mean, its std, its log-probability, and its KL.

Legend: B samples, L latent tokens, C latent channels. sigma runs down from 1 (noise) to 0 (image).

The deterministic sampler moves by x' = x + v dt with dt = sigma' - sigma < 0. A stochastic step draws
x' = mean + std e with e standard normal, by one of three published kinds:

    flow   s = eta sqrt(sigma / (1 - sigma))        Flow-GRPO (arXiv 2505.05470)
    dance  s = eta                                  DanceGRPO (arXiv 2505.07818)
           both: mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,  std = s sqrt(-dt)
    cps    mean = (1 - sigma') x_0 + sigma' cos(eta pi / 2) x_1,  std = sigma' sin(eta pi / 2)
           x_0 = x - sigma v,  x_1 = x + (1 - sigma) v      Flow-CPS (arXiv 2509.05952), eta at most 1

Log-probability and KL are those of the Gaussian that is drawn from, of every kind, averaged over latent dimensions.
Published code for cps leaves the factor out and takes -(x' - mean)^2: its log-ratio is ours times 2 std^2, so that
a clip range eps of theirs is eps / (2 std^2) here (flow_grpo's 1e-5 with eta 0.8 is 0.9e-5 at sigma' = 0.8 and
2.2e-5 at 0.5). Flow-GRPO's clip ranges (1e-5 to 1e-4) are on our scale as they are.

Two places need care. At sigma = 1 the scale s of "flow" is infinite: `sigma_cap` stands in for sigma in 1 - sigma
*inside s*, as published implementations do with the schedule's second sigma. The last step (sigma' = 0)
would leave its noise in the image (cps: has none): it has no stochastic form here and raises.

Every function here is pure and keeps the dtype of its inputs; call it in float32 or better.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

SDEKind = Literal["flow", "dance", "cps"]
"""The kinds of this module's docstring; "flow" is the default everywhere."""

KLScale = Literal["with_dt", "without_dt"]
"""Which published KL a beta belongs to. with_dt (the default everywhere): (mean - mean_ref)^2 / (2 std^2), the KL of
the two Gaussians that are sampled from. without_dt (flow_grpo's code): divided by 2 s^2 with std = s sqrt(-dt),
smaller by |dt|, so that the same beta is a weaker penalty; "cps" has no such s, and there the two are not told apart
by its authors: use with_dt."""


def noise_scale(sigma_B: Tensor, eta: float, sigma_cap_B: Tensor, kind: SDEKind = "flow") -> Tensor:
    """s of "flow", eta sqrt(sigma / (1 - min(sigma, sigma_cap))), or of "dance", eta; shape [B].

    sigma_B: in (0, 1]. sigma_cap_B: below 1; the schedule's second sigma. Only the first step of a
    schedule is above it, so every other step has the exact scale. Raises ValueError for a cap of 1 or more and for
    "cps", which has no s.
    """
    if kind == "cps":
        raise ValueError("kind='cps' has no noise scale s: its std is sigma' sin(eta pi / 2)")
    if bool((sigma_cap_B >= 1).any()):
        raise ValueError(
            f"sigma_cap={sigma_cap_B.max().item()}: the noise scale is infinite at sigma = 1; "
            "pass the schedule's second sigma, which is below 1"
        )
    if kind == "dance":
        return torch.full_like(sigma_B, eta)
    return eta * torch.sqrt(sigma_B / (1 - torch.minimum(sigma_B, sigma_cap_B)))


def check_eta(eta: float, kind: SDEKind) -> None:
    """Raise ValueError for a noise level that the kind does not have."""
    if eta < 0:
        raise ValueError(f"eta={eta}: the noise level is 0 (deterministic) or more; usual values are 0.7 to 0.9")
    if kind == "cps" and eta > 1:
        raise ValueError(f"eta={eta} with kind='cps': its noise is sigma' sin(eta pi / 2), so eta lies in [0, 1]")


def transition(
    latents_BLC: Tensor, velocity_BLC: Tensor, sigma_B: Tensor, sigma_next_B: Tensor, eta: float, sigma_cap_B: Tensor,
    kind: SDEKind = "flow",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean [B, L, C] and std [B] of x' given x, the equations of this module's docstring.

    With eta = 0 the mean of every kind is x + v dt, bit for bit what the Euler sampler computes, and std is 0.
    Raises ValueError for an eta that the kind does not have, for a step that does not go down, and for eta > 0 on the
    last step.
    """
    check_eta(eta, kind)
    dt_B = sigma_next_B - sigma_B
    if bool((dt_B >= 0).any()):
        raise ValueError("sigma_next >= sigma: sigmas must decrease; pass sigmas[i] and sigmas[i + 1] of one schedule")
    if eta == 0:
        return latents_BLC + velocity_BLC * dt_B[:, None, None], torch.zeros_like(dt_B)
    if bool((sigma_next_B <= 0).any()):
        raise ValueError(
            "sigma_next = 0: the last step would leave its noise in the image; take it with eta = 0 "
            "and do not train on it"
        )
    if kind == "cps":
        image_BLC = latents_BLC - sigma_B[:, None, None] * velocity_BLC
        noise_BLC = latents_BLC + (1 - sigma_B)[:, None, None] * velocity_BLC
        kept_B = sigma_next_B * math.cos(eta * math.pi / 2)
        mean_BLC = (1 - sigma_next_B)[:, None, None] * image_BLC + kept_B[:, None, None] * noise_BLC
        return mean_BLC, sigma_next_B * math.sin(eta * math.pi / 2)
    scale_B = noise_scale(sigma_B, eta, sigma_cap_B, kind)
    half_square_B = scale_B.square() / (2 * sigma_B)
    keep_B11 = (1 + half_square_B * dt_B)[:, None, None]
    push_B11 = (1 + half_square_B * (1 - sigma_B))[:, None, None]
    mean_BLC = latents_BLC * keep_B11 + velocity_BLC * push_B11 * dt_B[:, None, None]
    return mean_BLC, scale_B * torch.sqrt(-dt_B)


def log_probability(next_BLC: Tensor, mean_BLC: Tensor, std_B: Tensor) -> Tensor:
    """log N(x'; mean, std^2) averaged over the latent dimensions, shape [B].

    Averaged, not summed: clip ranges near 1e-4 belong to this scale. std_B must be positive.
    """
    std_B11 = std_B[:, None, None]
    log_density_BLC = -((next_BLC - mean_BLC).square()) / (2 * std_B11.square())
    log_density_BLC = log_density_BLC - torch.log(std_B11) - 0.5 * math.log(2 * math.pi)
    return log_density_BLC.mean(dim=(1, 2))


def gaussian_kl(
    mean_BLC: Tensor,
    reference_mean_BLC: Tensor,
    std_B: Tensor,
    dt_B: Tensor,
    scale: KLScale = "with_dt",
) -> Tensor:
    """KL between two Gaussians of equal std, averaged over the latent dimensions, shape [B].

    std_B as `transition` returns it; dt_B = sigma' - sigma < 0, read for "without_dt" alone. See `KLScale`.
    """
    variance_B = std_B.square()
    if scale == "without_dt":
        variance_B = variance_B / -dt_B
    square_BLC = (mean_BLC - reference_mean_BLC).square() / (2 * variance_B[:, None, None])
    return square_BLC.mean(dim=(1, 2))


def normalised_log_ratio(next_BLC: Tensor, mean_BLC: Tensor, old_mean_BLC: Tensor, std_B: Tensor) -> Tensor:
    """GRPO-Guard's ratio normalisation (arXiv 2510.22319, RatioNorm), the log of its ratio, shape [B].

        std (log p - log p_old + |mean - mean_old|^2 / (2 std^2)) = (x' - mean_old) (mean - mean_old) / std

    averaged over the latent dimensions. The plain ratio has a mean below 1, because log p - log p_old falls
    by |mean - mean_old|^2 / (2 std^2) on average, and a spread that differs between steps; this one has neither, so
    that the clip holds good and bad edits alike. Written by its right-hand side, which does not subtract two nearly
    equal log-probabilities. The paper divides the surrogate by |dt| besides, so that all steps weigh alike. Its clip
    range belongs to this scale: 2e-6 in verl-omni's recipe.
    """
    noise_BLC = (next_BLC - old_mean_BLC) / std_B[:, None, None]
    return (noise_BLC * (mean_BLC - old_mean_BLC)).mean(dim=(1, 2))
