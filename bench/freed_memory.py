"""What it costs on a CPU to give freed memory back to the system: seconds and page faults of a GCPO generation.

    python bench/freed_memory.py --run runs/demo --turns 5

Uses the pairs and the SFT model of a finished demo. Each turn runs a process of one thread with and one without
`edit_r1.processes.keep_freed_memory`; the first generation of each warms up, the next two count. Medians are shown;
their losses must be the same. Writes JSON with --out.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from edit_r1.processes import keep_freed_memory
from edit_r1.recipes.tiny import SIZES, tiny_gcpo
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.settings import changed

GENERATIONS = 3


def main(run: Path, turns: int = 5, size: str = "demo", out: Path | None = None, child: str = "") -> None:
    """run: folder of a finished demo of that size. child: this is one of the processes, and how it keeps memory."""
    if child:
        print(json.dumps(measured(run, size, child)))
        return
    rows: dict[str, list[dict[str, Any]]] = {"given back": [], "kept": []}
    for _ in range(turns):
        for name, found in rows.items():
            command = [sys.executable, __file__, "--run", str(run), "--size", size, "--child", name]
            told = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            found.append(json.loads(told.stdout.splitlines()[-1]))
    table = Table("freed memory", "s a generation", "of it system", "page faults", "peak MB")
    for name, found in rows.items():
        table.add_row(
            name, f"{median(one['seconds'] for one in found):.2f}", f"{median(one['system'] for one in found):.2f}",
            f"{median(one['faults'] for one in found):,.0f}", f"{median(one['peak_mb'] for one in found):.0f}",
        )  # fmt: skip
    Console().print(table)
    weights = {one["grad_norms"] for found in rows.values() for one in found}
    print("the same gradients" if len(weights) == 1 else "DIFFERENT gradients")
    if out is not None:
        write_json(out, rows)


def measured(run: Path, size: str, how: str) -> dict[str, Any]:
    """Of a generation after the first."""
    if how == "kept":
        keep_freed_memory()
    marks: list[tuple[float, float, int]] = []
    norms: list[float] = []

    def mark(done: int, _: int, logged: Any) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        marks.append((time.monotonic(), used.ru_stime, used.ru_minflt))
        norms.append(logged["grad_norm"])

    with tempfile.TemporaryDirectory() as scratch:
        stage = changed(
            tiny_gcpo(run / "sft/model", scratch + "/run", SIZES[size]), steps=GENERATIONS, replay_weight=0.0
        )
        train_gcpo(stage, read_dataset(run / "data", "pairs", PREFERENCES), progress=mark)
    first, last, count = marks[0], marks[-1], GENERATIONS - 1
    return {
        "seconds": (last[0] - first[0]) / count, "system": (last[1] - first[1]) / count,
        "faults": (last[2] - first[2]) / count, "grad_norms": repr(norms),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
