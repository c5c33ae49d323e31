"""What the editors on diffusers' pipelines share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from peft import get_peft_model_state_dict
from torch import nn

from edit_r1.editors.flow import Schedule

Quantisation = Literal["none", "nf4"]
"""Of a frozen transformer: as stored, or 4 bits by bitsandbytes (QLoRA's nf4, its scales quantised too)."""


def check_scheduler(pipeline: DiffusionPipeline) -> None:
    """Raise ValueError for a scheduler that is not the plain Euler one."""
    config = pipeline.scheduler.config
    if config.stochastic_sampling or config.invert_sigmas:
        raise ValueError(
            "the checkpoint's scheduler has stochastic_sampling or invert_sigmas set: Flow-GRPO "
            "needs the plain Euler scheduler; set both to false in scheduler_config.json"
        )


def shifted_schedule(pipeline: DiffusionPipeline, steps: int, mu: float, device: torch.device) -> Schedule:
    """`steps` sigmas from 1 to 1/steps and then 0, shifted by `mu` as the pipeline's own scheduler does it."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device, mu=mu)
    return Schedule(scheduler.sigmas, scheduler.timesteps)


def quantising(quantise: Quantisation, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What a pipeline's `from_pretrained` is given beside the path to quantise its transformer while loading.

    Raises ValueError without a CUDA device or the library.
    """
    if quantise == "none":
        return {}
    if not device.startswith("cuda"):
        raise ValueError(f"quantise={quantise!r} on {device}: 4-bit weights need a CUDA device; use quantise='none'")
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantise={quantise!r} needs bitsandbytes: pip install 'edit-r1[quantised]'")
    from diffusers import BitsAndBytesConfig
    from diffusers.quantizers import PipelineQuantizationConfig

    make_current(device)  # where bitsandbytes quantises
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={"transformer": four_bits})}


def input_dtype(transformer: Any) -> torch.dtype:
    """Of a transformer's inputs: as its own weights are stored, whatever an adapter's are. Those are float32 on any
    base, and the first floating ones of a base without biases whose matrices are packed into 4 bits."""
    weights = dict(transformer.named_parameters())
    own = (weight.dtype for name, weight in weights.items() if "lora_" not in name and weight.is_floating_point())
    stored: torch.dtype = transformer.dtype
    return next(own, stored) if any("lora_" in name for name in weights) else stored


def make_current(device: str) -> None:
    """Of a GPU with a number; "cuda" is the current one."""
    index = torch.device(device).index
    if index is not None:
        torch.cuda.set_device(index)


def freeze(parts: Sequence[nn.Module]) -> None:
    for part in parts:
        part.eval()
        part.requires_grad_(False)


def place(
    pipeline: DiffusionPipeline, encoders: Sequence[nn.Module], device: str, offload: bool, waits: bool = False
) -> None:
    """Put the pipeline on `device`; with `offload` its text encoders rest on the CPU, with `waits` its transformer
    stays there until training shards it, so that no device ever holds all of it."""
    resting = [*(encoders if offload else ()), *([pipeline.transformer] if waits else ())]
    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and not any(part is other for other in resting):
            part.to(device)


@contextmanager
def encoders_on(device: torch.device, encoders: Sequence[nn.Module], offload: bool) -> Iterator[None]:
    """Inside, the text encoders are on `device`; with `offload` they are on the CPU again afterwards, where their
    frozen weights have stayed, so that none is copied back."""
    if not offload:
        yield
        return
    kept = [
        (module, name, weight, weight.data)
        for encoder in encoders
        for module in encoder.modules()
        for name, weight in module.named_parameters(recurse=False)
    ]
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for module, name, weight, data in kept:
            weight.data = data
            module.register_parameter(name, weight)
        for encoder in encoders:
            encoder.to("cpu")  # its buffers


def save_lora(pipeline: Any, path: Path) -> None:
    """The transformer's adapter "default" alone; the pipeline's `load_lora_weights(path)` reads it."""
    type(pipeline).save_lora_weights(
        path,
        transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
        transformer_lora_adapter_metadata=pipeline.transformer.peft_config["default"].to_dict(),
    )
