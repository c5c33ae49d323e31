"""GCPO against other ways to learn from the same pairs, and GCPO with flipped labels, on EditWorld over several seeds.

    python bench/preference_study.py --runs runs/seeds --out runs/preference-study

`--runs` holds runs of `bench/demo_seeds.py`: their SFT models, preference pairs and held-out pairs are used. Every way
has the same pairs, the same number of generations, pairs and traces a generation, the same optimiser, rate and
averaging, replays the same traces of SFT beside its loss, and differs in what a generation's traces are worth:

- GCPO: the share of the other candidate's traces that a trace beats (the run's own model, which the demo trained)
- GRPO, 0/1: each trace is compared with one trace of the other candidate; 1 when that comparison comes out as the
  annotator's, else 0; advantages divided by the group's standard deviation, as GRPO has it
- rejection SFT: the likelihood of each candidate's best trace by GCPO's ratio goes up; the others are left out
- DPO: each candidate's best trace is preferred to its worst (beta 0.1, the SFT model as reference), on-policy
- GCPO, 10/20/30 % flipped: that share of the labels is turned round before training

Resumable: what is trained and judged is only read. Prints Markdown, writes study.json and flipped.png (the curve over
flipped labels).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import tyro
from held_out import COLUMNS, DIFFERENCES, cells, difference, difference_cells, judged, markdown, pooled
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from edit_r1.recipes.tiny import SIZES, tiny_gcpo
from edit_r1.records import Preference
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import PREFERENCES, QUADRUPLES, read_dataset, read_json, write_json
from edit_r1.train.gcpo import GCPOTrainer, train_gcpo
from edit_r1.train.pairs import Rollouts
from edit_r1.train.processes import in_processes
from edit_r1.train.rollout import rows_that_teach, without_padding
from edit_r1.train.verifier_run import Progress, load_trainable

Objective = Literal["gcpo", "grpo", "rejection", "dpo"]
DPO_BETA = 0.1
SILENT = 1e-6
"""Advantages below this count as none (`train.rollout.rows_that_teach`)."""


@dataclass(frozen=True)
class Way:
    """What is trained."""

    name: str
    objective: Objective = "gcpo"
    flipped: float = 0.0

    @property
    def folder(self) -> str:
        return self.name.lower().replace(",", "").replace("/", "-").replace(" ", "-").replace("%", "percent")


WAYS = (
    Way("GRPO, 0/1", "grpo"), Way("rejection SFT", "rejection"), Way("DPO", "dpo"),
    Way("GCPO, 10 % flipped", flipped=0.1), Way("GCPO, 20 % flipped", flipped=0.2),
    Way("GCPO, 30 % flipped", flipped=0.3),
)  # fmt: skip


def main(
    runs: Path,
    out: Path,
    seeds: tuple[int, ...] = (0, 1, 2),
    ways: tuple[int, ...] = tuple(range(len(WAYS))),
    size: str = "demo",
    processes: int = 2,
    resamples: int = 2000,
) -> None:
    """runs: folder of seed-0, seed-1, ... ways: which of `WAYS`. processes: of each training, a core each."""
    quiet_libraries()
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in seeds:
        run = runs / f"seed-{seed}"
        models = {"SFT": run / "sft/model", "GCPO": run / "gcpo/model"}
        for way in (WAYS[number] for number in ways):
            folder = out / f"seed-{seed}" / way.folder
            models[way.name] = folder / "model"
            if not models[way.name].exists():
                training = partial(train, way, run, folder, size, seed)
                in_processes(processes, training, partial(told, f"seed {seed}, {way.name}"))
        for name, model in models.items():
            path = out / f"seed-{seed}" / f"{Way(name).folder}.json"
            if not path.exists():
                write_json(path, judged(run, model, size, seed))
            found.setdefault(name, {})[seed] = read_json(path)
    rows = {name: row(by_seed, found, resamples) for name, by_seed in found.items()}
    write_json(out / "study.json", {"seeds": list(seeds), "size": size, "ways": rows})
    curve(rows, out / "flipped.png")
    print("\n".join(table(rows)))


# --- training -------------------------------------------------------------------------------------------------------


def train(way: Way, run: Path, out: Path, size: str, seed: int, *, progress: Progress | None) -> Path:
    quiet_libraries()
    preferences = flipped(read_dataset(run / "data", "pairs", PREFERENCES), way.flipped, seed)
    stage = tiny_gcpo(run / "sft/model", str(out), SIZES[size], seed)
    replay = read_dataset(run / "data/cold", "selected", QUADRUPLES)
    return train_gcpo(stage, preferences, True, progress, trainer_class=TRAINERS[way.objective], replay=replay)


def flipped(preferences: Sequence[Preference], share: float, seed: int) -> list[Preference]:
    """The same pairs, that share of the decided ones with the other answer."""
    rng = random.Random(seed)
    other: dict[str, Literal["first", "second", "same"]] = {"first": "second", "second": "first", "same": "same"}
    return [replace(one, choice=other[one.choice]) if rng.random() < share else one for one in preferences]


class PairReward(GCPOTrainer):
    """Plain GRPO with a 0/1 reward: trace i of a candidate against trace i of the other."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale_rewards = "group"

    def rewards_of(self, rollouts: Rollouts) -> Tensor:
        super().rewards_of(rollouts)  # for what is logged
        scores_P2N = rollouts.scores_B.view(-1, 2, self.stage.traces)
        won_PN = (scores_P2N[:, 0] > scores_P2N[:, 1]).double()  # a missing score wins nothing, for either side
        return torch.stack([won_PN, won_PN], dim=1).flatten()


