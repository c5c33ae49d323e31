"""FLUX.1-Kontext, on diffusers' own components.

Legend: B contexts or edits of one size, L latent tokens of the edit, R latent tokens of the source,
C channels of a packed 2x2 latent, T text tokens, S sampling steps.

The sampler does what `FluxKontextPipeline.__call__` does, opened up so that its steps can be made
stochastic and replayed. In float32, with the same seeds and the same batch, it gives the pipeline's image
bit for bit (tests/editors/test_flux_kontext.py).

How noise is drawn: every edit has its own CPU generator, seeded with its own seed. The first latents are
drawn from it as diffusers draws them for a list of generators, and the noise of stochastic steps goes on
from it. So an edit's noise does not depend on its neighbours in the batch, nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS, calculate_shift
from PIL import Image
from torch import Tensor

from edit_r1.editors.batching import Layout, buckets, check_batching
from edit_r1.editors.flow import FlowRows, Schedule, generator, sample_trajectory
from edit_r1.editors.packing import PackedFluxAttention, aligned, flux_packing
from edit_r1.editors.parts import (
    encoders_on,
    shifted_schedule,
)
from edit_r1.editors.pipeline_editor import PipelineEditor
from edit_r1.images import ImageError, decode_pil
from edit_r1.records import Sample


@dataclass(frozen=True)
class FluxKontextSettings:
    """How a Kontext model is sampled for its users (training has settings of its own)."""

    steps: int = 28
    """Sampling steps."""
    guidance: float = 2.5
    """Embedded guidance scale; without effect when the transformer has no guidance embedding."""
    max_area: int | None = None
    """Pixels of the edit, with the source's aspect ratio; None keeps the source's size. 1024 * 1024 for the
    released model."""
    source_area: int | None = None
    """Pixels that a larger source is shrunk to, aspect kept, before it is encoded; None encodes it at its own size. A
    source of 1024 px makes a row of an edit of 512 px 2.2 times as long."""
    preferred_sizes: bool = False
    """Resize the source to the nearest of the released model's training sizes (about one megapixel)."""
    max_text_tokens: int | None = None
    """T5 tokens an instruction is padded or cut to, at most 512; None takes the stored tokenizer's length."""
    batch_size: int = 8
    """Edits sampled together."""
    padding: float = 0.25
    """Largest share of a batch's image tokens that may be padding when sizes are mixed; 0 batches equal sizes only."""
    offload_encoders: bool = False
    """Keep the two text encoders on the CPU between encodes."""
    bf16_products: bool = False
    """Matrix products of the transformer in bf16 whatever its weights are stored in, in sampling, rollouts and their
    replay alike. Trained weights stay float32 and are rounded for the product only."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: sampling needs at least one step")
        if self.source_area is not None and self.source_area < 32 * 32:
            raise ValueError(f"source_area={self.source_area}: give at least {32 * 32} pixels, or None")
        if self.source_area is not None and self.preferred_sizes:
            raise ValueError(
                f"source_area={self.source_area} with preferred_sizes, which sets it: leave one of them out"
            )
        check_batching(self.batch_size, self.padding)


@dataclass(frozen=True)
class KontextContexts:
    """B encoded contexts of one layout; implements `flow.EncodedContexts`."""

    source_BRC: Tensor
    prompt_BTD: Tensor
    pooled_BD: Tensor
    text_ids_T3: Tensor
    image_ids_L3: Tensor
    """Positions of the edit's tokens, then of the source's: L + R rows."""
    size: tuple[int, int]
    """Height and width of the edits, in pixels."""

    def __len__(self) -> int:
        return len(self.source_BRC)

    def rows(self, indices: Tensor) -> KontextContexts:
        return replace(
            self,
            source_BRC=self.source_BRC[indices],
            prompt_BTD=self.prompt_BTD[indices],
            pooled_BD=self.pooled_BD[indices],
        )


class FluxKontextEditor(PipelineEditor[KontextContexts, FluxKontextSettings]):
    """An `Editor` and a `FlowEditor` around a loaded `FluxKontextPipeline`."""

    default_name = "flux-kontext"
    classifier_free = False
    encoder_names = ("text_encoder", "text_encoder_2")
    packed_attention = ((FluxAttnProcessor, PackedFluxAttention),)
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip

    @classmethod
    def pipeline_class(cls, path: str | Path) -> type[FluxKontextPipeline]:
        return FluxKontextPipeline

    def sample(self, contexts: KontextContexts, seeds: Sequence[int]) -> np.ndarray:
        """Deterministic edits [B, H, W, 3] of encoded contexts, one seed each."""
        schedule = self.schedule(contexts, self.settings.steps)
        generators = [generator(seed) for seed in seeds]
        run = sample_trajectory(self, contexts, generators, schedule, self.settings.guidance)
        return self.decode(run.final_BLC, contexts)

    # --- FlowEditor -----------------------------------------------------------------------------------

    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], KontextContexts]]:
        """Encode sources and instructions once; one entry per size, with the positions of its rows.

        Raises ImageError for a sample that cannot be edited.
        """
        layouts = {index: self.layout(sample) for index, sample in enumerate(samples)}
        pictures = [decode_pil(sample.source) for sample in samples]
        with encoders_on(self.device, self._encoders, self.settings.offload_encoders):
            return [
                (bucket, self._encode([pictures[i] for i in bucket], [samples[i].instruction for i in bucket]))
                for bucket in buckets(layouts)
            ]

    def schedule(self, contexts: KontextContexts, steps: int) -> Schedule:
        """Sigmas and timesteps as the pipeline computes them, shifted by the edit's sequence length."""
        height, width = contexts.size
        tokens = (height // self.multiple) * (width // self.multiple)
        config = self.pipeline.scheduler.config
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        return shifted_schedule(self.pipeline, steps, mu, self.device)

    def noise(self, contexts: KontextContexts, generators: Sequence[torch.Generator]) -> Tensor:
        """First latents [B, L, C]: drawn as the pipeline draws them, then kept in float32."""
        height, width = contexts.size
        latents_BLC, _, _, _ = self.pipeline.prepare_latents(
            None, len(generators), self._latent_channels, height, width, contexts.prompt_BTD.dtype, self.device,
            list(generators),
        )  # fmt: skip
        return latents_BLC.float()

    def velocities(self, parts: Sequence[FlowRows[KontextContexts]], guidance: float) -> list[Tensor]:
        """`velocity` of rows of several sizes, all in one forward."""
        if len(parts) > 1 and not self._packs:
            return [self.velocities([part], guidance)[0] for part in parts]
        transformer = self.pipeline.transformer
        edits = [part.latents_BLC.to(self.dtype) for part in parts]
        inputs_BNC = aligned(edits, [part.contexts.source_BRC for part in parts])
        timestep_B = torch.cat([part.timestep_B for part in parts]).to(inputs_BNC.dtype)
        counts, text_ids_T3, attention = [len(edit) for edit in edits], parts[0].contexts.text_ids_T3, None
        image_ids_N3 = parts[0].contexts.image_ids_L3
        if len(parts) > 1:
            contexts = [part.contexts for part in parts]
            attention = {"packing": flux_packing(
                transformer.pos_embed, [each.text_ids_T3 for each in contexts],
                [each.image_ids_L3 for each in contexts], [edit.shape[1] for edit in edits], counts,
            )}  # fmt: skip
            image_ids_N3 = image_ids_N3.new_zeros(inputs_BNC.shape[1], 3)  # unused: positions are the packing's
        guidance_B = None
        if transformer.config.guidance_embeds:
            guidance_B = torch.full([len(timestep_B)], guidance, device=self.device, dtype=torch.float32)
        with self._products():
            velocity_BNC = transformer(
                hidden_states=inputs_BNC,
                timestep=timestep_B / 1000,
                guidance=guidance_B,
                pooled_projections=torch.cat([part.contexts.pooled_BD for part in parts]),
                encoder_hidden_states=torch.cat([part.contexts.prompt_BTD for part in parts]),
                txt_ids=text_ids_T3,
                img_ids=image_ids_N3,
                joint_attention_kwargs=attention,
                return_dict=False,
            )[0]
        return [row[:, : edit.shape[1]].float() for row, edit in zip(velocity_BNC.split(counts), edits, strict=True)]

    @torch.no_grad()
    def decode(self, latents_BLC: Tensor, contexts: KontextContexts) -> np.ndarray:
        """Pixels [B, H, W, 3] in uint8, as the pipeline decodes them."""
        vae, height, width = self.pipeline.vae, *contexts.size
        scale = self.pipeline.vae_scale_factor
        latents = self.pipeline._unpack_latents(latents_BLC.to(vae.dtype), height, width, scale)
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        image_BCHW = vae.decode(latents, return_dict=False)[0]
        pictures = self.pipeline.image_processor.postprocess(image_BCHW, output_type="pil")
        return np.stack([np.asarray(picture) for picture in pictures])

    # --- sizes and encoding ---------------------------------------------------------------------------

    def layout(self, sample: Sample) -> Layout:
        """Sizes of the edit and of the source. Raises ImageError for a sample that this editor cannot edit."""
        if sample.references:
            raise ImageError(
                f"{len(sample.references)} reference images beside the source, and FLUX.1-Kontext takes the source "
                "alone: use Qwen-Image-Edit's Plus line or FLUX.2"
            )
        height, width, source_height, source_width = self.sizes(decode_pil(sample.source))
        return (height, width), (source_height, source_width)

    def sizes(self, picture: Image.Image) -> tuple[int, int, int, int]:
        """Height and width of the edit, then of the source as it is encoded, by the settings.

        Raises ImageError when the picture is smaller than one token.
        """
        width, height = picture.size
        edit_height, edit_width = height, width
        if self.settings.max_area is not None:
            edit_height = round((self.settings.max_area * height / width) ** 0.5)
            edit_width = round((self.settings.max_area * width / height) ** 0.5)
        if self.settings.preferred_sizes:
            aspect = width / height
            _, width, height = min((abs(aspect - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        elif self.settings.source_area is not None and width * height > self.settings.source_area:
            shrunk = (self.settings.source_area / (width * height)) ** 0.5
            width, height = round(shrunk * width), round(shrunk * height)
        result = tuple(side // self.multiple * self.multiple for side in (edit_height, edit_width, height, width))
        if 0 in result:
            raise ImageError(
                f"the source is {picture.size[0]} x {picture.size[1]} pixels; this editor needs at "
                f"least {self.multiple} x {self.multiple}: enlarge it or set max_area"
            )
        return result[0], result[1], result[2], result[3]

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Image.Image], instructions: Sequence[str]) -> KontextContexts:
        """Contexts of one size. The VAE sees one picture at a time, as in the pipeline with per-edit seeds,
        so that an encoding does not depend on its neighbours."""
        edit_height, edit_width, height, width = self.sizes(pictures[0])
        count = len(pictures)
        prompt_BTD, pooled_BD, text_ids_T3 = self.pipeline.encode_prompt(
            prompt=list(instructions), prompt_2=None, device=self.device, max_sequence_length=self._text_tokens
        )
        processor = self.pipeline.image_processor
        resized = processor.resize(list(pictures), height, width)
        pixels_BCHW = processor.preprocess(resized, height, width)
        blank_BLC = torch.empty(count, 0, self._latent_channels * 4)  # stands in for noise, which is not drawn here
        unused = [torch.Generator("cpu")] * count  # a list makes the pipeline encode one picture at a time
        _, source_BRC, latent_ids_L3, source_ids_R3 = self.pipeline.prepare_latents(
            pixels_BCHW, count, self._latent_channels, edit_height, edit_width, prompt_BTD.dtype, self.device,
            unused, blank_BLC,
        )  # fmt: skip
        image_ids_L3 = torch.cat([latent_ids_L3, source_ids_R3], dim=0)
        return KontextContexts(source_BRC, prompt_BTD, pooled_BD, text_ids_T3, image_ids_L3, (edit_height, edit_width))

    @property
    def _text_tokens(self) -> int:
        tokens = self.settings.max_text_tokens
        if tokens is None:
            tokens = self.pipeline.tokenizer_2.model_max_length
        if not 0 < tokens <= 512:
            raise ValueError(f"max_text_tokens={tokens}: the pipeline takes 1 to 512 T5 tokens; set max_text_tokens")
        return tokens
