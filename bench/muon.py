"""Time of one Muon step on the tiny verifier's matrices: torch's own, ours in one process, ours shared by several.

    python bench/muon.py --processes 2

One thread a process, gradients at random, median of `steps`. In several processes torch's Muon would take its time in
each of them.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import tyro
from transformers import Qwen2_5_VLForConditionalGeneration

from edit_r1.processes import one_core
from edit_r1.store import read_json, write_json
from edit_r1.train.muon import Muon
from edit_r1.train.optimizers import muon_and_adamw
from edit_r1.train.processes import in_processes
from edit_r1.train.verifier_run import Progress
from edit_r1.zoo.packaged import weights


def main(processes: int = 2, steps: int = 30) -> None:
    """processes: which share the work in the last row."""
    one_core()
    matrices = hidden_matrices()
    print("| | ms a step |", "| --- | --- |", sep="\n")
    own = torch.optim.Muon(matrices, 1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    print(f"| torch.optim.Muon | {timed(own, steps):.1f} |")
    print(f"| train.muon.Muon | {timed(Muon(matrices, 1e-3, 0.0), steps):.1f} |")
    with TemporaryDirectory() as folder:
        result = in_processes(processes, partial(shared, Path(folder), steps))
        print(f"| the same shared by {processes} processes | {read_json(result)['ms']:.1f} |")


def hidden_matrices() -> list[torch.nn.Parameter]:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(weights("verifier-small"), dtype=torch.float32)
    found: list[torch.nn.Parameter] = list(muon_and_adamw(model, 1e-3).parts[0].param_groups[0]["params"])
    for value in found:
        value.grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    return found


def timed(optimiser: torch.optim.Optimizer, steps: int) -> float:
    """Median, milliseconds."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def shared(folder: Path, steps: int, *, progress: Progress | None) -> Path:
    torch.distributed.init_process_group("gloo")
    took = timed(Muon(hidden_matrices(), 1e-3, 0.0), steps)
    path = folder / f"{torch.distributed.get_rank()}.json"
    write_json(path, {"ms": took})
    return path


if __name__ == "__main__":
    tyro.cli(main)
