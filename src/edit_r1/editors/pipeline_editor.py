"""What every editor around a diffusers pipeline is: loading, batches of edits, the forward's guard, saving.

Legend: B contexts or edits of one layout, L latent tokens of the edit, C channels of a latent token.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from edit_r1.editors.batching import Layout, edit_in_batches
from edit_r1.editors.flow import E, FlowRows, Schedule
from edit_r1.editors.packing import use_packed_attention
from edit_r1.editors.parts import Quantisation, check_scheduler, freeze, input_dtype, place, quantising, save_lora
from edit_r1.editors.protocol import EditedImage
from edit_r1.records import Sample
from edit_r1.vlm.weights import files_key

_SPEED = {"batch_size", "padding", "offload_encoders"}
"""Settings that shape no edit but by rounding."""


class SamplerSettings(Protocol):
    """Of every editor's settings."""

    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def padding(self) -> float: ...
    @property
    def offload_encoders(self) -> bool: ...
    @property
    def bf16_products(self) -> bool: ...


S = TypeVar("S", bound=SamplerSettings)


class PipelineEditor(ABC, Generic[E, S]):
    """An `Editor` and a `FlowEditor` around a loaded pipeline."""

    simulated: ClassVar[bool] = False
    default_name: ClassVar[str]
    encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """The pipeline's parts that encode instructions."""
    packed_attention: ClassVar[tuple[tuple[type, type], ...]]
    """The attention processors that the backbone comes with, and ours for rows of mixed sizes (`packing`)."""

    def __init__(self, pipeline: Any, settings: S, name: str | None = None) -> None:
        """Raises ValueError for a scheduler that is not the plain Euler one."""
        check_scheduler(pipeline)
        self.pipeline, self.settings, self.name = pipeline, settings, name or self.default_name
        self.weights_key = ""
        """See `vlm.weights.Loaded`; "" too with a transformer that is another one than the folder's."""
        self.dtype = input_dtype(pipeline.transformer)
        """Of the transformer's inputs, settled before training changes it."""
        self._packs = use_packed_attention(pipeline.transformer, dict(self.packed_attention))
        freeze([pipeline.transformer, pipeline.vae, *self._encoders])

    @property
    def settings_key(self) -> str:
        """What shapes an edit beside the weights, the name, the sample and the seed (JSON)."""
        told = {name: value for name, value in vars(self.settings).items() if name not in _SPEED}
        return json.dumps(told, sort_keys=True)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        settings: S,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str | None = None,
        quantise: Quantisation = "none",
        waits: bool = False,
    ) -> Self:
        """Load a pipeline in the Hugging Face layout; stored weights are read into `dtype`.

        quantise: of the transformer. waits: it stays on the CPU until training shards it. Raises ValueError for a
        folder of another pipeline.
        """
        kind = cls.pipeline_class(path)
        pipeline = kind.from_pretrained(str(path), dtype=dtype, **quantising(quantise, device, dtype))
        encoders = [getattr(pipeline, part) for part in cls.encoder_names]
        place(pipeline, encoders, device, settings.offload_encoders, waits)
        editor = cls(pipeline, settings, name or Path(path).name)
        editor.weights_key = files_key(path, parts=True)
        return editor

    @classmethod
    @abstractmethod
    def pipeline_class(cls, path: str | Path) -> type[DiffusionPipeline]:
        """The pipeline to load that folder with."""

    @property
    def transformer(self) -> nn.Module:
        return self.pipeline.transformer

    @property
    def device(self) -> torch.device:
        """The VAE's: with `waits` the transformer comes to it only when it is sharded."""
        return self.pipeline.vae.device

    @property
    def multiple(self) -> int:
        """Heights and widths are multiples of this many pixels: one latent token."""
        return self.pipeline.vae_scale_factor * 2

    @property
    @abstractmethod
    def lora_targets(self) -> tuple[str, ...]:
        """Name endings of the linear layers that LoRA adapts."""

    @property
    @abstractmethod
    def classifier_free(self) -> bool:
        """Whether its guidance is classifier-free: a second forward, and none with a scale of 1."""

    @property
    def guided_edits(self) -> bool:
        """Whether `edit` draws with classifier-free guidance."""
        return self.classifier_free and self.settings.guidance > 1

    def with_transformer(self, transformer: nn.Module) -> Self:
        """The same editor with another transformer; everything else is shared."""
        parts = {**self.pipeline.components, "transformer": transformer}
        return type(self)(type(self.pipeline)(**parts, **self._pipeline_options), self.settings, self.name)

    # --- Editor ---------------------------------------------------------------------------------------

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One edit per (sample, seed), in order, by the deterministic sampler with `settings`.

        A sample that cannot be edited gives an `EditedImage` with an error; nothing raises per item.
        """
        s = self.settings
        return edit_in_batches(self, samples, seeds, s.steps, s.guidance, s.batch_size, s.padding)

    # --- FlowEditor -----------------------------------------------------------------------------------

    @abstractmethod
    def layout(self, sample: Sample) -> Layout:
        """Sizes of the edit, then of each source as it is encoded. Raises ImageError where it cannot be edited."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], E]]:
        """Sources and instructions encoded once; one entry per layout, with the positions of its rows.

        Raises ImageError for a sample that cannot be edited.
        """

    @abstractmethod
    def schedule(self, contexts: E, steps: int) -> Schedule:
        """Sigmas and timesteps as the pipeline computes them."""

    @abstractmethod
    def noise(self, contexts: E, generators: Sequence[torch.Generator]) -> Tensor:
        """First latents [B, L, C]: drawn as the pipeline draws them, then kept in float32."""

    def velocity(self, latents_BLC: Tensor, timestep_B: Tensor, contexts: E, guidance: float) -> Tensor:
        """v [B, L, C] in float32 at timesteps in 0 to 1000, one row of `contexts` per row of latents.

        Raises ValueError for guidance on contexts that were encoded without it.
        """
        return self.velocities([FlowRows(latents_BLC, timestep_B, contexts)], guidance)[0]

    @abstractmethod
    def velocities(self, parts: Sequence[FlowRows[E]], guidance: float) -> list[Tensor]:
        """`velocity` of rows of several layouts, all in one forward (two with classifier-free guidance)."""

    @abstractmethod
    def decode(self, latents_BLC: Tensor, contexts: E) -> np.ndarray:
        """Pixels [B, H, W, 3] in uint8, as the pipeline decodes them."""

    def save(self, path: Path) -> None:
        """The whole pipeline in the Hugging Face layout."""
        self.pipeline.save_pretrained(path)

    def save_lora(self, path: Path) -> None:
        """The LoRA adapter alone; the pipeline's `load_lora_weights(path)` reads it."""
        save_lora(self.pipeline, path)

    def _products(self) -> torch.autocast:
        """What a forward runs in: bf16 products where the settings ask for them. Without autocast's cache, which would
        hold a bf16 copy of every trained weight until the forward ends, of a sharded transformer too; each is used once
        in it."""
        enabled = self.settings.bf16_products
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)

    # --- of the pipeline ------------------------------------------------------------------------------

    @property
    def _encoders(self) -> list[nn.Module]:
        return [getattr(self.pipeline, name) for name in self.encoder_names]

    @property
    def _pipeline_options(self) -> dict[str, Any]:
        """What the pipeline is made with beside its components."""
        return {}

    @property
    def _latent_channels(self) -> int:
        return self.pipeline.transformer.config.in_channels // 4
