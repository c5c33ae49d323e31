"""Classifier-free guidance of a velocity, as the editors' pipelines do it."""

from __future__ import annotations

import torch
from torch import Tensor


def guided_velocity(velocity_BLC: Tensor, negative_BLC: Tensor, scale: float, rescale: bool) -> Tensor:
    """v_neg + scale (v - v_neg), [B, L, C].

    rescale: give every token the norm over C that its conditional velocity has, as Qwen-Image-Edit's pipeline does
    (diffusers 0.42, pipeline_qwenimage_edit.py): the direction is guided, the length is not.
    """
    combined_BLC = negative_BLC + scale * (velocity_BLC - negative_BLC)
    if not rescale:
        return combined_BLC
    norm_BL1 = torch.norm(velocity_BLC, dim=-1, keepdim=True)
    return combined_BLC * (norm_BL1 / torch.norm(combined_BLC, dim=-1, keepdim=True))
