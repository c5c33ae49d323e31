"""A checkpoint that can be described without being opened: what a recipe names and `--plan` counts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from edit_r1.editors.flux2_klein import Flux2KleinEditor, Flux2KleinSettings
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.load import LocalEditor
from edit_r1.editors.parts import Quantisation
from edit_r1.editors.qwen_image_edit import QwenImageEditor, QwenImageEditSettings

Settings = FluxKontextSettings | QwenImageEditSettings | Flux2KleinSettings


@dataclass(frozen=True)
class EditorCheckpoint:
    """Where an editor is and how it is loaded; calling it opens it."""

    path: str
    """A folder or a hub id."""
    settings: Settings
    """Its class says which backbone the checkpoint holds."""
    device: str = "cuda"
    """"cuda" takes the GPU of this process (LOCAL_RANK) under `torchrun` and `accelerate launch`."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of all weights; full training needs float32."""
    quantise: Quantisation = "none"
    """Of the transformer; needs LoRA, whose weights stay float32."""
    waits: bool = False
    """The transformer stays on the CPU until training shards it (the stage's `shard`)."""
    name: str = ""
    """What its edits are said to be by; "" takes the last part of the path."""

    def __call__(self) -> LocalEditor:
        """Load it. Raises ValueError for a pipeline of another kind, OSError where files are missing."""
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if self.device == "cuda" else self.device
        dtype: torch.dtype = getattr(torch, self.dtype)
        last = (device, dtype, self.name or Path(self.path).name, self.quantise, self.waits)
        settings = self.settings
        if isinstance(settings, FluxKontextSettings):
            return FluxKontextEditor.from_pretrained(self.path, settings, *last)
        if isinstance(settings, QwenImageEditSettings):
            return QwenImageEditor.from_pretrained(self.path, settings, *last)
        return Flux2KleinEditor.from_pretrained(self.path, settings, *last)
