"""Does an editor load, edit, and sample as diffusers does; can it be trained? A function per check."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edit_r1.doctor.examples import Example
from edit_r1.doctor.findings import Finding, attempt, skipped
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_pil, decode_rgb, encode_png
from edit_r1.records import Sample

STEPS = 4
"""Sampling steps: enough to compare samplers, too few for a good picture."""
SIDE = 256
"""Largest side of the edited picture, pixels; a multiple of every editor's token."""
KNOWN = "FluxKontextPipeline"
LOADS, WEIGHTS, TARGETS, EDITS, AGREES = (
    "editor", "editor's weights", "LoRA targets", "one edit", "same as diffusers",
)  # fmt: skip
AFTER_LOADING = (WEIGHTS, TARGETS, EDITS, AGREES)
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def load_editor(path: str, device: str, dtype: str) -> tuple[Finding, FluxKontextEditor | None]:
    """Opens the pipeline of a folder."""
    kind = _pipeline_kind(path)
    if kind is not None and kind != KNOWN:
        told = f"{path} holds a {kind}"
        return Finding(LOADS, "fail", told, f"doctor examines {KNOWN} alone so far: give one"), None
    start = time.monotonic()
    settings = FluxKontextSettings(steps=STEPS, batch_size=1)
    opened = attempt(lambda: FluxKontextEditor.from_pretrained(path, settings, device, getattr(torch, dtype)))
    if isinstance(opened, str):
        return Finding(
            LOADS, "fail", opened, "give the folder of a FLUX.1-Kontext pipeline in the diffusers layout"
        ), None
    opened.pipeline.set_progress_bar_config(disable=True)
    count = sum(parameter.numel() for parameter in opened.pipeline.transformer.parameters())
    values = {"seconds": time.monotonic() - start, "transformer_parameters": count}
    told = f"{opened.name}: transformer of {count / 1e6:,.1f} M weights, loaded in {values['seconds']:.1f} s"
    return Finding(LOADS, "ok", told, None, values), opened


