"""What the expected score adds as a breaker of ties, on preference pairs.

    python bench/expected_score.py --data runs/demo/data/test --pairs 150 --out runs/expected_score.json

The greedy score falls on few values, so that pairs tie; the expected score under the token probabilities of the same
greedy trace orders them. Half credit for a tie is what a coin would earn, so a gain is not one of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tyro

from edit_r1.evaluate.reward import PairReport, judge_candidates, pair_scores, report_pairs
from edit_r1.records import Judgment
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.verifier.scoring import Verifier
from edit_r1.zoo.packaged import weights


def main(data: Path, pairs: int = 150, model: Path | None = None, traces: int = 1, out: Path | None = None) -> None:
    """
    Args:
        data: a finished dataset of preferences.
        pairs: the first so many.
        model: folder of a verifier; the packaged one when not given.
        traces: 1 is greedy.
        out: where the numbers go, JSON.
    """
    preferences = read_dataset(data.parent, data.name, PREFERENCES)[:pairs]
    verifier = Verifier.load(model or weights("verifier-small-rrm"), cache=None)
    judgments = judge_candidates(verifier, preferences, traces, seed=0, expected=True)
    report = report_pairs(f"first {len(preferences)} of {data.name}", pair_scores(preferences, judgments))
    print("\n".join(table(report, list(judgments.values()))))
    if out is not None:
        write_json(out, asdict(report))


def table(report: PairReport, judgments: Sequence[Judgment]) -> list[str]:
    """Markdown."""
    assert report.tie_break is not None, "the verifier gives the probabilities of its tokens"
    broken = report.tie_break
    low, high = broken.gain_ci95 or (float("nan"), float("nan"))
    scored = [one for one in judgments if one.score is not None]
    known = [one for one in scored if one.expected_score is not None]
    gaps = [abs(one.expected_score - one.score) for one in known]  # type: ignore[operator]
    return [
        f"| {report.benchmark}: {report.pairs} strict pairs | parsed score | with the tie breaker |",
        "| --- | --- | --- |",
        f"| half credit | {report.half_credit:.4f} | {broken.half_credit:.4f} |",
        f"| ties | {report.tie_rate:.1%} | {broken.tie_rate:.1%} |",
        f"| ties broken, of them rightly | | {broken.broken}, {broken.right} |",
        f"| gain in half credit (95 %) | | {broken.gain:+.4f} ({low:+.4f} to {high:+.4f}) |",
        "",
        f"{len(known)} of {len(scored)} scored edits have an expected score; it differs from the parsed one by "
        f"{np.mean(gaps):.2f} points on average, {np.max(gaps):.2f} at most.",
    ]


if __name__ == "__main__":
    tyro.cli(main)
