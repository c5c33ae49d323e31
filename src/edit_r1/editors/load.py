"""Open the editor of a folder, whichever pipeline it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline

from edit_r1.editors.flow import FlowEditor
from edit_r1.editors.flux2_klein import Flux2KleinEditor, Flux2KleinSettings
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.protocol import Editor
from edit_r1.editors.qwen_image_edit import QwenImageEditor, QwenImageEditSettings

SUPPORTED = ("FluxKontextPipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline", "Flux2KleinPipeline")
"""Class names in model_index.json that `open_editor` knows."""


class LocalEditor(Editor, FlowEditor[Any], Protocol):
    """An editor on this machine: it edits, and can be trained."""

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline."""


def pipeline_class(path: str | Path) -> str:
    """The class that a pipeline's model_index.json names; `path` is a folder or a hub id.

    Raises ValueError where there is no readable index.
    """
    try:
        index = DiffusionPipeline.load_config(str(path))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: no pipeline in the diffusers layout ({reason}); it has a model_index.json"
        ) from error
    return str(index.get("_class_name"))


def open_editor(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    name: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    area: int | None = None,
    batch_size: int | None = None,
) -> LocalEditor:
    """The editor of a folder (or hub id) that holds one of the `SUPPORTED` pipelines.

    steps, guidance, batch_size: of its deterministic sampling; None takes the backbone's own default. area: pixels of
    the edit with the source's aspect ratio; None takes the backbone's default (Qwen-Image-Edit: one megapixel; FLUX:
    the source's size). The backbones have settings beyond these: use their classes for them.
    Raises ValueError for another pipeline, naming those supported, and OSError when files are missing.
    """
    common: dict[str, Any] = {"steps": steps, "guidance": guidance, "batch_size": batch_size}
    common = {field: value for field, value in common.items() if value is not None}
    sized: dict[str, Any] = {} if area is None else {"area": area}
    kind = pipeline_class(path)
    if kind == "FluxKontextPipeline":
        kontext = replace(FluxKontextSettings(max_area=area), **common)
        return FluxKontextEditor.from_pretrained(path, kontext, device, dtype, name)
    if kind in ("QwenImageEditPipeline", "QwenImageEditPlusPipeline"):
        qwen = replace(QwenImageEditSettings(), **common, **sized)
        return QwenImageEditor.from_pretrained(path, qwen, device, dtype, name)
    if kind == "Flux2KleinPipeline":
        klein = replace(Flux2KleinSettings(), **common, **sized)
        return Flux2KleinEditor.from_pretrained(path, klein, device, dtype, name)
    raise ValueError(f"{path} holds a {kind}: the editors of this version are {', '.join(SUPPORTED)}")
