"""What a transformer of a given architecture costs, by running its own code on tensors without memory.

Under torch's FakeTensorMode FLOPs are counted by FlopCounterMode, memory by the storages that live. Weights, FLOPs and
a forward without gradients come from a transformer with one block of each kind and those with one more of one kind:
blocks of one kind cost alike, so that the whole follows (`algo.step_cost.grown`). An update's memory does not: its peak
moves to another place as blocks are added, and lies above any such line. It is bounded instead (`update_bound`). The
kernels are those that torch picks on a CPU; workspaces of a GPU's libraries are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from edit_r1.algo.flow_sde import gaussian_kl, log_probability
from edit_r1.algo.guidance import guided_velocity
from edit_r1.algo.step_cost import grown
from edit_r1.editors.architecture import Architecture, Part
from edit_r1.editors.flux2_klein import klein_lora_targets
from edit_r1.editors.flux_kontext import FluxKontextEditor
from edit_r1.editors.qwen_image_edit import QwenImageEditor
from edit_r1.train.adapter import lora_config, round_for_products

BLOCKS = {
    "FluxTransformer2DModel": ("num_layers", "num_single_layers"),
    "QwenImageTransformer2DModel": ("num_layers",),
    "Flux2Transformer2DModel": ("num_layers", "num_single_layers"),
}
"""Config fields with the numbers of blocks, by class."""


@dataclass(frozen=True)
class Shape:
    """One row of a forward."""

    edit: tuple[int, int]
    """Rows and columns of latent tokens of the edit."""
    sources: tuple[tuple[int, int], ...]
    """Of each source."""
    text: int
    """Text tokens."""

    @property
    def tokens(self) -> int:
        return self.edit[0] * self.edit[1]

    @property
    def image_tokens(self) -> int:
        return self.tokens + sum(rows * columns for rows, columns in self.sources)


@dataclass(frozen=True)
class Training:
    """How the transformer runs."""

    dtype: torch.dtype
    lora_rank: int
    checkpointing: bool
    bf16_products: bool
    sample_rows: int
    update_rows: int
    """Rows of a training forward: edits of a micro-batch times trained steps."""
    guided: bool = False
    """Whether a velocity takes two forwards, both of which an update keeps until its backward pass."""


@dataclass(frozen=True)
class Footprint:
    """Weights are numbers, memory is bytes, FLOPs are of one row."""

    weights: float
    linear_weights: float
    """Those in matrices of linear layers, which quantisation packs."""
    trained: float
    forward_flops: float
    update_flops: float
    """A forward, its recomputation if any, and the backward pass."""
    sample_bytes: float
    """Most that a forward of `sample_rows` holds beside the weights."""
    update_bytes: float
    """Most that a forward and backward pass of `update_rows` holds beside weights and summed gradients."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made inside, and the most at any time; works on fake and on real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if not isinstance(made, Tensor):
                continue
            storage = made.untyped_storage()
            key = storage._cdata
            if key in given or key in self._sizes:
                continue
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def lora_targets(architecture: Architecture, transformer: nn.Module) -> tuple[str, ...]:
    """Those of the editor of this pipeline."""
    if architecture.pipeline == "FluxKontextPipeline":
        return FluxKontextEditor.lora_targets
    if architecture.pipeline == "Flux2KleinPipeline":
        return klein_lora_targets(transformer)
    return QwenImageEditor.lora_targets


def block_counts(part: Part) -> tuple[int, ...]:
    """How many blocks of each kind. Raises ValueError for a class whose blocks are not known here."""
    if part.kind not in BLOCKS:
        raise ValueError(f"a plan knows the blocks of {', '.join(BLOCKS)}, not of {part.kind}")
    config: Any = part.build().config
    return tuple(config[name] for name in BLOCKS[part.kind])


def measured(architecture: Architecture, training: Training, shape: Shape) -> Footprint:
    """Of the whole transformer. Raises ValueError as `block_counts`, or for fewer than one block."""
    part = architecture.parts["transformer"]
    counts = block_counts(part)
    if min(counts) < 1:
        raise ValueError(f"blocks {counts}: a plan needs at least one of each kind")
    base = counted(architecture, training, shape, [1] * len(counts))
    more = [
        counted(architecture, training, shape, [1 + (kind == place) for kind in range(len(counts))])
        for place in range(len(counts))
    ]
    columns = zip(astuple(base), *map(astuple, more), strict=True)
    whole = Footprint(*(grown(first, rest, counts) for first, *rest in columns))
    return replace(whole, update_bytes=update_bound(architecture, training, shape, counts))


@dataclass(frozen=True)
class Held:
    """Bytes beside the weights and summed gradients in an update."""

    first: int
    """When the first forward of several ends."""
    inside: int
    """When the transformer's last forward ends."""
    waiting: int
    """When the loss is there: what waits for the backward pass."""
    forward: int
    """Most at any time until then."""
    backward: int
    """Most at any time from then on."""
    gradients: int
    """One of every trained weight."""


