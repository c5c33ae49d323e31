"""DiffusionNFT's loss against a brute-force twin, and what its equation promises."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.algo.diffusion_nft import FLOOR, PUBLISHED_DECAY, decay_after, nft_loss, optimality


def rows(seed: int, count: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(count, 4, 2, generator=generator, dtype=torch.float64)
        for name in ("velocity_MLC", "old_MLC", "noisy_MLC", "clean_MLC")
    }
    made["sigma_M"] = torch.rand(count, generator=generator, dtype=torch.float64)
    made["optimality_M"] = torch.rand(count, generator=generator, dtype=torch.float64)
    return made


def twin(made: dict[str, torch.Tensor], beta: float) -> list[float]:
    """One row, one latent at a time."""
    losses = []
    for row in range(len(made["sigma_M"])):
        v, old, x, clean = (
            made[n][row].flatten().tolist() for n in ("velocity_MLC", "old_MLC", "noisy_MLC", "clean_MLC")
        )
        sigma, r = float(made["sigma_M"][row]), float(made["optimality_M"][row])
        parts = []
        for sign in (1, -1):
            errors = [
                xi - sigma * ((1 - sign * beta) * oi + sign * beta * vi) - ci
                for vi, oi, xi, ci in zip(v, old, x, clean, strict=True)
            ]
            weight = max(sum(abs(error) for error in errors) / len(errors), FLOOR)
            parts.append(sum(error * error for error in errors) / len(errors) / weight)
        losses.append((r * parts[0] + (1 - r) * parts[1]) / beta)
    return losses


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_equals_the_brute_force_twin(seed: int, beta: float) -> None:
    made = rows(seed)
    assert nft_loss(**made, beta=beta).tolist() == pytest.approx(twin(made, beta), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_judgment_in_the_middle_has_no_gradient_at_the_old_policy_and_beta_does_not_matter_there(seed: int) -> None:
    made = rows(seed)
    gradients = []
    for beta in (0.3, 1.0):
        for good in (0.5, 0.9):
            made["velocity_MLC"] = made["old_MLC"].clone().requires_grad_()
            nft_loss(
                **{**made, "optimality_M": torch.full((3,), good, dtype=torch.float64)}, beta=beta
            ).sum().backward()
            gradients.append(made["velocity_MLC"].grad)
    assert torch.allclose(gradients[0], torch.zeros_like(gradients[0]), atol=1e-12)
    assert torch.allclose(gradients[1], gradients[3])
    assert gradients[1].abs().max() > 1e-6


def test_good_samples_attract_and_bad_ones_repel() -> None:
    made = rows(0, 1)
    for good, sign in ((1.0, 1), (0.0, -1)):
        velocity = made["old_MLC"].clone().requires_grad_()
        nft_loss(**{**made, "velocity_MLC": velocity, "optimality_M": torch.tensor([good])}).sum().backward()
        with torch.no_grad():
            moved = velocity - 1e-3 * velocity.grad
        before, after = (
            float((made["noisy_MLC"] - made["sigma_M"] * v - made["clean_MLC"]).abs().square().mean())
            for v in (made["old_MLC"], moved)
        )
        assert np.sign(before - after) == sign


def test_the_old_policy_gets_no_gradient() -> None:
    made = rows(1)
    made["velocity_MLC"].requires_grad_()
    made["old_MLC"].requires_grad_()
    nft_loss(**made).sum().backward()
    assert made["old_MLC"].grad is None


def test_optimality_is_half_at_the_mean_and_clipped() -> None:
    assert optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 7.0]), 5.0).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="scale=0"):
        optimality(torch.zeros(1), 0.0)
    made = rows(2)
    with pytest.raises(ValueError, match="beta=0"):
        nft_loss(**made, beta=0.0)
    with pytest.raises(ValueError, match="optimality"):
        nft_loss(**{**made, "optimality_M": made["optimality_M"] + 1})


# flat, rise an update, top: what the published function's three types hold, in its numbers.
PUBLISHED_TYPES = {
    "rising": (0, Fraction(1, 1000), Fraction(1, 2)),
    "late": (75, Fraction(75, 10_000), Fraction(999, 1000)),
}


@pytest.mark.parametrize("schedule", PUBLISHED_TYPES)
def test_the_published_decays_against_a_twin_of_fractions(schedule: str) -> None:
    flat, rise, top = PUBLISHED_TYPES[schedule]
    assert PUBLISHED_DECAY[schedule] == float(top)
    for updates in (0, 1, 2, 74, 75, 76, 100, 208, 209, 499, 500, 501, 10_000):
        twin = Fraction(0)
        for _ in range(max(0, updates - flat)):
            twin = min(twin + rise, top)
        assert decay_after(updates, schedule, float(top)) == pytest.approx(float(twin), abs=1e-15)
        assert decay_after(updates, schedule, 0.25) == pytest.approx(float(min(twin, Fraction(1, 4))), abs=1e-15)
        assert decay_after(updates, "constant", 0.7) == 0.7
    with pytest.raises(ValueError, match="updates=-1"):
        decay_after(-1, schedule, 0.5)
