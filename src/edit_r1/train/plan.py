"""`edit-r1 train editor RECIPE --plan`: what a run will need, before a checkpoint is opened.

Counted: weights, gradients, optimiser, average, reference, encoders, judge (`editors.architecture`), activations,
encoding and decoding (`train.plan_measure`), forwards and FLOPs of a step. Timed: on a GPU a transformer with one block
of each kind and random weights, else a matrix product; scaled by FLOPs. Not counted: the CUDA context, fragmentation,
workspaces of kernels, activations of text encoders, a judge's KV cache; nor the seconds of judging, of evaluations and
of communication.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edit_r1.algo.step_cost import StepWork, nf4_bytes, step_work
from edit_r1.editors.architecture import Architecture, Part, architecture_of, read_json
from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux2_klein import Flux2KleinSettings
from edit_r1.editors.flux_kontext import FluxKontextSettings
from edit_r1.editors.qwen_image_edit import QwenImageEditSettings
from edit_r1.train.editor_stage import Algorithm, EditorRLStage, check_checkpoint, left_aside, plan_iteration, settled
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.plan_measure import (
    Footprint,
    Shape,
    Training,
    counted,
    decode_bytes,
    encode_bytes,
    materialise,
    measured,
    prepared,
    run_velocity,
    update_loss,
    vae_scale,
)
from edit_r1.train.plan_parts import GIB, DeviceOptions, exceeding, fastest, gib, memory_lines

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SIDE = 1024
"""Of the square edits that are counted when neither flag nor settings say."""
INSTRUCTION_TOKENS = 64
"""Assumed of an instruction in Qwen-Image-Edit, whose texts are not padded."""
MATMUL_SIDE = 1024


@dataclass(frozen=True)
class Rate:
    """FLOP/s, and where they come from."""

    sample: float
    update: float
    source: str


@dataclass(frozen=True)
class Plan:
    """What a process needs; memory in GiB."""

    editor: str
    processes: int
    shape: Shape
    resident: dict[str, float]
    """Held all the time."""
    phases: dict[str, float]
    """Held beside it while a phase lasts."""
    host: dict[str, float]
    """In the machine's own memory, per process."""
    peak: float
    device_memory: float | None
    misfits: tuple[str, ...]
    """What exceeds the device, with remedies; empty when everything fits or no device is known."""
    samples_per_step: int
    """Edits of all processes."""
    judgments_per_step: int
    """Traces of the judge, of all processes."""
    work: StepWork
    """Of the process that has most to do."""
    petaflops: dict[str, float]
    """1e15 FLOPs of a step of that process."""
    seconds: dict[str, float]
    """The same at `rate`."""
    rate: Rate
    assumptions: tuple[str, ...]


def plan(
    stage: EditorRLStage,
    source: EditorCheckpoint,
    judge: JudgeSettings,
    options: DeviceOptions | None = None,
    algorithm: Algorithm = "flow-grpo",
) -> Plan:
    """The plan of an editor's training. Only configs are read. Raises ValueError for what cannot be planned or run."""
    options = options or DeviceOptions()
    ignored, stage = left_aside(stage, algorithm), settled(stage, algorithm)
    architecture = architecture_of(source.path)
    check_checkpoint(stage, source, options.processes)
    guidance = stage.guidance if stage.guided else 1.0
    shape, guided, assumptions = shape_of(source, architecture, guidance, options.pixels)
    assumptions += [ignored] if ignored else []
    trained_steps, references, kept = _algorithm(stage, algorithm)
    work = step_work(
        stage.contexts_per_step, stage.group_size, stage.sampling_steps, trained_steps, stage.updates.inner_updates,
        judge.traces, references, guided, options.processes,
    )  # fmt: skip
    training = Training(
        getattr(torch, source.dtype), stage.lora_rank, stage.checkpointing, source.settings.bf16_products,
        sample_rows=min(max(stage.sample_batch, source.settings.batch_size), work.edits),
        update_rows=min(stage.train_batch, work.edits) * trained_steps, guided=guided,
    )  # fmt: skip
    footprint = measured(architecture, training, shape)
    resident, phases, host = _memory(
        stage, source, judge, architecture, footprint, shape, training, work, work.edits * kept, options
    )
    peak = sum(resident.values()) + max(phases.values())
    memory = options.device_memory or _device_memory(source.device)
    petaflops = {
        "sample": work.sampling_forwards * footprint.forward_flops / 1e15,
        "reference": work.reference_forwards * footprint.forward_flops / 1e15,
        "update": work.trained_forwards * footprint.update_flops / 1e15,
    }
    rate = _rate(architecture, training, shape, source.device, options.tflops)
    rates = {"sample": rate.sample, "reference": rate.sample, "update": rate.update}
    everyone = stage.contexts_per_step * stage.group_size
    return Plan(
        source.path, options.processes, shape, resident, phases, host, peak, memory,
        () if memory is None else misfits(stage, source, resident, phases, memory),
        everyone, everyone * judge.traces, work, petaflops,
        {name: 1e15 * value / rates[name] for name, value in petaflops.items()}, rate, tuple(assumptions),
    )  # fmt: skip


