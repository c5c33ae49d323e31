"""`edit-r1 train sft|gcpo RECIPE --plan`: what training a verifier will need, before a checkpoint is opened.

Counted: weights, gradients, optimiser, average, activations of language model and tower (`train.verifier_measure`),
the head's tiles, caches of sampling, FLOPs of a step; in the machine's memory what is loaded and saved, and the
pictures of a generation. Decoding is bound by memory, so its seconds come from bytes read.
Not counted: the CUDA context, fragmentation, workspaces of kernels, an attention mask, and what vLLM does with the
memory that it is given; nor the seconds of communication, of pushing weights to vLLM, and of saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edit_r1.editors.architecture import Part
from edit_r1.records import CATEGORIES, Principle
from edit_r1.train.gcpo_stage import GCPOStage
from edit_r1.train.plan_measure import Training
from edit_r1.train.plan_parts import GIB, DeviceOptions, exceeding, fastest, gib, memory_lines
from edit_r1.train.sft import SFTStage
from edit_r1.train.verifier_measure import Batch, Footprint, text_footprint, verifier_part, vision_footprint
from edit_r1.verifier.prompts import judge_request

SIDE = 1024
"""Of the square pictures that are counted when neither flag nor stage says; what a judge is shown at most."""
TOKEN_CHARACTERS = 4
"""Characters of English that a token is taken to hold."""
PRINCIPLES, PRINCIPLE_CHARACTERS = 10, 70
HEAD_ROWS, HEAD_COLUMNS = 4096, 32_768
"""Logits that TRL's fused head computes at once (trl.kernels, trl.trainer.utils)."""
MATMUL_SIDE = 1024
COPY_BYTES = 2**26


@dataclass(frozen=True)
class VerifierPlanOptions(DeviceOptions):
    """Flags of `--plan`."""

    trace_tokens: int | None = None
    """Of a trace; by default 600 for SFT and the recipe's max_new_tokens for GCPO, its most."""
    bandwidth: float | None = None
    """Take the seconds of decoding for a device that reads its memory at so many GB/s."""


@dataclass(frozen=True)
class VerifierPlan:
    """What a process needs; memory in GiB."""

    model: str
    stage: str
    """"sft" or "gcpo"."""
    processes: int
    parameters: int
    trained: int
    """Weights that are trained."""
    prompt_tokens: int
    """Pictures included."""
    trace_tokens: int
    traces_per_step: int
    """Of all processes: seen in an SFT update, or drawn in a generation."""
    tokens_per_step: int
    """Prompts and traces that are trained on, of all processes, however often a prompt is read."""
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
    petaflops: dict[str, float]
    """1e15 FLOPs of a step of one process."""
    seconds: dict[str, float]
    rate: dict[str, float | str]
    assumptions: tuple[str, ...]


