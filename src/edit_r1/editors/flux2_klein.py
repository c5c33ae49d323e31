"""FLUX.2-klein, on diffusers' own components.

Legend: B contexts or edits of one layout, L latent tokens of the edit, R latent tokens of all sources, C channels of a
patched latent, T text tokens (a fixed number), D channels of three hidden layers of the text encoder, A = 4 axes.

The sampler does what `Flux2KleinPipeline.__call__` does, opened up so that its steps can be made stochastic and
replayed. In float32, with the same seed, it gives the pipeline's image bit for bit (tests/editors/test_flux2_klein.py).
The pipeline shares its pictures among all edits of a batch; here every edit has its own, of any size and number
(`packing`).

Guidance is plain classifier-free guidance with an empty instruction, and none for a distilled checkpoint
(`is_distilled` in its model_index.json), as in the pipeline. An edit's noise comes from its own CPU generator, as in
`flux_kontext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image
from torch import Tensor, nn

from edit_r1.algo.guidance import guided_velocity
from edit_r1.editors.batching import Layout, buckets, check_batching
from edit_r1.editors.flow import FlowRows, Schedule
from edit_r1.editors.packing import (
    PackedFlux2Attention,
    PackedFlux2SelfAttention,
    aligned,
    flux_packing,
)
from edit_r1.editors.parts import (
    encoders_on,
    shifted_schedule,
)
from edit_r1.editors.pipeline_editor import PipelineEditor
from edit_r1.images import ImageError, decode_pil
from edit_r1.records import Sample

MU_STEPS = 200
"""The pipeline's shift is a line through fits at 10 and 200 steps. Longer schedules, from which training draws noise
levels, keep the shift of 200: further out the line would put nearly every level at 0."""


@dataclass(frozen=True)
class Flux2KleinSettings:
    """How a FLUX.2-klein model is sampled for its users (training has settings of its own)."""

    steps: int = 50
    """Sampling steps; the pipeline's default. Distilled checkpoints are made for 4."""
    guidance: float = 4.0
    """Classifier-free guidance scale; at most 1 turns it off. Without effect on a distilled checkpoint."""
    area: int | None = None
    """Pixels of the edit, with the source's aspect ratio; None takes the size of the source as it is encoded."""
    source_area: int = 1024 * 1024
    """Larger pictures are shrunk to this area; the pipeline's bound, and the largest allowed here."""
    max_text_tokens: int = 512
    """Tokens an instruction is padded or cut to; all of them are attended to, as in the pipeline."""
    batch_size: int = 4
    """Edits sampled together, and instructions encoded together."""
    padding: float = 0.25
    """Largest share of a batch's image tokens that may be padding when sizes are mixed; 0 batches equal sizes only."""
    offload_encoders: bool = False
    """Keep the text encoder on the CPU between encodes."""
    bf16_products: bool = False
    """Matrix products of the transformer in bf16 whatever its weights are stored in, in sampling, rollouts and their
    replay alike."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: sampling needs at least one step")
        if not 64 * 64 <= self.source_area <= 1024 * 1024:
            raise ValueError(f"source_area={self.source_area}: the pipeline takes 64 x 64 to 1024 x 1024 pixels")
        if self.max_text_tokens < 1:
            raise ValueError(f"max_text_tokens={self.max_text_tokens}: an instruction needs at least one token")
        check_batching(self.batch_size, self.padding)


@dataclass(frozen=True)
class Flux2Contexts:
    """B encoded contexts of one layout; implements `flow.EncodedContexts`."""

    layout: Layout
    source_BRC: Tensor
    text_BTD: Tensor
    negative_BTD: Tensor | None
    """Of the empty instruction; None when encoded without guidance."""
    text_ids_TA: Tensor
    image_ids_NA: Tensor
    """Positions of the edit's tokens, then of the sources': L + R rows."""

    @property
    def size(self) -> tuple[int, int]:
        return self.layout[0]

    def __len__(self) -> int:
        return len(self.source_BRC)

    def rows(self, indices: Tensor) -> Flux2Contexts:
        return replace(
            self,
            source_BRC=self.source_BRC[indices],
            text_BTD=self.text_BTD[indices],
            negative_BTD=None if self.negative_BTD is None else self.negative_BTD[indices],
        )


def klein_lora_targets(transformer: nn.Module) -> tuple[str, ...]:
    """Attention and feed-forward layers. A single block's output layer is named whole: `attn.to_out` alone would
    also name a container in the double blocks."""
    singles: Any = transformer.single_transformer_blocks
    return (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out",
        "attn.to_qkv_mlp_proj", *(f"single_transformer_blocks.{index}.attn.to_out" for index in range(len(singles))),
    )  # fmt: skip


class Flux2KleinEditor(PipelineEditor[Flux2Contexts, Flux2KleinSettings]):
    """An `Editor` and a `FlowEditor` around a loaded `Flux2KleinPipeline`."""

    default_name = "flux2-klein"
    packed_attention = (
        (Flux2AttnProcessor, PackedFlux2Attention),
        (Flux2ParallelSelfAttnProcessor, PackedFlux2SelfAttention),
    )

    @classmethod
    def pipeline_class(cls, path: str | Path) -> type[Flux2KleinPipeline]:
        return Flux2KleinPipeline

    @property
    def classifier_free(self) -> bool:
        return not self.pipeline.config.is_distilled

    @property
    def lora_targets(self) -> tuple[str, ...]:
        return klein_lora_targets(self.pipeline.transformer)

    # --- FlowEditor -----------------------------------------------------------------------------------

    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], Flux2Contexts]]:
        """Encode sources and instructions once; one entry per layout, with the positions of its rows.

        Raises ImageError for a sample that cannot be edited.
        """
        pictures = [self._pictures(sample) for sample in samples]
        layouts = {index: self._layout(own) for index, own in enumerate(pictures)}
        with encoders_on(self.device, self._encoders, self.settings.offload_encoders):
            text_MTD = self._texts([sample.instruction for sample in samples])
            negative_MTD = self._texts([""] * len(samples)) if self._guided(self.settings.guidance) else None
        text_ids_TA = self.pipeline._prepare_text_ids(text_MTD[:1])[0].to(self.device)
        encoded = []
        for bucket in buckets(layouts):
            layout = layouts[bucket[0]]
            height, width = (side // self.multiple for side in layout[0])
            edit_ids = self.pipeline._prepare_latent_ids(torch.empty(1, 1, height, width))[0].to(self.device)
            sources = [self._source(pictures[index], layout) for index in bucket]
            contexts = Flux2Contexts(
                layout, torch.cat([source_1RC for source_1RC, _ in sources]), text_MTD[bucket],
                None if negative_MTD is None else negative_MTD[bucket], text_ids_TA,
                torch.cat([edit_ids, sources[0][1]]),
            )  # fmt: skip
            encoded.append((bucket, contexts))
        return encoded

    def schedule(self, contexts: Flux2Contexts, steps: int) -> Schedule:
        """Sigmas and timesteps as the pipeline computes them, shifted by the edit's sequence length and the steps."""
        height, width = contexts.size
        tokens = (height // self.multiple) * (width // self.multiple)
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=min(steps, MU_STEPS))
        return shifted_schedule(self.pipeline, steps, mu, self.device)

    def noise(self, contexts: Flux2Contexts, generators: Sequence[torch.Generator]) -> Tensor:
        """First latents [B, L, C]: drawn as the pipeline draws them, then kept in float32."""
        latents_BLC, _ = self.pipeline.prepare_latents(
            len(generators), self._latent_channels, *contexts.size,
            contexts.text_BTD.dtype, self.device, list(generators),
        )  # fmt: skip
        return latents_BLC.float()

    def velocities(self, parts: Sequence[FlowRows[Flux2Contexts]], guidance: float) -> list[Tensor]:
        """`velocity` of rows of several layouts, all in one forward (two with guidance)."""
        conditional = self._predicted(parts, [part.contexts.text_BTD for part in parts])
        if not self._guided(guidance):
            return conditional
        negatives = [part.contexts.negative_BTD for part in parts if part.contexts.negative_BTD is not None]
        if len(negatives) < len(parts):
            raise ValueError(
                "guidance above 1 needs an encoding of the empty instruction, and these contexts were encoded without "
                "one: set guidance above 1 in the editor's settings too"
            )
        return [
            guided_velocity(velocity_BLC, negative_BLC, guidance, rescale=False)
            for velocity_BLC, negative_BLC in zip(conditional, self._predicted(parts, negatives), strict=True)
        ]

    @torch.no_grad()
    def decode(self, latents_BLC: Tensor, contexts: Flux2Contexts) -> np.ndarray:
        """Pixels [B, H, W, 3] in uint8, as the pipeline decodes them."""
        pipeline, vae = self.pipeline, self.pipeline.vae
        height, width = (side // self.multiple for side in contexts.size)
        ids_BLA = contexts.image_ids_NA[: latents_BLC.shape[1]].expand(len(latents_BLC), -1, -1)
        latents = pipeline._unpack_latents_with_ids(latents_BLC.to(vae.dtype), ids_BLA, height, width)
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents.device, latents.dtype)
        variance = vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
        latents = latents * torch.sqrt(variance).to(latents.device, latents.dtype) + mean
        image_BCHW = vae.decode(pipeline._unpatchify_latents(latents), return_dict=False)[0]
        pictures = pipeline.image_processor.postprocess(image_BCHW, output_type="pil")
        return np.stack([np.asarray(picture) for picture in pictures])

    # --- forward --------------------------------------------------------------------------------------

    @property
    def _pipeline_options(self) -> dict[str, Any]:
        return {"is_distilled": self.pipeline.config.is_distilled}

    def _guided(self, guidance: float) -> bool:
        return guidance > 1 and self.classifier_free

    def _predicted(self, parts: Sequence[FlowRows[Flux2Contexts]], texts: Sequence[Tensor]) -> list[Tensor]:
        """Velocities in float32 under one text encoding per part."""
        if len(parts) > 1 and not self._packs:
            return [self._predicted([part], [text])[0] for part, text in zip(parts, texts, strict=True)]
        transformer, contexts = self.pipeline.transformer, [part.contexts for part in parts]
        edits = [part.latents_BLC.to(self.dtype) for part in parts]
        inputs_BNC = aligned(edits, [each.source_BRC.to(self.dtype) for each in contexts])
        timestep_B = torch.cat([part.timestep_B for part in parts]).to(inputs_BNC.dtype)
        counts, image_ids_NA, attention = [len(edit) for edit in edits], contexts[0].image_ids_NA, None
        if len(parts) > 1:
            attention = {"packing": flux_packing(
                transformer.pos_embed, [each.text_ids_TA for each in contexts],
                [each.image_ids_NA for each in contexts], [edit.shape[1] for edit in edits], counts,
            )}  # fmt: skip
            image_ids_NA = image_ids_NA.new_zeros(inputs_BNC.shape[1], 4)  # unused: positions are the packing's
        with self._products():
            velocity_BNC = transformer(
                hidden_states=inputs_BNC,
                timestep=timestep_B / 1000,
                guidance=None,
                encoder_hidden_states=torch.cat(list(texts)),
                txt_ids=contexts[0].text_ids_TA,
                img_ids=image_ids_NA,
                joint_attention_kwargs=attention,
                return_dict=False,
            )[0]
        return [row[:, : edit.shape[1]].float() for row, edit in zip(velocity_BNC.split(counts), edits, strict=True)]

    # --- sizes and encoding ---------------------------------------------------------------------------

    def layout(self, sample: Sample) -> Layout:
        """Sizes of the edit, then of each source as the VAE encodes it, by the settings.

        Raises ImageError for a picture that cannot be opened, is below 64 pixels a side or longer than 8 to 1.
        """
        return self._layout(self._pictures(sample))

    def _pictures(self, sample: Sample) -> list[Image.Image]:
        """The pictures as the pipeline would shrink them. Raises ImageError as `layout`."""
        processor, pictures = self.pipeline.image_processor, []
        for image in sample.sources:
            picture = decode_pil(image)
            try:
                processor.check_image_input(picture)
            except ValueError as error:
                raise ImageError(f"{error}; this editor's pipeline refuses it: enlarge or crop it") from error
            if picture.width * picture.height > self.settings.source_area:
                picture = processor._resize_to_target_area(picture, self.settings.source_area)
            pictures.append(picture)
        return pictures

    def _layout(self, pictures: Sequence[Image.Image]) -> Layout:
        sources = [self._whole_tokens(picture.height, picture.width) for picture in pictures]
        height, width = sources[0]
        if self.settings.area is not None:
            aspect = pictures[0].height / pictures[0].width
            height, width = (round((self.settings.area * ratio) ** 0.5) for ratio in (aspect, 1 / aspect))
        return (self._whole_tokens(height, width), *sources)

    def _whole_tokens(self, height: int, width: int) -> tuple[int, int]:
        rounded = height // self.multiple * self.multiple, width // self.multiple * self.multiple
        if 0 in rounded:
            raise ImageError(f"{width} x {height} pixels hold no {self.multiple} x {self.multiple} token: raise area")
        return rounded

    @torch.no_grad()
    def _source(self, pictures: Sequence[Image.Image], layout: Layout) -> tuple[Tensor, Tensor]:
        """Latents [1, R, C] of one context's pictures and their positions [R, A]."""
        pipeline = self.pipeline
        pixels = [
            pipeline.image_processor.preprocess(picture, height=height, width=width, resize_mode="crop")
            for picture, (height, width) in zip(pictures, layout[1:], strict=True)
        ]
        source_1RC, ids_1RA = pipeline.prepare_image_latents(pixels, 1, None, self.device, pipeline.vae.dtype)
        return source_1RC, ids_1RA[0]

    @torch.no_grad()
    def _texts(self, instructions: Sequence[str]) -> Tensor:
        """[M, T, D], `batch_size` instructions at a time."""
        size = self.settings.batch_size
        chunks = [list(instructions[start : start + size]) for start in range(0, len(instructions), size)]
        return torch.cat([
            self.pipeline.encode_prompt(
                prompt=chunk, device=self.device, max_sequence_length=self.settings.max_text_tokens
            )[0]
            for chunk in chunks
        ])  # fmt: skip
