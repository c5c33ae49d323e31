"""Each picture of a batch goes through the vision tower once, however often the batch repeats it.

A generation holds N traces of one candidate and both candidates of one source: of 4N pictures a pair, three
differ. The result is the tower's own; gradients of the copies add up in the one that was computed. Pixels may be given
in the machine's memory: those that are read are moved to where the tower is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edit_r1.train.verifier_run import vision_tower


def share_vision(model: Any) -> None:
    """Wraps the vision tower of a Qwen2-VL-like model in place; pictures are equal when their pixels are."""
    tower: Any = vision_tower(model)
    inner = tower.forward
    merge = tower.spatial_merge_size**2

    def forward(hidden_states: Tensor, grid_thw: Tensor, **options: Any) -> Any:
        device = next(tower.parameters()).device
        first, copies = distinct_pictures(hidden_states, grid_thw)
        if len(first) == len(grid_thw):
            return inner(hidden_states.to(device), grid_thw=grid_thw, **options)
        pixels = hidden_states.split(grid_thw.prod(1).tolist())
        output = inner(torch.cat([pixels[i] for i in first]).to(device), grid_thw=grid_thw[first], **options)
        patches = grid_thw[first].prod(1)
        output.last_hidden_state = _repeat(output.last_hidden_state, patches, copies)
        output.pooler_output = _repeat(output.pooler_output, patches // merge, copies)
        if "deepstack_features" in output:  # Qwen3-VL's towers also feed the first layers of the language model
            output.deepstack_features = [_repeat(each, patches // merge, copies) for each in output.deepstack_features]
        return output

    tower.forward = forward


def distinct_pictures(pixels_PC: Tensor, grid_thw: Tensor) -> tuple[list[int], list[int]]:
    """(indices of the pictures that come first, for every picture its place among them).

    Compared where they are: a sum of their bits tells most apart, and of equal sums every pixel is looked at.
    """
    pictures = [picture.contiguous() for picture in pixels_PC.detach().split(grid_thw.prod(1).tolist())]
    bits = {2: torch.int16, 4: torch.int32}[pixels_PC.element_size()]
    sums = torch.stack([picture.view(bits).sum(dtype=torch.int64) for picture in pictures]).tolist()
    alike: dict[tuple[Any, ...], list[int]] = {}
    first: list[int] = []
    copies: list[int] = []
    for index, (picture, grid, total) in enumerate(zip(pictures, grid_thw.tolist(), sums, strict=True)):
        places = alike.setdefault((*grid, total), [])
        place = next((place for place in places if torch.equal(pictures[first[place]], picture)), None)
        if place is None:
            place = len(first)
            first.append(index)
            places.append(place)
        copies.append(place)
    return first, copies


def _repeat(tokens_TD: Tensor, lengths: Tensor, copies: list[int]) -> Tensor:
    """The tokens of the distinct pictures, laid out for every picture."""
    starts = (lengths.cumsum(0) - lengths).tolist()
    rows = [torch.arange(starts[i], starts[i] + int(lengths[i])) for i in copies]
    return tokens_TD[torch.cat(rows).to(tokens_TD.device)]