def _pipeline_kind(path: str) -> str | None:
    """The pipeline's class as its index names it; None where there is no readable index."""
    try:
        kind = json.loads((Path(path) / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(kind)


def examine_editor(editor: FluxKontextEditor, example: Example) -> list[Finding]:
    """Every check of an editor that loaded, in the order of `AFTER_LOADING`."""
    sample = _cropped(example)
    return [
        _examined(WEIGHTS, lambda: weights(editor)),
        _examined(TARGETS, lambda: lora_targets(editor)),
        _examined(EDITS, lambda: one_edit(editor, sample)),
        _examined(AGREES, lambda: same_as_diffusers(editor, sample)),
    ]


def _examined(name: str, check: Any) -> Finding:
    found = attempt(check)
    return Finding(name, "fail", found, "try another --dtype or --device") if isinstance(found, str) else found


def _cropped(example: Example) -> Sample:
    """The middle of the example's source, its sides whole multiples of 64, at most `SIDE`: no size is then rounded."""
    pixels_HWC = decode_rgb(example.source)
    height, width = (min(SIDE, side // 64 * 64) for side in pixels_HWC.shape[:2])
    top, left = (pixels_HWC.shape[0] - height) // 2, (pixels_HWC.shape[1] - width) // 2
    source = encode_png(pixels_HWC[top : top + height, left : left + width])
    return Sample("doctor", source, example.instruction, "")


def weights(editor: FluxKontextEditor) -> Finding:
    """In which format each part computes. Training needs the transformer in float32, or updates of 1e-4 are lost."""
    formats = {}
    for part in PARTS:
        module: torch.nn.Module = getattr(editor.pipeline, part)
        formats[part] = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()}))
    told = ", ".join(f"{part} {name}" for part, name in formats.items())
    broken = [
        part
        for part in PARTS
        if not all(bool(torch.isfinite(p).all()) for p in getattr(editor.pipeline, part).parameters())
    ]
    if broken:
        return Finding(WEIGHTS, "fail", f"{told}; {', '.join(broken)} holds NaN or infinity", "load it again", formats)
    if formats["transformer"] != "float32":
        return Finding(WEIGHTS, "warn", told, "fine for sampling; full training needs --dtype float32, LoRA does not",
                       formats)  # fmt: skip
    return Finding(WEIGHTS, "ok", told, None, formats)


def lora_targets(editor: FluxKontextEditor) -> Finding:
    """Linear layers of the transformer that LoRA would adapt, by the name endings of `lora_targets`."""
    names = [
        name for name, module in editor.pipeline.transformer.named_modules() if isinstance(module, torch.nn.Linear)
    ]
    found = {target: sum(name.endswith(target) for name in names) for target in editor.lora_targets}
    told = f"{sum(found.values())} linear layers under {sum(map(bool, found.values()))} of {len(found)} names"
    missing = [target for target, count in found.items() if not count]
    if not any(found.values()):
        return Finding(TARGETS, "fail", told, "this transformer names its layers otherwise: set lora_targets", found)
    if missing:
        return Finding(TARGETS, "warn", f"{told}; none named {', '.join(missing)}",
                       "those layers stay as they are in LoRA training", found)  # fmt: skip
    return Finding(TARGETS, "ok", told, None, found)


def one_edit(editor: FluxKontextEditor, sample: Sample) -> Finding:
    """Samples one edit: is there a picture of the right size that is neither blank nor the source."""
    start = time.monotonic()
    edit = editor.edit([sample], [0])[0]
    seconds = time.monotonic() - start
    if edit.image is None:
        return Finding(EDITS, "fail", str(edit.error), "mend what the reason says", {"seconds": seconds})
    source_HWC, edited_HWC = decode_rgb(sample.source).astype(float), decode_rgb(edit.image).astype(float)
    height, width = edited_HWC.shape[:2]
    values: dict[str, Any] = {"seconds": seconds, "width": width, "height": height, "spread": float(edited_HWC.std())}
    told = f"{width} x {height} pixels in {STEPS} steps, {seconds:.1f} s"
    if edited_HWC.std() < 1:
        return Finding(EDITS, "fail", f"{told}; one flat colour", "the model diverges: try --dtype float32", values)
    if edited_HWC.shape == source_HWC.shape:
        values["mean_change"] = float(np.abs(edited_HWC - source_HWC).mean())
        told += f"; {values['mean_change']:.1f} of 255 levels from the source in the mean"
    return Finding(EDITS, "ok", told, None, values)


def same_as_diffusers(editor: FluxKontextEditor, sample: Sample) -> Finding:
    """With no noise (eta = 0) and the same seed the sampler has to give diffusers' own picture: exactly in float32."""
    picture = decode_pil(sample.source)
    pipeline, settings = editor.pipeline, editor.settings
    expected = pipeline(
        image=[picture], prompt=[sample.instruction], height=picture.height, width=picture.width,
        max_area=picture.height * picture.width, _auto_resize=False, num_inference_steps=settings.steps,
        guidance_scale=settings.guidance, max_sequence_length=pipeline.tokenizer_2.model_max_length,
        generator=[torch.Generator("cpu").manual_seed(1)],
    ).images[0]  # fmt: skip
    edit = editor.edit([sample], [1])[0]
    if edit.image is None:
        return Finding(AGREES, "fail", str(edit.error), "mend what the reason says")
    gap_HWC = np.abs(decode_rgb(edit.image).astype(int) - np.asarray(expected.convert("RGB")).astype(int))
    exact = pipeline.transformer.dtype == torch.float32
    values = {"largest": int(gap_HWC.max()), "mean": float(gap_HWC.mean())}
    told = f"largest difference {values['largest']} of 255, mean {values['mean']:.3f}"
    if values["largest"] == 0:
        return Finding(AGREES, "ok", f"bit for bit the picture of {KNOWN}", None, values)
    if not exact and values["mean"] < 2:
        return Finding(AGREES, "ok", f"{told}: the rounding of {pipeline.transformer.dtype}", None, values)
    if exact and values["largest"] <= 2:
        return Finding(AGREES, "warn", told, "kernels of this device round differently; harmless for sampling", values)
    return Finding(AGREES, "fail", told, "report it: log-probabilities of this sampler are not the model's", values)


def skipped_editor(why: str) -> list[Finding]:
    """The checks after loading, for an editor that did not load."""
    return skipped(AFTER_LOADING, why)
