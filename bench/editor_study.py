"""Editor algorithms and rewards on EditWorld: the oracle's score on held-out contexts against wall-clock time.

    python bench/editor_study.py --verifier runs/demo/gcpo/model --out runs/editor-study

Every arm trains the tiny editor in iterations of 4 contexts x 12 edits in two processes, is stopped at each mark, and
paints the held-out contexts with the same seeds; judging time is in the seconds, the measuring is not. Resumable: arms
and marks that are done are only read, and an arm may be given later marks than others. Prints a table in Markdown of
all that the folder holds, writes study.json and study.png.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import tyro
from kept import keep_to

from edit_r1.demo.measuring import EDIT_SEEDS, oracle_scores
from edit_r1.demo.showing import exact_principles
from edit_r1.evaluate.editor import EditScore, compare_editors, edit_and_judge
from edit_r1.processes import torch_threads
from edit_r1.recipes.tiny import (
    SIZES,
    role_samples,
    tiny_editor,
    tiny_editor_nft,
    tiny_editor_rl,
    tiny_judge,
    tiny_reward,
)
from edit_r1.records import Context
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import read_json, write_json
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, Reward, changed
from edit_r1.train.judges import JudgeSettings, VerifierJudge
from edit_r1.train.nft import train_nft
from edit_r1.train.processes import in_processes
from edit_r1.train.rewards import CombinedReward, RewardSettings
from edit_r1.train.verifier_run import Progress
from edit_r1.verifier.principles_cache import checkpoint_identity
from edit_r1.zoo.editworld import oracle_score
from edit_r1.zoo.packaged import weights

CONTEXTS = 240
"""Trained on, as in the demo."""
COLOURS = {
    "verdicts": "#1c7ed6", "score": "#9c36b5", "GDPO": "#e8590c", "oracle": "#2b8a3e", "random": "#868e96",
}  # fmt: skip
LINES = {"DiffusionNFT": "-", "Flow-GRPO": "--", "Flow-GRPO, fast": "-.", "best of G": ":"}
"""A colour is a reward, a line an algorithm."""


@dataclass(frozen=True)
class Arm:
    """An algorithm and a reward."""

    algorithm: Literal["Flow-GRPO", "Flow-GRPO, fast", "DiffusionNFT", "best of G"]
    reward: Literal["verdicts", "score", "GDPO", "oracle", "random"]

    @property
    def name(self) -> str:
        return f"{self.algorithm}, {self.reward}"

    @property
    def folder(self) -> str:
        return self.name.lower().replace(",", "").replace(" ", "-")


ARMS = (
    Arm("DiffusionNFT", "verdicts"), Arm("DiffusionNFT", "oracle"), Arm("DiffusionNFT", "random"),
    Arm("Flow-GRPO", "verdicts"), Arm("Flow-GRPO, fast", "verdicts"), Arm("best of G", "verdicts"),
    Arm("DiffusionNFT", "score"), Arm("DiffusionNFT", "GDPO"), Arm("Flow-GRPO, fast", "oracle"),
)  # fmt: skip


def main(
    verifier: Path,
    out: Path,
    marks: tuple[int, ...] = (10, 20, 40),
    contexts: int = 192,
    arms: tuple[int, ...] = tuple(range(len(ARMS))),
    seed: int = 0,
    processes: int = 2,
) -> None:
    """verifier: folder of the judge. marks: iterations after which is measured. contexts: held out, two edits each.

    arms: which of `ARMS`, by their places. seed: of the world, the held-out contexts and the training. A folder keeps
    to the verifier, contexts, seed and processes it was begun with.
    """
    quiet_libraries()
    if not marks or min(marks) < 1 or not all(0 <= number < len(ARMS) for number in arms):
        raise SystemExit(f"marks={marks}, arms={arms}: marks are 1 or more, arms 0 to {len(ARMS) - 1}")
    keep_to(
        out, {"verifier": checkpoint_identity(verifier), "contexts": contexts, "seed": seed, "processes": processes}
    )
    measured(out / "before.json", weights("editor"), contexts, seed)
    for arm in (ARMS[number] for number in arms):
        folder = out / arm.folder
        for mark in sorted(set(marks)):
            found = folder / f"after-{mark}.json"
            if found.exists():
                continue
            if (done := iterations(folder / "run/metrics.jsonl")) > mark:
                print(f"{arm.name}: trained for {done} iterations, so that after {mark} cannot be measured any more")
                continue
            training = partial(train, arm, mark, verifier, folder / "run", seed)
            in_processes(processes, training, partial(told, arm.name))
            measured(found, folder / "run/editor", contexts, seed)
            shutil.rmtree(folder / "run/editor")
    results = gathered(out)
    write_json(out / "study.json", {**read_json(out / "settings.json"), "arms": results})
    print("\n".join(table(results)))
    plot(results, out / "study.png")


def gathered(out: Path) -> dict[str, list[dict[str, Any]]]:
    """A row per arm and mark that was measured, whichever were asked for now."""
    before = read(out / "before.json")
    scores = {
        arm: {int(path.stem.removeprefix("after-")): read(path) for path in (out / arm.folder).glob("after-*.json")}
        for arm in ARMS
    }
    results: dict[str, list[dict[str, Any]]] = {}
    for arm, measures in scores.items():
        by_oracle = scores.get(Arm(arm.algorithm, "oracle"), {})
        for mark, after in sorted(measures.items()):
            metrics = out / arm.folder / "run/metrics.jsonl"
            row = {"iterations": mark, "seconds": seconds(metrics, mark), **difference(after, before)}
            if arm.reward != "oracle" and mark in by_oracle:
                row |= share_of(after, by_oracle[mark], before)
            results.setdefault(arm.name, []).append(row)
    return results


def stage_of(arm: Arm, steps: int, seed: int) -> EditorRLStage:
    """All with 48 edits an iteration; Flow-GRPO with the paper's KL on all weights, its fast form without KL."""
    nft = tiny_editor_nft(seed=seed)
    full = changed(tiny_editor_rl(seed=seed), lora_rank=0, learning_rate=nft.updates.learning_rate)
    return changed(
        {
            "DiffusionNFT": nft,
            "best of G": nft,
            # A forward holds nine steps of each edit: of 24 edits they took 6 GB in each process.
            "Flow-GRPO": changed(
                full, same_start=False, window_share=1.0, trained_steps=9, window="all", train_batch=8
            ),
            "Flow-GRPO, fast": changed(full, sampling_steps=6, kl_beta=0.0, window_share=0.5),
        }[arm.algorithm],
        steps=steps,
    )


