"""Kill the demo again and again, and see that it ends as if nobody had: the same data sets, weights and verdicts.

    python bench/demo_kills.py --kills 12 --out runs/kills

Two runs of the same seed, with the demo's two processes per training and enough steps for several checkpoints: one is
left alone, the other's first process gets SIGKILL at moments drawn over the length of the first run, and is started
again each time. Ends with 1 when anything but the seconds differs.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import tyro

from edit_r1.demo import run_demo
from edit_r1.recipes.tiny import SIZES
from edit_r1.store import read_json

SIZES["kills"] = replace(
    SIZES["micro"], processes=2, threads=2, cold_contexts=40, pair_contexts=24, test_contexts=12, rl_contexts=12,
    edit_contexts=12, sft_steps=200, gcpo_steps=24, pairs_per_step=4, traces=4, rl_steps=24, group_size=4,
)  # fmt: skip
"""Beyond two checkpoints in every training (SFT saves each 80 steps, GCPO and the editor each 10)."""


def main(kills: int = 12, seed: int = 0, out: Path = Path("runs/kills"), child: bool = False) -> int:
    """child: this is the run itself."""
    if child:
        run_demo(out, seed, "kills")
        return 0
    start = time.monotonic()
    run_to_end(out / "alone", seed)
    length = time.monotonic() - start
    draws = random.Random(seed)
    pauses = [draws.uniform(0.3, 2.2) * length / kills for _ in range(kills)]
    for number, pause in enumerate(pauses, start=1):
        process = start_run(out / "killed", seed)
        try:
            process.wait(pause)
            print(f"kill {number}: it had ended", flush=True)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done = sorted(path.name.split(".")[0] for path in (out / "killed/stages").glob("*.done.json"))
            print(f"kill {number} after {pause:.0f} s; stages done: {len(done)}", flush=True)
    run_to_end(out / "killed", seed)
    return compared(out / "alone", out / "killed")


def start_run(out: Path, seed: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, "--child", "--seed", str(seed), "--out", str(out)], stdout=subprocess.DEVNULL
    )


def run_to_end(out: Path, seed: int) -> None:
    if start_run(out, seed).wait():
        raise SystemExit(f"{out}: the run failed")


def compared(first: Path, second: Path) -> int:
    """Prints what is compared; 1 when something differs."""
    reports = [read_json(folder / "metrics.json") for folder in (first, second)]
    for report in reports:
        report.pop("seconds")
    alike = {"metrics.json but for the seconds": reports[0] == reports[1]}
    for name in ("sft/model", "gcpo/model", "editor_after/editor/transformer"):
        alike[f"weights of {name}"] = digest(first / name) == digest(second / name)
    print("\n".join(f"{name}: {'the same' if same else 'DIFFERENT'}" for name, same in alike.items()))
    return int(not all(alike.values()))


def digest(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    assert weights, folder
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