def plan_verifier(stage: SFTStage | GCPOStage, options: VerifierPlanOptions | None = None) -> VerifierPlan:
    """The plan of a stage. Only configs are read. Raises ValueError for what cannot be planned."""
    options = options or VerifierPlanOptions()
    part = verifier_part(stage.model)
    gcpo = isinstance(stage, GCPOStage)
    grid, picture_tokens, told = _pictures(part, stage.max_pixels, options.pixels)
    trace = options.trace_tokens or (stage.sampling.max_new_tokens if isinstance(stage, GCPOStage) else 600)
    prompt = text_tokens(stage) + 2 * picture_tokens
    batch, forwards, traces, updates = _work(stage, prompt, trace, options.processes)
    training = Training(
        torch.bfloat16 if stage.machine.frozen == "bf16" else torch.float32, stage.lora_rank,
        stage.machine.gradient_checkpointing, stage.precision == "bf16", 1, 1,
    )  # fmt: skip
    text = text_footprint(part, training, batch)
    looks = looks_of(batch.prompts) if gcpo else 2 * batch.rows
    tower_trained = stage.lora_rank == 0 and not stage.freeze_vision
    vision = vision_footprint(part, training, grid, looks, tower_trained)
    counts = _Counts(part, stage, text, vision, tower_trained)
    resident, phases, host = _memory(stage, counts, batch, text, vision, options)
    if isinstance(stage, GCPOStage):
        host["pictures of a generation"] = _pictures_held(part, stage, grid, options.processes) / GIB
    memory = options.device_memory or (torch.cuda.mem_get_info()[1] / GIB if torch.cuda.is_available() else None)
    if isinstance(stage, GCPOStage) and stage.sampling.engine == "vllm-colocated":
        phases["sample"] = stage.sampling.vllm_memory * memory if memory else counts.bf16 / stage.sampling.vllm_split
        if not stage.sampling.vllm_sleep:
            resident["vLLM"] = phases.pop("sample")
    petaflops, decode_bytes = _step(stage, counts, batch, text, vision, forwards, updates)
    if isinstance(stage, GCPOStage) and stage.replay.replay_weight:
        rows = -(-stage.replay.replay_traces // options.processes)
        again = Batch(min(rows, stage.updates.micro_batch), 1, prompt, trace, shared=False)
        replayed = text_footprint(part, training, again)
        seen = vision_footprint(part, training, grid, 2 * again.rows, tower_trained)
        # Beside a micro-batch: both are behind one loss.
        phases["update"] += (replayed.update_bytes + seen.update_bytes) / GIB
        head = (6.0 if counts.head_trained else 4.0) * counts.embedding * again.rows * trace
        one = replayed.update_flops + seen.update_flops + head
        petaflops["replay"] = updates * rows / again.rows * one / 1e15
    rate = _rate(options)
    seconds = {name: 1e15 * value / float(rate["flops"]) for name, value in petaflops.items()}
    if decode_bytes:
        seconds["decode"] = decode_bytes / float(rate["bytes"])
    peak = sum(resident.values()) + max(phases.values())
    return VerifierPlan(
        stage.model, "gcpo" if gcpo else "sft", options.processes, counts.parameters, counts.trained, prompt, trace,
        traces, traces * (prompt + trace), resident, phases, host, peak, memory,
        () if memory is None else misfits(stage, resident, phases, memory), petaflops, seconds, rate,
        (*told, f"prompts of {prompt} tokens, 2 pictures and {PRINCIPLES} principles, and traces of {trace}"),
    )  # fmt: skip


def text_tokens(stage: SFTStage | GCPOStage) -> int:
    """Of a judge's prompt without its pictures, from its characters."""
    principles = [Principle("x" * PRINCIPLE_CHARACTERS, CATEGORIES[i % len(CATEGORIES)]) for i in range(PRINCIPLES)]
    request = judge_request([b"source"], b"edit", "x" * 100, principles, stage.mode, stage.variant)
    texts = [part for part in request.parts if isinstance(part, str)] + [request.system or ""]
    return sum(len(text) for text in texts) // TOKEN_CHARACTERS


def _pictures(part: Part, max_pixels: int, asked: int | None) -> tuple[tuple[int, int], int, list[str]]:
    """(grid of patches, tokens of a picture, what was assumed)."""
    config = part.config["vision_config"]
    merge = config["spatial_merge_size"]
    unit = config["patch_size"] * merge
    side = asked or (round(max_pixels**0.5) if max_pixels else SIDE)
    if max_pixels:
        side = min(side, round(max_pixels**0.5))
    per_side = max(1, side // unit)
    return (per_side * merge, per_side * merge), per_side**2, [f"square pictures of {per_side * unit} px"]


def looks_of(candidates: int) -> int:
    """Pictures that the tower reads of so many neighbours: an edit each, and a source for two."""
    return candidates + -(-candidates // 2)


def _pictures_held(part: Part, stage: GCPOStage, grid: tuple[int, int], processes: int) -> float:
    """Bytes of a process's share when it is prepared: two pictures for every trace, and for every candidate to keep."""
    config = part.config["vision_config"]
    values = config.get("in_channels", 3) * config.get("temporal_patch_size", 2) * config["patch_size"] ** 2
    traces = stage.rollouts / processes
    return 4.0 * 2 * grid[0] * grid[1] * values * (traces + traces / stage.traces)


def _work(stage: SFTStage | GCPOStage, prompt: int, trace: int, processes: int) -> tuple[Batch, int, int, int]:
    """(a micro-batch, micro-batches of a process and update, traces of a step, updates of a step)."""
    if isinstance(stage, SFTStage):
        batch = Batch(stage.batch_size, 1, prompt, trace, shared=False)
        return batch, stage.accumulate, stage.batch_size * stage.accumulate * processes, 1
    forwards, rest = divmod(stage.rollouts, stage.updates.micro_batch * processes)
    if rest or not forwards:
        raise ValueError(
            f"micro_batch={stage.updates.micro_batch} on {processes} processes: must divide the {stage.rollouts} "
            "traces of a generation"
        )
    traces = min(stage.traces, stage.updates.micro_batch)
    shared = not stage.machine.gradient_checkpointing and stage.machine.shard == "none"
    batch = Batch(-(-stage.updates.micro_batch // traces), traces, prompt, trace, shared and traces > 1)
    return batch, forwards, stage.rollouts, stage.updates.updates_per_generation


class _Counts:
    """Weights by what they are."""

    def __init__(
        self, part: Part, stage: SFTStage | GCPOStage, text: Footprint, vision: Footprint, tower_trained: bool
    ) -> None:
        config = part.config["text_config"]
        self.parameters = part.parameters()
        self.embedding = config["vocab_size"] * config["hidden_size"]
        self.width = config["hidden_size"]
        self.layers = config["num_hidden_layers"]
        heads = config["num_key_value_heads"]
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        self.cache_values = 2 * self.layers * heads * width
        """Keys and values of a token."""
        tied = part.config.get("tie_word_embeddings", False)
        self.head_trained = stage.lora_rank == 0
        own = text.trained - (8 * config["hidden_size"] if stage.lora_rank == 0 else 0)
        tower = vision.trained if tower_trained else 0
        self.trained = int(own + tower + (self.embedding * (1 if tied else 2) if self.head_trained else 0))
        self.bf16 = 2 * self.parameters / GIB


def _memory(
    stage: SFTStage | GCPOStage, counts: _Counts, batch: Batch, text: Footprint, vision: Footprint,
    options: VerifierPlanOptions,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:  # fmt: skip
    """Resident, by phase, and on the host, GiB of one process."""
    shards = options.processes if stage.machine.shard != "none" else 1
    held = 2 if stage.machine.frozen == "bf16" else 4
    lora = 4.0 * counts.trained if stage.lora_rank else 0.0
    trained = 4.0 * counts.trained
    average = trained if isinstance(stage, GCPOStage) and stage.updates.average_last > 0 else 0.0
    resident = {
        "weights": held * counts.parameters / shards,
        "LoRA": lora,
        "gradients": trained / shards,
        "optimiser": 2 * trained / shards,
        "average": average / shards,
    }
    together = 0.0
    if shards > 1:
        # The layer in use and the next one whole, in the dtype of products, beside embedding and head.
        size = 2 if stage.precision == "bf16" else 4
        layer = (counts.parameters - 2 * counts.embedding) / counts.layers
        together = size * (2 * layer + 2 * counts.embedding) + 4.0 * (layer + counts.embedding)
    answered = batch.rows * batch.trace
    tile = 4.0 * min(answered, HEAD_ROWS) * HEAD_COLUMNS + 4.0 * answered * counts.width
    head = tile + (4.0 * counts.embedding if counts.head_trained else 0.0)
    phases = {
        "update": text.update_bytes + vision.update_bytes + head + together,
        "optimiser step": trained / shards,
    }
    if isinstance(stage, GCPOStage) and stage.sampling.engine == "own":
        prompts = max(1, stage.sampling.decode_batch // stage.traces)
        tokens = prompts * batch.prompt + prompts * stage.traces * batch.trace
        size = 2 if stage.machine.frozen == "bf16" else 4
        # Beside the cache: trained weights as they are multiplied (`rollout.own_precision`).
        cast = 2.0 * counts.trained if stage.precision == "bf16" and shards == 1 else 0.0
        phases["sample"] = size * counts.cache_values * tokens + cast + together
    host = {
        "weights while loading": held * counts.parameters,
        "result while saving": 4.0 * counts.parameters if stage.machine.shard != "none" or held == 2 else 0.0,
    }
    return gib(resident), gib(phases), gib(host)


def _step(
    stage: SFTStage | GCPOStage, counts: _Counts, batch: Batch, text: Footprint, vision: Footprint, forwards: int,
    updates: int,
) -> tuple[dict[str, float], float]:  # fmt: skip
    """(1e15 FLOPs by phase of a process and step, bytes that decoding reads)."""
    head = 2.0 * counts.embedding * batch.rows * batch.trace
    forward = text.forward_flops + vision.forward_flops + head
    update = text.update_flops + vision.update_flops + (3 if counts.head_trained else 2) * head
    petaflops = {"update": forwards * updates * update / 1e15}
    if isinstance(stage, SFTStage):
        return petaflops, 0.0
    sampling = stage.sampling
    if updates > 1 or (sampling.engine != "own" and sampling.correction != "none"):
        petaflops["old log-probabilities"] = forwards * forward / 1e15
    if sampling.engine == "vllm-served":
        return petaflops, 0.0
    rows = forwards * stage.updates.micro_batch
    language = counts.parameters - counts.embedding
    candidates = -(-rows // stage.traces)
    together = min(candidates, max(1, sampling.decode_batch // stage.traces)) if sampling.engine == "own" else 1
    pictures = -(-candidates // together) * looks_of(together)
    seen = pictures * vision.forward_flops / looks_of(batch.prompts)
    petaflops["read prompts"] = (2.0 * language * candidates * batch.prompt + seen) / 1e15
    at_once = sampling.decode_batch if sampling.engine == "own" else rows
    passes = -(-rows // at_once) * batch.trace
    size = 2 if sampling.engine != "own" or stage.machine.frozen == "bf16" else 4
    prompt_share = batch.prompt / stage.traces if sampling.engine == "own" else batch.prompt
    cache = size * counts.cache_values * min(at_once, rows) * (prompt_share + batch.trace / 2)
    return petaflops, passes * (size * language + cache)


def misfits(
    stage: SFTStage | GCPOStage, resident: Mapping[str, float], phases: Mapping[str, float], memory: float
) -> tuple[str, ...]:
    """What exceeds so many GiB, phase by phase, each with what to change."""
    held = sum(resident.values())
    checkpointed = stage.machine.gradient_checkpointing
    batch = "batch_size (and a larger accumulate)" if isinstance(stage, SFTStage) else "micro_batch"
    remedies = {
        "update": f"a smaller {batch}" + ("" if checkpointed else ", or gradient_checkpointing") + ", or max_pixels",
        "optimiser step": "LoRA, or shard='fsdp2' on more processes",
        "sample": "a smaller decode_batch or vllm_memory, or engine='vllm-served'",
    }
    if held > memory:
        what = (
            "frozen='bf16'" if stage.lora_rank else "lora_rank with frozen='bf16', or shard='fsdp2' on more processes"
        )
        if stage.machine.frozen == "bf16":
            what = "a larger device"
        return (f"what is always held, {held:.1f} of {memory:.1f} GiB: {what}",)
    return exceeding(phases, held, memory, remedies)


def _rate(options: VerifierPlanOptions) -> dict[str, float | str]:
    """FLOP/s and bytes/s: as given, else of a product and a copy on this GPU, or on this processor."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    where = f"a {str(dtype).removeprefix('torch.')} product and a copy on this {device}"
    flops = 1e12 * options.tflops if options.tflops is not None else None
    read = 1e9 * options.bandwidth if options.bandwidth is not None else None
    if flops is None:
        side = MATMUL_SIDE * (8 if device == "cuda" else 1)
        left = torch.ones(side, side, device=device, dtype=dtype)
        flops = 2.0 * side**3 / fastest(lambda: left @ left, device)
    if read is None:
        values = torch.ones(COPY_BYTES // 4, device=device)
        read = 2.0 * COPY_BYTES / fastest(lambda: values.clone(), device)
    told = " and ".join(
        f"--{name} {value:g}" for name, value in (("tflops", options.tflops), ("bandwidth", options.bandwidth)) if value
    )
    source = told if options.tflops and options.bandwidth else ", ".join(filter(None, (told, where)))
    return {"flops": flops, "bytes": read, "source": source}


def verifier_plan_text(made: VerifierPlan) -> str:
    """For people."""
    phases = ", ".join(f"{name} {value:,.1f}" for name, value in made.seconds.items())
    lines = [
        f"{made.model}, {made.stage}, one of {made.processes} processes; {made.trained:,} of {made.parameters:,} "
        "weights are trained",
        *memory_lines(made.resident, made.phases, made.host, made.peak, made.device_memory, made.misfits),
        f"a step: {made.traces_per_step} traces, {made.tokens_per_step:,} tokens, "
        f"{sum(made.petaflops.values()):,.2f} PFLOP a process",
        f"about {sum(made.seconds.values()):,.1f} s a step without communication ({phases}); from "
        f"{made.rate['source']}",
        *(f"assumed: {text}" for text in made.assumptions),
    ]  # fmt: skip
    return "\n".join(lines)
