"""Kill the demo again and again, and see that it ends as if nobody had: the same data sets, weights and verdicts.

    python bench/demo_kills.py --kills 12 --out runs/kills

Two runs of the same seed, with the demo's two processes per training and enough steps for several checkpoints: one is
left alone, the other's first process gets SIGKILL at moments drawn over the stages of the first run, and is started
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
    run_to_end(out / "alone", seed)
    for number, (stage, pause) in enumerate(moments(out / "alone", kills, seed), start=1):
        process = start_run(out / "killed", seed)
        while process.poll() is None and finished(out / "killed") < stage:
            time.sleep(0.05)
        try:
            process.wait(pause)
            print(f"kill {number}: it had ended", flush=True)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"kill {number}: {pause:.1f} s after stage {stage}; done: {finished(out / 'killed')}", flush=True)
    run_to_end(out / "killed", seed)
    return compared(out / "alone", out / "killed")


def moments(alone: Path, kills: int, seed: int) -> list[tuple[int, float]]:
    """(stages that are done, seconds after the last of them), drawn evenly over the time that the stages took, in
    order. Of a second kill in one stage the seconds count from its start anew, loading included."""
    lengths = list(read_json(alone / "metrics.json")["seconds"].values())
    draws = random.Random(seed)
    found = []
    for moment in sorted(draws.uniform(0, sum(lengths)) for _ in range(kills)):
        stage = 0
        while stage + 1 < len(lengths) and moment > lengths[stage]:
            moment -= lengths[stage]
            stage += 1
        found.append((stage, moment))
    return found


def finished(out: Path) -> int:
    """Stages of a run that are done."""
    return len(list((out / "stages").glob("*.done.json")))


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
