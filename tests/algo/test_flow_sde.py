from __future__ import annotations

import math

import pytest
import torch

from edit_r1.algo.flow_sde import gaussian_kl, log_probability, noise_scale, normalised_log_ratio, transition

B, L, C = 3, 4, 5


def _inputs(seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    x, v, ref = (torch.randn(B, L, C, generator=rng, dtype=torch.float64) for _ in range(3))
    sigma = torch.tensor([1.0, 0.8, 0.3], dtype=torch.float64)
    sigma_next = torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64)
    cap = torch.full((B,), 0.8, dtype=torch.float64)
    return x, v, ref, sigma, sigma_next, cap


def test_transition_matches_the_equation_element_by_element():
    x, v, _, sigma, sigma_next, cap = _inputs()
    eta = 0.7
    mean, std = transition(x, v, sigma, sigma_next, eta, cap)
    for b in range(B):
        sg, dt = float(sigma[b]), float(sigma_next[b] - sigma[b])
        guarded = 0.8 if sg == 1.0 else sg
        s = eta * math.sqrt(sg / (1 - guarded))
        assert float(std[b]) == pytest.approx(s * math.sqrt(-dt), rel=1e-12)
        for token in range(L):
            for c in range(C):
                xv, vv = float(x[b, token, c]), float(v[b, token, c])
                expected = xv * (1 + s * s * dt / (2 * sg)) + vv * (1 + s * s * (1 - sg) / (2 * sg)) * dt
                assert float(mean[b, token, c]) == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_sigma_one_is_guarded_and_other_steps_are_exact():
    sigma = torch.tensor([1.0, 0.9999, 0.7])
    scale = noise_scale(sigma, 0.5, torch.full((3,), 0.9))
    assert torch.isfinite(scale).all()
    assert float(scale[0]) == pytest.approx(0.5 * math.sqrt(1 / 0.1), rel=1e-6)
    assert float(scale[2]) == pytest.approx(0.5 * math.sqrt(0.7 / 0.3), rel=1e-6)
    with pytest.raises(ValueError, match="second sigma"):
        noise_scale(sigma, 0.5, torch.ones(3))


def test_dance_has_a_constant_noise_scale_and_its_published_score_term():
    """DanceGRPO's code: x + v dt - (s^2 / 2) score dt with score = -(x - (1 - sigma) x_0) / sigma^2 and s = eta."""
    x, v, _, sigma, sigma_next, cap = _inputs(1)
    eta = 0.3
    mean, std = transition(x, v, sigma, sigma_next, eta, cap, "dance")
    for b in range(B):
        sg, dt = float(sigma[b]), float(sigma_next[b] - sigma[b])
        assert float(std[b]) == pytest.approx(eta * math.sqrt(-dt), rel=1e-12)
        for token in range(L):
            for c in range(C):
                xv, vv = float(x[b, token, c]), float(v[b, token, c])
                score = -(xv - (1 - sg) * (xv - sg * vv)) / sg**2
                expected = xv + vv * dt - 0.5 * eta**2 * score * dt
                assert float(mean[b, token, c]) == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_cps_keeps_the_coefficients_of_image_and_noise():
    """Flow-CPS: what is left of the image is 1 - sigma', and of all noise together sigma'."""
    x, v, _, sigma, sigma_next, cap = _inputs(2)
    eta = 0.8
    mean, std = transition(x, v, sigma, sigma_next, eta, cap, "cps")
    for b in range(B):
        sg, following = float(sigma[b]), float(sigma_next[b])
        assert float(std[b]) == pytest.approx(following * math.sin(eta * math.pi / 2), rel=1e-12)
        kept = math.sqrt(following**2 - float(std[b]) ** 2)
        assert kept**2 + float(std[b]) ** 2 == pytest.approx(following**2, rel=1e-12)
        for token in range(L):
            for c in range(C):
                xv, vv = float(x[b, token, c]), float(v[b, token, c])
                expected = (1 - following) * (xv - sg * vv) + kept * (xv + (1 - sg) * vv)
                assert float(mean[b, token, c]) == pytest.approx(expected, rel=1e-11, abs=1e-12)
    whole, _ = transition(x, v, sigma, sigma_next, 1.0, cap, "cps")
    assert torch.allclose(whole, (1 - sigma_next)[:, None, None] * (x - sigma[:, None, None] * v), atol=1e-12)
    with pytest.raises(ValueError, match=r"eta lies in \[0, 1\]"):
        transition(x, v, sigma, sigma_next, 1.2, cap, "cps")
    with pytest.raises(ValueError, match="no noise scale"):
        noise_scale(sigma, 0.5, cap, "cps")


def test_the_published_log_ratio_of_cps_is_ours_times_twice_the_variance():
    x, v, other, sigma, sigma_next, cap = _inputs(4)
    mean, std = transition(x, v, sigma, sigma_next, 0.8, cap, "cps")
    old, _ = transition(x, other, sigma, sigma_next, 0.8, cap, "cps")
    drawn = old + std[:, None, None] * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    ours = log_probability(drawn, mean, std) - log_probability(drawn, old, std)
    published = (-((drawn - mean) ** 2) + (drawn - old) ** 2).mean(dim=(1, 2))
    assert torch.allclose(published, ours * 2 * std**2, rtol=1e-10)


