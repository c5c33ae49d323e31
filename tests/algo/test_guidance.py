from __future__ import annotations

import math

import pytest
import torch

from edit_r1.algo.guidance import guided_velocity


@pytest.mark.parametrize("rescale", [False, True])
def test_guidance_token_by_token(rescale):
    """A float64 twin of the equation, in loops."""
    generator = torch.Generator().manual_seed(0)
    velocity, negative = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    result = guided_velocity(velocity, negative, 4.0, rescale)
    for b in range(2):
        for token in range(3):
            v, n = velocity[b, token].tolist(), negative[b, token].tolist()
            combined = [y + 4.0 * (x - y) for x, y in zip(v, n, strict=True)]
            ratio = math.sqrt(sum(x * x for x in v)) / math.sqrt(sum(x * x for x in combined)) if rescale else 1.0
            assert result[b, token].tolist() == pytest.approx([x * ratio for x in combined], abs=1e-12)
    if rescale:
        assert torch.allclose(result.norm(dim=-1), velocity.norm(dim=-1))


def test_guidance_of_one_is_the_conditional_velocity_and_has_a_gradient_through_both():
    velocity, negative = (torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.allclose(guided_velocity(velocity, negative, 1.0, True), velocity)
    assert torch.autograd.gradcheck(lambda v, n: guided_velocity(v, n, 3.0, True), (velocity, negative))