def held(architecture: Architecture, training: Training, shape: Shape, blocks: Sequence[int]) -> Held:
    """Of a transformer with these numbers of blocks."""
    transformer = prepared(architecture, training, blocks)
    ends: list[int] = []
    gradients = 0
    with FakeTensorMode():
        materialise(transformer, training, lambda size, dtype: torch.empty(size, dtype=dtype))
        for weight in transformer.parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
                gradients += weight.grad.nbytes
        with LiveBytes() as live:
            transformer.register_forward_hook(lambda *_: ends.append(live.now))
            loss = update_loss(transformer, training, shape)
            waiting, forward = live.now, live.peak
            live.peak = live.now
            loss.backward()
    return Held(ends[0], ends[-1], waiting, forward, live.peak, gradients)


def update_bound(architecture: Architecture, training: Training, shape: Shape, blocks: Sequence[int]) -> float:
    """Most that an update of a transformer with these numbers of blocks (at least one of each kind) can hold.

    At any moment of it no more blocks are alive than when the forward or the loss ends. So the peak of a transformer
    with one block of each kind, and what all further blocks hold at those ends, bound it. With guidance autograd keeps
    the gradients of the second forward, which goes back first, until those of the first come. In the tests' toys the
    bound lies at most 10 % above what is held, with guidance 20 %.
    """
    one = held(architecture, training, shape, [1] * len(blocks))
    more = [
        held(architecture, training, shape, [1 + (kind == place) for kind in range(len(blocks))])
        for place in range(len(blocks))
    ]
    return bounded(one, more, blocks, twice=training.guided)


def bounded(one: Held, more: Sequence[Held], blocks: Sequence[int], twice: bool) -> float:
    """The bound of `update_bound` from what a model with one block of each kind holds and, for each kind, one with one
    more of it. twice: every weight is used in two forwards, whose gradients meet."""
    forward, backward = float(one.forward), float(one.backward)
    for each, count in zip(more, blocks, strict=True):
        forward += (count - 1) * (each.inside - one.inside)
        waiting = each.waiting - one.waiting
        kept = min(waiting, each.first - one.first) + each.gradients - one.gradients if twice else 0
        backward += (count - 1) * max(waiting, kept)
    return max(forward, backward)


def counted(architecture: Architecture, training: Training, shape: Shape, blocks: Sequence[int]) -> Footprint:
    """Of a transformer with these numbers of blocks, what grows by the block; `update_bytes` is 0 (`update_peak`)."""
    transformer = prepared(architecture, training, blocks)
    with FakeTensorMode():
        materialise(transformer, training, lambda size, dtype: torch.empty(size, dtype=dtype))
        weights = sum(weight.numel() for weight in transformer.parameters())
        trained = [weight for weight in transformer.parameters() if weight.requires_grad]
        added = sum(weight.numel() for weight in trained) if training.lora_rank else 0
        linear = sum(
            module.weight.numel()
            for name, module in transformer.named_modules()
            if isinstance(module, nn.Linear) and "lora_" not in name
        )

        def forward(rows: int) -> Tensor:
            return run_forward(transformer, training, shape, rows, "cpu")

        # Apart: what counts FLOPs keeps tensors alive.
        with FlopCounterMode(display=False) as sample_flops, torch.no_grad():
            forward(training.sample_rows)
        with LiveBytes() as sampling, torch.no_grad():
            run_velocity(transformer, training, shape, training.sample_rows, "cpu")
        with FlopCounterMode(display=False) as update_flops:
            forward(training.update_rows).square().mean().backward()
    return Footprint(
        weights - added, linear, sum(weight.numel() for weight in trained),
        sample_flops.get_total_flops() / training.sample_rows, update_flops.get_total_flops() / training.update_rows,
        sampling.peak, 0,
    )  # fmt: skip


def prepared(architecture: Architecture, training: Training, blocks: Sequence[int]) -> nn.Module:
    """A transformer with so many blocks of each kind, ready to train, on the device "meta"."""
    part = architecture.parts["transformer"]
    transformer: Any = part.build(**dict(zip(BLOCKS[part.kind], blocks, strict=True)))
    transformer.eval()
    if training.lora_rank:
        transformer.requires_grad_(False)
        targets = lora_targets(architecture, transformer)
        inject_adapter_in_model(lora_config(targets, training.lora_rank), transformer, low_cpu_mem_usage=True)
        round_for_products(transformer)
    if training.checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer


def materialise(transformer: nn.Module, training: Training, make: Callable[[torch.Size, torch.dtype], Tensor]) -> None:
    """Replaces the weights on "meta" by what `make` gives: float32 for LoRA, else the training's dtype."""
    for prefix, module in transformer.named_modules():
        dtype = torch.float32 if "lora_" in prefix else training.dtype
        for name, weight in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(make(weight.shape, dtype), weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, make(buffer.shape, buffer.dtype))
        for name, child in list(module.named_children()):
            if isinstance(child, QwenEmbedRope):  # its tables are no buffers: made again where there is memory
                setattr(module, name, QwenEmbedRope(child.theta, child.axes_dim, child.scale_rope))


