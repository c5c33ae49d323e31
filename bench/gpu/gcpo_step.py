"""A generation of GCPO at real sizes: Qwen2.5-VL-3B and 7B with random weights, LoRA and full training, on one GPU.

    python bench/gpu/gcpo_step.py --models 3b 7b --ways lora full --out runs/gcpo_step.json
    python bench/gpu/gcpo_step.py --tiny              # a smoke test on a CPU, measures nothing worth quoting

Random weights compute what trained ones compute, so nothing is downloaded. Their traces do not end and hold no score:
every trace has `--new-tokens` tokens, and its score is drawn, so that every pair teaches. The tokenizer is that of the
packaged tiny verifier, whose few words make more tokens of a text than the real one; the prompt's tokens are told.
Parts and totals are of generations after the first, which warms up. What does not fit is told as such.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor
from verifier_speed import config_of

from edit_r1.images import encode_png
from edit_r1.records import CATEGORIES, Candidate, Context, Preference, Principle, Sample
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import write_json
from edit_r1.train.gcpo import GCPOTrainer, train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.machine import MachineSettings
from edit_r1.train.pairs import Rollouts
from edit_r1.train.verifier_run import read_curves
from edit_r1.verifier.cards import ModelCard, write_card
from edit_r1.zoo.packaged import weights

Size = Literal["3b", "7b", "tiny"]
Way = Literal["lora", "full"]
LORA_RANK = 64


class Drawn(GCPOTrainer):
    """Scores are drawn, and sampling is clocked."""

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        drawn = super()._generate_single_turn(*arguments, **options)
        self._metrics["train"]["seconds_sample"].append(time.perf_counter() - started)
        self._metrics["train"]["prompt_tokens"].append(max(map(len, arguments[0])))
        return drawn

    def rewards_of(self, rollouts: Rollouts) -> Tensor:
        generator = torch.Generator().manual_seed(self.state.global_step)
        scores_B = 10 * torch.rand(len(rollouts.scores_B), generator=generator, dtype=torch.float64)
        return super().rewards_of(replace(rollouts, scores_B=scores_B.to(rollouts.scores_B.device)))


@dataclass(frozen=True)
class Row:
    """One model, trained in one way; medians over the generations that count."""

    model: str
    way: str
    fits: bool
    prompt_tokens: int | None = None
    generation_s: float | None = None
    sample_s: float | None = None
    update_s: float | None = None
    """The generation without its rollout: forward, backward and the optimiser."""
    sampled_per_s: float | None = None
    """Tokens of traces drawn a second, prompts not counted."""
    trained_per_s: float | None = None
    """Tokens of prompts and traces a second of the update, each prompt counted for each of its traces."""
    peak_gb: float | None = None
    """Most device memory, 1e9 bytes; None on a CPU."""


def main(
    models: tuple[Literal["3b", "7b"], ...] = ("3b", "7b"),
    ways: tuple[Way, ...] = ("lora", "full"),
    pairs: int = 4,
    traces: int = 8,
    pixels: int = 1024,
    principles: int = 10,
    new_tokens: int = 512,
    generations: int = 3,
    checkpointing: bool = False,
    tiny: bool = False,
    out: Path | None = None,
) -> None:
    """
    Args:
        pairs: of a generation, which draws twice as many times `traces` traces.
        pixels: width and height of every picture.
        generations: that count, after one that does not.
        checkpointing: recompute activations in the update.
        tiny: a toy model, small pictures and few tokens, on this machine's CPU.
        out: where the numbers go, JSON.
    """
    if not tiny and not torch.cuda.is_available():
        raise SystemExit("gcpo_step: no CUDA device here; --tiny runs a smoke test on the CPU")
    quiet_libraries()
    sizes: tuple[Size, ...] = ("tiny",) if tiny else models
    if tiny:
        pairs, traces, pixels, principles, new_tokens, generations = 1, 2, 56, 2, 8, 1
    preferences = preferences_of(pairs, pixels, principles)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = random_checkpoint(size, Path(scratch) / "model")
            for way in ways:
                stage = stage_of(checkpoint, Path(scratch) / way, way, pairs, traces, new_tokens, generations)
                machine = replace(stage.machine, gradient_checkpointing=checkpointing)
                rows.append(measure(size, way, replace(stage, machine=machine, cpu=tiny), preferences))
                print(table(rows)[-1], file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    if out is not None:
        about = {"pairs": pairs, "traces": traces, "pixels": pixels, "new_tokens": new_tokens}
        device = "CPU" if tiny else torch.cuda.get_device_name()
        write_json(out, {"device": device, **about, "checkpointing": checkpointing, "rows": [asdict(r) for r in rows]})


def random_checkpoint(size: Size, folder: Path) -> Path:
    """A folder in the Hugging Face layout, bf16 weights."""
    small = weights("verifier-small")
    known, processor = AutoConfig.from_pretrained(small), AutoProcessor.from_pretrained(small)
    config = config_of(size)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, getattr(known, name))
    config.text_config.vocab_size = max(config.text_config.vocab_size, len(processor.tokenizer))
    vision = config.vision_config
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_card(folder, ModelCard(variant="compact"))
    return folder


def preferences_of(pairs: int, pixels: int, principles: int) -> list[Preference]:
    """Pairs of noise."""
    rng = np.random.default_rng(0)

    def picture() -> bytes:
        return encode_png(rng.integers(0, 256, (pixels, pixels, 3), dtype=np.uint8), compress_level=1)

    listed = tuple(
        Principle(f"Is point {n} of the instruction fulfilled as asked?", CATEGORIES[n % 3]) for n in range(principles)
    )
    made = []
    for number in range(pairs):
        sample = Sample(f"s{number}", picture(), "Make the shirt of the woman on the left red.", "colour")
        edits = [Candidate(f"s{number}-{side}", sample.id, picture(), "noise", 0) for side in ("a", "b")]
        made.append(Preference(Context(sample, listed, "given"), edits[0], edits[1], "first", "nobody", True))
    return made


def stage_of(
    checkpoint: Path, out: Path, way: Way, pairs: int, traces: int, new_tokens: int, generations: int
) -> GCPOStage:
    """As the recipes for one GPU have it: a micro-batch is the traces of one edit, the tower stays as it is."""
    return GCPOStage(
        model=str(checkpoint), out=str(out), variant="compact", steps=1 + generations, pairs_per_step=pairs,
        traces=traces, sampling=SamplingSettings(max_new_tokens=new_tokens), updates=GCPOUpdates(micro_batch=traces),
        machine=MachineSettings(frozen="bf16" if way == "lora" else "fp32"),
        lora_rank=LORA_RANK if way == "lora" else 0, freeze_vision=True, precision="bf16", save_every=1000,
    )  # fmt: skip


def measure(size: Size, way: Way, stage: GCPOStage, preferences: Sequence[Preference]) -> Row:
    """Trains, and reads what its curves say."""
    gc.collect()
    if not stage.cpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        train_gcpo(stage, preferences, trainer_class=Drawn)
    except torch.OutOfMemoryError:
        return Row(size, way, False)
    curves = read_curves(Path(stage.out) / "curves.jsonl")
    shutil.rmtree(stage.out)  # a 7B model takes 16 GB
    whole = [after["seconds"] - before["seconds"] for before, after in pairwise(curves)]
    counted = curves[1:]
    update = median(one - line["seconds_rollout"] for one, line in zip(whole, counted, strict=True))
    sample = median(line["seconds_sample"] for line in counted)
    trace, prompt = (median(line[name] for line in counted) for name in ("trace_tokens", "prompt_tokens"))
    peak = None if stage.cpu else torch.cuda.max_memory_allocated() / 1e9
    return Row(
        size, way, True, int(prompt), median(whole), sample, update, stage.rollouts * trace / sample,
        stage.rollouts * (prompt + trace) / update, peak,
    )  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| model | way | prompt tokens | generation, s | sampling, s | update, s | drawn tokens/s | trained tokens/s "
        "| memory, GB |",
        "| --- " * 9 + "|",
    ]
    for r in rows:
        if not r.fits:
            lines.append(f"| {r.model} | {r.way} | does not fit | | | | | | |")
            continue
        memory = "" if r.peak_gb is None else f"{r.peak_gb:.1f}"
        lines.append(
            f"| {r.model} | {r.way} | {r.prompt_tokens} | {r.generation_s:.1f} | {r.sample_s:.1f} | {r.update_s:.1f} | "
            f"{r.sampled_per_s:.0f} | {r.trained_per_s:.0f} | {memory} |"
        )
    return lines


if __name__ == "__main__":
    tyro.cli(main)
