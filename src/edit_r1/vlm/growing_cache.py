"""A key-value cache that writes in place; transformers' own copies everything it holds for every new token.

On a CPU with many short sequences that copying is a quarter of the time of sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` with room to spare: `keys` and `values` are the used part of a larger buffer. No gradients."""

    keys: Tensor | None
    values: Tensor | None
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, L, width) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if not self._fits(key_states, total):
            spare = max(64, total // 2) if used else 0  # a prompt is mostly read once, and its cache large
            shape = (*key_states.shape[:2], total + spare)
            keys = key_states.new_empty((*shape, key_states.shape[-1]))
            values = value_states.new_empty((*shape, value_states.shape[-1]))
            if self.keys is not None and self.values is not None and used:
                keys[:, :, :used], values[:, :, :used] = self.keys, self.values
            self._room = (keys, values)
        assert self._room is not None
        keys, values = self._room
        keys[:, :, used:total], values[:, :, used:total] = key_states, value_states
        self.keys, self.values = keys[:, :, :total], values[:, :, :total]
        return self.keys, self.values

    def _fits(self, key_states: Tensor, total: int) -> bool:
        """Whether the buffer is still the one that `keys` shows, and has room."""
        if self._room is None or self.keys is None:
            return False
        keys = self._room[0]
        same = self.keys.data_ptr() == keys.data_ptr() and self.keys.shape[0] == keys.shape[0] == key_states.shape[0]
        return same and total <= keys.shape[-2]


class GrowingCache(DynamicCache):
    """`DynamicCache` of full-attention layers that grow in place; one `GrowingLayer` per layer of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer


def growing_cache(model: Any) -> DynamicCache | None:
    """An empty cache for `model`; None for models whose layers are not all of full attention."""
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or []
    if any(kind != "full_attention" for kind in kinds) or torch.is_grad_enabled():
        return None
    return GrowingCache()
