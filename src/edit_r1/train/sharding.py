"""A transformer in parts, one a process (FSDP2), and the way between the parts and the whole.

Every forward of a sharded transformer is an exchange between the processes, and so is every backward: all processes
run through it equally often, with or without a gradient, and in the same order. `Team.evened` keeps that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(transformer: nn.Module, device: torch.device) -> None:
    """In place: each block is one unit of exchange, what lies outside the blocks another. The parts are on `device`.

    Blocks are the entries of the transformer's `ModuleList`s. Call it when weights, adapters and their
    `requires_grad` are final, and make the optimiser afterwards: its parameters are then DTensors.
    Raises ValueError for a compiled transformer: torch.compile under FSDP2 can wait for ever where forwards with and
    without a gradient alternate, as they do here.
    """
    if any(module._compiled_call_impl is not None for module in transformer.modules()):
        raise ValueError("shard=True with a compiled transformer can hang: leave torch.compile or shard out")
    # Without a mesh torch takes the GPUs of any machine that has some, for weights on the CPU too.
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for child in transformer.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=mesh)
    # By default the outermost unit stays together after a forward, and a forward without a gradient would leave it so
    # for the next one, which may have other weights (averaged ones, or those after a step).
    fully_shard(transformer, mesh=mesh, reshard_after_forward=True)


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; all of it when it is not sharded. Shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from all processes, which must call this alike; itself when it is not sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def wholes(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """`whole` of each, on the CPU when they were sharded; a process that does not `keep` them gets an empty dict."""
    kept = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if keep:
            kept[name] = gathered.cpu() if isinstance(tensor, DTensor) else gathered
    return kept


def parted_like(full: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, in parts when that is in parts; every process has the whole one."""
    if isinstance(like, DTensor):
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return full.to(like.device)


def whole_transformer(transformer: Any, lora: LoraConfig | None, keep: bool, adapter_alone: bool = False) -> Any:
    """An ordinary transformer on the CPU with the weights of a sharded one, adapter included; None unless `keep`.

    transformer: of a diffusers class. adapter_alone: put together and keep the adapter's weights only; the others stay
    on "meta", without memory. All processes must call this alike.
    """
    parts = {name: weight for name, weight in transformer.state_dict().items() if "lora_" in name or not adapter_alone}
    weights = wholes(parts, keep)
    if not keep:
        return None
    # fully_shard gives an instance a class of its own, derived from the one it had.
    original: Any = next(
        kind
        for kind in type(transformer).__mro__
        if kind.__module__.startswith("diffusers.") and "forward" in vars(kind)
    )
    # Weights alone are left empty: tables that are none, such as Qwen-Image's of positions, are in no state dict.
    with init_empty_weights(include_buffers=False):
        copy: Any = original.from_config(dict(transformer.config))
        if lora is not None:
            copy.add_adapter(lora)
    left = copy.load_state_dict(weights, strict=not adapter_alone, assign=True)
    assert not left.unexpected_keys and not any("lora_" in name for name in left.missing_keys)
    return copy.eval().requires_grad_(False)


def total_norm(parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The norm of all gradients over all processes, a plain scalar tensor."""
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    return whole(torch.nn.utils.get_total_norm(gradients))