def train(arm: Arm, steps: int, verifier: Path, out: Path, seed: int, *, progress: Progress | None) -> Path:
    """Up to `steps` iterations, from where it stopped."""
    quiet_libraries()
    samples = role_samples("rl", CONTEXTS, seed)
    contexts = [Context(sample, exact_principles(sample), "EditWorld", simulated=True) for sample in samples]
    stage = stage_of(arm, steps, seed)
    algorithm: Callable[..., Any] = {
        "Flow-GRPO": train_editor, "Flow-GRPO, fast": train_editor, "DiffusionNFT": train_nft,
        "best of G": partial(train_best_of_g, like="diffusion-nft"),
    }[arm.algorithm]  # fmt: skip

    def tell(line: Mapping[str, Any]) -> None:
        if progress is not None and line["kind"] == "step":
            progress(line["step"] + 1, steps, {"reward": line["reward_mean"] or 0.0})

    with ExitStack() as stack:
        reward = reward_of(arm, verifier, seed, stack)
        editor = tiny_editor(bf16_products=True)
        return Path(algorithm(stage, editor, contexts, reward, out, resume=True, progress=tell).result)


def reward_of(arm: Arm, verifier: Path, seed: int, stack: ExitStack) -> Reward:
    """stack: closes what is opened for it."""
    if arm.reward == "oracle":
        return oracle
    if arm.reward == "random":
        return partial(at_random, seed)
    judge = VerifierJudge(stack.enter_context(tiny_judge(verifier)), JudgeSettings(seed=seed))
    settings = {
        "verdicts": tiny_reward(),
        "score": RewardSettings(),
        "GDPO": RewardSettings(value="categories"),
    }[arm.reward]
    return CombinedReward(judge, settings)


def oracle(contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
    return [oracle_score(context.sample, image) for context, image in zip(contexts, images, strict=True)]


def at_random(seed: int, contexts: Sequence[Context], images: Sequence[bytes]) -> list[float | None]:
    """0 to 10, whatever is seen; the same picture gets the same."""
    return [random.Random(hashlib.sha256(image + str(seed).encode()).digest()).uniform(0, 10) for image in images]


def measured(found: Path, editor: Path, contexts: int, seed: int) -> list[EditScore]:
    """The oracle's scores on held-out contexts, kept in `found`."""
    if not found.exists():
        samples = role_samples("edit", contexts, seed)
        with torch_threads(SIZES["demo"].threads):
            scores = edit_and_judge(tiny_editor(editor), oracle_scores, samples, EDIT_SEEDS)
        found.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, [[score.sample_id, score.category, score.seed, score.score] for score in scores])
    return read(found)


