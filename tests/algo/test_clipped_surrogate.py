from __future__ import annotations

import math

import pytest
import torch

from edit_r1.algo.clipped_surrogate import clipped_surrogate


def test_against_the_brute_force_twin():
    rng = torch.Generator().manual_seed(0)
    new = torch.randn(40, generator=rng, dtype=torch.float64) * 0.3
    old = torch.randn(40, generator=rng, dtype=torch.float64) * 0.3
    advantage = torch.randn(40, generator=rng, dtype=torch.float64)
    new.requires_grad_(True)
    result = clipped_surrogate(new, old, advantage, 0.2)
    result.objective.sum().backward()
    for i in range(40):
        rho, a = math.exp(float(new[i].detach()) - float(old[i])), float(advantage[i])
        bounded = min(max(rho, 0.8), 1.2)
        assert float(result.objective[i].detach()) == pytest.approx(min(rho * a, bounded * a), rel=1e-12)
        assert float(result.ratio[i]) == pytest.approx(rho, rel=1e-12)
        acts = (a > 0 and rho > 1.2) or (a < 0 and rho < 0.8)
        assert bool(result.clipped[i]) == acts
        assert float(new.grad[i]) == pytest.approx(0.0 if acts else rho * a, rel=1e-9)


def test_broadcasts_and_refuses_gradients_and_bad_ranges():
    log_prob = torch.zeros(3, 2, requires_grad=True)
    result = clipped_surrogate(log_prob, torch.zeros(3, 2), torch.ones(3, 1), 1e-4)
    assert result.objective.shape == (3, 2) and not result.clipped.any()
    with pytest.raises(ValueError, match="detach"):
        clipped_surrogate(log_prob, log_prob, torch.ones(3, 1), 1e-4)
    with pytest.raises(ValueError, match="clip_range"):
        clipped_surrogate(log_prob, torch.zeros(3, 2), torch.ones(3, 1), 0.0)
