"""Seconds of a GCPO generation by part, against the same generation as TRL's trainer does it.

    OMP_NUM_THREADS=2 python bench/gcpo_step.py --turns 5

The packaged tiny verifier on pairs of EditWorld, 16 of 8 traces a side as in the demo, in one process with as many
threads as OMP_NUM_THREADS says; with --run the SFT model and the pairs of a finished demo. The variants take turns in
rotation, the first turn warms up and is not counted, medians are shown. Nothing is replayed or averaged. Writes JSON
with --out.

- TRL's own: sampling by transformers' loop under autocast, every row of an update through the whole model, prompts and
  pictures read for every trace; only the pairs' sampler and reward are ours
- sampling ours: a prompt is read once for its traces while they are drawn, a generation's pictures are prepared once,
  rows without an advantage and padding are left out of the update
- pictures once; pictures and prompts once: the update reads these once for all their traces too
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer import utils

from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import edit
from edit_r1.preferences.pairs import collect
from edit_r1.processes import keep_few_kernels, keep_freed_memory
from edit_r1.recipes.tiny import SIZES, role_samples, tiny_gcpo
from edit_r1.records import Preference
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.train import gcpo, learned_tokens, verifier_run
from edit_r1.train.gcpo import GCPOTrainer
from edit_r1.train.settings import changed
from edit_r1.train.verifier_run import read_curves
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.annotators import SimulatedAnnotator
from edit_r1.world.frozen import ANNOTATOR_WEIGHTS
from edit_r1.world.index import WorldIndex
from edit_r1.world.simulated_editors import all_editors
from edit_r1.world.simulated_judges import SimulatedDecomposer
from edit_r1.zoo.packaged import weights

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
    """TRL's but for the pairs' sampler and reward: what it reads of a generation is put together for every forward."""

    _generate_single_turn = GRPOTrainer._generate_single_turn
    _prepare_inputs = GRPOTrainer._prepare_inputs
    _prepare_input = GRPOTrainer._prepare_input
    _compute_loss = GRPOTrainer._compute_loss

    def _rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        self._asked = {}
        return super()._rows(batch)


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
    Variant("TRL's own", ClockedStock, ("share_vision", "share_prompt", "pictures_once"), all_tokens=True),
    Variant("sampling ours", Clocked, ("share_vision", "share_prompt")),
    Variant("pictures once", Clocked, ("share_prompt",)),
    Variant("pictures and prompts once", Clocked),
)
WORK = ("trace_tokens", "pairs_silent")
"""Of a line of the curves: variants draw other traces, so that their work is like, not equal."""
Figures = dict[str, dict[str, list[float]]]
"""By variant and name, one for each turn."""


def main(
    turns: int = 5,
    run: Path | None = None,
    size: str = "demo",
    variants: tuple[int, ...] = tuple(range(len(VARIANTS))),
    out: Path | None = None,
) -> None:
    """
    Args:
        turns: a generation of each variant, after one that is not counted.
        run: folder of a finished demo of that size, whose SFT model and pairs are used.
        size: "demo", or "micro" for tests.
        variants: which of `VARIANTS`; the others are compared with the first of them.
        out: where the numbers go, JSON.
    """
    quiet_libraries()
    keep_freed_memory()
    keep_few_kernels()
    model = weights("verifier-small-rrm") if run is None else run / "sft/model"
    preferences = simulated_pairs() if run is None else read_dataset(run / "data", "pairs", PREFERENCES)
    chosen = [VARIANTS[number] for number in variants]
    seconds: Figures = {variant.name: {part: [] for part in PARTS} for variant in chosen}
    work: Figures = {variant.name: {name: [] for name in WORK} for variant in chosen}
    for turn in range(turns + 1):
        first = turn % len(chosen)
        for variant in chosen[first:] + chosen[:first]:
            line = generation(variant, model, preferences, size, turn)
            if turn > 0:
                for part, value in parts_of(line).items():
                    seconds[variant.name][part].append(value)
                for name in WORK:
                    work[variant.name][name].append(line[name])
    print("\n".join(table(seconds, work)))
    if out is not None:
        write_json(out, {
            "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "run": run.name if run else None, "size": size, "turns": turns,
            "seconds": seconds, "work": work,
        })  # fmt: skip


def simulated_pairs(contexts: int = 16) -> list[Preference]:
    """Pairs of EditWorld's edits by its imperfect editors, compared by its annotators."""
    samples = role_samples("pairs", contexts, 0)
    index = WorldIndex(samples)
    decomposed, _ = decompose(samples, SimulatedDecomposer(index), "compact", Sampling(512, 1.0, seed=0))
    candidates, _ = edit(decomposed, all_editors(), 4, 0)
    index.look(candidates)
    return collect(decomposed, candidates, [SimulatedAnnotator(one, index) for one in ANNOTATOR_WEIGHTS], 3, 0)


def generation(
    variant: Variant, model: Path, preferences: Sequence[Preference], size: str, seed: int
) -> dict[str, Any]:
    """The line that a training of one generation writes into its curves."""
    with tempfile.TemporaryDirectory() as scratch, switched_off(variant):
        stage = changed(tiny_gcpo(model, scratch, SIZES[size]), steps=1, seed=seed, replay_weight=0.0, average_last=0.0)
        gcpo.train_gcpo(stage, preferences, trainer_class=variant.trainer)
        (line,) = read_curves(Path(scratch) / "curves.jsonl")
    return line


def parts_of(line: dict[str, Any]) -> dict[str, float]:
    """Seconds by part, from the start of training to the end of its update; loading and saving are not in them."""
    sample, score, rollout = (line[f"seconds_{name}"] for name in ("sample", "score", "rollout"))
    return {"sample": sample, "score": score, "other": rollout - sample - score, "update": line["seconds"] - rollout}


def table(seconds: Figures, work: Figures) -> list[str]:
    """Markdown, medians over the turns."""
    against = f"against {next(iter(seconds))}"
    columns = (*PARTS, "whole generation", against, "tokens of a trace", "silent pairs")
    lines = ["| seconds | " + " | ".join(columns) + " |", "| --- " * (1 + len(columns)) + "|"]
    whole = {name: median(map(sum, zip(*parts.values(), strict=True))) for name, parts in seconds.items()}
    for name, parts in seconds.items():
        cells = [f"{median(values):.2f}" for values in parts.values()]
        cells += [f"{whole[name]:.2f}", f"{next(iter(whole.values())) / whole[name]:.2f} x"]
        tokens, silent = (median(work[name][what]) for what in WORK)
        cells += [f"{tokens:.0f}", f"{silent:.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


@contextmanager
def switched_off(variant: Variant) -> Iterator[None]:
    """What the variant does without does nothing inside."""
    with ExitStack() as stack:
        for name in variant.off:
            stack.enter_context(patch.object(gcpo, name, lambda _: nullcontext()))
        if variant.all_tokens:
            stack.enter_context(patch.object(verifier_run, "score_learned_tokens", lambda: None))
            stack.enter_context(patch.object(utils, "_use_triton", learned_tokens._with_triton))
        yield


if __name__ == "__main__":
    tyro.cli(main)
