"""Traces of one prompt go through the language model behind one reading of it.

An update sees N traces of every candidate, and a prompt of two pictures and ten principles is longer than its
trace. The prompt is read once, its keys and values are repeated, and the traces attend to them; gradients of the
copies add up in the one that was computed. The result is the model's own up to rounding.

Legend: B rows, U distinct prompts, T tokens of a row, P tokens that are read once, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from edit_r1.train.shared_vision import distinct_pictures


@dataclass(frozen=True)
class Shared:
    """How the rows of a batch share their beginnings."""

    length: int
    """P; every picture lies before it."""
    first_U: list[int]
    """The row that stands for each distinct prompt."""
    row_B: Tensor
    """The prompt of each row, as a place in `first_U`."""
    pictures_U: list[list[int]]
    """The pictures of each distinct prompt."""


def share_prompt(model: Any) -> None:
    """Wraps the backbone of a Qwen2-VL-like model in place; other models, and calls with a cache, stay as they are.

    A batch takes one pass or two depending on what is in it: not for weights that are sharded over processes.
    """
    backbone = model.base_model
    inner = backbone.forward
    kinds = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or []
    if not hasattr(backbone, "get_rope_index") or any(kind != "full_attention" for kind in kinds):
        return

    def forward(input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any) -> Any:
        fields = ("mm_token_type_ids", "image_grid_thw", "pixel_values")
        given = {name: options[name] for name in fields if options.get(name) is not None}
        ready = input_ids is not None and attention_mask is not None and len(given) == len(fields)
        cached = options.get("use_cache") is not False or options.get("past_key_values") is not None
        recomputed = backbone.training and getattr(backbone, "is_gradient_checkpointing", False)
        if not ready or cached or recomputed or options.get("position_ids") is not None:
            return inner(input_ids=input_ids, attention_mask=attention_mask, **options)
        assert input_ids is not None and attention_mask is not None
        merge = backbone.config.vision_config.spatial_merge_size**2
        shared = shared_prompts(input_ids, attention_mask, **given, merge=merge)
        if shared is None:
            return inner(input_ids=input_ids, attention_mask=attention_mask, **options)
        return _read_once(backbone, inner, shared, input_ids, attention_mask, options)

    backbone.forward = forward


def _read_once(
    backbone: Any, inner: Any, shared: Shared, input_ids: Tensor, attention_mask: Tensor, options: dict[str, Any]
) -> Any:
    given = {name: value for name, value in options.items() if value is not None}
    pixels, grid_thw = given.pop("pixel_values"), given.pop("image_grid_thw")
    position_3BT = backbone.get_rope_index(
        input_ids, given.pop("mm_token_type_ids"), image_grid_thw=grid_thw, attention_mask=attention_mask
    )[0]
    pictures = [picture for row in shared.pictures_U for picture in row]
    split = pixels.split(grid_thw.prod(1).tolist())
    cut, first = shared.length, shared.first_U
    given |= {"use_cache": True, "past_key_values": DynamicCache(config=backbone.config)}
    prompt = inner(
        input_ids=input_ids[first, :cut], attention_mask=attention_mask[first, :cut],
        position_ids=position_3BT[:, first, :cut], pixel_values=torch.cat([split[i] for i in pictures]),
        image_grid_thw=grid_thw[pictures], **given,
    )  # fmt: skip
    row_B = shared.row_B.to(input_ids.device)
    given["past_key_values"].batch_select_indices(row_B)
    output = inner(
        input_ids=input_ids[:, cut:], attention_mask=attention_mask, position_ids=position_3BT[:, :, cut:], **given
    )
    output.last_hidden_state = torch.cat([prompt.last_hidden_state[row_B], output.last_hidden_state], dim=1)
    output.past_key_values = None
    return output


def shared_prompts(
    input_ids: Tensor, attention_mask: Tensor, mm_token_type_ids: Tensor, image_grid_thw: Tensor,
    pixel_values: Tensor, merge: int,
) -> Shared | None:  # fmt: skip
    """What can be read once; None when no two rows begin alike up to their last picture.

    All (B, T) but the pictures; `merge` patches make a token.
    """
    kinds = mm_token_type_ids.cpu()
    total = kinds.shape[1]
    seen = int((kinds != 0).any(0).nonzero().max()) + 1
    pictures_B = _pictures_of_rows((kinds != 0).sum(1).tolist(), (image_grid_thw.prod(1) // merge).tolist())
    copies = distinct_pictures(pixel_values, image_grid_thw)[1]
    tokens = (input_ids * attention_mask).cpu()
    masks = attention_mask.cpu()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, pictures in enumerate(pictures_B):
        key = (*(copies[i] for i in pictures), *tokens[row, :seen].tolist(), *masks[row, :seen].tolist())
        groups.setdefault(key, []).append(row)
    alike = [rows for rows in groups.values() if len(rows) > 1]
    if not alike:
        return None
    cut = min(_common(tokens[rows], masks[rows]) for rows in alike)
    cut = min(cut, total - 1)
    if cut < seen:
        return None
    row_B = torch.empty(len(tokens), dtype=torch.long)
    for place, rows in enumerate(groups.values()):
        row_B[rows] = place
    first = [rows[0] for rows in groups.values()]
    return Shared(cut, first, row_B, [pictures_B[row] for row in first])


def _common(tokens: Tensor, masks: Tensor) -> int:
    """Columns in which all rows are equal before the first in which they are not."""
    differs = ((tokens != tokens[:1]) | (masks != masks[:1])).any(0)
    return int(differs.int().argmax()) if differs.any() else len(differs)


def _pictures_of_rows(tokens_B: list[int], tokens_of_picture: list[int]) -> list[list[int]]:
    """The pictures of each row, from how many tokens of pictures it has."""
    rows: list[list[int]] = []
    picture = 0
    for wanted in tokens_B:
        rows.append([])
        while wanted > 0:
            wanted -= tokens_of_picture[picture]
            rows[-1].append(picture)
            picture += 1
        assert wanted == 0, "the tokens of a picture were torn apart"
    return rows
