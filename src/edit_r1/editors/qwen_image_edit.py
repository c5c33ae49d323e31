"""Qwen-Image-Edit and its Plus line (2509, 2511: several reference images), on diffusers' own components.

Legend: B contexts or edits of one layout, L latent tokens of the edit, R latent tokens of all sources, C channels of a
packed 2x2 latent, T and U text tokens of the instruction and of the negative one, D channels of the text encoder.

The sampler does what `QwenImageEditPipeline.__call__` and `QwenImageEditPlusPipeline.__call__` do, opened up so that
its steps can be made stochastic and replayed. In float32, with the same seeds and the same batch, it gives the
pipeline's image bit for bit (tests/editors/test_qwen_image_edit.py). The Plus pipeline takes one edit a batch; here a
batch holds any number, of mixed sizes and numbers of references (`packing`).

Guidance is the pipeline's true classifier-free guidance: a second forward with the negative instruction, combined and
rescaled to the conditional norm of every token. `velocity` returns that velocity, in sampling, rollouts and replay.
An edit's noise comes from its own CPU generator, as in `flux_kontext`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions, calculate_shift
from PIL import Image
from torch import Tensor

from edit_r1.algo.guidance import guided_velocity
from edit_r1.editors.batching import Layout, buckets, check_batching
from edit_r1.editors.flow import FlowRows, Schedule
from edit_r1.editors.packing import PackedQwenAttention, Packing, aligned, lengthened
from edit_r1.editors.parts import (
    encoders_on,
    shifted_schedule,
)
from edit_r1.editors.pipeline_editor import PipelineEditor
from edit_r1.images import ImageError, decode_pil
from edit_r1.records import Sample

PIPELINES = {kind.__name__: kind for kind in (QwenImageEditPipeline, QwenImageEditPlusPipeline)}
IMAGE_TOKENS = ("<|image_pad|>", "<|video_pad|>")
"""Stand for pictures in the text encoder's input: an instruction that holds one would ask for a picture more."""
PICTURE = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
"""How the Plus pipeline announces each of its images (its template has no picture of its own)."""


@dataclass(frozen=True)
class QwenImageEditSettings:
    """How a Qwen-Image-Edit model is sampled for its users (training has settings of its own).

    Areas are in pixels; a picture of that area has its own aspect ratio, its sides rounded to 32 as the pipeline does.
    None keeps a picture's own size, cut to whole tokens.
    """

    steps: int = 50
    """Sampling steps; the pipeline's default."""
    guidance: float = 4.0
    """Scale of the true classifier-free guidance; at most 1 turns it off and saves half of the time."""
    negative: str = " "
    """The negative instruction; the released models were tuned with one space."""
    area: int | None = 1024 * 1024
    """Of the edit, whose aspect ratio is the source's."""
    source_area: int | None = 1024 * 1024
    """Of each picture that the VAE encodes; without Plus the text encoder sees the same one."""
    condition_area: int | None = 384 * 384
    """Plus: of each picture that the text encoder sees."""
    batch_size: int = 4
    """Edits sampled together, and contexts encoded together."""
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
        for name in ("area", "source_area", "condition_area"):
            value = getattr(self, name)
            if value is not None and value < 32 * 32:
                raise ValueError(f"{name}={value}: sides are rounded to 32 pixels, so give at least {32 * 32} or None")
        check_batching(self.batch_size, self.padding)


