"""The configuration of GCPO; the paper discloses none of its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from edit_r1.records import OutputMode
from edit_r1.train.alarms import AlarmSettings
from edit_r1.train.machine import MachineSettings, check_machine
from edit_r1.train.settings import Unprefixed
from edit_r1.train.verifier_run import Precision, Schedule, check_numbers
from edit_r1.verifier.prompts import Variant

Engine = Literal["own", "vllm-colocated", "vllm-served"]
Correction = Literal["token_truncate", "sequence_mask", "none"]


@dataclass(frozen=True)
class SamplingSettings:
    """How traces are drawn. top_p, top_k, min_p and penalties are off."""

    max_new_tokens: int = 160
    """A longer trace is cut, counted as truncated and treated as unparsed."""
    temperature: float = 1.0
    """Of sampling, and of the log-probabilities that are trained."""
    decode_batch: int = 64
    """Traces a process samples at once with its own engine, rounded down to whole candidates but at least one; caches
    beyond a CPU's own are slow."""
    engine: Engine = "own"
    """"own" samples from the model that is trained. The other two are vLLM through TRL, on the training's GPUs or on a
    server's (docs/train_verifier.md says how to start one); their traces differ from those of the weights that are
    trained by rounding, which `correction` accounts for, and a resumed run draws others than the stopped one would."""
    vllm_address: str = "http://127.0.0.1:8000"
    """Of the server, without /v1."""
    vllm_memory: float = 0.3
    """Share of each GPU's memory for a colocated vLLM: its copy of the weights and its cache."""
    vllm_context: int = 0
    """Most tokens of a prompt and its trace for a colocated vLLM; 0 takes the model's, for which memory may not do."""
    vllm_split: int = 1
    """GPUs that share one colocated copy of the weights (tensor parallelism); divides the number of processes."""
    vllm_sleep: bool = True
    """A colocated vLLM gives its memory back while the weights are updated."""
    correction: Correction = "token_truncate"
    """What vLLM's other rounding costs: each token's loss is weighed by its probability under the trained weights over
    that under vLLM's, at most `correction_cap` ("token_truncate", which keeps every trace), or a trace whose ratio
    over all its tokens is above the cap is left out ("sequence_mask", TRL's default)."""
    correction_cap: float = 2.0

    def __post_init__(self) -> None:
        check_numbers(
            {
                "max_new_tokens": self.max_new_tokens, "temperature": self.temperature,
                "decode_batch": self.decode_batch, "vllm_split": self.vllm_split,
            },
            {"vllm_context": self.vllm_context},
        )  # fmt: skip
        if not 0 < self.vllm_memory < 1:
            raise ValueError(f"vllm_memory={self.vllm_memory}: a share of the GPU's memory, in (0, 1)")
        if not self.vllm_address.startswith(("http://", "https://")):
            raise ValueError(f"vllm_address={self.vllm_address!r}: must begin with http:// or https://")
        if not 1 <= self.correction_cap < math.inf:
            raise ValueError(f"correction_cap={self.correction_cap}: must be 1 or more, usually 2")


@dataclass(frozen=True)
class GCPOUpdates:
    """How the weights move: AdamW without weight decay on float32 weights."""

    updates_per_generation: int = 1
    """Optimiser steps on each generation, every one over all its traces."""
    epsilon: float = 0.2
    """Clip range of the ratio, on both sides."""
    learning_rate: float = 1e-6
    """1e-6 suits full training of 7B, 8e-5 models of 1-5M."""
    warmup_steps: int = 0
    """Optimiser steps with a growing learning rate."""
    schedule: Schedule = "constant"
    """What the learning rate does after the warm-up."""
    average_last: float = 0.0
    """Share of the steps, [0, 1), at the end of the run whose weights are averaged into the result; 0 keeps the last
    weights. The fewer pairs a generation holds, the noisier its update, and the more the mean is worth."""
    max_grad_norm: float = 1.0
    micro_batch: int = 64
    """Traces a process puts through the model at once in an update; divides its share of the generation. With a
    multiple of `traces` every prompt is read once for all its traces, unless `gradient_checkpointing` recomputes it."""

    def __post_init__(self) -> None:
        check_numbers(
            {
                "updates_per_generation": self.updates_per_generation, "learning_rate": self.learning_rate,
                "max_grad_norm": self.max_grad_norm, "micro_batch": self.micro_batch,
            },
            {"warmup_steps": self.warmup_steps},
        )  # fmt: skip
        if not 0 <= self.average_last < 1:
            raise ValueError(f"average_last={self.average_last}: must lie in [0, 1); 0 averages nothing")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon}: must lie in (0, 1), usually 0.2")


