"""Seconds of a GCPO generation by part, against the same generation as TRL's trainer does it.

    python bench/gcpo_step.py --run runs/demo --generations 4

Uses the pairs and the SFT model of a finished demo; one process, as many threads as OMP_NUM_THREADS says. The variants
take turns, the first turn is a warm-up, medians are shown. Writes JSON with --out.

- TRL's own: sampling by transformers' loop, every row of an update through the whole model, prompts and pictures read
  for every trace; only the pairs' sampler and reward are ours
- sampling ours: a prompt is read once for its traces while they are drawn, rows without an advantage and padding are
  left out of the update
- pictures once; pictures and prompts once: the update reads these once for all their traces too
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import tyro
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer import utils

from edit_r1.recipes.tiny import SIZES, tiny_gcpo
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.train import gcpo, learned_tokens, verifier_run
from edit_r1.train.gcpo import GCPOTrainer
from edit_r1.train.settings import changed
from edit_r1.train.verifier_run import read_curves

PARTS = ("sample", "score", "other", "update")
"""Of a generation: drawing the traces, parsing and comparing them, what TRL does around these, the rest of the step."""


class Clocked(GCPOTrainer):
    """Ours, with two more lines in the curves."""

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        drawn = super()._generate_single_turn(*arguments, **options)
        self._metrics["train"]["seconds_sample"].append(time.perf_counter() - started)
        return drawn

    def _calculate_rewards(self, *arguments: Any) -> Tensor:
        started = time.perf_counter()
        rewards = super()._calculate_rewards(*arguments)
        self._metrics["train"]["seconds_score"].append(time.perf_counter() - started)
        return rewards


class Stock(GCPOTrainer):
    """TRL's but for the pairs' sampler and reward."""

    _generate_single_turn = GRPOTrainer._generate_single_turn
    _prepare_inputs = GRPOTrainer._prepare_inputs
    _compute_loss = GRPOTrainer._compute_loss


class ClockedStock(Clocked, Stock):
    """Clocked, and TRL's beneath."""


@dataclass(frozen=True)
class Variant:
    """What is switched off."""

    name: str
    trainer: type[GCPOTrainer]
    off: tuple[str, ...] = ()
    """Functions of `train.gcpo` that do nothing."""
    all_tokens: bool = False
    """The LM head scores every token, as TRL has it on a CPU."""


VARIANTS = (
    Variant("TRL's own", ClockedStock, ("share_vision", "share_prompt"), all_tokens=True),
    Variant("sampling ours", Clocked, ("share_vision", "share_prompt")),
    Variant("pictures once", Clocked, ("share_prompt",)),
    Variant("pictures and prompts once", Clocked),
)
Seconds = dict[str, dict[str, list[float]]]
"""By variant and part, one for each turn."""


def main(
    run: Path,
    generations: int = 4,
    size: str = "demo",
    variants: tuple[int, ...] = tuple(range(len(VARIANTS))),
    out: Path | None = None,
) -> None:
    """run: folder of a finished demo of that size. generations: of each variant, after one that is not counted.
    variants: which of `VARIANTS`; the others are compared with the first of them."""
    quiet_libraries()
    preferences = read_dataset(run / "data", "pairs", PREFERENCES)
    chosen = [VARIANTS[number] for number in variants]
    seconds: Seconds = {variant.name: {part: [] for part in PARTS} for variant in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(generations + 1):
            for number, variant in enumerate(chosen):
                folder = Path(scratch) / f"{number}-{turn}"
                stage = changed(
                    tiny_gcpo(run / "sft/model", str(folder), SIZES[size]), steps=2, seed=turn, replay_weight=0.0
                )
                with switched_off(variant):
                    gcpo.train_gcpo(stage, preferences, trainer_class=variant.trainer)
                if turn > 0:
                    for part, value in parts_of(read_curves(folder / "curves.jsonl")).items():
                        seconds[variant.name][part].append(value)
    print("\n".join(table(seconds)))
    if out is not None:
        write_json(out, {"run": run.name, "size": size, "generations": generations, "seconds": seconds})


def parts_of(curves: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the second generation, which has no start of a training in it."""
    first, second = curves[:2]
    sample, score, rollout = (second[f"seconds_{name}"] for name in ("sample", "score", "rollout"))
    whole = second["seconds"] - first["seconds"]
    return {"sample": sample, "score": score, "other": rollout - sample - score, "update": whole - rollout}


def table(seconds: Seconds) -> list[str]:
    """Markdown, medians over the turns."""
    against = f"against {next(iter(seconds))}"
    lines = ["| seconds | " + " | ".join((*PARTS, "whole generation", against)) + " |"]
    lines.append("| --- " * (len(PARTS) + 3) + "|")
    whole = {name: median(map(sum, zip(*parts.values(), strict=True))) for name, parts in seconds.items()}
    for name, parts in seconds.items():
        cells = [f"{median(values):.2f}" for values in parts.values()]
        cells += [f"{whole[name]:.2f}", f"{next(iter(whole.values())) / whole[name]:.2f} x"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


@contextmanager
def switched_off(variant: Variant) -> Iterator[None]:
    """What the variant does without does nothing inside."""
    with ExitStack() as stack:
        for name in variant.off:
            stack.enter_context(patch.object(gcpo, name, lambda model: None))
        if variant.all_tokens:
            stack.enter_context(patch.object(verifier_run, "score_learned_tokens", lambda: None))
            stack.enter_context(patch.object(utils, "_use_triton", learned_tokens._with_triton))
        yield


if __name__ == "__main__":
    tyro.cli(main)
