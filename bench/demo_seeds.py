"""The demo for several seeds: a row per seed and model, the differences of each seed and of all seeds together.

    python bench/demo_seeds.py --seeds 0 1 2 --controls --out runs/seeds

Each seed is a run of `edit-r1 demo` in a folder of its own, its world, data, trainings and held-out contexts all drawn
from that seed. A run that was stopped continues; finished ones are only read. Prints Markdown and writes
`summary.json` beside the runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from edit_r1.demo import run_demo
from edit_r1.evaluate.reward import PairScore
from edit_r1.report.terminal import quiet_libraries
from edit_r1.stats import Estimate, paired_difference
from edit_r1.store import read_json, write_json

MODELS = ("base", "sft", "sft_continued", "gcpo")
EDITORS = ("before", "after", "sft_reward", "best_of_g")


def main(
    seeds: tuple[int, ...] = (0, 1, 2), out: Path = Path("runs/seeds"), size: str = "demo", controls: bool = False
) -> None:
    """seeds: one run each. controls: also the runs at equal compute."""
    quiet_libraries()
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    runs = {seed: run_demo(folder, seed, size, controls) for seed, folder in folders.items()}
    lines = [*verifier_table(runs), "", *editor_table(runs), ""]
    summary: dict[str, Any] = {}
    for name, estimate in pooled(folders, runs).items():
        summary[name] = {"delta": estimate.mean, "ci95": estimate.ci95, "n": estimate.n, "clusters": estimate.clusters}
        scale, unit = (1, "") if name.startswith("editor") else (100, " points")
        lines.append(f"{name}, all seeds: {shown(estimate.mean, estimate.ci95, scale)}{unit}")
    right, wrong = broken_ties(list(folders.values()))
    lines.append(f"ties of sft that gcpo breaks as the annotators do: {right} of {right + wrong}")
    print("\n".join(lines))
    write_json(out / "summary.json", {"seeds": {str(seed): run for seed, run in runs.items()}, "pooled": summary})


def verifier_table(runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Held-out pairs, in per cent."""
    columns = ("half credit (95 %)", "strict", "ties", "unparsed", "TPR", "TNR", "mean of 4", "stress", "within groups")
    lines = ["| seed | | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 2) + "|"]
    for seed, run in runs.items():
        for name in MODELS:
            if (row := run["verifier"].get(name)) is None:
                continue
            low, high = row["ci95"] or (None, None)
            within = row.get("within_group", {}).get("mean")
            cells = [
                f"{percent(row['half_credit'])} ({percent(low)} to {percent(high)})", percent(row["accuracy"]),
                percent(row["tie_rate"]), f"{row['unparsed']} of {row['pairs']}", percent(row["tpr"]),
                percent(row["tnr"]), percent(row["mean_of_4"]["half_credit"]), percent(row["stress"]["half_credit"]),
                "" if within is None else f"{within:.2f}",
            ]  # fmt: skip
            lines.append(f"| {seed} | {name} | " + " | ".join(cells) + " |")
        rest = " |" * (len(columns) - 1)
        lines += [
            f"| {seed} | {label} | {shown(row['delta'], row['ci95'], 100)} |{rest}"
            for label in ("gcpo_minus_sft", "gcpo_minus_control")
            if (row := run["verifier"].get(label)) is not None
        ]
    return lines


def editor_table(runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The oracle's score on held-out contexts, of 10."""
    lines = ["| seed | editor | oracle (95 %) |", "| --- | --- | --- |"]
    for seed, run in runs.items():
        editor = run["editor"]
        lines += [f"| {seed} | {name} | {shown(editor[name]['oracle'], editor[name]['ci95'], 1, sign='')} |"
                  for name in EDITORS if name in editor]  # fmt: skip
        delta = shown(editor["delta"]["mean"], editor["delta"]["ci95"], 1)
        lines.append(f"| {seed} | after - before | {delta}, GSB {100 * editor['gsb']:+.1f} % |")
    return lines


def pooled(folders: Mapping[int, Path], runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Estimate]:
    """Differences over all seeds, paired, clustered by context."""
    found: dict[str, Estimate] = {}
    for label, other in (("gcpo - sft", "sft"), ("gcpo - sft_continued", "sft_continued")):
        if all(other in run["verifier"] for run in runs.values()):
            new, old = ([s for seed in folders for s in pair_scores(folders[seed], name)] for name in ("gcpo", other))
            clusters = [f"{seed} {s.sample_id}" for seed in folders for s in pair_scores(folders[seed], "gcpo")]
            found[label] = paired_difference([s.half_credit for s in new], [s.half_credit for s in old], clusters)
    for other in EDITORS:
        if other != "after" and all(other in run["editor"] for run in runs.values()):
            after, before = (
                [(seed, row) for seed in folders for row in edit_scores(folders[seed], name)]
                for name in ("after", other)
            )
            found[f"editor: after - {other}"] = paired_difference(
                [row["score"] for _, row in after],
                [row["score"] for _, row in before],
                [f"{seed} {row['sample_id']}" for seed, row in after],
            )
    return found


def broken_ties(folders: Sequence[Path]) -> tuple[int, int]:
    """Of the held-out pairs that SFT ties and GCPO does not: (ordered as the annotators did, the other way)."""
    right = wrong = 0
    for folder in folders:
        for before, after in zip(pair_scores(folder, "sft"), pair_scores(folder, "gcpo"), strict=True):
            if before.tie and after.winner is not None and after.loser is not None:
                right += after.winner > after.loser
                wrong += after.winner < after.loser
    return right, wrong


def pair_scores(folder: Path, model: str) -> list[PairScore]:
    """Every held-out pair's greedy scores."""
    stored = json.loads((folder / f"verdicts/{model}.json").read_text(encoding="utf-8"))
    return [PairScore(**row) for row in stored["greedy"]["pairs"]]


def edit_scores(folder: Path, editor: str) -> Sequence[Mapping[str, Any]]:
    """The oracle's score of every held-out edit."""
    stage = read_json(folder / f"stages/oracle-on-{editor}.done.json")
    rows: Sequence[Mapping[str, Any]] = stage["meta"]["result"]["scores"]
    return rows


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def shown(value: float, ci95: Sequence[float] | None, scale: float, sign: str = "+") -> str:
    low, high = ci95 or (float("nan"), float("nan"))
    return f"{scale * value:{sign}.2f} ({scale * low:.2f} to {scale * high:.2f})"


if __name__ == "__main__":
    tyro.cli(main)
