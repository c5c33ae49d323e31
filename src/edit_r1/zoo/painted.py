"""Pictures that the tiny editor painted, with what is seen in them: eyes that knew only exact pictures misread these.

A judge meets a neural editor's pictures during its RL. What one shows is read by the oracle's own perception
(analysis by synthesis), which says what is there and never whether the edit is good.

    python -m edit_r1.zoo.painted --count 9600 --threads 1

grows a bank on disk in shards. Picture i is a function of (seed, i) and the editor's weights: a context of the train
split, finished or few-step. Pictures whose content belongs to another split are left out.
"""

from __future__ import annotations

import os
import sys
import time
from math import inf
from pathlib import Path

import numpy as np
import torch
import tyro

from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb
from edit_r1.world.perceive import perceive
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.scenes import SIZE, belongs, from_json, to_json
from edit_r1.zoo.packaged import weights
from edit_r1.zoo.seeing import Painted

SHARD = 96
"""Contexts a shard; half are painted in `STEPS[0]` sampling steps, half in `STEPS[1]`."""
STEPS = (10, 4)
START = 1_000_000
"""First context of the bank: a stretch of the world that no stage of the demo draws from."""


def shard_path(folder: Path, seed: int, number: int) -> Path:
    return folder / f"{seed}-{number:05d}.npz"


def paint_shard(editors: dict[int, FluxKontextEditor], folder: Path, seed: int, number: int) -> int:
    """Paint, read and write one shard; returns how many of its pictures may be used."""
    samples = make_samples(SHARD, "train", seed, start=START + number * SHARD)
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    seen: list[str] = []
    for turn, steps in enumerate(STEPS):
        places = list(range(turn, SHARD, len(STEPS)))
        made = editors[steps].edit([samples[place] for place in places], [number * SHARD + place for place in places])
        for place, edited in zip(places, made, strict=True):
            assert edited.image is not None, "the tiny editor fails for no EditWorld context"
            picture = decode_rgb(edited.image)
            scene, damage = perceive(picture, scene_of(samples[place]), edit_of(samples[place]))
            if belongs(scene, "train"):
                kept.append(place)
                pixels.append(picture)
                seen.append(to_json(scene, damage))
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{seed}-{number:05d}.npz"
    np.savez_compressed(partial, places=np.array(kept), pixels=np.array(pixels, np.uint8), seen=np.array(seen))
    os.replace(partial, shard_path(folder, seed, number))
    return len(kept)


def load_bank(folder: Path, count: int, seed: int = 0) -> list[Painted]:
    """The pictures of the bank's first `count` contexts, in order, as far as it has grown; empty when there is none."""
    bank: list[Painted] = []
    for number in range(-(-count // SHARD)):
        path = shard_path(folder, seed, number)
        if not path.exists():
            continue
        first = START + number * SHARD
        samples = make_samples(SHARD, "train", seed, start=first)
        with np.load(path) as shard:
            for place, pixels, seen in zip(shard["places"], shard["pixels"], shard["seen"], strict=True):
                sample = samples[int(place)]
                bank.append(Painted(scene_of(sample), edit_of(sample), pixels, *from_json(str(seen))))
    return bank


def grow_bank(folder: Path, count: int, seed: int = 0, part: int = 0, parts: int = 1, deadline: float = inf) -> bool:
    """Paint the shards that are missing for `count` contexts; several processes can each take a part of them.

    Args:
        deadline: of `time.monotonic`, s; no shard is begun after it.

    Returns:
        True when no shard of this part is missing any more.
    """
    numbers = [number for number in range(-(-count // SHARD)) if number % parts == part]
    missing = [number for number in numbers if not shard_path(folder, seed, number).exists()]
    if not missing:
        return True
    settings = {steps: FluxKontextSettings(steps=steps, max_area=SIZE * SIZE, batch_size=48) for steps in STEPS}
    pipeline = FluxKontextEditor.from_pretrained(weights("editor"), settings[STEPS[0]]).pipeline
    editors = {steps: FluxKontextEditor(pipeline, settings[steps]) for steps in STEPS}
    start = time.monotonic()
    for done, number in enumerate(missing, 1):
        if time.monotonic() > deadline:
            return False
        kept = paint_shard(editors, folder, seed, number)
        left = (time.monotonic() - start) / done * (len(missing) - done) / 60
        print(f"painted: shard {number}, {kept} of {SHARD} kept, {done}/{len(missing)}, {left:.1f} min left",
              file=sys.stderr, flush=True)  # fmt: skip
    return True


def main(
    count: int, seed: int = 0, threads: int = 1, folder: Path = Path(".state/zoo/painted"), part: int = 0,
    parts: int = 1,
) -> None:  # fmt: skip
    """Grow the bank to `count` contexts.

    Args:
        part: which of `parts` processes this one is.
    """
    torch.set_num_threads(threads)
    grow_bank(folder, count, seed, part, parts)


if __name__ == "__main__":
    tyro.cli(main)