def read(found: Path) -> list[EditScore]:
    """What `measured` has kept."""
    return [EditScore(name, category, number, b"", score) for name, category, number, score in read_json(found)]


def step_lines(metrics: Path) -> list[dict[str, Any]]:
    if not metrics.exists():
        return []
    lines = [json.loads(text) for text in metrics.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def iterations(metrics: Path) -> int:
    """How many a run has behind it."""
    return len(step_lines(metrics))


def seconds(metrics: Path, mark: int) -> float:
    """Of sampling, judging and updating, up to a mark."""
    return sum(sum(line["seconds"].values()) for line in step_lines(metrics) if line["step"] < mark)


def difference(after: Sequence[EditScore], before: Sequence[EditScore]) -> dict[str, Any]:
    comparison = compare_editors(after, before)
    counts = {"good": comparison.good, "same": comparison.same, "bad": comparison.bad}
    return {"delta": comparison.mean, "ci95": comparison.ci95, **counts}


def share_of(
    after: Sequence[EditScore], by_oracle: Sequence[EditScore], before: Sequence[EditScore], resamples: int = 10_000
) -> dict[str, Any]:
    """The gain as a share of the gain under the oracle as reward, same algorithm and iterations; nothing where that one
    is not there to be had a share of.

    "share", "share_ci95": of 1, a percentile interval that draws contexts with replacement, both gains of a resample
    from the same ones.
    """
    own, ideal = difference(after, before), difference(by_oracle, before)
    if ideal["ci95"] is None or ideal["ci95"][0] <= 0:
        return {}
    names = sorted({score.sample_id for score in before})
    start, first, second = (
        np.array([np.mean([one.score for one in scores if one.sample_id == name]) for name in names])
        for scores in (before, after, by_oracle)
    )
    drawn_RC = np.random.default_rng(0).integers(len(names), size=(resamples, len(names)))
    gains_R, ideals_R = (first - start)[drawn_RC].mean(axis=1), (second - start)[drawn_RC].mean(axis=1)
    shares_R = gains_R[ideals_R > 0] / ideals_R[ideals_R > 0]
    low, high = np.quantile(shares_R, [0.025, 0.975])
    return {"share": own["delta"] / ideal["delta"], "share_ci95": [float(low), float(high)]}


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = [
        "| | iterations | seconds | oracle's score (95 %) | better, same, worse | % of the gain by the oracle (95 %) |",
        "| --- " * 6 + "|",
    ]
    for name, rows in results.items():
        for row in rows:
            share = ""
            if "share" in row:
                share = (
                    f"{100 * row['share']:.0f} ({100 * row['share_ci95'][0]:.0f} to {100 * row['share_ci95'][1]:.0f})"
                )
            low, high = row["ci95"]
            cells = [
                name, str(row["iterations"]), f"{row['seconds']:.0f}",
                f"{row['delta']:+.2f} ({low:.2f} to {high:.2f})", f"{row['good']}, {row['same']}, {row['bad']}", share,
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(results: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8.5, 5))
    for arm in ARMS:
        if arm.name not in results:
            continue
        rows = results[arm.name]
        x, y = [0.0, *(row["seconds"] for row in rows)], [0.0, *(row["delta"] for row in rows)]
        below = [0.0, *(row["delta"] - row["ci95"][0] for row in rows)]
        above = [0.0, *(row["ci95"][1] - row["delta"] for row in rows)]
        axes.errorbar(
            x, y, [below, above], label=arm.name, color=COLOURS[arm.reward], linestyle=LINES[arm.algorithm],
            marker=".", capsize=2, linewidth=1.5, elinewidth=0.6,
        )  # fmt: skip
    axes.axhline(0, color="#adb5bd", linewidth=1)
    axes.set_xscale("symlog", linthresh=20, linscale=0.4)
    ticks = [0, 20, 50, 100, 200, 400, 800, 1600]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xlim(0, 1.1 * max(row["seconds"] for rows in results.values() for row in rows))
    axes.minorticks_off()
    axes.set_xlabel("seconds of training, judging included (two processes)")
    axes.set_ylabel("change of the oracle's score, of 10 (95 %)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def told(name: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    if done % 10 == 0:
        print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {total}, reward {numbers['reward']:.2f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
