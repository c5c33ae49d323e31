"""The tiny editor: a FluxKontextPipeline made from nothing, a stand-in for FLUX.1-Kontext.

First the autoencoder (`vae.py`), then supervised flow matching: (source latents, instruction) to
target latents, the transformer and both text encoders together. A declared share of the targets is
flawed (`world.frozen`), so that reinforcement learning has something to mend.

    x_sigma = (1 - sigma) * target + sigma * noise,    v = noise - target,    loss = weighted |v_model - v|^2

    python -m edit_r1.zoo.editor --minutes 30        trains for 30 minutes, continuing where it stopped
    python -m edit_r1.zoo.editor --minutes 0         only exports what the state holds, also beside a training that runs

Legend: B pairs, L = 64 image tokens of a picture, C = 16 channels a token, T text tokens.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from edit_r1.world.edits import CATEGORIES, MULTI_STEP, Edit, sample_edit
from edit_r1.world.flaws import flawed_target
from edit_r1.world.frozen import FLAWED_TARGET_SHARE, VERSION
from edit_r1.world.render import render
from edit_r1.world.scenes import SIZE, Scene, sample_scene
from edit_r1.zoo.editor_text import (
    CLIP_WIDTH,
    T5_WIDTH,
    TEXT_LENGTH,
    build_clip,
    build_clip_tokenizer,
    build_t5,
    build_t5_tokenizer,
    instruction_corpus,
)
from edit_r1.zoo.loop import LoopConfig, Run, check_call, start, train
from edit_r1.zoo.muon import MatrixOptimiser
from edit_r1.zoo.vae import LATENT_CHANNELS, encode, pretrain_vae

PATCH = 8
"""Side in px of the square that one image token stands for: f4 autoencoder, latents packed 2 x 2."""
GRID = SIZE // PATCH
TOKENS = GRID * GRID
EDITOR_LOOP = LoopConfig(steps=14_500, batch_size=32, learning_rate=3e-3, warmup_steps=60, decay_share=0.25)
OUTER = (
    *("x_embedder", "context_embedder", "transformer.proj_out", "embedding", "shared", "relative_attention_bias"),
    *(".norm", "norm_out", "time_text_embed"),
)
"""Matrices that AdamW steps: embeddings, first and last layers, and modulations, which read one vector a picture
and would be a third of Muon's cost."""
CHUNK = 1024
"""Pairs drawn and encoded at a time."""
PASSES = 3
"""Times each pair is used, with fresh noise and noise level: drawing and encoding costs a quarter of a step."""
CHANGE_WEIGHT = 3.0
"""Added to the loss weight of tokens that the exact edit changes: most of a picture stays, and copying is learned
within minutes. The weight depends on source and instruction alone, never on a flaw, so the optimum is unmoved."""
SIGMA_SHIFT = 1.6
"""Noise levels are drawn logit-normal and shifted as the sampler shifts its own at 64 tokens, exp(0.4675)."""
MAX_FILE_BYTES = 8_000_000
MEASURED = 96
"""Validation contexts on which a finished call measures itself."""


