"""Attention of several answers to one prompt whose keys and values are held, and read, once.

Repeating a prompt's cache for every answer costs memory and, at every step, its reading: a step is bound by memory, and
a prompt with two pictures is far longer than an answer. Here the queries of a prompt's answers meet its keys together,
each answer meets its own keys apart, and one softmax runs over both.

Legend: B prompts, M answers that still write (their rows), n answers a prompt at most, H query heads, K key heads,
R = H/K, P prompt tokens, T tokens of the answers, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "edit_r1_shared_prefix"


@dataclass
class SharedPrefix:
    """The prompts' keys and values, and which row continues which prompt."""

    keys: list[Tensor]
    """Per layer, (B, K, P, D)."""
    values: list[Tensor]
    """Per layer, (B, K, P, D)."""
    padding_B11P: Tensor
    """0 for a token, minus infinity for padding."""
    prompt_M: Tensor
    """Each row's prompt, ascending."""
    place_M: Tensor
    """Each row's place among the rows of its prompt, from 0."""
    n: int
    """Most rows of a prompt."""

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        """Whether every prompt has n rows, which then only need to be seen in another shape, and each row's slot."""
        self._full = len(self.prompt_M) == len(self.padding_B11P) * self.n
        self._slot_M = self.prompt_M * self.n + self.place_M

    def keep(self, rows: Tensor) -> None:
        """Leaves the other rows out, and the prompts that have no row left; `rows` are ascending indices (M,)."""
        left, self.prompt_M, counts = self.prompt_M[rows].unique_consecutive(return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        self.place_M = torch.arange(len(rows), device=rows.device) - starts[self.prompt_M]
        self.n = int(counts.max())
        if len(left) < len(self.padding_B11P):
            self.padding_B11P = self.padding_B11P[left]
            self.keys = [key[left] for key in self.keys]
            self.values = [value[left] for value in self.values]
        self._look()

    def gathered(self, rows_M: Tensor) -> Tensor:
        """(M, K, R, ...) to (B, K, n*R, ...): the rows of a prompt side by side, zeros where it has fewer than n."""
        slots = rows_M
        if not self._full:
            slots = rows_M.new_zeros((len(self.padding_B11P) * self.n, *rows_M.shape[1:]))
            slots.index_copy_(0, self._slot_M, rows_M)
        return slots.unflatten(0, (-1, self.n)).transpose(1, 2).flatten(2, 3)

    def spread(self, slots: Tensor) -> Tensor:
        """The way back: (B, K, n*R, ...) to (M, K, R, ...)."""
        rows = slots.unflatten(2, (self.n, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self._full else rows.index_select(0, self._slot_M)


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    shared_prefix: SharedPrefix,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """One token a row: query (M, H, 1, D), own keys and values (M, K, T, D); returns (M, 1, H, D).

    The answers' own tokens need no mask: all rows began at the same step. The other arguments are those that
    transformers hands to every attention.
    """
    rows, heads, width = query.shape[0], query.shape[1], query.shape[3]
    query_MKRD = query.view(rows, key.shape[1], -1, width) * scaling
    prompt_keys, prompt_values = shared_prefix.keys[module.layer_idx], shared_prefix.values[module.layer_idx]
    to_prompt = shared_prefix.gathered(query_MKRD) @ prompt_keys.transpose(-1, -2) + shared_prefix.padding_B11P
    scores_MKRL = torch.cat([shared_prefix.spread(to_prompt), query_MKRD @ key.transpose(-1, -2)], dim=-1)
    weights_MKRL = scores_MKRL.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    of_prompt, of_own = weights_MKRL.split([prompt_keys.shape[2], key.shape[2]], dim=-1)
    seen_MKRD = shared_prefix.spread(shared_prefix.gathered(of_prompt) @ prompt_values) + of_own @ value
    return seen_MKRD.reshape(rows, 1, heads, width), None


AttentionInterface.register(NAME, shared_prefix_attention)


@contextmanager
def shared_attention(model: Any) -> Iterator[None]:
    """Inside, the model's text layers attend by `shared_prefix_attention`, and its forward takes `shared_prefix`."""
    before = model.config.get_text_config(decoder=True)._attn_implementation
    model.set_attn_implementation({"text_config": NAME})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
