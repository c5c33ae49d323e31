"""From an editor recipe's settings to its reward and its guard."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edit_r1.algo.edit_change import Box
from edit_r1.images import decode_rgb, read_image_file
from edit_r1.records import Context
from edit_r1.store import read_json
from edit_r1.train.guards import Guard, GuardSettings
from edit_r1.train.heldout import hold_out
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.rewards import CombinedReward, RewardSettings, open_reward

Region = Sequence[Box] | np.ndarray


def read_regions(path: str | Path) -> dict[str, Region]:
    """Where edits may change something, from a JSON file: {sample id: [[left, top, right, bottom], ...]}, or
    {sample id: "mask.png"} beside that file, white where the edit may be.

    Raises ValueError for a file that cannot be read, or an entry that is neither.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected an object of sample ids, found {type(entries).__name__}")
    regions: dict[str, Region] = {}
    for name, entry in entries.items():
        if isinstance(entry, str):
            regions[name] = decode_rgb(read_image_file(path.parent / entry)).mean(axis=2) >= 128
            continue
        try:
            regions[name] = [(float(a), float(b), float(c), float(d)) for a, b, c, d in entry]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {name}: give boxes [[left, top, right, bottom], ...] or a mask's file"
            ) from error
    return regions


def keep_out(
    contexts: Sequence[Context], count: int, needed: int, validation: Sequence[Context] | None
) -> tuple[list[Context], list[Context]]:
    """Training and validation contexts: `validation` where given, else the last `count` of `contexts`, fewer where
    training would be left with less than `needed`."""
    if validation is not None:
        return list(contexts), list(validation[:count])
    kept = len(contexts) - max(0, min(count, len(contexts) - needed))
    return list(contexts[:kept]), list(contexts[kept:])


def open_watched(
    reward: RewardSettings,
    guard: GuardSettings,
    heldout: JudgeSettings,
    heldout_share: float,
    contexts: Sequence[Context],
    validation: Sequence[Context],
    regions: Mapping[str, Region] | None = None,
) -> tuple[list[Context], CombinedReward, Guard]:
    """Contexts as the training reward reads them, that reward, and the guard; closing the reward, and a held-out one of
    a judge of its own, is the caller's.

    With the address of a held-out judge, it reads every principle and so does the training reward; without one,
    `heldout_share` of the principles are kept from training, and what the training judge finds of them is the held-out
    reward (its verdicts: a judge that writes none needs a held-out judge). Of several processes the first alone opens a
    held-out judge, as it alone validates.
    Raises ValueError for a judge that cannot be opened.
    """
    rank = int(os.environ.get("RANK", "0"))
    trained = open_reward(reward, rank=rank)
    if heldout.address:
        settings = replace(reward, judge=heldout, value="score", cache_folder="")
        other = open_reward(settings, rank=rank) if rank == 0 else None
        return list(contexts), trained, Guard(guard, trained, validation, other, regions=regions)
    if heldout_share == 0:
        return list(contexts), trained, Guard(guard, trained, validation, regions=regions)
    seen, _ = hold_out(contexts, heldout_share, guard.seed)
    validation_seen, validation_unseen = hold_out(validation, heldout_share, guard.seed)
    # The verdicts: a score that no longer depends on what is asked would rise with the trained one.
    verdicts = CombinedReward(trained.judge, replace(reward, value="verdicts"), cache=trained.cache)
    return seen, trained, Guard(guard, trained, validation_seen, verdicts, validation_unseen, regions)