def _algorithm(stage: EditorRLStage, algorithm: Algorithm) -> tuple[int, int, int]:
    """(trained steps of an edit, forwards of other policies for each, latents that an edit keeps until the update)."""
    inner, reference = stage.updates.inner_updates, int(stage.kl_beta > 0)
    if algorithm == "flow-grpo":
        window = len(plan_iteration(stage, 0, stage.contexts_per_step).window)
        old = int(stage.loss.ratio == "guard" and inner > 1)
        # The finished edit; where a step begins and ends, the reference's mean and the old one.
        return window, reference, 1 + window * (2 + reference + old)
    levels = stage.sde.trained_steps
    old = int(stage.ema_decay > 0 or inner > 1)
    # All noise is drawn, and the others' velocities are computed, before the first update.
    return levels, inner * (old + reference), 1 + levels * inner * (1 + old + reference)


def shape_of(
    source: EditorCheckpoint, architecture: Architecture, guidance: float, pixels: int | None
) -> tuple[Shape, bool, list[str]]:
    """Tokens of a square edit with one source, whether a velocity takes two forwards, and what was assumed."""
    settings = source.settings
    vae: Any = architecture.parts["vae"].build()
    token = 2 * vae_scale(vae.config)
    area = settings.max_area if isinstance(settings, FluxKontextSettings) else settings.area
    side = pixels or (round(area**0.5) if area else SIDE)
    if side < token:
        raise ValueError(f"pixels={side}: this editor needs at least {token}, one token")
    edit = (side // token, side // token)
    told = [f"square edits of {side} px, one source each"]
    if isinstance(settings, FluxKontextSettings):
        seen = SIDE if settings.preferred_sizes else round(settings.source_area**0.5) if settings.source_area else side
        picture = (seen // token, seen // token)
        told.append(f"sources of {seen} px" + ("" if settings.source_area else ", which nothing shrinks"))
        return Shape(edit, (picture,), settings.max_text_tokens or _stored_length(source.path)), False, told
    if isinstance(settings, Flux2KleinSettings):
        told.append("sources of the edits' size; not a distilled checkpoint")
        return Shape(edit, (edit,), settings.max_text_tokens), guidance > 1, told
    assert isinstance(settings, QwenImageEditSettings)
    seen = round(settings.source_area**0.5) if settings.source_area else side
    vision = architecture.parts["text_encoder"].config["vision_config"]
    patch = vision["patch_size"] * vision["spatial_merge_size"]
    shown = settings.condition_area if architecture.pipeline.endswith("PlusPipeline") else settings.source_area
    text = INSTRUCTION_TOKENS + (shown or side * side) // patch**2
    told.append(f"instructions of {INSTRUCTION_TOKENS} tokens; sources of {seen} px")
    return Shape(edit, ((seen // token, seen // token),), text), guidance > 1, told


def _stored_length(path: str) -> int:
    """T5 tokens that a Kontext checkpoint's own tokenizer pads to; 512, the pipeline's most, where no file says."""
    stored = Path(path) / "tokenizer_2/tokenizer_config.json"
    return min(512, int(read_json(stored).get("model_max_length", 512))) if stored.is_file() else 512


def _memory(
    stage: EditorRLStage, source: EditorCheckpoint, judge: JudgeSettings, architecture: Architecture,
    footprint: Footprint, shape: Shape, training: Training, work: StepWork, latents: int, options: DeviceOptions,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:  # fmt: skip
    """Resident, by phase, and on the host, GiB of one process. latents: pictures that are kept until the update."""
    processes = options.processes if stage.shard else 1
    size = BYTES[source.dtype]
    weights = footprint.weights * size
    if source.quantise == "nf4":
        weights = (footprint.weights - footprint.linear_weights) * size + nf4_bytes(int(footprint.linear_weights))
    trained = 4 * footprint.trained
    lora = trained if stage.lora_rank else 0.0
    encoders = sum(part.parameters() for part in architecture.encoders.values()) * size
    transformer: Any = architecture.parts["transformer"].build()
    channels = transformer.config.in_channels
    text = shape.text * transformer.config.joint_attention_dim * (2 if training.guided else 1)
    encoded = text + (shape.image_tokens - shape.tokens) * channels
    resident = {
        "transformer": weights / processes,
        "LoRA": lora / processes,
        "reference": (0.0 if stage.lora_rank or stage.kl_beta == 0 else weights) / processes,
        "optimiser": 2 * trained / processes,
        "average": (trained if stage.ema_decay > 0 else 0.0) / processes,
        "encoders": 0.0 if source.settings.offload_encoders else encoders,
        "VAE": float(architecture.parts["vae"].parameters() * size),
        "judge": _judge_bytes(judge, source.device),
        "contexts": float(work.contexts * encoded * size),
        "rollouts": 4.0 * latents * shape.tokens * channels,
        "gradients that wait": trained / processes if stage.updates.accumulate > 1 else 0.0,
    }
    gradients = trained / processes if stage.updates.accumulate == 1 else 0.0
    # What is averaged takes the trained weights' place while it samples, and they wait.
    waiting = resident["average"]
    # A layer's four-bit weights are unpacked for its product.
    unpacked = size * max(weight.numel() for weight in transformer.parameters()) if source.quantise == "nf4" else 0.0
    encoding = float(encode_bytes(architecture, training.dtype, shape))
    together, gathered_gradients = 0.0, 0.0
    if processes > 1:
        # FSDP2 holds the block in use and the next one whole, and what lies outside the blocks.
        largest, outside = _unit_sizes(transformer)
        together = (2 * largest + outside) * size
        gathered_gradients = 0.0 if stage.lora_rank else 4.0 * (2 * largest + outside)
    phases = {
        "encode": encoding + (encoders if source.settings.offload_encoders else 0.0),
        "sample": footprint.sample_bytes + together + waiting + unpacked,
        "decode": float(decode_bytes(architecture, training.dtype, shape, training.sample_rows)) + waiting,
        "update": footprint.update_bytes + gradients + together + gathered_gradients + unpacked,
        "optimiser step": gradients + trained / processes,  # torch's AdamW on a GPU makes one temporary a weight
        "save": waiting + (weights + lora if stage.save_as == "merged" and stage.lora_rank and processes == 1 else 0.0),
    }
    copies = 3 + (stage.ema_decay > 0)
    result = lora if stage.save_as == "adapter" else weights + lora
    host = {
        "encoders": encoders if source.settings.offload_encoders else 0.0,
        "transformer while loading": weights if source.waits else 0.0,
        "reference while loading": weights if source.waits and resident["reference"] else 0.0,
        # States, and after the last one the result.
        "first process, while saving": max(copies * trained, result) if processes > 1 else 0.0,
    }
    return gib(resident), gib(phases), gib(host)


def _unit_sizes(transformer: torch.nn.Module) -> tuple[int, int]:
    """Weights of the largest block, and of what lies outside the blocks."""
    blocks = [
        sum(weight.numel() for weight in block.parameters())
        for child in transformer.children()
        if isinstance(child, torch.nn.ModuleList)
        for block in child
    ]
    return max(blocks), sum(weight.numel() for weight in transformer.parameters()) - sum(blocks)


def _judge_bytes(judge: JudgeSettings, editor: str) -> float:
    """Weights of a judge on the GPU of the editor; 0 for one elsewhere. Raises ValueError when it cannot be read."""
    path, _, device = judge.address.rpartition("@")
    own = editor if editor.startswith("cuda:") else "cuda:0"
    if judge.address.startswith("http") or device not in ("cuda", own):
        return 0.0
    config = read_json(Path(path) / "config.json")
    names = config.get("architectures") or [""]
    return float(Part("transformers", names[0], config).parameters() * BYTES[judge.dtype])


def _device_memory(device: str) -> float | None:
    """GiB of this machine's GPU; None where there is none, or where the recipe uses none."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[1] / GIB
    return None


def misfits(
    stage: EditorRLStage, source: EditorCheckpoint, resident: dict[str, float], phases: dict[str, float], memory: float
) -> tuple[str, ...]:
    """What exceeds so many GiB, phase by phase, each with what to change."""
    held = sum(resident.values())
    remedies = {
        "encode": "a smaller text encoder, or more memory",
        "sample": "a smaller sample_batch",
        "decode": "a smaller sample_batch",
        "update": "a smaller train_batch" if stage.checkpointing else "checkpointing=True, or a smaller train_batch",
        "optimiser step": "LoRA, or shard=True on more processes",
        "save": "save_as='adapter'",
    }
    if held > memory:
        options = [
            *(["offload_encoders=True"] if resident["encoders"] else []),
            *(["quantise='nf4'"] if source.quantise == "none" and stage.lora_rank else []),
            *(["a judge elsewhere"] if resident["judge"] else []),
            *([] if source.quantise != "none" else ["shard=True on more processes"]),
        ]
        return (f"what is always held, {held:.1f} of {memory:.1f} GiB: {', '.join(options) or 'a larger device'}",)
    return exceeding(phases, held, memory, remedies)


def _rate(architecture: Architecture, training: Training, shape: Shape, device: str, tflops: float | None) -> Rate:
    """What is given, else one block of each kind on the GPU, else a matrix product on this processor."""
    if tflops is not None:
        return Rate(1e12 * tflops, 1e12 * tflops, f"--tflops {tflops}")
    if device.startswith("cuda") and torch.cuda.is_available():
        return _block_rate(architecture, training, shape, device)
    left, right = torch.ones(MATMUL_SIDE, MATMUL_SIDE), torch.ones(MATMUL_SIDE, MATMUL_SIDE)
    best = 2 * MATMUL_SIDE**3 / fastest(lambda: left @ right, "cpu")
    return Rate(best, best, f"a float32 product on this processor, {best / 1e12:.3f} TFLOP/s: give --tflops for a GPU")


def _block_rate(architecture: Architecture, training: Training, shape: Shape, device: str) -> Rate:
    """FLOP/s of one block of each kind with random weights: a forward, and a forward with its backward pass."""
    blocks = [1, 1] if architecture.pipeline.startswith("Flux") else [1]
    one = counted(architecture, training, shape, blocks)
    transformer = prepared(architecture, training, blocks)
    materialise(transformer, training, lambda size, dtype: 0.02 * torch.randn(size, dtype=dtype, device=device))

    def sample() -> None:
        with torch.no_grad():
            run_velocity(transformer, training, shape, training.sample_rows, device)

    def update() -> None:
        update_loss(transformer, training, shape, device).backward()

    passes = 2 if training.guided else 1
    seconds = [fastest(work, device) for work in (sample, update)]
    return Rate(
        passes * training.sample_rows * one.forward_flops / seconds[0],
        passes * training.update_rows * one.update_flops / seconds[1],
        f"one random block of each kind on {torch.cuda.get_device_name(device)}",
    )


def plan_text(made: Plan) -> str:
    """For people."""
    total = sum(made.seconds.values())
    phases = ", ".join(f"{name} {value:,.1f}" for name, value in made.seconds.items())
    lines = [
        f"{made.editor}, one of {made.processes} processes",
        *memory_lines(made.resident, made.phases, made.host, made.peak, made.device_memory, made.misfits),
        f"a step: {made.samples_per_step} edits, {made.judgments_per_step} judgments, "
        f"{sum(made.petaflops.values()):,.1f} PFLOP a process",
        f"about {total:,.1f} s a step without judging and communication ({phases}); from {made.rate.source}",
        *(f"assumed: {text}" for text in made.assumptions),
    ]  # fmt: skip
    return "\n".join(lines)
