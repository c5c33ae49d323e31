"""What the studies of verifiers on EditWorld share: the held-out pairs of a demo's run judged, pooled over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edit_r1.evaluate.reward import PairScore, judge_candidates, pair_scores, report_checklist, report_pairs
from edit_r1.evaluate.reward_report import calibration
from edit_r1.recipes.tiny import SIZES, tiny_judge
from edit_r1.records import Judgment, OutputMode, Preference, Trace
from edit_r1.stats import Estimate, nested_ci
from edit_r1.store import PREFERENCES, read_dataset, read_json

COLUMNS = (
    "half credit % (95 %)", "by seed", "ties %", "unparsed", "TPR % (95 %)", "TNR % (95 %)", "error of the score",
)  # fmt: skip
"""Of `cells`."""


def judged(
    run: Path, model: Path, size: str, seed: int, mode: OutputMode = "both", processes: int = 0
) -> dict[str, Any]:
    """Greedy judgments of the held-out pairs of `run`, and of every verdict whether it is true.

    processes: a core each; 0 for as many as the demo takes.
    """
    sizes = replace(SIZES[size], processes=processes or SIZES[size].processes)
    pairs: Sequence[Preference] = read_dataset(run / "data", "test", PREFERENCES)
    gold = read_json(run / "data/test_gold.json")
    with tiny_judge(model, sizes, mode) as verifier:
        judgments = judge_candidates(verifier, pairs, 1, seed)
    source = {c.id: pair.context.sample.id for pair in pairs for c in (pair.first, pair.second)}
    known = {name: truth for name, truth in gold.items() if name in judgments}
    scores = pair_scores(pairs, judgments)
    checklist = report_checklist(
        [judgments[name] for name in known], [t[0] for t in known.values()], [t[1] for t in known.values()]
    )
    return {
        "pairs": [asdict(score) for score in scores],
        "verdicts": [v for name, truth in known.items() for v in _verdicts(source[name], judgments[name], truth[0])],
        "report": asdict(report_pairs("EditWorld test", scores)), "checklist": asdict(checklist),
        "calibration": calibration(scores),
    }  # fmt: skip


def _verdicts(source: str, judgment: Judgment, gold: Sequence[int]) -> list[tuple[str, int, int]]:
    """(source, gold, given) of every verdict of a greedy judgment; none where it has none."""
    [trace] = judgment.outcomes
    if not isinstance(trace, Trace) or trace.verdicts is None:
        return []
    return [(source, truth, verdict.value) for truth, verdict in zip(gold, trace.verdicts, strict=True)]


def pooled(by_seed: Mapping[int, Mapping[str, Any]], resamples: int) -> dict[str, Any]:
    """Results of `judged` over all seeds, with intervals that draw seeds and sources anew."""
    measured = partial(nested_ci, resamples=resamples)
    scores = [(seed, PairScore(**one)) for seed, result in by_seed.items() for one in result["pairs"]]
    runs, sources = [seed for seed, _ in scores], [score.sample_id for _, score in scores]
    half = [score.half_credit for _, score in scores]
    errors = [one["checklist"]["score_error"] for one in by_seed.values()]
    result: dict[str, Any] = {
        "half_credit": plain(measured(half, runs, sources)),
        "strict": plain(measured([score.strict for _, score in scores], runs, sources)),
        "ties": plain(measured([float(score.tie) for _, score in scores], runs, sources)),
        "by_seed": {str(seed): one["report"]["half_credit"] for seed, one in by_seed.items()},
        "unparsed": sum(one["report"]["unparsed"] for one in by_seed.values()),
        "pairs": len(half),
        "score_error": None if None in errors else statistics.fmean(errors),
        "gap_auc": {str(seed): one["calibration"]["gap_auc"] for seed, one in by_seed.items()},
    }
    for name, truth in (("tpr", 1), ("tnr", 0)):
        rows = [(s, *verdict) for s, one in by_seed.items() for verdict in one["verdicts"] if verdict[1] == truth]
        values = [float(given == truth) for *_, given in rows]
        result[name] = plain(measured(values, [r[0] for r in rows], [r[1] for r in rows])) if rows else None
    return result


def gain(new: Mapping[int, Mapping[str, Any]], old: Mapping[int, Mapping[str, Any]], resamples: int) -> dict[str, Any]:
    """Half credit of `new` minus `old` on the same pairs of the same seeds, seeds and sources drawn anew."""
    both = [
        (seed, PairScore(**mine), PairScore(**theirs))
        for seed in new
        for mine, theirs in zip(new[seed]["pairs"], old[seed]["pairs"], strict=True)
    ]
    if any((a.winner_id, a.loser_id) != (b.winner_id, b.loser_id) for _, a, b in both):
        raise ValueError("the two results are not on the same pairs: judge both on the same run")
    differences = [a.half_credit - b.half_credit for _, a, b in both]
    return plain(
        nested_ci(differences, [s for s, _, _ in both], [a.sample_id for _, a, _ in both], resamples=resamples)
    )


def share_gain(
    new: Mapping[int, Any], old: Mapping[int, Any], truth: int, resamples: int, seed: int = 0
) -> dict[str, Any] | None:
    """The share of the points of this truth that are told so, `new` minus `old`, seeds, then sources drawn anew for
    both at once. None where one of them has no verdicts. Traces that could not be read have none."""
    parts = []
    for run in new:
        by_source: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
        for place, result in enumerate((new[run], old[run])):
            for source, gold, given in result["verdicts"]:
                if gold == truth:
                    by_source[source][2 * place : 2 * place + 2] += (given == truth, 1)
        parts.append(np.array(list(by_source.values())).reshape(-1, 4))
    total_4 = np.sum([part_K4.sum(0) for part_K4 in parts], axis=0)
    if not (total_4[1] and total_4[3]):
        return None
    rng = np.random.default_rng(seed)
    drawn_R4 = np.array([
        np.sum([parts[run][rng.integers(len(parts[run]), size=len(parts[run]))].sum(0)
                for run in rng.integers(len(parts), size=len(parts))], axis=0)
        for _ in range(resamples)
    ])  # fmt: skip
    low, high = np.quantile(_difference(drawn_R4), [0.025, 0.975])
    return {"mean": float(_difference(total_4)), "ci95": (float(low), float(high))}


def _difference(counts_4: np.ndarray) -> np.ndarray:
    return counts_4[..., 0] / counts_4[..., 1] - counts_4[..., 2] / counts_4[..., 3]


def score_gain(new: Mapping[int, Any], old: Mapping[int, Any], resamples: int) -> dict[str, Any] | None:
    """Mean score of the pairs' edits, 0 to 10, `new` minus `old`, over those that both gave one."""
    values, runs, sources = [], [], []
    for seed in new:
        for a, b in zip(new[seed]["pairs"], old[seed]["pairs"], strict=True):
            for side in ("winner", "loser"):
                if a[side] is not None and b[side] is not None:
                    values.append(a[side] - b[side])
                    runs.append(seed)
                    sources.append(a["sample_id"])
    return plain(nested_ci(values, runs, sources, resamples=resamples)) if values else None