@dataclass(frozen=True)
class QwenContexts:
    """B encoded contexts of one layout; implements `flow.EncodedContexts`."""

    layout: Layout
    source_BRC: Tensor
    """Latents of all sources, one after another."""
    text_BTD: Tensor
    text_mask_BT: Tensor | None
    """True where a token is real; None where all are."""
    negative_BUD: Tensor | None
    """None when encoded without guidance."""
    negative_mask_BU: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        return self.layout[0]

    def __len__(self) -> int:
        return len(self.source_BRC)

    def rows(self, indices: Tensor) -> QwenContexts:
        def of(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[indices]

        return replace(
            self, source_BRC=self.source_BRC[indices], text_BTD=self.text_BTD[indices],
            text_mask_BT=of(self.text_mask_BT), negative_BUD=of(self.negative_BUD),
            negative_mask_BU=of(self.negative_mask_BU),
        )  # fmt: skip


class QwenImageEditor(PipelineEditor[QwenContexts, QwenImageEditSettings]):
    """An `Editor` and a `FlowEditor` around a loaded `QwenImageEditPipeline` or `QwenImageEditPlusPipeline`."""

    default_name = "qwen-image-edit"
    classifier_free = True
    packed_attention = ((QwenDoubleStreamAttnProcessor2_0, PackedQwenAttention),)
    lora_targets = (
        "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
        "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
    )  # fmt: skip

    def __init__(
        self,
        pipeline: QwenImageEditPipeline | QwenImageEditPlusPipeline,
        settings: QwenImageEditSettings,
        name: str | None = None,
    ) -> None:
        """Raises ValueError for a scheduler or transformer that the pipelines themselves do not use."""
        if pipeline.transformer.config.guidance_embeds:
            raise ValueError("the transformer has guidance_embeds set, which its own code does not implement: unset it")
        super().__init__(pipeline, settings, name)
        self.plus = isinstance(pipeline, QwenImageEditPlusPipeline)

    @classmethod
    def pipeline_class(cls, path: str | Path) -> type[QwenImageEditPipeline | QwenImageEditPlusPipeline]:
        """Either pipeline; the folder's index says which."""
        kind = QwenImageEditPlusPipeline.load_config(str(path)).get("_class_name")
        if kind not in PIPELINES:
            raise ValueError(f"{path} holds a {kind}: give a folder of one of {', '.join(PIPELINES)}")
        return PIPELINES[kind]

    # --- FlowEditor -----------------------------------------------------------------------------------

    def encode(self, samples: Sequence[Sample]) -> list[tuple[list[int], QwenContexts]]:
        """Encode sources and instructions once; one entry per layout, with the positions of its rows.

        Raises ImageError for a sample that cannot be edited.
        """
        pictures = [self._pictures(sample) for sample in samples]
        layouts = {index: self._layout(sample, pictures[index]) for index, sample in enumerate(samples)}
        conditions = [self._conditions(own) for own in pictures]
        negatives = None
        with encoders_on(self.device, self._encoders, self.settings.offload_encoders):
            texts = self._texts([sample.instruction for sample in samples], conditions)
            if self.settings.guidance > 1:
                negatives = self._texts([self.settings.negative] * len(samples), conditions)
        encoded = []
        for bucket in buckets(layouts):
            layout = layouts[bucket[0]]
            source_BRC = torch.cat([self._source(pictures[index], layout) for index in bucket])
            text_BTD, text_mask_BT = _stacked([texts[index] for index in bucket])
            negative_BUD, negative_mask_BU = None, None
            if negatives is not None:
                negative_BUD, negative_mask_BU = _stacked([negatives[index] for index in bucket])
            contexts = QwenContexts(layout, source_BRC, text_BTD, text_mask_BT, negative_BUD, negative_mask_BU)
            encoded.append((bucket, contexts))
        return encoded

    def schedule(self, contexts: QwenContexts, steps: int) -> Schedule:
        """Sigmas and timesteps as the pipeline computes them, shifted by the edit's sequence length."""
        height, width = contexts.size
        tokens = (height // self.multiple) * (width // self.multiple)
        config = self.pipeline.scheduler.config
        mu = calculate_shift(
            tokens, config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5), config.get("max_shift", 1.15),
        )  # fmt: skip
        return shifted_schedule(self.pipeline, steps, mu, self.device)

    def noise(self, contexts: QwenContexts, generators: Sequence[torch.Generator]) -> Tensor:
        """First latents [B, L, C]: drawn as the pipeline draws them, then kept in float32."""
        latents_BLC, _ = self.pipeline.prepare_latents(
            None, len(generators), self._latent_channels, *contexts.size, contexts.text_BTD.dtype, self.device,
            list(generators),
        )  # fmt: skip
        return latents_BLC.float()

    def velocities(self, parts: Sequence[FlowRows[QwenContexts]], guidance: float) -> list[Tensor]:
        """`velocity` of rows of several layouts, all in one forward (two with guidance)."""
        conditional = self._predicted(parts, negative=False)
        if guidance <= 1:
            return conditional
        return [
            guided_velocity(velocity_BLC, negative_BLC, guidance, rescale=True)
            for velocity_BLC, negative_BLC in zip(conditional, self._predicted(parts, negative=True), strict=True)
        ]

    @torch.no_grad()
    def decode(self, latents_BLC: Tensor, contexts: QwenContexts) -> np.ndarray:
        """Pixels [B, H, W, 3] in uint8, as the pipeline decodes them."""
        vae, height, width = self.pipeline.vae, *contexts.size
        latents = self.pipeline._unpack_latents(latents_BLC, height, width, self.pipeline.vae_scale_factor)
        latents = latents.to(vae.dtype)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        image_BCHW = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0][:, :, 0]
        pictures = self.pipeline.image_processor.postprocess(image_BCHW, output_type="pil")
        return np.stack([np.asarray(picture) for picture in pictures])

    # --- forward --------------------------------------------------------------------------------------

    def _predicted(self, parts: Sequence[FlowRows[QwenContexts]], negative: bool) -> list[Tensor]:
        """Velocities in float32 for the instructions or for the negative ones."""
        texts = [_text(part.contexts, negative) for part in parts]
        if len(parts) > 1 and not self._packs:
            return [self._predicted([part], negative)[0] for part in parts]
        transformer = self.pipeline.transformer
        edits = [part.latents_BLC.to(self.dtype) for part in parts]
        sources = [part.contexts.source_BRC.to(self.dtype) for part in parts]
        timestep_B = torch.cat([part.timestep_B for part in parts]).to(self.dtype)
        shapes, mask_BT, packing = self._shapes(parts[0].contexts.layout), texts[0][1], None
        if len(parts) > 1:
            shapes, mask_BT, packing = self._padded_shapes(parts), None, self._packing(parts, texts)
        longest = max(text_BTD.shape[1] for text_BTD, _ in texts)
        with self._products():
            velocity_BNC = transformer(
                hidden_states=aligned(edits, sources),
                timestep=timestep_B / 1000,
                encoder_hidden_states=torch.cat([lengthened(text_BTD, longest) for text_BTD, _ in texts]),
                encoder_hidden_states_mask=mask_BT,
                img_shapes=[shapes] * len(timestep_B),
                attention_kwargs=None if packing is None else {"packing": packing},
                return_dict=False,
            )[0]
        rows = velocity_BNC.split([len(part.latents_BLC) for part in parts])
        return [row[:, : edit.shape[1]].float() for row, edit in zip(rows, edits, strict=True)]

    def _shapes(self, layout: Layout) -> list[tuple[int, int, int]]:
        """(frames, rows, columns) of tokens of the edit and of each source."""
        return [(1, height // self.multiple, width // self.multiple) for height, width in layout]

    def _padded_shapes(self, parts: Sequence[FlowRows[QwenContexts]]) -> list[tuple[int, int, int]]:
        """Shapes with as many tokens as a padded row; they tell edit from sources, positions come from `_packing`."""
        layouts = [part.contexts.layout for part in parts]
        edit = max(layouts, key=lambda layout: layout[0][0] * layout[0][1])
        sources = max(layouts, key=lambda layout: sum(height * width for height, width in layout[1:]))
        return self._shapes((edit[0], *sources[1:]))

    def _packing(
        self, parts: Sequence[FlowRows[QwenContexts]], texts: Sequence[tuple[Tensor, Tensor | None]]
    ) -> Packing:
        """The positions that each part would have alone, and which tokens are real."""
        text_ropes, edit_ropes, source_ropes = [], [], []
        for part, (text_BTD, _) in zip(parts, texts, strict=True):
            image_ND, text_TD = self.pipeline.transformer.pos_embed(
                [self._shapes(part.contexts.layout)], max_txt_seq_len=text_BTD.shape[1], device=self.device
            )
            rows, tokens = part.latents_BLC.shape[:2]
            text_ropes.append(text_TD.expand(rows, -1, -1))
            edit_ropes.append(image_ND[:tokens].expand(rows, -1, -1))
            source_ropes.append(image_ND[tokens:].expand(rows, -1, -1))
        longest = max(rope.shape[1] for rope in text_ropes)
        text_BTD = torch.cat([lengthened(rope, longest) for rope in text_ropes])
        real = [torch.ones(text.shape[:2], dtype=torch.bool, device=self.device) if mask is None else mask
                for text, mask in texts]  # fmt: skip
        image_mask_BN = aligned(
            *([torch.ones(rope.shape[:2], dtype=torch.bool, device=self.device) for rope in ropes]
              for ropes in (edit_ropes, source_ropes))
        )  # fmt: skip
        mask_BS = torch.cat([torch.cat([lengthened(mask, longest) for mask in real]), image_mask_BN], dim=1)
        return Packing(torch.cat([text_BTD, aligned(edit_ropes, source_ropes)], dim=1), mask_BS[:, None, None])

    # --- sizes and encoding ---------------------------------------------------------------------------

    def layout(self, sample: Sample) -> Layout:
        """Sizes of the edit, then of each source as the VAE encodes it, by the settings.

        Raises ImageError for a picture that cannot be opened or gives no token, an instruction that holds the model's
        picture tokens, and references without a Plus pipeline.
        """
        return self._layout(sample, self._pictures(sample))

    def _pictures(self, sample: Sample) -> list[Image.Image]:
        return [decode_pil(image) for image in sample.sources]

    def _layout(self, sample: Sample, pictures: Sequence[Image.Image]) -> Layout:
        if len(pictures) > 1 and not self.plus:
            raise ImageError(
                f"{len(pictures) - 1} reference images beside the source, and {type(self.pipeline).__name__} takes the "
                "source alone: use a Plus checkpoint (2509, 2511)"
            )
        held = [token for token in IMAGE_TOKENS if token in sample.instruction]
        if held:
            raise ImageError(f"the instruction holds {held[0]}, which stands for a picture: remove it")
        s = self.settings
        sources = [self._scaled(picture, s.source_area) for picture in pictures]
        return (self._scaled(pictures[0], s.area), *sources)

    def _scaled(self, picture: Image.Image, area: int | None) -> tuple[int, int]:
        """Height and width of a picture at an area, in whole tokens."""
        width, height = picture.size
        if area is not None:
            width, height = calculate_dimensions(area, width / height)
        height, width = (side // self.multiple * self.multiple for side in (height, width))
        if 0 in (height, width):
            raise ImageError(
                f"a picture of {picture.size[0]} x {picture.size[1]} pixels has no {self.multiple} x {self.multiple} "
                "token at the set area: enlarge it, crop it to a milder aspect ratio, or raise the area"
            )
        return height, width

    def _conditions(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """What the text encoder sees."""
        area = self.settings.condition_area if self.plus else self.settings.source_area
        resize = self.pipeline.image_processor.resize
        return [resize(picture, *self._scaled(picture, area)) for picture in pictures]

    @torch.no_grad()
    def _source(self, pictures: Sequence[Image.Image], layout: Layout) -> Tensor:
        """Latents [1, R, C] of one context's pictures; the VAE sees one at a time, as in the pipelines."""
        pipeline, packed = self.pipeline, []
        for picture, (height, width) in zip(pictures, layout[1:], strict=True):
            processor = pipeline.image_processor
            if not self.plus:  # the pipeline resizes once for both encoders
                picture = processor.resize(picture, height, width)
            pixels = processor.preprocess(picture, height, width).unsqueeze(2).to(self.device, pipeline.vae.dtype)
            latents = pipeline._encode_vae_image(pixels, None)
            packed.append(pipeline._pack_latents(latents, 1, self._latent_channels, *latents.shape[3:]))
        return torch.cat(packed, dim=1)

    @torch.no_grad()
    def _texts(self, instructions: Sequence[str], conditions: Sequence[Sequence[Image.Image]]) -> list[Tensor]:
        """[T, D] of each instruction with its pictures, `batch_size` at a time whatever their sizes."""
        pipeline, encoded = self.pipeline, []
        for start in range(0, len(instructions), self.settings.batch_size):
            chunk = range(start, min(start + self.settings.batch_size, len(instructions)))
            texts = []
            for index in chunk:
                announced = [PICTURE.format(number + 1) for number in range(len(conditions[index]))]
                prefix = "".join(announced) if self.plus else ""
                texts.append(pipeline.prompt_template_encode.format(prefix + instructions[index]))
            inputs = pipeline.processor(
                text=texts, images=[picture for index in chunk for picture in conditions[index]], padding=True,
                return_tensors="pt",
            ).to(self.device)  # fmt: skip
            hidden = pipeline.text_encoder(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"],
                output_hidden_states=True,
            ).hidden_states[-1]  # fmt: skip
            rows = pipeline._extract_masked_hidden(hidden, inputs["attention_mask"])
            encoded += [row[pipeline.prompt_template_encode_start_idx :] for row in rows]
        return encoded


def _stacked(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """[B, T, D] padded with zeros to the longest, and its mask; no mask where none is padded, as in the pipelines."""
    longest = max(len(text) for text in texts)
    text_BTD = torch.cat([lengthened(text[None], longest) for text in texts])
    lengths_B1 = torch.tensor([[len(text)] for text in texts], device=text_BTD.device)
    mask_BT = torch.arange(longest, device=text_BTD.device)[None] < lengths_B1
    return text_BTD, None if bool(mask_BT.all()) else mask_BT


def _text(contexts: QwenContexts, negative: bool) -> tuple[Tensor, Tensor | None]:
    if not negative:
        return contexts.text_BTD, contexts.text_mask_BT
    if contexts.negative_BUD is None:
        raise ValueError(
            "guidance above 1 needs a negative encoding, and these contexts were encoded without one: set guidance "
            "above 1 in the editor's settings too"
        )
    return contexts.negative_BUD, contexts.negative_mask_BU
