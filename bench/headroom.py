"""What holds a verifier of the demo back, eyes or judgment: pairs ordered again with its verdicts mended step by step.

    python bench/headroom.py --runs runs/seeds/seed-0 runs/seeds/seed-1

From the greedy judgments and gold verdicts that a finished demo left: half-credit accuracy by the score, by the mean of
its verdicts, by that mean when every false point whose change the trace itself names is failed (perfect judgment on the
same eyes), by the mean of the gold verdicts, and by the oracle's utility. Also what becomes of the false points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro

from edit_r1.records import Preference
from edit_r1.store import PREFERENCES, read_dataset, read_json

NOTHING_SEEN = ("unchanged", "nothing added", "sharp and clean", "natural", "no border")
"""Words of EditWorld's traces that name no change."""
Lines = list[tuple[int, int, bool]]
"""(verdict, gold, whether the trace names a change) of each principle."""
Value = Callable[[float, Lines, float], float]
"""Of a candidate, from its score, lines and oracle utility."""

VALUES: dict[str, Value] = {
    "score": lambda score, lines, utility: score,
    "mean of the verdicts": lambda score, lines, utility: fmean(verdict for verdict, _, _ in lines),
    "... what is seen is failed": lambda score, lines, utility: fmean(
        0 if seen and not gold else verdict for verdict, gold, seen in lines
    ),
    "gold verdicts": lambda score, lines, utility: fmean(gold for _, gold, _ in lines),
    "oracle's utility": lambda score, lines, utility: utility,
}


def main(runs: tuple[Path, ...], models: tuple[str, ...] = ("sft", "gcpo")) -> None:
    """runs: folders of finished demos. models: names in their folder "verdicts"."""
    print("| run | model | " + " | ".join(VALUES) + " | false points: failed, seen but passed, not seen % | TPR % |")
    print("| --- " * (len(VALUES) + 4) + "|")
    for run in runs:
        pairs = [pair for pair in read_dataset(run / "data", "test", PREFERENCES) if pair.choice != "same"]
        gold = read_json(run / "data/test_gold.json")
        for model in models:
            judged = read_json(run / f"verdicts/{model}.json")["greedy"]["judgments"]
            lines = {name: found for name in gold if (found := lines_of(judged.get(name), gold[name][0]))}
            cells = [f"{100 * accuracy(pairs, judged, gold, lines, value):.1f}" for value in VALUES.values()]
            print(f"| {run.name} | {model} | " + " | ".join([*cells, *fates(lines)]) + " |")


def lines_of(judgment: Mapping[str, Any] | None, gold: list[int]) -> Lines:
    """None of an unparsed trace."""
    if judgment is None or judgment["score"] is None:
        return []
    return [
        (int(line["verdict"]), truth, not any(words in (line["evidence"] or "") for words in NOTHING_SEEN))
        for line, truth in zip(judgment["lines"], gold, strict=True)
        if line["verdict"] is not None
    ]


def accuracy(
    pairs: list[Preference],
    judged: Mapping[str, Any],
    gold: Mapping[str, Any],
    lines: Mapping[str, Lines],
    value: Value,
) -> float:  # fmt: skip
    """Ties count half, a pair with an unparsed trace counts as wrong."""
    credits = []
    for pair in pairs:
        names = [candidate.id for candidate in (pair.winner, pair.loser) if candidate is not None]
        if any(name not in lines for name in names):
            credits.append(0.0)
            continue
        won, lost = (value(judged[name]["score"], lines[name], gold[name][1]) for name in names)
        credits.append(0.5 if abs(won - lost) < 1e-9 else float(won > lost))
    return fmean(credits)


def fates(lines: Mapping[str, Lines]) -> list[str]:
    """Cells: of the false points, and the share of the true ones that pass."""
    false, true = Counter[str](), Counter[int]()
    for found in lines.values():
        for verdict, gold, seen in found:
            if gold:
                true[verdict] += 1
            else:
                false["failed" if not verdict else "seen" if seen else "unseen"] += 1
    shares = [f"{100 * false[fate] / max(1, false.total()):.0f}" for fate in ("failed", "seen", "unseen")]
    return [", ".join(shares), f"{100 * true[1] / max(1, true.total()):.1f}"]


if __name__ == "__main__":
    tyro.cli(main)
