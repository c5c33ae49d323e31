"""Which number of a judgment follows the oracle best within an editor's groups: score, verdicts (gated or not), ...

    python bench/reward_choice.py --models runs/seeds/seed-0/gcpo/model runs/seeds/seed-1/gcpo/model

This is what editor RL learns from: groups of edits of one context by one editor, advantages centred in each. Validation
contexts of EditWorld, the tiny editor's finished edits, greedy traces. Prints Markdown; writes JSON with --out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import tyro

from edit_r1.demo.measuring import oracle_scores
from edit_r1.demo.showing import exact_principles
from edit_r1.recipes.tiny import SIZES, tiny_editor, tiny_judge
from edit_r1.records import Judgment
from edit_r1.report.terminal import quiet_libraries
from edit_r1.stats import mean_within_group_spearman
from edit_r1.store import write_json
from edit_r1.train.rewards import RewardSettings, grade_of, judgment_reward
from edit_r1.verifier.scoring import ScoreItem
from edit_r1.world.samples import make_samples

NUMBERS: dict[str, Callable[[Judgment], float | None]] = {
    "score": lambda judgment: judgment.score,
    "mean of the verdicts": lambda judgment: fmean(
        line.verdict for line in judgment.principles if line.verdict is not None
    ),
    "expected score": lambda judgment: judgment.expected_score,
    "reward of the verdicts, not gated": lambda judgment: judgment_reward(
        grade_of(judgment), RewardSettings(value="verdicts", gate="none")
    ),
    "gated by the product": lambda judgment: judgment_reward(grade_of(judgment), RewardSettings(value="verdicts")),
    "gated at one half": lambda judgment: judgment_reward(
        grade_of(judgment), RewardSettings(value="verdicts", gate="threshold")
    ),
}


def main(
    models: tuple[Path, ...], contexts: int = 32, group: int = 12, start: int = 900, out: Path | None = None
) -> None:
    """models: folders of verifiers. start: first validation context."""
    quiet_libraries()
    samples = [sample for sample in make_samples(contexts, "validation", 0, start=start) for _ in range(group)]
    edits = tiny_editor().edit(samples, list(range(len(samples))))
    images = [edit.image for edit in edits if edit.image is not None]
    assert len(images) == len(samples), "the tiny editor never fails"
    truths = oracle_scores(samples, images)
    items = [
        ScoreItem((sample.source,), image, sample.instruction, exact_principles(sample))
        for sample, image in zip(samples, images, strict=True)
    ]
    rows = []
    print("| model | number | rank correlation in groups (95 %) | pooled correlation | groups without a spread |")
    print("| --- | --- | --- | --- | --- |")
    for model in models:
        with tiny_judge(model, SIZES["demo"]) as verifier:
            judgments = verifier.score_many(items, expected=True)
        for name, number in NUMBERS.items():
            values = [None if judgment.score is None else number(judgment) for judgment in judgments]
            groups = []
            for first in range(0, len(values), group):
                known = [
                    (value, truths[first + i])
                    for i, value in enumerate(values[first : first + group])
                    if value is not None
                ]
                groups.append(([value for value, _ in known], [truth for _, truth in known]))
            rank = mean_within_group_spearman(groups)
            flat = sum(len(set(own)) < 2 for own, _ in groups)
            low, high = rank.ci95 or (float("nan"), float("nan"))
            row = {
                "model": str(model),
                "number": name,
                "rank": rank.mean,
                "ci95": rank.ci95,
                "pooled": pooled(groups),
                "flat": flat,
            }
            rows.append(row)
            interval = f"{rank.mean or 0:.2f} ({low:.2f} to {high:.2f})"
            print(f"| {model} | {name} | {interval} | {row['pooled']:.2f} | {flat} of {contexts} |")
    if out is not None:
        write_json(out, rows)


def pooled(groups: list[tuple[list[float], list[float]]]) -> float:
    """Correlation of all values and truths, each less its group's mean; 0 without a spread."""
    known = [(np.asarray(own), np.asarray(truth)) for own, truth in groups if len(own) > 1]
    a = np.concatenate([own - own.mean() for own, _ in known])
    b = np.concatenate([truth - truth.mean() for _, truth in known])
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


if __name__ == "__main__":
    tyro.cli(main)