@dataclass(frozen=True)
class RatioSettings:
    """What a trace earns; by default the paper's ratio."""

    pairs_from: Literal["judgments", "votes"] = "judgments"
    """Every decided judgment is a pair of its own, or all judgments of the same two candidates are one pair whose label
    is the share of their votes (`preferences.votes`)."""
    aspects: Literal["whole", "any"] = "whole"
    """Pairs that were compared by one aspect ("consistency") are refused, because the score is of the whole edit; or
    trained on like the others."""
    flip_rate: float = 0.0
    """Share of labels taken to be wrong, [0, 0.5): each label's probability is mixed with its opposite's (ours;
    `algo.gcpo`). `preferences.votes.flip_rate` estimates it from pairs that several annotators judged."""
    length_limit: int = 0
    """Tokens of a trace above which each costs `length_cost`; used only with a cost."""
    length_cost: float = 0.0
    """Taken from a trace's ratio, which is 0 to 1, for every token above the limit (ours); 0 controls nothing."""

    def __post_init__(self) -> None:
        check_numbers({}, {"length_limit": self.length_limit, "length_cost": self.length_cost})
        if not 0 <= self.flip_rate < 0.5:
            raise ValueError(f"flip_rate={self.flip_rate}: must lie in [0, 0.5); at 0.5 labels tell nothing")
        if self.length_cost > 0 and self.length_limit == 0:
            raise ValueError(f"length_cost={self.length_cost} without length_limit: name the tokens that cost nothing")


@dataclass(frozen=True)
class ReplaySettings:
    """SFT's traces in GCPO's updates (ours, `train.replay`); the data is `train_gcpo`'s `replay`."""

    replay_weight: float = 0.0
    """Of the mean loss of a token of the replayed traces beside the surrogate; 0 replays nothing, as the paper."""
    replay_traces: int = 32
    """Of an update, over all processes, whose number divides it; at most as many as a generation samples."""

    def __post_init__(self) -> None:
        check_numbers({"replay_traces": self.replay_traces}, {"replay_weight": self.replay_weight})


@dataclass(frozen=True)
class GCPOStage:
    """GCPO of a verifier; every setting that shapes the result."""

    model: str
    """Folder (or hub id) of the verifier after SFT."""
    out: str
    """Folder of the run; the result is `out`/model."""
    mode: OutputMode = "both"
    variant: Variant = "full"
    steps: int = 50
    """Generations of sample, compare, advantage, update."""
    pairs_per_step: int = 16
    """Preference pairs of a generation, over all processes."""
    traces: int = 8
    """N, traces per candidate; at least 2."""
    sampling: Annotated[SamplingSettings, Unprefixed] = field(default_factory=SamplingSettings)
    updates: Annotated[GCPOUpdates, Unprefixed] = field(default_factory=GCPOUpdates)
    ratio: Annotated[RatioSettings, Unprefixed] = field(default_factory=RatioSettings)
    replay: Annotated[ReplaySettings, Unprefixed] = field(default_factory=ReplaySettings)
    alarms: Annotated[AlarmSettings, Unprefixed] = field(default_factory=AlarmSettings)
    machine: Annotated[MachineSettings, Unprefixed] = field(default_factory=MachineSettings)
    lora_rank: int = 0
    """0 trains every weight. alpha is twice the rank."""
    freeze_vision: bool = False
    """Leaves the vision tower as it is (LoRA does so anyway)."""
    max_pixels: int = 0
    """Largest area of a picture, in pixels; kept in the saved processor. 0 keeps the one of SFT."""
    precision: Precision = "fp32"
    """What is computed in; trained weights are fp32 in any case."""
    stored: Precision = "bf16"
    """What the result is stored in."""
    save_every: int = 10
    """Generations between checkpoints."""
    cpu: bool = False
    """True never uses a GPU."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            {"steps": self.steps, "pairs_per_step": self.pairs_per_step, "save_every": self.save_every},
            {"lora_rank": self.lora_rank, "max_pixels": self.max_pixels, "seed": self.seed},
        )
        check_machine(self.machine, self.lora_rank)
        if self.machine.row_workers:
            raise ValueError(
                f"row_workers={self.machine.row_workers}: for SFT alone; GCPO puts a generation's rows together once"
            )
        if self.traces < 2:
            raise ValueError(f"traces={self.traces}: a group needs at least 2 traces to have an advantage")
        if self.ratio.length_cost > 0 and self.ratio.length_limit >= self.sampling.max_new_tokens:
            raise ValueError(
                f"length_limit={self.ratio.length_limit}: must be below max_new_tokens="
                f"{self.sampling.max_new_tokens}, or no trace ever pays"
            )
        if self.replay.replay_weight and self.replay.replay_traces > self.rollouts:
            raise ValueError(
                f"replay_traces={self.replay.replay_traces}: at most the {self.rollouts} traces of a generation"
            )
        if self.max_pixels > 0 and self.sampling.engine != "own":
            raise ValueError(
                f"max_pixels={self.max_pixels} with engine={self.sampling.engine!r}: vLLM reads pictures by the "
                "checkpoint's own processor; bound them in SFT (its max_pixels is saved with the model)"
            )
        if self.rollouts % self.updates.micro_batch:
            raise ValueError(
                f"micro_batch={self.updates.micro_batch}: must divide the {self.rollouts} traces of a generation "
                f"(2 x pairs_per_step={self.pairs_per_step} x traces={self.traces})"
            )

    @property
    def rollouts(self) -> int:
        """Traces of a generation."""
        return 2 * self.pairs_per_step * self.traces
