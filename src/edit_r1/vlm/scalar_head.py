"""A vision-language model with one number instead of words: a linear head on the last token's hidden state.

A folder of such a model is the backbone in the Hugging Face layout, which any `AutoModelForImageTextToText` opens, and
beside it `reward_head.json`, the marker, and `reward_head.safetensors`, the head's weight.

Legend: B requests, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_r1.vlm.chat import images_of, start_once, to_messages
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Request

if TYPE_CHECKING:
    import torch

    from edit_r1.vlm.attention import Attention
    from edit_r1.vlm.transformers import TransformersVLM

MARKER = "reward_head.json"
WEIGHTS = "reward_head.safetensors"
FORMAT = 1
"""Of the marker."""


@dataclass(frozen=True)
class HeadMarker:
    """What `reward_head.json` says."""

    prompts: str
    """Version of the prompt that the head was trained on."""
    width: int
    """D, of the hidden state that the head reads."""


def has_head(folder: str | Path) -> bool:
    """Whether a folder holds a model with a scalar head."""
    return (Path(folder) / MARKER).is_file()


def read_marker(folder: str | Path) -> HeadMarker:
    """Raises `ModelError` (a ValueError) for a marker that cannot be read, or of another format."""
    path = Path(folder) / MARKER
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        marker = HeadMarker(str(values["prompts"]), int(values["width"]))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not the marker of a scalar head ({error}): train it anew") from error
    return marker


def write_head(folder: Path, weight_1D: torch.Tensor, prompts: str) -> None:
    """Writes marker and weight beside a backbone."""
    from safetensors.torch import save_file

    save_file({"weight": weight_1D.detach().float().cpu().contiguous()}, folder / WEIGHTS)
    marker = {"format": FORMAT, "prompts": prompts, "width": weight_1D.shape[1]}
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def encode(processor: Any, requests: Sequence[Request]) -> Any:
    """A batch as the model reads it, padded on the left, so that the last token of each row is its last place.

    Raises ValueError for a picture that cannot be read, or that the processor refuses.
    """
    processor.tokenizer.padding_side = "left"
    texts = [
        processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
        for request in requests
    ]
    images = [images_of(request) for request in requests]
    once = start_once(processor.tokenizer, texts)
    return processor(text=texts, images=images, padding=True, return_tensors="pt", **once)


def last_hidden_BD(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The hidden state of the last token, after the last norm; no logits are computed. `model` may wear adapters."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden_BLD: torch.Tensor = inner.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden_BLD[:, -1]


def head_logits_B(hidden_BD: torch.Tensor, weight_1D: torch.Tensor) -> torch.Tensor:
    """<hidden, weight> in float32, under autocast too."""
    return (hidden_BD.float() * weight_1D.float()).sum(dim=-1)


class ScalarVLM:
    """A loaded model with its head."""

    def __init__(self, vlm: TransformersVLM, weight_1D: torch.Tensor) -> None:
        self.vlm = vlm
        self.name = vlm.name
        self.simulated = vlm.simulated
        self.weight_1D = weight_1D.to(vlm.model.device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 16,
        adapter: str | Path | None = None,
        attention: Attention | None = None,
    ) -> ScalarVLM:
        """Opens a folder with a head, as `TransformersVLM.load` does. Raises `ModelError` (a ValueError) as it does."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from edit_r1.vlm.transformers import TransformersVLM

        marker = read_marker(path)
        file = Path(path) / WEIGHTS
        try:
            weight_1D = load_file(file)["weight"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(f"{file}: no head's weight can be read ({error}): train it anew") from error
        vlm = TransformersVLM.load(path, device, dtype, attention, batch_size, adapter)
        width = vlm.model.config.get_text_config().hidden_size
        if tuple(weight_1D.shape) != (1, marker.width) or marker.width != width:
            shape = tuple(weight_1D.shape)
            raise ModelError(
                f"{file}: a head of shape {shape} beside a model of width {width}: they are not of one run"
            )
        return cls(vlm, weight_1D)

    def logits(self, requests: Sequence[Request]) -> list[float | str]:
        """A number per request, in order, higher is better; a text says why there is none."""
        found: list[float | str] = []
        for start in range(0, len(requests), self.vlm.batch_size):
            found += self._logits(requests[start : start + self.vlm.batch_size])
        return found

    def _logits(self, batch: Sequence[Request]) -> list[float | str]:
        """`logits` of one batch, in halves where the processor refuses it or the GPU's memory does not hold it."""
        import torch

        model = self.vlm.model
        try:
            inputs = encode(self.vlm.processor, batch)
        except ValueError as error:  # the processor refuses some pictures, such as a strip of one pixel
            why = f"the model's processor refuses this request: {error}"
        else:
            try:
                with torch.inference_mode():
                    hidden_BD = last_hidden_BD(model, dict(inputs.to(model.device, dtype=model.dtype)))
                    return list(head_logits_B(hidden_BD, self.weight_1D).cpu().tolist())
            except torch.OutOfMemoryError as error:
                why = f"out of memory ({' '.join(str(error).split())}): use smaller pictures or --dtype bfloat16"
            # Only here, where the failed pass and its tensors are no longer held by the exception.
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [why]
        half = len(batch) // 2
        return [*self._logits(batch[:half]), *self._logits(batch[half:])]
