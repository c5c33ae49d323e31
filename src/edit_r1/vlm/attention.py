"""The attention kernels of models on this machine, by transformers' names, and what each needs."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

from edit_r1.vlm.errors import ModelError

Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
"""sdpa: torch's own; eager: plain matrix products, the slowest, for comparisons; flash_attention_2: of the package
flash-attn, on GPUs and in 16 bits; flex_attention: compiled by torch at the first call."""

FLASH = "flash_attention_2"
TRIED = (FLASH, "flex_attention")
"""Kernels that may load and not run: they are tried once at loading."""
SHORT_DTYPES = ("bfloat16", "float16")
"""Those that flash attention computes in."""


def check_attention(attention: str | None, device: str, dtype: str) -> None:
    """Raises `ModelError` for a kernel that is none of `Attention`, is not installed, or cannot run there.

    None leaves the choice to transformers: sdpa where the model has it, else eager. Whether the model takes the kernel
    shows its loading.
    """
    if attention is None:
        return
    if attention not in get_args(Attention):
        raise ModelError(f"attention={attention!r}: choose one of {', '.join(get_args(Attention))}")
    if attention != FLASH:
        return
    others = "use sdpa, which needs nothing"
    if device.startswith("cpu"):
        raise ModelError(f"attention={attention!r} runs on a GPU, not on {device}: name one with --device, or {others}")
    if dtype not in SHORT_DTYPES:
        raise ModelError(f"attention={attention!r} computes in 16 bits: add --dtype bfloat16, or {others}")
    if find_spec("flash_attn") is None and find_spec("kernels") is None:
        raise ModelError(f"attention={attention!r}: the package flash-attn is not installed: install it, or {others}")
