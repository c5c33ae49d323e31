"""Rows of several sizes in one forward of a transformer whose own code takes one size a batch.

diffusers' transformers compute positions for one layout and attend without a mask over image tokens. The processors
here do the same attention with positions and a mask per row when they are given a `Packing`, and are the stock
processors otherwise. A padded row has its edit's tokens first, padded to the longest edit, then its sources'.

Legend: B rows of all parts, L and R tokens of the longest edit and of the longest sources, T text tokens,
S = T + L + R, D rotary frequencies (complex), H heads, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, _get_qkv_projections
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import pad


@dataclass(frozen=True)
class Packing:
    """Positions and mask of padded rows."""

    rope_BSD: Tensor
    """exp(i angle) of every token, text first; 0 for padding."""
    mask_B11S: Tensor
    """True where a token may be attended to."""


def lengthened(rows_BNC: Tensor, length: int) -> Tensor:
    """[B, length, ...]: zeros appended to every row."""
    return pad(rows_BNC, (0, 0) * (rows_BNC.ndim - 2) + (0, length - rows_BNC.shape[1]))


def aligned(edits: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
    """[B, L + R, ...] from each part's edit tokens [b, l, ...] and source tokens [b, r, ...]."""
    most_L, most_R = (max(part.shape[1] for part in parts) for parts in (edits, sources))
    rows = [
        torch.cat([lengthened(edit, most_L), lengthened(source, most_R)], dim=1)
        for edit, source in zip(edits, sources, strict=True)
    ]
    return torch.cat(rows)


def rotated(x_BSHC: Tensor, rope_BSD: Tensor) -> Tensor:
    """Rotary positions per row; neighbouring channels are the real and imaginary part, in float32."""
    pairs = torch.view_as_complex(x_BSHC.float().reshape(*x_BSHC.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rope_BSD[:, :, None]).flatten(3).type_as(x_BSHC)


class PackedQwenAttention(QwenDoubleStreamAttnProcessor2_0):
    """The stock joint attention of Qwen-Image, with positions and a mask per row when `packing` is given."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor]:
        if packing is None:
            result: tuple[Tensor, Tensor] = super().__call__(
                attn, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, attention_mask, image_rotary_emb
            )
            return result
        head = attn.inner_dim // attn.heads
        joint = []
        for text, image, text_norm, norm in (
            (attn.add_q_proj, attn.to_q, attn.norm_added_q, attn.norm_q),
            (attn.add_k_proj, attn.to_k, attn.norm_added_k, attn.norm_k),
        ):
            text_BTHC = text_norm(text(encoder_hidden_states).unflatten(-1, (-1, head)))
            image_BNHC = norm(image(hidden_states).unflatten(-1, (-1, head)))
            joint.append(rotated(torch.cat([text_BTHC, image_BNHC], dim=1), packing.rope_BSD))
        value_BSC = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], dim=1)
        mixed_BSHC = dispatch_attention_fn(
            *joint, value_BSC.unflatten(-1, (-1, head)), attn_mask=packing.mask_B11S, backend=self._attention_backend
        )
        mixed_BSC = mixed_BSHC.flatten(2, 3).to(joint[0].dtype)
        text_BTC, image_BNC = mixed_BSC.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image_BNC)), attn.to_add_out(text_BTC)


def flux_packing(
    pos_embed: nn.Module,
    text_ids: Sequence[Tensor],
    image_ids: Sequence[Tensor],
    edit_tokens: Sequence[int],
    rows: Sequence[int],
) -> Packing:
    """Of FLUX's position ids: [t, axes] and [l + r, axes] of each part, with its l and its number of rows.

    Raises ValueError when the parts differ in text tokens: the FLUX text encoders pad to a fixed length.
    """
    if len({len(ids) for ids in text_ids}) > 1:
        raise ValueError(f"text of {sorted({len(ids) for ids in text_ids})} tokens in one batch: encode them alike")
    text: list[Tensor] = []
    edits: list[Tensor] = []
    sources: list[Tensor] = []
    for text_TA, image_NA, tokens, count in zip(text_ids, image_ids, edit_tokens, rows, strict=True):
        cos_ND, sin_ND = pos_embed(torch.cat([text_TA, image_NA]))
        rope_ND = torch.complex(cos_ND[:, ::2].float(), sin_ND[:, ::2].float())  # each angle stands there twice
        split = [len(text_TA), tokens, len(image_NA) - tokens]
        for rope_MD, found in zip(rope_ND.split(split), (text, edits, sources), strict=True):
            found.append(rope_MD.expand(count, -1, -1))
    real = [[torch.ones_like(rope_BND[:, :, 0], dtype=torch.bool) for rope_BND in found] for found in (edits, sources)]
    text_BTD = torch.cat(text)
    mask_BS = torch.cat([torch.ones_like(text_BTD[:, :, 0], dtype=torch.bool), aligned(*real)], dim=1)
    return Packing(torch.cat([text_BTD, aligned(edits, sources)], dim=1), mask_BS[:, None, None])


def _flux_attention(
    processor: Any, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None, packing: Packing
) -> Tensor:
    """Joint attention [B, S, C] of FLUX's blocks before the output projections."""
    projected = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
    query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in projected[:3])
    query, key = attn.norm_q(query), attn.norm_k(key)
    if attn.added_kv_proj_dim is not None:
        text_query, text_key, text_value = (part.unflatten(-1, (-1, attn.head_dim)) for part in projected[3:])
        query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
        key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
        value = torch.cat([text_value, value], dim=1)
    query, key = rotated(query, packing.rope_BSD), rotated(key, packing.rope_BSD)
    mixed_BSHC = dispatch_attention_fn(
        query, key, value, attn_mask=packing.mask_B11S, backend=processor._attention_backend
    )
    return mixed_BSHC.flatten(2, 3).to(query.dtype)