@pytest.mark.parametrize("kind", ["flow", "dance", "cps"])
def test_last_step_is_excluded(kind):
    x, v, _, sigma, _, cap = _inputs()
    with pytest.raises(ValueError, match="last step"):
        transition(x, v, sigma, torch.zeros(B, dtype=torch.float64), 0.7, cap, kind)
    transition(x, v, sigma, torch.zeros(B, dtype=torch.float64), 0.0, cap, kind)


@pytest.mark.parametrize("eta", [-0.1])
def test_bad_arguments_raise(eta):
    x, v, _, sigma, sigma_next, cap = _inputs()
    with pytest.raises(ValueError, match="eta"):
        transition(x, v, sigma, sigma_next, eta, cap)
    with pytest.raises(ValueError, match="decrease"):
        transition(x, v, sigma_next, sigma, 0.5, cap)


@pytest.mark.parametrize("kind", ["flow", "dance", "cps"])
def test_eta_zero_is_the_euler_step_bit_for_bit(kind):
    rng = torch.Generator().manual_seed(3)
    x, v = torch.randn(B, L, C, generator=rng), torch.randn(B, L, C, generator=rng)
    sigma, sigma_next = torch.tensor(0.83), torch.tensor(0.61)
    mean, std = transition(x, v, sigma.expand(B), sigma_next.expand(B), 0.0, torch.tensor(0.9).expand(B), kind)
    assert torch.equal(mean, x + (sigma_next - sigma) * v)
    assert (std == 0).all()


@pytest.mark.parametrize("kind", ["flow", "dance"])
def test_marginal_is_kept_for_a_gaussian(kind):
    """With data x_0 ~ N(0, 1) the marginal std at sigma is sqrt((1-sigma)^2 + sigma^2), and the exact velocity
    is linear in x. A small stochastic step must land on the marginal of the next sigma, up to O(dt^2)."""
    for sigma in (0.3, 0.6, 0.9):
        dt = -1e-4
        variance = (1 - sigma) ** 2 + sigma**2
        slope = (sigma - (1 - sigma)) / variance  # E[e - x0 | x] = slope x
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        mean, std = transition(
            one, slope * one, torch.tensor([sigma], dtype=torch.float64),
            torch.tensor([sigma + dt], dtype=torch.float64), 0.7, torch.tensor([0.95], dtype=torch.float64), kind,
        )  # fmt: skip
        landed = float(mean) ** 2 * variance + float(std) ** 2
        wanted = (1 - sigma - dt) ** 2 + (sigma + dt) ** 2
        assert landed == pytest.approx(wanted, abs=1e-6)


def test_log_probability_against_torch_distributions():
    x, mean, _, sigma, _, _ = _inputs()
    std = sigma * 0.4
    full = log_probability(x, mean, std)
    for b in range(B):
        density = torch.distributions.Normal(mean[b], std[b]).log_prob(x[b])
        assert float(full[b]) == pytest.approx(float(density.mean()), rel=1e-12)


def test_kl_in_both_scales_against_torch_distributions():
    mean, ref, _, sigma, sigma_next, _ = _inputs()
    dt = sigma_next - sigma
    scale = sigma * 0.5
    std = scale * torch.sqrt(-dt)
    kl = gaussian_kl(mean, ref, std, dt)
    weak = gaussian_kl(mean, ref, std, dt, "without_dt")
    for b in range(B):
        normal, other = torch.distributions.Normal(mean[b], std[b]), torch.distributions.Normal(ref[b], std[b])
        assert float(kl[b]) == pytest.approx(float(torch.distributions.kl_divergence(normal, other).mean()), rel=1e-9)
        brute = sum(float(d) ** 2 for d in (mean[b] - ref[b]).flatten()) / (L * C) / (2 * float(scale[b]) ** 2)
        assert float(weak[b]) == pytest.approx(brute, rel=1e-12)
        assert float(weak[b] / kl[b]) == pytest.approx(-float(dt[b]), rel=1e-12)


def test_the_normalised_ratio_is_the_published_one_and_has_no_bias():
    """GRPO-Guard as flow_grpo and verl-omni write it: ((log p - log p_old) + |d|^2 / (2 std^2)) std."""
    x, v, other, sigma, sigma_next, cap = _inputs(6)
    mean, std = transition(x, v, sigma, sigma_next, 0.7, cap)
    old, _ = transition(x, v + 0.01 * other, sigma, sigma_next, 0.7, cap)
    rng = torch.Generator().manual_seed(7)
    sums, rounds = torch.zeros(B, dtype=x.dtype), 400
    for _ in range(rounds):
        drawn = old + std[:, None, None] * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        difference = log_probability(drawn, mean, std) - log_probability(drawn, old, std)
        for b in range(B):
            bias = sum(float(d) ** 2 for d in (mean[b] - old[b]).flatten()) / (L * C) / (2 * float(std[b]) ** 2)
            published = (float(difference[b]) + bias) * float(std[b])
            assert float(normalised_log_ratio(drawn, mean, old, std)[b]) == pytest.approx(
                published, rel=1e-7, abs=1e-13
            )
        sums += normalised_log_ratio(drawn, mean, old, std)
    spread = (mean - old).pow(2).mean(dim=(1, 2)).sqrt() / math.sqrt(L * C * rounds)  # of a mean over the rounds
    assert (sums.abs() / rounds < 4 * spread).all()
