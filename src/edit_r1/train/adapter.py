"""The LoRA adapter that editors are trained by: float32 weights whose products have the precision of the base.

peft turns the input of an adapter into its weights' float32 and takes the products there. On a bf16 base that is two
products without tensor cores beside each one with them, and a float32 copy of every layer's input that waits for the
backward pass. Here the float32 weights are rounded for the product instead, as autocast does it: they keep every small
update, and their gradients are summed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear


def lora_config(targets: tuple[str, ...], rank: int) -> LoraConfig:
    """alpha is twice the rank, as everywhere for these editors. targets: name endings of linear layers."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), init_lora_weights="gaussian")


def add_lora(transformer: Any, config: LoraConfig, seed: int) -> None:
    """A fresh adapter in float32; B starts at 0, so that the policy starts as the reference."""
    device = next(transformer.parameters()).device
    # By default torch keeps the state of every GPU, for which it takes some memory on each.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    round_for_products(transformer)


def round_for_products(transformer: nn.Module) -> None:
    """Have every adapter of the transformer take its products in its input's precision. On a float32 base not a bit
    changes."""
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for matrices in (layer.lora_A, layer.lora_B):
                for name, matrix in matrices.items():
                    matrices[name] = _Rounded.like(matrix)


class _Rounded(nn.Linear):
    """A linear layer without a bias that rounds its weight to the precision of its input."""

    @classmethod
    def like(cls, matrix: nn.Linear) -> _Rounded:
        """The same weight, not a copy."""
        made = cls(matrix.in_features, matrix.out_features, bias=False, device="meta")
        made.weight = matrix.weight
        return made

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight.to(input.dtype))