def difference(new: Mapping[int, Any], old: Mapping[int, Any], resamples: int) -> dict[str, Any]:
    """Everything of two results on the same pairs, `new` minus `old`, over all seeds; half credit by seed too."""
    return {
        "half_credit": gain(new, old, resamples),
        "by_seed": [gain({seed: new[seed]}, {seed: old[seed]}, 1)["mean"] for seed in new],
        "tpr": share_gain(new, old, 1, resamples), "tnr": share_gain(new, old, 0, resamples),
        "score": score_gain(new, old, resamples),
    }  # fmt: skip


DIFFERENCES = ("half credit %", "by seed", "TPR %", "TNR %", "mean score")
"""Of `difference_cells`."""


def difference_cells(found: Mapping[str, Any]) -> list[str]:
    each = ", ".join(f"{100 * value:+.1f}" for value in found["by_seed"])
    shares = [shown(found[name], "+") for name in ("tpr", "tnr")]
    return [shown(found["half_credit"], "+"), each, *shares, shown(found["score"], "+", of=1, digits=2)]


def plain(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "ci95": estimate.ci95}


def cells(row: Mapping[str, Any]) -> list[str]:
    """Of `COLUMNS`."""
    error = row["score_error"]
    return [
        shown(row["half_credit"]), ", ".join(f"{100 * value:.1f}" for value in row["by_seed"].values()),
        f"{100 * row['ties']['mean']:.1f}", f"{row['unparsed']} of {row['pairs']}",
        shown(row["tpr"]), shown(row["tnr"]), "" if error is None else f"{error:.2f}",
    ]  # fmt: skip


def shown(value: Mapping[str, Any] | None, sign: str = "", of: float = 100, digits: int = 1) -> str:
    """A number, in percent unless `of` is 1, with its interval; nothing for what was not measured."""
    if value is None:
        return ""
    numbers = (value["mean"], *(value["ci95"] or (float("nan"), float("nan"))))
    mean, low, high = (of * number for number in numbers)
    return f"{mean:{sign}.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
