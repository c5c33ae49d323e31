"""What a plan measures on tensors without memory is what real models count and hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edit_r1.editors.architecture import KNOWN, Architecture, Part, architecture_of
from edit_r1.train.plan_measure import (
    LiveBytes,
    Shape,
    Training,
    counted,
    decode_bytes,
    encode_bytes,
    held,
    materialise,
    measured,
    prepared,
    run_forward,
    run_velocity,
    update_bound,
    update_loss,
)

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16}
TINY = {
    "kontext": Architecture("FluxKontextPipeline", {
        "transformer": Part("diffusers", "FluxTransformer2DModel", {
            "in_channels": 16, "num_layers": 3, "num_single_layers": 2, "pooled_projection_dim": 16,
            "guidance_embeds": True, "axes_dims_rope": [4, 6, 6], **HEADS,
        }),
        "vae": Part("diffusers", "AutoencoderKL", {
            "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
            "block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4,
        }),
    }),
    "qwen": Architecture("QwenImageEditPipeline", {
        "transformer": Part("diffusers", "QwenImageTransformer2DModel", {
            "in_channels": 16, "out_channels": 4, "num_layers": 3, "axes_dims_rope": [4, 6, 6], **HEADS,
        }),
    }),
    "klein": Architecture("Flux2KleinPipeline", {
        "transformer": Part("diffusers", "Flux2Transformer2DModel", {
            "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "guidance_embeds": False,
            "axes_dims_rope": [4, 4, 4, 4], **HEADS,
        }),
    }),
}  # fmt: skip
SHAPE = Shape((4, 6), ((4, 6),), 8)
PLAIN = Training(torch.float32, 4, False, False, sample_rows=3, update_rows=2)


def real(architecture: Architecture, training: Training) -> nn.Module:
    """The whole transformer with random weights."""
    from edit_r1.train.plan_measure import block_counts

    transformer = prepared(architecture, training, block_counts(architecture.parts["transformer"]))
    materialise(transformer, training, lambda size, dtype: torch.randn(size, dtype=dtype) * 0.02)
    return transformer


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "training",
    [
        PLAIN,
        Training(torch.bfloat16, 4, True, False, 2, 4),
        Training(torch.float32, 0, True, True, 2, 4),
    ],
    ids=["lora", "bf16-checkpointed", "full"],
)
def test_a_whole_model_counts_and_holds_what_small_ones_say(name: str, training: Training) -> None:
    architecture = TINY[name]
    told = measured(architecture, training, SHAPE)
    transformer = real(architecture, training)
    weights = sum(weight.numel() for key, weight in transformer.named_parameters() if "lora_" not in key)
    trained = [weight for weight in transformer.parameters() if weight.requires_grad]
    assert told.weights == weights
    assert told.trained == sum(weight.numel() for weight in trained)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        run_forward(transformer, training, SHAPE, 1, "cpu")
    with FlopCounterMode(display=False) as both:
        run_forward(transformer, training, SHAPE, 1, "cpu").square().mean().backward()
    assert (told.forward_flops, told.update_flops) == (forward.get_total_flops(), both.get_total_flops())
    with LiveBytes() as sampling, torch.no_grad():
        run_velocity(transformer, training, SHAPE, training.sample_rows, "cpu")
    with LiveBytes() as updating:
        update_loss(transformer, training, SHAPE).backward()
    assert told.sample_bytes == pytest.approx(sampling.peak, rel=0.02)
    assert 0.999 * updating.peak <= told.update_bytes <= 1.1 * updating.peak


def test_live_bytes_counts_what_lives() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[10:]
        second = first + 1
        del first
        assert live.now == 8000, "a view keeps its storage"
        del view
        third = second * 2
        second.add_(1)
    assert (live.now, live.peak) == (8000, 8000)
    del third
    assert live.now == 4000


def most(name: str, training: Training, blocks: Sequence[int]) -> int:
    """What an update of so many blocks holds, run with all of them."""
    found = held(TINY[name], training, SHAPE, blocks)
    return max(found.forward, found.backward)


@pytest.mark.parametrize("guided", [False, True])
def test_an_update_holds_no_more_than_is_told(guided: bool) -> None:
    """A peak may move as blocks are added, and then lies above any line through small transformers."""
    training = Training(torch.float32, 0, True, True, 2, 4, guided)
    six = most("qwen", training, (6,))
    assert six <= update_bound(TINY["qwen"], training, SHAPE, (6,)) <= (1.2 if guided else 1.1) * six


def test_guidance_keeps_two_forwards_for_the_backward_pass() -> None:
    plain, guided = (replace(PLAIN, guided=scale) for scale in (False, True))
    assert most("qwen", guided, (3,)) > 1.7 * most("qwen", plain, (3,))
    one, two = (counted(TINY["qwen"], training, SHAPE, (3,)) for training in (plain, guided))
    assert two.sample_bytes < 1.1 * one.sample_bytes
    assert two.update_flops == one.update_flops, "of one forward"


def test_checkpointing_saves_memory_and_costs_a_forward() -> None:
    again = replace(PLAIN, checkpointing=True)
    assert most("kontext", again, (3, 3)) < most("kontext", PLAIN, (3, 3))
    kept, twice = (counted(TINY["kontext"], training, SHAPE, (3, 3)) for training in (PLAIN, again))
    assert kept.update_flops < twice.update_flops <= kept.update_flops + kept.forward_flops


def test_decoding_is_counted_as_a_real_vae_holds_it() -> None:
    vae = TINY["kontext"].parts["vae"].build()
    told = decode_bytes(TINY["kontext"], torch.float32, SHAPE, 2)
    materialise(vae.requires_grad_(False), PLAIN, lambda size, dtype: torch.zeros(size, dtype=dtype))
    with LiveBytes() as live, torch.no_grad():
        vae.decode(torch.zeros(2, 4, 8, 12))
    assert told == pytest.approx(live.peak, rel=0.01)
    with LiveBytes() as live, torch.no_grad():
        vae.encode(torch.zeros(1, 3, 16, 24))
    assert encode_bytes(TINY["kontext"], torch.float32, SHAPE) == pytest.approx(live.peak, rel=0.01)


def test_released_models_have_their_published_sizes() -> None:
    """Billions of weights as the model cards say."""
    sizes = {
        name: round(KNOWN[name].parts["transformer"].parameters() / 1e9)
        for name in (
            "black-forest-labs/FLUX.1-Kontext-dev",
            "Qwen/Qwen-Image-Edit",
            "black-forest-labs/FLUX.2-klein-4B",
        )
    }
    assert list(sizes.values()) == [12, 20, 4]
    encoders = {name: sum(part.parameters() for part in KNOWN[name].encoders.values()) / 1e9 for name in sizes}
    assert [round(size, 1) for size in encoders.values()] == [4.9, 8.3, 4.0]


def test_a_path_that_is_no_editor_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor one of"):
        architecture_of("nowhere/else")
    with pytest.raises(ValueError, match=r"model_index\.json cannot be read"):
        architecture_of(str(tmp_path))