def update_loss(transformer: Any, training: Training, shape: Shape, device: str = "cpu") -> Tensor:
    """Of `update_rows` rows: log-probability and KL of their transitions, whose mean is the Euler step's."""
    rows, config = training.update_rows, transformer.config
    latents_FLC = torch.zeros(rows, shape.tokens, config.in_channels, device=device)
    std_F, dt_F = torch.full((rows,), 0.3, device=device), torch.full((rows,), -0.2, device=device)
    mean_FLC = latents_FLC + run_velocity(transformer, training, shape, rows, device) * dt_F[:, None, None]
    drawn_FLC, reference_FLC = torch.zeros_like(mean_FLC), torch.zeros_like(mean_FLC)
    kl_F = gaussian_kl(mean_FLC, reference_FLC, std_F, dt_F)
    return (kl_F - log_probability(drawn_FLC, mean_FLC, std_F)).sum()


def run_velocity(transformer: Any, training: Training, shape: Shape, rows: int, device: str) -> Tensor:
    """As an editor's `velocity`: guided where it takes two forwards."""
    velocity_BLC = run_forward(transformer, training, shape, rows, device)
    if not training.guided:
        return velocity_BLC
    return guided_velocity(velocity_BLC, run_forward(transformer, training, shape, rows, device), 3.0, rescale=True)


def run_forward(transformer: Any, training: Training, shape: Shape, rows: int, device: str) -> Tensor:
    """The velocity of the edit's tokens [rows, L, C] of random or empty inputs, in float32."""
    config = transformer.config

    def empty(*size: int) -> Tensor:
        return torch.zeros(*size, dtype=training.dtype, device=device)

    inputs = {
        "hidden_states": empty(rows, shape.image_tokens, config.in_channels),
        "encoder_hidden_states": empty(rows, shape.text, config.joint_attention_dim),
        "timestep": empty(rows),
        "return_dict": False,
    }
    kind = next(name for each in type(transformer).__mro__ if (name := each.__name__) in BLOCKS)
    if kind == "QwenImageTransformer2DModel":
        shapes = [(1, *picture) for picture in (shape.edit, *shape.sources)]
        inputs |= {"img_shapes": [shapes] * rows}
    else:
        axes = len(config.axes_dims_rope)
        inputs |= {"img_ids": empty(shape.image_tokens, axes), "txt_ids": empty(shape.text, axes)}
        inputs |= {"guidance": torch.ones(rows, device=device) if config.guidance_embeds else None}
    if kind == "FluxTransformer2DModel":
        inputs |= {"pooled_projections": empty(rows, config.pooled_projection_dim)}
    on = device.split(":")[0]
    with torch.autocast(on, torch.bfloat16, enabled=training.bf16_products, cache_enabled=False):  # as an editor's
        velocity_BNC: Tensor = transformer(**inputs)[0]
    return velocity_BNC[:, : shape.tokens].float()


def encode_bytes(architecture: Architecture, dtype: torch.dtype, shape: Shape) -> int:
    """Most that the VAE holds beside its weights while it encodes the largest source; it sees one picture at a time."""
    part = architecture.parts["vae"]
    vae: Any = part.build().eval().requires_grad_(False)
    frames = (1,) if part.kind == "AutoencoderKLQwenImage" else ()
    token = 2 * vae_scale(vae.config)
    height, width = (token * side for side in max(shape.sources, key=lambda sides: sides[0] * sides[1]))
    with FakeTensorMode():
        plain = Training(dtype, 0, False, False, 1, 1)
        materialise(vae, plain, lambda size, kind: torch.empty(size, dtype=kind))
        with LiveBytes() as live, torch.no_grad():
            vae.encode(torch.zeros(1, 3, *frames, height, width, dtype=dtype), return_dict=False)
    return live.peak


def vae_scale(config: Any) -> int:
    """Pixels a side of a latent; a token has twice as many."""
    levels = config.temperal_downsample if "temperal_downsample" in config else config.block_out_channels[1:]
    return int(2 ** len(levels))


def decode_bytes(architecture: Architecture, dtype: torch.dtype, shape: Shape, rows: int) -> int:
    """Most that the VAE holds beside its weights while it decodes so many edits at once."""
    part = architecture.parts["vae"]
    vae: Any = part.build().eval().requires_grad_(False)
    height, width = (2 * side for side in shape.edit)
    channels = vae.config.z_dim if part.kind == "AutoencoderKLQwenImage" else vae.config.latent_channels
    frames = (1,) if part.kind == "AutoencoderKLQwenImage" else ()
    with FakeTensorMode():
        plain = Training(dtype, 0, False, False, rows, rows)
        materialise(vae, plain, lambda size, kind: torch.empty(size, dtype=kind))
        with LiveBytes() as live, torch.no_grad():
            vae.decode(torch.zeros(rows, channels, *frames, height, width, dtype=dtype), return_dict=False)
    return live.peak