class PackedFluxAttention(FluxAttnProcessor):
    """The stock attention of FLUX.1's blocks, with positions and a mask per row when `packing` is given."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        packing: Packing | None = None,
    ) -> Any:
        if packing is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        mixed_BSC = _flux_attention(self, attn, hidden_states, encoder_hidden_states, packing)
        if encoder_hidden_states is None:
            return mixed_BSC
        text_BTC, image_BNC = mixed_BSC.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image_BNC)), attn.to_add_out(text_BTC)


class PackedFlux2Attention(Flux2AttnProcessor):
    """The stock attention of FLUX.2's double blocks, with positions and a mask per row when `packing` is given."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        packing: Packing | None = None,
    ) -> Any:
        if packing is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        mixed_BSC = _flux_attention(self, attn, hidden_states, encoder_hidden_states, packing)
        text_BTC, image_BNC = mixed_BSC.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image_BNC)), attn.to_add_out(text_BTC)


class PackedFlux2SelfAttention(Flux2ParallelSelfAttnProcessor):
    """The stock attention of FLUX.2's single blocks, with positions and a mask per row when `packing` is given."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        packing: Packing | None = None,
    ) -> Tensor:
        if packing is None:
            stock: Tensor = super().__call__(attn, hidden_states, attention_mask, image_rotary_emb)
            return stock
        qkv_BSC, mlp_BSC = attn.to_qkv_mlp_proj(hidden_states).tensor_split([3 * attn.inner_dim], dim=-1)
        query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in qkv_BSC.chunk(3, dim=-1))
        query, key = (rotated(part, packing.rope_BSD) for part in (attn.norm_q(query), attn.norm_k(key)))
        mixed_BSHC = dispatch_attention_fn(
            query, key, value, attn_mask=packing.mask_B11S, backend=self._attention_backend
        )
        mixed_BSC = mixed_BSHC.flatten(2, 3).to(query.dtype)
        result: Tensor = attn.to_out(torch.cat([mixed_BSC, attn.mlp_act_fn(mlp_BSC)], dim=-1))
        return result


def use_packed_attention(transformer: nn.Module, packed: dict[type[Any], type[Any]]) -> bool:
    """Replace attention processors of exactly a stock class (keys) by its packed one, keeping their backend.

    Returns whether every attention layer takes a `Packing` now: processors of other classes stay as they are.
    """
    for module in transformer.modules():
        processor: Any = getattr(module, "processor", None)
        if type(processor) in packed:
            replacement: Any = packed[type(processor)]()
            replacement._attention_backend = processor._attention_backend
            replacement._parallel_config = processor._parallel_config
            module.processor = replacement
    kinds = {type(module.processor) for module in transformer.modules() if hasattr(module, "processor")}
    return kinds <= set(packed.values())
