"""The editor's autoencoder: f4, 4 latent channels, learned from rendered and damaged pictures.

It must be able to show everything an editor may paint, damage included, or the world's flaws would
be hidden by it; so half of its pictures are departures that no source has.

Legend: B pictures, C = 4 latent channels, h = w = 16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from edit_r1.world.render import render
from edit_r1.world.scenes import BACKGROUNDS, COLOURS, SIZE, Damage, Scene, Thing, sample_scene
from edit_r1.zoo.loop import LoopConfig, start, train
from edit_r1.zoo.muon import MatrixOptimiser

LATENT_CHANNELS = 4
BATCH = 8
VAE_LOOP = LoopConfig(steps=2000, batch_size=BATCH, learning_rate=4e-3, warmup_steps=40, decay_share=0.6)
KL_WEIGHT = 1e-5
"""Per latent number; only keeps the latents from drifting apart, the decoder sees almost no noise."""
SQUARE_WEIGHT = 2.0
"""Of the squared error beside the absolute one."""
COLOUR_WEIGHT = 2.0
"""Of the error in the mean colour of 4 x 4 squares beside the error per pixel: stripes must not drown colours."""
LOG_VARIANCE = -6.0
"""Of the posterior at the start."""
TEXTURE_SHARE = 0.08
"""Share of pictures that are coloured clouds: what photographs in the stress split need, without showing one."""


def build_vae(seed: int) -> AutoencoderKL:
    """An untrained AutoencoderKL of 0.7 M parameters: 64 px to 16 x 16 x 4."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    start_linear(vae)
    return vae


@torch.no_grad()
def start_linear(vae: AutoencoderKL) -> None:
    """Let the untrained autoencoder average 4 x 4 squares and spread them again: colours are right from the start.

    Channels 0-2 carry red, green and blue, channels 3-5 their negatives: silu(x) - silu(-x) = x, so the
    activations before the last layers lose nothing. Residual branches begin at zero, the posterior narrow.
    From the default start most of a budget of minutes goes into learning colours.
    """
    for module in (*vae.encoder.modules(), *vae.decoder.modules()):
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut, 0, 0)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
        elif isinstance(module, Downsample2D):
            # Padded below and to the right: these four taps are the 2 x 2 square of an output.
            for row in (0, 1):
                for column in (0, 1):
                    _carry(module.conv, row, column, 0.25)
        elif isinstance(module, Upsample2D):
            _carry(module.conv, 1, 1)
    for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
        layer.weight[:6] = 0
        for colour in range(3):
            layer.weight[colour, colour, 1, 1] = 1
            layer.weight[3 + colour, colour, 1, 1] = -1
    for layer in (vae.encoder.conv_out, vae.decoder.conv_out):
        layer.weight[:3] = 0
        for colour in range(3):
            layer.weight[colour, colour, 1, 1] = 1
            layer.weight[colour, 3 + colour, 1, 1] = -1
    vae.encoder.conv_out.weight[LATENT_CHANNELS:] = 0
    vae.encoder.conv_out.bias[LATENT_CHANNELS:] = LOG_VARIANCE


def _carry(layer: nn.Conv2d, row: int, column: int, share: float = 1.0) -> None:
    """Make the first six output channels copies of the first six input channels, at one tap of the kernel."""
    if (row, column) == (0, 0) or share == 1.0:
        layer.weight.data[:6] = 0
    for channel in range(6):
        layer.weight.data[channel, channel, row, column] = share


def random_damage(rng: np.random.Generator) -> Damage:
    """One or two kinds of damage of a random strength, from hardly visible to gross."""
    kinds = rng.permutation(4)[: int(rng.integers(1, 3))]
    return Damage(
        noise=float(rng.uniform(0.01, 0.12)) if 0 in kinds else 0.0,
        blur=float(rng.uniform(0.4, 2.0)) if 1 in kinds else 0.0,
        border=int(rng.integers(1, 7)) if 2 in kinds else 0,
        saturation=float(rng.uniform(0.5, 2.2)) if 3 in kinds else 1.0,
        seed=int(rng.integers(2**31)),
    )


def _loosen_thing(rng: np.random.Generator, thing: Thing) -> Thing:
    return replace(
        thing,
        dx=float(np.clip(thing.dx + rng.normal(0, 3), -9, 9)),
        dy=float(np.clip(thing.dy + rng.normal(0, 3), -9, 9)),
        opacity=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.3 else 1.0,
        scale=float(rng.uniform(0.6, 1.6)) if rng.random() < 0.3 else 1.0,
        blend=(str(rng.choice(list(COLOURS))), float(rng.random())) if rng.random() < 0.3 else None,
    )


