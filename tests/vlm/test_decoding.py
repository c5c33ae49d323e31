"""Drawing tokens: the numbers of `torch.multinomial`, for the rows that still write."""

from __future__ import annotations

import pytest
import torch

from edit_r1.vlm.decoding import _draw, _exponential


@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4], [1, 3], [4]], ids=["all", "some", "one"])
def test_the_noise_is_what_exponential_draws(places: list[int]) -> None:
    torch.manual_seed(3)
    wanted, after = torch.empty(5, 7).exponential_(), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(_exponential(torch.tensor(places), 5, 7), wanted[places])
    assert torch.equal(torch.rand(1), after)


def test_a_draw_is_multinomials_whoever_has_ended() -> None:
    scores = 2 * torch.randn(64, 11, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        torch.manual_seed(seed)
        wanted = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
        for places in (torch.arange(64), torch.arange(1, 64, 3)):
            torch.manual_seed(seed)
            assert torch.equal(_draw(scores[places], places, 64), wanted[places])
