"""Seconds of a GCPO generation, with and without reading prompts and pictures once for all their traces.

    python bench/gcpo_step.py --run runs/demo --generations 4

Uses the pairs and the SFT model of a finished demo; one process, as many threads as OMP_NUM_THREADS says. The variants
take turns, the first turn is a warm-up, medians are shown. Writes JSON with --out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import tyro
from rich.console import Console
from rich.table import Table

from edit_r1.recipes.tiny import SIZES, tiny_gcpo
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.train import gcpo
from edit_r1.train.verifier_run import read_curves

VARIANTS = {
    "plain": ("share_vision", "share_prompt"),
    "pictures once": ("share_prompt",),
    "pictures and prompts once": (),
}
"""What is switched off."""


def main(run: Path, generations: int = 4, size: str = "demo", out: Path | None = None) -> None:
    """run: folder of a finished demo of that size. generations: of each variant, after one that is not counted."""
    preferences = read_dataset(run / "data", "pairs", PREFERENCES)
    seconds: dict[str, dict[str, list[float]]] = {name: {"rollout": [], "generation": []} for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(generations + 1):
            for name, off in VARIANTS.items():
                folder = Path(scratch) / f"{name}-{turn}"
                stage = replace(tiny_gcpo(run / "sft/model", str(folder), SIZES[size]), steps=2, seed=turn)
                with switched_off(off):
                    gcpo.train_gcpo(stage, preferences)
                if turn > 0:
                    first, second = read_curves(folder / "curves.jsonl")[:2]
                    seconds[name]["rollout"].append(second["seconds_rollout"])
                    seconds[name]["generation"].append(second["seconds"] - first["seconds"])
    table = Table("", "rollout s", "whole generation s", "against plain")
    plain = median(seconds["plain"]["generation"])
    for name, measured in seconds.items():
        whole = median(measured["generation"])
        table.add_row(name, f"{median(measured['rollout']):.1f}", f"{whole:.1f}", f"{plain / whole:.2f} x")
    Console().print(table)
    if out is not None:
        write_json(out, {"run": str(run), "seconds": seconds})


@contextmanager
def switched_off(names: tuple[str, ...]) -> Iterator[None]:
    """These functions of the trainer do nothing inside; sampling always reads a prompt once."""
    patches = [patch.object(gcpo, name, lambda model: None) for name in names]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


if __name__ == "__main__":
    tyro.cli(main)
