"""What `--plan` tells of memory, beside what an iteration of the same training takes on this processor.

    OMP_NUM_THREADS=1 python bench/plan_memory.py --out runs/plan_memory.json

The packaged Kontext (5 M weights) at `pixels`, two iterations each in a process of its own: the first makes the
optimiser's moments. "allocated" is the sum of the weights and of the most that torch's allocator gave out beside them,
as its profiler records every allocation and release; "resident" adds what the process grew by, as the system counts its
pages, to the same weights: code that is loaded on the way and the profiler's own records are in it. No judge runs: the
reward is brightness.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.images import decode_pil, decode_rgb, encode_png
from edit_r1.recipes.tiny import role_samples, tiny_checkpoint
from edit_r1.records import Context
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import write_json
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import Algorithm, EditorRLStage, changed
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.nft import train_nft
from edit_r1.train.plan import plan
from edit_r1.train.plan_parts import GIB, DeviceOptions

STAGE = changed(
    EditorRLStage(), steps=2, contexts_per_step=2, group_size=2, sampling_steps=3, window="all", lora_rank=16,
    sample_batch=4, train_batch=2, save_every=0, save_as="adapter",
)  # fmt: skip
WAYS: dict[str, tuple[Algorithm, EditorRLStage, dict[str, Any]]] = {
    "LoRA": ("flow-grpo", STAGE, {}),
    "LoRA, checkpointing": ("flow-grpo", replace(STAGE, checkpointing=True), {}),
    "LoRA on bf16, checkpointing": ("flow-grpo", replace(STAGE, checkpointing=True), {"dtype": "bfloat16"}),
    "all weights, average": (
        "flow-grpo", changed(STAGE, lora_rank=0, save_as="merged", ema_decay=0.9, learning_rate=1e-5), {},
    ),
    "all weights, bf16 products, checkpointing": (
        "flow-grpo", changed(STAGE, lora_rank=0, save_as="merged", checkpointing=True, learning_rate=1e-5),
        {"bf16": True},
    ),
    "DiffusionNFT, all weights": (
        "diffusion-nft", changed(STAGE, lora_rank=0, save_as="merged", trained_steps=2, learning_rate=1e-5), {},
    ),
}  # fmt: skip


def main(pixels: int = 128, ways: tuple[str, ...] = tuple(WAYS), out: Path | None = None, child: str = "") -> None:
    """child: this is one of the processes, and the way it trains."""
    if child:
        print(json.dumps(measured(child, pixels)))
        return
    rows: dict[str, dict[str, float]] = {}
    for way in ways:
        command = [sys.executable, __file__, "--pixels", str(pixels), "--child", way]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(f"{way}: {done.stderr.strip() or 'no output'}")
        rows[way] = json.loads(done.stdout.splitlines()[-1])
    table = Table(f"{pixels} px", "plan, MB", "allocated, MB", "plan / allocated", "resident, MB")
    for way, row in rows.items():
        share = row["planned"] / row["allocated"]
        table.add_row(way, f"{row['planned']:.0f}", f"{row['allocated']:.0f}", f"{share:.2f}", f"{row['resident']:.0f}")
    Console().print(table)
    if out is not None:
        write_json(out, {"pixels": pixels, "rows": rows})


def measured(way: str, pixels: int) -> dict[str, float]:
    """MB that the plan tells, and that one iteration took."""
    quiet_libraries()
    algorithm, stage, options = WAYS[way]
    source = checkpoint(pixels, **options)
    told = plan(stage, source, JudgeSettings(), DeviceOptions(pixels=pixels, tflops=1.0), algorithm)
    editor = source()
    parts = [getattr(editor.pipeline, name) for name in ("transformer", "vae", "text_encoder", "text_encoder_2")]
    weights = sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters())
    contexts = [
        Context(replace(sample, source=enlarged(sample.source, pixels)), (), "EditWorld", simulated=True)
        for sample in role_samples("rl", stage.contexts_per_step, 0)
    ]
    train = train_editor if algorithm == "flow-grpo" else train_nft
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder, profile(
        activities=[ProfilerActivity.CPU], profile_memory=True
    ) as recorded:  # fmt: skip
        train(stage, editor, contexts, brightness, Path(folder) / "run")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "planned": told.peak * GIB / 1e6, "weights": weights / 1e6,
        "allocated": (weights + most(allocations(recorded))) / 1e6, "resident": (weights + grown) / 1e6,
    }  # fmt: skip


def checkpoint(pixels: int, dtype: Any = "float32", bf16: bool = False) -> EditorCheckpoint:
    """The packaged editor at that size."""
    source = tiny_checkpoint(bf16_products=bf16)
    return replace(source, dtype=dtype, settings=replace(source.settings, max_area=pixels**2, batch_size=4))


def enlarged(picture: bytes, pixels: int) -> bytes:
    return encode_png(np.asarray(decode_pil(picture).convert("RGB").resize((pixels, pixels))))


def brightness(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float]:
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def allocations(recorded: profile) -> Iterable[int]:
    """Bytes of every allocation (positive) and release (negative), in order of time."""
    found: Any = recorded.profiler
    events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def most(changes: Iterable[int]) -> int:
    """Highest running sum."""
    now = highest = 0
    for change in changes:
        now += change
        highest = max(highest, now)
    return highest


if __name__ == "__main__":
    tyro.cli(main)
