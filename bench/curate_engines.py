"""20,000 quadruples of EditWorld through all steps: how long it takes, and that neither engine nor kills change a row.

    python bench/curate_engines.py --out runs/curate-engines

Simulated decomposer, judges and verifier, and EditWorld's imperfect editors (no neural one). In turn: two local
processes (timed), one, Ray with one worker and with two, and two local processes that get SIGKILL 20 times at random
moments. Every run must end with the same hash of every step. `--contexts 500 --runs local-2 killed` looks at less.
Prints a table and writes JSON.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

from edit_r1.curate.engine import Engine, Local
from edit_r1.curate.ray_engine import OnRay
from edit_r1.curate.run import curate
from edit_r1.curate.stage import CurateStage
from edit_r1.recipes.tiny import SIZES, role_samples, tiny_curation
from edit_r1.store import read_json, write_json
from edit_r1.world.index import WorldIndex
from edit_r1.world.simulated_editors import all_editors

Run = Literal["local-2", "local-1", "ray-1", "ray-2", "killed"]


def build(contexts: int, chunk_size: int, seed: int) -> CurateStage:
    """The stage, in whatever process."""
    samples = role_samples("cold", contexts, seed)
    stage = tiny_curation(samples, WorldIndex(samples), SIZES["demo"], seed, tuple(all_editors()))
    return replace(stage, chunk_size=chunk_size)


def main(
    out: Path,
    contexts: int = 5000,
    chunk_size: int = 50,
    runs: tuple[Run, ...] = ("local-2", "local-1", "ray-1", "ray-2", "killed"),
    kills: int = 20,
    seed: int = 0,
    child: bool = False,
) -> None:
    """contexts: four quadruples each. kills: of the last run. child: this is the run to be killed."""
    make = partial(build, contexts, chunk_size, seed)
    if child:
        curate(make(), out, None, Local(2, build=make))
        return
    engines: dict[str, Engine] = {
        "local-2": Local(2, build=make), "local-1": Local(), "ray-1": OnRay(make, 1), "ray-2": OnRay(make, 2),
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    for name in runs:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        if name == "killed":
            length = rows.get("local-2", {}).get("seconds", 300.0)
            told = killed(folder, [str(contexts), str(chunk_size), str(seed)], kills, length, seed)
        else:
            curate(make(), folder, None, engines[name])
            told = 0
        summary = read_json(folder / "summary.json")
        rows[name] = {
            "seconds": time.monotonic() - start, "kills": told, "rows": summary["rows"], "hashes": summary["hashes"],
        }  # fmt: skip
        write_json(out / "curate_engines.json", {"contexts": contexts, "seed": seed, "runs": rows})
        same = rows[name]["hashes"] == rows[runs[0]]["hashes"]
        print(
            f"{name}: {summary['rows']['gold']} quadruples with gold, {rows[name]['seconds']:.0f} s, {told} kills, "
            f"{'the same hashes' if same else 'OTHER HASHES'}", flush=True,
        )  # fmt: skip


def killed(folder: Path, arguments: list[str], kills: int, length: float, seed: int) -> int:
    """A run whose processes are killed together, again and again, and which ends; returns how often."""
    flags = ["--contexts", arguments[0], "--chunk-size", arguments[1], "--seed", arguments[2]]
    command = [sys.executable, __file__, "--child", "--out", str(folder), *flags]
    rng = random.Random(seed)
    for done in range(kills):
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(rng.uniform(0.5, 2.0) * length / kills + 5)
            return done
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(command, check=True)
    return kills


if __name__ == "__main__":
    tyro.cli(main)
