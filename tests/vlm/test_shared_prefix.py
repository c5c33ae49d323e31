"""Attention over one copy of a prompt against the same attention over a copy for every answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from edit_r1.vlm.shared_prefix import SharedPrefix, shared_attention, shared_prefix_attention

B, N, K, R, P, T, D = 3, 4, 2, 3, 7, 5, 8


@pytest.mark.parametrize(
    "rows", [range(B * N), [0, 3, 4, 5, 6, 11], [9], [0, 1, 2, 3]], ids=["all", "some", "one", "first"]
)
def test_against_repeated_prompts(rows: list[int]) -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, B, K, P, D)
    padding = torch.zeros(B, P)
    padding[1, :3] = -torch.inf
    place_N = torch.arange(B * N)
    prefix = SharedPrefix(
        [torch.empty(B, 0), keys], [torch.empty(B, 0), values], padding[:, None, None], place_N // N, place_N % N, N
    )
    prefix.keep(torch.tensor(list(rows)))
    query, own_keys, own_values = torch.randn(len(rows), K * R, 1, D), *torch.randn(2, len(rows), K, T, D)
    seen, _ = shared_prefix_attention(SimpleNamespace(layer_idx=1), query, own_keys, own_values, None, 0.3, prefix)

    prompts = [row // N for row in rows]
    whole_keys = torch.cat([keys[prompts], own_keys], dim=2).repeat_interleave(R, dim=1)
    whole_values = torch.cat([values[prompts], own_values], dim=2).repeat_interleave(R, dim=1)
    mask = torch.cat([padding[prompts], torch.zeros(len(rows), T)], dim=1)[:, None, None]
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, whole_keys, whole_values, attn_mask=mask, scale=0.3
    )
    torch.testing.assert_close(seen, wanted.transpose(1, 2))


def test_the_models_own_attention_comes_back(checkpoint: object) -> None:
    from edit_r1.vlm.transformers import TransformersVLM

    model = TransformersVLM.load(str(checkpoint)).model
    config, vision = model.config.get_text_config(), model.config.vision_config
    try:
        with shared_attention(model):
            inside = config._attn_implementation, vision._attn_implementation
            raise KeyError
    except KeyError:
        assert inside == ("edit_r1_shared_prefix", "sdpa")
    assert (config._attn_implementation, vision._attn_implementation) == ("sdpa", "sdpa")