class TinyEditor(nn.Module):
    """What is trained together: the FLUX transformer and the two text encoders."""

    def __init__(self, t5_tokenizer: T5Tokenizer, clip_tokenizer: CLIPTokenizer, seed: int) -> None:
        super().__init__()
        self.t5 = build_t5(t5_tokenizer, seed)
        self.clip = build_clip(clip_tokenizer, seed + 1)
        self.transformer = build_transformer(seed + 2)
        ids = FluxKontextPipeline._prepare_latent_image_ids(1, GRID, GRID, torch.device("cpu"), torch.float32)
        source_ids = ids.clone()
        source_ids[:, 0] = 1
        self.register_buffer("image_ids", torch.cat([ids, source_ids]), persistent=False)

    def forward(self, noisy_BLC: Tensor, source_BLC: Tensor, sigma_B: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """Velocity (B, L, C); `text` holds the T5 and the CLIP ids, each (B, T)."""
        t5_ids, clip_ids = text
        velocity: Tensor = self.transformer(
            hidden_states=torch.cat([noisy_BLC, source_BLC], dim=1),
            encoder_hidden_states=self.t5(t5_ids)[0],
            pooled_projections=self.clip(clip_ids).pooler_output,
            timestep=sigma_B,
            img_ids=self.image_ids,
            txt_ids=torch.zeros(t5_ids.shape[1], 3),
            return_dict=False,
        )[0]
        return velocity[:, : noisy_BLC.shape[1]]


def build_transformer(seed: int) -> FluxTransformer2DModel:
    """An untrained FLUX transformer of 3.2 M parameters.

    Two double and three single blocks of width 160: at equal cost a step, deeper and narrower than 2 + 2 of
    176. No guidance embedding: nothing is distilled here, so its input would never vary. Modulations and the
    last layer start at zero, so that every block begins as the identity.
    """
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(4, 14, 14),
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name == "proj_out" or ".norm" in name or name.startswith("norm_out"):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


@dataclass(frozen=True)
class Pairs:
    """Encoded training pairs."""

    source_NLC: Tensor
    target_NLC: Tensor
    weight_NL: Tensor
    """Loss weight of each token, 1 or 1 + `CHANGE_WEIGHT`."""
    t5_NT: Tensor
    clip_NT: Tensor


def pack(latents: Tensor) -> Tensor:
    """(B, 4, 16, 16) to (B, 64, 16), as the pipeline packs."""
    batch, channels, height, width = latents.shape
    packed: Tensor = FluxKontextPipeline._pack_latents(latents, batch, channels, height, width)
    return packed


def changed_tokens(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which tokens differ between two uint8 batches (B, 64, 64, 3): bool (B, L), by the largest pixel difference."""
    difference = np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=-1)
    blocks = difference.reshape(-1, GRID, PATCH, GRID, PATCH)
    changed: np.ndarray = blocks.max(axis=(2, 4)).reshape(-1, TOKENS) > 12
    return changed


def draw_context(rng: np.random.Generator, split: str = "train") -> tuple[Scene, Edit]:
    """A source scene and an edit of it; every category and "multi-step" alike."""
    category = str(rng.choice([*CATEGORIES, MULTI_STEP]))
    while True:
        scene = sample_scene(rng, split)
        edit = sample_edit(rng, scene, category, split)
        if edit is not None:
            return scene, edit


def text_ids(texts: list[str], t5: T5Tokenizer, clip: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Ids for both encoders, each (B, T), padded as the pipeline pads them."""
    t5_ids = t5(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt").input_ids
    clip_ids = clip(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt").input_ids
    return t5_ids, clip_ids


def draw_pairs(rng: np.random.Generator, vae: AutoencoderKL, t5: T5Tokenizer, clip: CLIPTokenizer, count: int) -> Pairs:
    """`count` pairs of the train split, flawed targets included, encoded."""
    contexts = [draw_context(rng) for _ in range(count)]
    states = [flawed_target(rng, scene, edit) for scene, edit in contexts]
    sources = render([scene for scene, _ in contexts])
    exact = render([edit.apply(scene) for scene, edit in contexts])
    targets = render([scene for scene, _ in states], [damage for _, damage in states])
    ids = text_ids([edit.instruction for _, edit in contexts], t5, clip)
    weight = 1.0 + CHANGE_WEIGHT * torch.from_numpy(changed_tokens(sources, exact)).float()
    return Pairs(pack(encode(vae, sources)), pack(encode(vae, targets)), weight, *ids)


class PairStream:
    """Batches by step number: chunk k depends on (seed, k) alone and serves `PASSES` shuffled passes."""

    def __init__(self, vae: AutoencoderKL, t5: T5Tokenizer, clip: CLIPTokenizer, seed: int, batch: int) -> None:
        assert CHUNK % batch == 0, "every pass over a chunk is made of whole batches"
        self.vae, self.t5, self.clip, self.seed, self.batch = vae, t5, clip, seed, batch
        self._number = -1
        self._pairs: Pairs | None = None

    def at(self, step: int) -> Pairs:
        """The batch of a step."""
        a_pass = CHUNK // self.batch
        number, within = divmod(step, a_pass * PASSES)
        if self._pairs is None or number != self._number:
            rng = np.random.default_rng([self.seed, 3, number])
            self._pairs, self._number = draw_pairs(rng, self.vae, self.t5, self.clip, CHUNK), number
        turn, place = divmod(within, a_pass)
        order = np.random.default_rng([self.seed, 4, number, turn]).permutation(CHUNK)
        rows = torch.from_numpy(order[place * self.batch : (place + 1) * self.batch])
        pairs = self._pairs
        return Pairs(
            pairs.source_NLC[rows],
            pairs.target_NLC[rows],
            pairs.weight_NL[rows],
            pairs.t5_NT[rows],
            pairs.clip_NT[rows],
        )


def flow_loss(editor: Callable[..., Tensor], pairs: Pairs, generator: torch.Generator) -> Tensor:
    """Weighted squared error of the velocity at a random noise level; `editor` is a `TinyEditor` or one compiled.

    Matrix products in bf16, weights and gradients in fp32.
    """
    batch = len(pairs.source_NLC)
    sigma_B = torch.sigmoid(torch.randn(batch, generator=generator))
    sigma_B = SIGMA_SHIFT * sigma_B / (1 + (SIGMA_SHIFT - 1) * sigma_B)
    noise = torch.randn(pairs.target_NLC.shape, generator=generator)
    sigma_B11 = sigma_B[:, None, None]
    noisy = (1 - sigma_B11) * pairs.target_NLC + sigma_B11 * noise
    with torch.autocast("cpu", torch.bfloat16):
        velocity = editor(noisy, pairs.source_NLC, sigma_B, (pairs.t5_NT, pairs.clip_NT))
    error_BL = (velocity.float() - (noise - pairs.target_NLC)).square().mean(dim=-1)
    return (pairs.weight_NL * error_BL).sum() / pairs.weight_NL.sum()


def assemble(editor: TinyEditor, vae: AutoencoderKL, t5: T5Tokenizer, clip: CLIPTokenizer) -> FluxKontextPipeline:
    """The pipeline; the scheduler shifts its noise levels by the number of tokens, as FLUX's does."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
    )
    pipeline = FluxKontextPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=editor.clip,
        tokenizer=clip,
        text_encoder_2=editor.t5,
        tokenizer_2=t5,
        transformer=editor.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit_pictures(
    pipeline: FluxKontextPipeline, sources: np.ndarray, instructions: list[str], seed: int, steps: int = 10
) -> np.ndarray:
    """Edits of uint8 pictures (B, 64, 64, 3), through the pipeline's own call; the same shape comes back."""
    images = pipeline(
        image=[Image.fromarray(picture) for picture in sources],
        prompt=instructions,
        height=SIZE,
        width=SIZE,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed * 1_000_003 + index) for index in range(len(sources))],
        max_sequence_length=TEXT_LENGTH,
        max_area=SIZE * SIZE,
        _auto_resize=False,
    ).images
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def export(pipeline: FluxKontextPipeline, out: Path, card: dict[str, object]) -> None:
    """Write the pipeline in bf16 with `pretraining.json` beside it, replacing what lay in `out`.

    Raises:
        ValueError: when a file is larger than the zoo allows.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    pipeline.to(torch.bfloat16).save_pretrained(part, safe_serialization=True)
    (part / "pretraining.json").write_text(json.dumps(card, indent=2) + "\n")
    for file in part.rglob("*"):
        if file.is_file() and file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{file}: {file.stat().st_size} bytes, more than {MAX_FILE_BYTES}: make the model smaller")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def averaged_pipeline(run: Run, vae: AutoencoderKL, t5: T5Tokenizer, clip: CLIPTokenizer) -> FluxKontextPipeline:
    """A pipeline of the averaged weights, apart from the ones that are still trained."""
    copy = TinyEditor(t5, clip, seed=0)
    run.average.copy_to(copy)
    own_vae = AutoencoderKL.from_config(vae.config)
    own_vae.load_state_dict(vae.state_dict())
    return assemble(copy.eval(), own_vae.eval(), t5, clip)


def sample_grid(pipeline: FluxKontextPipeline, path: Path, seed: int = 7, rows: int = 12, steps: int = 10) -> None:
    """Write a picture: in each row source, exact target and two samples, two rows side by side; prints instructions."""
    rng = np.random.default_rng([seed, 5])
    contexts = [draw_context(rng, "validation") for _ in range(2 * rows)]
    sources = render([scene for scene, _ in contexts])
    exact = render([edit.apply(scene) for scene, edit in contexts])
    texts = [edit.instruction for _, edit in contexts]
    samples = [edit_pictures(pipeline, sources, texts, turn, steps) for turn in range(2)]
    strips = np.concatenate([sources, exact, *samples], axis=2)
    halves = [np.concatenate(list(strips[turn::2]), axis=0) for turn in range(2)]
    picture = Image.fromarray(np.concatenate(halves, axis=1))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)
    for index, text in enumerate(texts):
        print(f"row {index // 2} {'left' if index % 2 == 0 else 'right'}: {text}")


def measure(pipeline: FluxKontextPipeline, count: int, seed: int = 11, steps: int = 10) -> dict[str, float]:
    """How near samples come to the exact targets, on the validation split, in tokens of 8 x 8 px.

    Returns:
        "changed": mean absolute error on the tokens the edit changes, as a share of an unedited picture's (1 means
        nothing was done, 0 exact); "kept": mean absolute error elsewhere, in units of the full range;
        "done": share of samples with "changed" below a third.
    """
    rng = np.random.default_rng([seed, 6])
    contexts = [draw_context(rng, "validation") for _ in range(count)]
    sources = render([scene for scene, _ in contexts])
    exact = render([edit.apply(scene) for scene, edit in contexts])
    edited = edit_pictures(pipeline, sources, [edit.instruction for _, edit in contexts], seed, steps)

    def errors(pictures: np.ndarray) -> np.ndarray:
        difference = np.abs(pictures.astype(np.float32) - exact.astype(np.float32)).mean(axis=-1) / 255
        return np.asarray(difference.reshape(-1, GRID, PATCH, GRID, PATCH).mean(axis=(2, 4)).reshape(-1, TOKENS))

    changed = changed_tokens(sources, exact)
    before, after = errors(sources), errors(edited)
    share = (after * changed).sum(axis=1) / (before * changed).sum(axis=1)
    return {
        "changed": float(share.mean()),
        "kept": float(after[~changed].mean()),
        "done": float((share < 1 / 3).mean()),
    }


def pretrain_editor(
    out: Path,
    state_dir: Path,
    minutes: float,
    seed: int = 0,
    threads: int = 1,
    steps: int = EDITOR_LOOP.steps,
    grid: Path | None = None,
    compiled: bool = False,
) -> bool:
    """Pretrain for `minutes`, continuing from `state_dir`, and export the averaged weights to `out`.

    Args:
        minutes: budget of this call; 0 only exports.
        steps: optimiser steps of the finished transformer; a later call may ask for more.
        grid: where to write a picture of samples; None writes none.
        compiled: compile the forward pass (needs a C++ compiler; two minutes at first, then half the time a step).

    Returns:
        True when the model is finished. Nothing is exported before the transformer's first state exists.
    """
    check_call(minutes, threads, seed)
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 is needed")
    deadline = time.monotonic() + 60 * minutes
    torch.set_num_threads(threads)
    vae = pretrain_vae(state_dir, deadline, seed)
    if vae is None:
        print("the autoencoder is not finished yet: call again")
        return False
    corpus = instruction_corpus()
    t5, clip = build_t5_tokenizer(corpus), build_clip_tokenizer(corpus)
    editor = TinyEditor(t5, clip, seed)
    config = replace(EDITOR_LOOP, steps=steps)
    optimiser = MatrixOptimiser(editor, config.learning_rate, config.weight_decay, config.betas, OUTER)
    run = start(editor, optimiser, state_dir / "editor.pt", seed)
    stream = PairStream(vae, t5, clip, seed, config.batch_size)
    forward = torch.compile(editor) if compiled else editor

    def loss_of(step: int) -> Tensor:
        return flow_loss(forward, stream.at(step), torch.Generator().manual_seed(seed * 1_000_003 + step))

    finished = train(run, loss_of, config, state_dir / "editor.pt", deadline, "editor")
    if run.step == 0:
        return False
    pipeline = averaged_pipeline(run, vae, t5, clip)
    measured = measure(pipeline, MEASURED)
    print(f"editor after {run.step} steps, {run.seconds:.0f} s: {measured}", flush=True)
    if grid is not None:
        sample_grid(pipeline, grid)
    card: dict[str, object] = {
        "steps": run.step,
        "samples": run.step * config.batch_size,
        "seconds": round(run.seconds),
        "threads": threads,
        "seed": seed,
        "world": VERSION,
        "flawed_target_share": FLAWED_TARGET_SHARE,
        "parameters": {
            "transformer": sum(value.numel() for value in editor.transformer.parameters()),
            "vae": sum(value.numel() for value in vae.parameters()),
            "text_encoder": sum(value.numel() for value in editor.clip.parameters()),
            "text_encoder_2": sum(value.numel() for value in editor.t5.parameters()),
        },
        "validation": {name: round(value, 4) for name, value in measured.items()},
    }
    export(pipeline, out, card)
    return finished


def main(
    minutes: float = 30.0,
    out: Path = Path("src/edit_r1/zoo/weights/editor"),
    state: Path = Path(".state/zoo/editor"),
    seed: int = 0,
    threads: int = 1,
    steps: int = EDITOR_LOOP.steps,
    grid: Path | None = None,
    compiled: bool = False,
) -> None:
    """Pretrain the tiny editor, in pieces if need be; --minutes 0 exports what the state holds."""
    pretrain_editor(out, state, minutes, seed, threads, steps, grid, compiled)


if __name__ == "__main__":
    tyro.cli(main)
