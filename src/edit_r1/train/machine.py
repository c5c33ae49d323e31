"""How a training of a verifier lies on its GPUs, and what prepares its rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch

from edit_r1.train.verifier_run import Precision, check_numbers


@dataclass(frozen=True)
class MachineSettings:
    """How a training of a verifier lies on its GPUs; none of it changes what is computed but for rounding."""

    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    shard: Literal["none", "fsdp2"] = "none"
    """"fsdp2" gives each of several processes a part of the weights, gradients and optimiser in place of a copy."""
    frozen: Precision = "fp32"
    """What the weights under LoRA are held in; "bf16" halves them. Weights that are trained are fp32 in any case."""
    row_workers: int = 0
    """Processes that prepare SFT's rows ahead, beside each that trains; 0 prepares them between the updates."""

    def __post_init__(self) -> None:
        check_numbers({}, {"row_workers": self.row_workers})


def check_machine(machine: MachineSettings, lora_rank: int) -> None:
    """Raises ValueError for settings that do not go together."""
    if machine.frozen == "bf16" and lora_rank == 0:
        raise ValueError("frozen='bf16' with lora_rank=0: all weights are trained, which takes fp32; set lora_rank")
    if machine.shard != "none" and lora_rank > 0:
        raise ValueError(
            f"shard={machine.shard!r} with lora_rank={lora_rank}: LoRA is trained with a copy on each GPU; "
            "use frozen='bf16' where memory is short, or lora_rank=0"
        )


def check_one_gpu(cpu: bool) -> None:
    """Raises ValueError where a process that was started alone sees several GPUs: transformers would copy the model to
    all of them by threads (`nn.DataParallel`), which cuts pictures in the middle and multiplies the batch."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and not cpu and (count := torch.cuda.device_count()) > 1:
        raise ValueError(
            f"one process that sees {count} GPUs: start one for each (torchrun --nproc-per-node {count} -m edit_r1 "
            "...), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def fsdp_arguments(machine: MachineSettings) -> dict[str, Any]:
    """Arguments of transformers' trainer that shard as `machine` says.

    Raises:
        ValueError: for sharding in one process.
    """
    if machine.shard == "none":
        return {}
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise ValueError(
            f"shard={machine.shard!r} in one process: start several (torchrun --nproc-per-node 8 -m edit_r1 ...), or "
            "leave shard out"
        )
    config = {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        # Each process writes its part: the whole of weights and optimiser is never in one memory.
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }
    # Otherwise the whole gradient of every weight lies in every process until its last micro-batch.
    each = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return {"fsdp": True, "fsdp_config": config, "accelerator_config": each}