def loosen(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with continuous departures everywhere: half colours, faint things, shifts, weak tones."""
    return replace(
        scene,
        things=tuple(_loosen_thing(rng, thing) for thing in scene.things),
        background_blend=(str(rng.choice(list(BACKGROUNDS))), float(rng.random())) if rng.random() < 0.3 else None,
        tone_strength=float(rng.random()) if rng.random() < 0.5 else 1.0,
        style_strength=float(rng.random()) if rng.random() < 0.5 else 1.0,
    )


def clouds(rng: np.random.Generator) -> np.ndarray:
    """A picture of smooth coloured noise over several scales, uint8 (64, 64, 3)."""
    total = np.zeros((SIZE, SIZE, 3), np.float32)
    for side in (2, 4, 8, 16, 32):
        coarse = torch.from_numpy(rng.normal(0, 1, (1, 3, side, side)).astype(np.float32))
        fine = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        total += fine[0].permute(1, 2, 0).numpy() * side**-0.6
    grey = total.mean(axis=-1, keepdims=True)
    mixed = grey + rng.uniform(0.1, 0.8) * (total - grey)
    return np.clip((0.5 + 0.25 * mixed) * 255, 0, 255).astype(np.uint8)


def sample_pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pictures for the autoencoder from the train split, uint8 (count, 64, 64, 3)."""
    scenes, damages = [], []
    for _ in range(count):
        scene = sample_scene(rng, "train")
        scenes.append(loosen(rng, scene) if rng.random() < 0.4 else scene)
        damages.append(random_damage(rng) if rng.random() < 0.35 else Damage())
    pictures = render(scenes, damages)
    for index in np.flatnonzero(rng.random(count) < TEXTURE_SHARE):
        pictures[index] = clouds(rng)
    return pictures


def to_model(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1], as the pipeline's image processor does."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def from_model(pictures: Tensor) -> np.ndarray:
    """The inverse of `to_model`, clipped."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def vae_loss(vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Absolute and squared error, per pixel and of the mean colour of 4 x 4 squares, plus a small KL."""
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample(generator)).sample
    error = decoded - pictures
    coarse = nn.functional.avg_pool2d(error, 4)
    seen = error.abs().mean() + SQUARE_WEIGHT * error.square().mean()
    colour = coarse.abs().mean() + SQUARE_WEIGHT * coarse.square().mean()
    loss: Tensor = seen + COLOUR_WEIGHT * colour + KL_WEIGHT * posterior.kl().mean()
    return loss


@torch.no_grad()
def measure_scale(vae: AutoencoderKL, rng: np.random.Generator, count: int = 512) -> tuple[float, float]:
    """(shift, scaling) that give the latents of `count` pictures mean 0 and standard deviation 1."""
    pictures = sample_pictures(rng, count)
    latents = torch.cat([vae.encode(to_model(pictures[i : i + 32])).latent_dist.mode() for i in range(0, count, 32)])
    return float(latents.mean()), float(1.0 / latents.std())


def pretrain_vae(state: Path, deadline: float, seed: int) -> AutoencoderKL | None:
    """Train the autoencoder, or load it when it is finished; None when the deadline came first.

    The state lies in `state/vae.pt`; the finished model is its average with the latents' scale measured.
    """
    done = state / "vae"
    if done.exists():
        return AutoencoderKL.from_pretrained(done).eval().requires_grad_(False)
    vae = build_vae(seed)
    optimiser = MatrixOptimiser(
        vae, VAE_LOOP.learning_rate, VAE_LOOP.weight_decay, VAE_LOOP.betas, outer=("conv_in", "conv_out")
    )
    run = start(vae, optimiser, state / "vae.pt", seed)

    def loss_of(step: int) -> Tensor:
        pictures = sample_pictures(np.random.default_rng([seed, 1, step]), BATCH)
        return vae_loss(vae, to_model(pictures), torch.Generator().manual_seed(seed * 1_000_003 + step))

    if not train(run, loss_of, VAE_LOOP, state / "vae.pt", deadline, "vae"):
        return None
    run.average.copy_to(vae)
    vae.eval().requires_grad_(False)
    shift, scaling = measure_scale(vae, np.random.default_rng([seed, 2]))
    vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
    part = state / "vae.part"
    vae.save_pretrained(part)
    part.rename(done)
    print(f"vae done after {run.seconds:.0f} s: shift {shift:.3f}, scaling {scaling:.3f}", flush=True)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 32) -> Tensor:
    """Scaled latents (B, C, h, w) of uint8 pictures (B, H, W, 3), the mode of the posterior."""
    parts = [vae.encode(to_model(pictures[i : i + batch])).latent_dist.mode() for i in range(0, len(pictures), batch)]
    latents: Tensor = (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """uint8 pictures (B, H, W, 3) of scaled latents (B, C, h, w)."""
    return from_model(vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample)