class BestTrace(GCPOTrainer):
    """Rejection sampling: only the best trace of each candidate is learned."""

    keep_worst = False

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        assert self.comparison is not None
        here = len(output["advantages"])
        first = self.accelerator.process_index * here
        picked_B = picked(self.comparison.ratios_B.view(-1, self.stage.traces), self.keep_worst).flatten()
        output["advantages"] = picked_B[first : first + here].to(output["advantages"])
        return output


def picked(ratio_GN: Tensor, keep_worst: bool) -> Tensor:
    """+1 for the first trace of each group with the highest ratio, -1 for the first with the lowest if asked for; 0 for
    the others, and for all traces of a group without a spread."""
    marks_GN = torch.zeros_like(ratio_GN)
    spread_G = ratio_GN.amax(1) > ratio_GN.amin(1)
    marks_GN.scatter_(1, ratio_GN.argmax(1, keepdim=True), 1.0)
    if keep_worst:
        marks_GN.scatter_(1, ratio_GN.argmin(1, keepdim=True), -1.0)
    return marks_GN * spread_G.unsqueeze(1)


class OnPolicyDPO(BestTrace):
    """DPO on the best and the worst trace of each candidate."""

    keep_worst = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reference, _ = load_trainable(self.stage.model, True, self.stage.max_pixels)
        head = {"temperature": self.temperature, "cast_lm_head_to_fp32": self.args.cast_lm_head_to_fp32}
        add_fused_lm_head(self.reference, **head, outputs=("log_probs", "entropy"))  # as the model has it
        self.reference.eval().requires_grad_(False)

    def policy_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # Of a whole step: TRL's losses divide by its forwards themselves, and its trainer then does not.
        groups = len(inputs["advantages"]) / self.stage.traces * self.current_gradient_accumulation_steps
        teaching, _ = rows_that_teach(inputs)
        rows = without_padding(teaching)
        new_B = self._trace_log_probability(model, rows)
        with torch.no_grad():
            old_B = self._trace_log_probability(self.reference, rows)
        gain_B, marks_B = new_B - old_B, rows["advantages"]
        margin_G = gain_B[marks_B > SILENT] - gain_B[marks_B < -SILENT]
        return -F.logsigmoid(DPO_BETA * margin_G).sum() / groups + 0.0 * new_B.sum()

    def _trace_log_probability(self, model: Any, rows: Mapping[str, Any]) -> Tensor:
        """(B,) of whole traces."""
        given = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        log_prob_BT = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1),
            torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1),
            rows["completion_ids"].size(1),
            **{name: rows.get(name) for name in given},
        )[0]
        total_B: Tensor = (log_prob_BT * rows["completion_mask"]).sum(1)
        return total_B


TRAINERS: dict[Objective, type[GCPOTrainer]] = {
    "gcpo": GCPOTrainer, "grpo": PairReward, "rejection": BestTrace, "dpo": OnPolicyDPO,
}  # fmt: skip


def told(name: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    if done % 10 == 0:
        kept = {key: round(numbers[key], 3) for key in ("tie_share", "unparsed", "mean_ratio") if key in numbers}
        print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {total} {kept}", flush=True)


# --- measuring ------------------------------------------------------------------------------------------------------


def row(
    by_seed: Mapping[int, Mapping[str, Any]], found: Mapping[str, Mapping[int, Mapping[str, Any]]], resamples: int
) -> dict[str, Any]:
    """Of all seeds together, and against SFT and GCPO."""
    against = {f"minus_{other.lower()}": difference(by_seed, found[other], resamples) for other in ("SFT", "GCPO")}
    return pooled(by_seed, resamples) | against


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every way, then what it is above SFT and above GCPO."""
    lines = []
    for name, row in rows.items():
        sure = ", ".join(f"{value:.2f}" for value in row["gap_auc"].values() if value is not None)
        lines.append([name, *cells(row), sure])
    told = markdown(("", *COLUMNS, "larger gap, surer order"), lines)
    for other in ("SFT", "GCPO"):
        above = [
            [name, *difference_cells(row[f"minus_{other.lower()}"])] for name, row in rows.items() if name != other
        ]
        told += ["", *markdown((f"minus {other}", *DIFFERENCES), above)]
    return told


def curve(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """What GCPO adds to SFT in half credit and TNR, over the share of flipped labels, with intervals."""
    gains = {way.flipped: rows[way.name]["minus_sft"] for way in (Way("GCPO"), *WAYS)
             if way.objective == "gcpo" and way.name in rows}  # fmt: skip
    shares = [100 * share for share in gains]
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4))
    for axis, measure, name in zip(axes, ("half_credit", "tnr"), ("half credit", "TNR"), strict=True):
        known = {share: gain[measure] for share, gain in zip(shares, gains.values(), strict=True) if gain[measure]}
        means = [100 * one["mean"] for one in known.values()]
        low, high = ([100 * (one["ci95"] or (math.nan,) * 2)[end] for one in known.values()] for end in (0, 1))
        reach = [[mean - one for mean, one in zip(means, low, strict=True)],
                 [one - mean for mean, one in zip(means, high, strict=True)]]  # fmt: skip
        axis.errorbar(list(known), means, reach, color="C0", marker="o", capsize=3, label="all seeds, 95 %")
        axis.axhline(0, color="#adb5bd", linewidth=1)
        axis.set(xlabel="flipped labels, %", ylabel=f"{name} above SFT, points", xticks=shares)
        axis.spines[["top", "right"]].set_visible(False)
    for number, each in enumerate(zip(*(gain["by_seed"] for gain in gains.values()), strict=True)):
        told = "each seed" if number == 0 else None
        axes[0].plot(shares, [100 * value for value in each], color="C0", alpha=0.4, linewidth=1, label=told)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    tyro.cli(main)
