"""The report of a reward benchmark: the official number, and beside it what no published harness says.

Everything but the official number is over the comparisons in which people preferred one edit (`preferences`), as in
`evaluate.reward`: a tie of the judge has half a credit there, and labels of "tie" are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edit_r1.evaluate.benchmarks.pair import Benchmark
from edit_r1.evaluate.judging import By, JudgedPair, no_comparison, of_dimension, with_score
from edit_r1.evaluate.reward import PairScore, compare_pairs, report_pairs
from edit_r1.stats import Estimate

ORDER_CONSISTENCY = 1.0
"""Share of comparisons whose outcome stays when the two edits change places. By construction, not by measurement: an
`EditJudge` sees one edit at a time, and what is asked together stands in the order of hashes."""
EDGES = (0.0, 0.5, 1.0, 2.0, 4.0, 10.0)
"""Points of score between the bins of the calibration."""


def report_benchmark(
    benchmark: Benchmark, pairs: Sequence[JudgedPair], dimension: str = "", by: By = "score", seed: int = 0
) -> dict[str, Any]:
    """The JSON of `evaluate reward` (docs/evaluate.md), as far as it follows from the judged comparisons.

    The numbers are of `dimension`; without one, of the first that the benchmark names and the data has.
    Raises ValueError when there is nothing of that dimension to report on.
    """
    main = dimension or next((one for one in benchmark.dimensions if of_dimension(pairs, one)), "")
    document = _report(benchmark, of_dimension(pairs, main), by, seed)
    apart = {
        one: _report(benchmark, found, by, seed) for one in benchmark.dimensions if (found := of_dimension(pairs, one))
    }
    kept = ("official", "official_ci95", "half_credit", "ci95", "tie_rate", "unparsed", "pairs")
    return {
        **document,
        "dimension": main,
        "compared_by": by,
        "dimensions": {one: {name: own[name] for name in kept} for one, own in apart.items()},
    }


def _report(benchmark: Benchmark, pairs: Sequence[JudgedPair], by: By, seed: int) -> dict[str, Any]:
    if not pairs:
        raise ValueError(f"{benchmark.name}: no comparison to report on")
    official = benchmark.official([pair.answer(by) for pair in pairs])
    estimate = official.estimate(seed)
    scores = preference_scores(pairs, by)
    counted = pairs if benchmark.name != "pairs" else [pair for pair in pairs if pair.label != "tie"]
    missing = [pair for pair in counted if pair.answer(by).difference is None]
    half = asdict(report_pairs(benchmark.name, scores, seed)) if scores else _nothing(benchmark.name)
    return {
        "benchmark": benchmark.name,
        "official": estimate.mean,
        "official_ci95": estimate.ci95,
        **{name: half[name] for name in ("half_credit", "tie_rate")},
        "unparsed": len(missing),
        "pairs": len(counted),
        "preferences": len(scores),
        **{name: half[name] for name in ("ci95", "tasks", "at_margin", "tie_break")},
        "official_tasks": official.tasks,
        "order_consistency": ORDER_CONSISTENCY,
        "trace_consistency": trace_consistency(pairs) if by == "score" else None,
        "calibration": calibration(scores),
        **official.details,
        **{f"{number}_ci95": official.estimate(seed, number).ci95 for number in official.apart},
    }


def _nothing(name: str) -> dict[str, Any]:
    """The half credit of a benchmark without a preference."""
    return {
        "benchmark": name, "half_credit": None, "tie_rate": None, "ci95": None, "tasks": {}, "at_margin": {},
        "tie_break": None,
    }  # fmt: skip


def preference_scores(pairs: Sequence[JudgedPair], by: By = "score") -> list[PairScore]:
    """The comparisons with a winner, as `evaluate.reward` counts them."""
    found = []
    for pair in pairs:
        if pair.label == "tie":
            continue
        shown = with_score(pair, by)
        places = (shown.first, shown.second) if pair.label == "first" else (shown.second, shown.first)
        edits = pair.edits if pair.label == "first" else pair.edits[::-1]
        expected = [grade.expected if by == "score" else None for grade in places]
        found.append(
            PairScore(pair.source, pair.task or pair.dimension, *edits, places[0].score, places[1].score, *expected)
        )
    return found


def trace_consistency(pairs: Sequence[JudgedPair]) -> float | None:
    """How often two comparisons by one trace of each edit, drawn anew, would end alike (first, second or tie); 0 to 1.

    Of a pair it is the sum over the outcomes of (share of all pairs of a trace of the first and one of the second)^2;
    then the mean over pairs. A plug-in estimate: with few traces it is too high. None where no pair has several parsed
    traces of both edits.
    """
    found = []
    for pair in pairs:
        first = [score for score in pair.first.traces if score is not None]
        second = [score for score in pair.second.traces if score is not None]
        if len(first) > 1 and len(second) > 1:
            signs = np.sign(np.subtract.outer(first, second)).ravel()
            found.append(sum(float((signs == sign).mean()) ** 2 for sign in (-1, 0, 1)))
    return float(np.mean(found)) if found else None


def calibration(scores: Sequence[PairScore]) -> dict[str, Any]:
    """Whether a larger difference of scores means a surer order.

    `bins`: comparisons whose difference is above `from` and at most `to` points, and the share of them ordered rightly
    (None in an empty bin); ties and comparisons without both scores are in none. `gap_auc`: how often a rightly ordered
    comparison has a larger difference than a wrongly ordered one, half for equal ones; 0.5 says that the difference
    tells nothing, None that all are right or all are wrong.
    """
    gaps = [one.winner - one.loser for one in scores if one.winner is not None and one.loser is not None]
    decided_M = np.array([gap for gap in gaps if gap != 0])
    bins = []
    for low, high in pairwise(EDGES):
        own = decided_M[(np.abs(decided_M) > low) & (np.abs(decided_M) <= high)]
        right = float((own > 0).mean()) if own.size else None
        bins.append({"from": low, "to": high, "pairs": int(own.size), "right": right})
    good, bad = decided_M[decided_M > 0], -decided_M[decided_M < 0]
    auc = None
    if good.size and bad.size:
        ordered = np.sort(bad)
        below, upto = np.searchsorted(ordered, good, "left"), np.searchsorted(ordered, good, "right")
        auc = float(((below + upto) / 2).mean() / bad.size)
    return {"bins": bins, "gap_auc": auc}


@dataclass(frozen=True)
class Result:
    """A judge's comparisons of a benchmark, with what they were made of."""

    name: str
    """Who judged, for a person."""
    benchmark: str
    hash: str
    """Of the benchmark's rows."""
    pairs: list[JudgedPair]
    failed: int = 0
    """Edits for which an answer never came; their comparisons are counted as unparsed."""


def compare_results(
    benchmark: Benchmark, a: Result, b: Result, dimension: str = "", by: By = "score", seed: int = 0
) -> dict[str, Any]:
    """A minus B on the same comparisons: official numbers and half credit, with paired intervals clustered by source.

    Raises ValueError when the two are not on the same rows.
    """
    if (a.benchmark, a.hash) != (b.benchmark, b.hash):
        raise ValueError(
            f"{a.name} is on {a.benchmark} ({a.hash[:12]}) and {b.name} on {b.benchmark} ({b.hash[:12]}): a paired "
            "difference needs the same rows"
        )
    main = dimension or next((one for one in benchmark.dimensions if of_dimension(a.pairs, one)), "")
    first, second = (of_dimension(one.pairs, main) for one in (a, b))
    if not first or not second:
        raise no_comparison(main, {pair.dimension for pair in (*a.pairs, *b.pairs)})
    parts = [first, _in_order_of(first, second)]
    if len(parts[1]) != len(first) or len(second) != len(first):
        raise ValueError(f"{a.name} and {b.name} hold other comparisons of dimension {main!r}: judge both anew")
    answers = [[pair.answer(by) for pair in part] for part in parts]
    left, right = (benchmark.official(one) for one in answers)
    apart = {number: _json(left.minus(right, seed, number)) for number in left.apart}
    scores = [preference_scores(part, by) for part in parts]
    half = compare_pairs(scores[0], scores[1], seed) if scores[0] else None
    return {
        "benchmark": benchmark.name,
        "dimension": main,
        "compared_by": by,
        "pairs": len(parts[0]),
        "a": _side(benchmark, a, parts[0], by),
        "b": _side(benchmark, b, parts[1], by),
        "difference": {
            "official": _json(left.minus(right, seed)),
            **apart,
            "half_credit": None if half is None else _json(half),
        },
    }


def _in_order_of(first: Sequence[JudgedPair], second: Sequence[JudgedPair]) -> list[JudgedPair]:
    """Those of `second` in the order of `first`, as far as they are the same: the hash of the rows knows no order."""
    waiting: dict[tuple[Any, ...], list[JudgedPair]] = {}
    for pair in second:
        waiting.setdefault(_place(pair), []).append(pair)
    found = [waiting.get(_place(pair), []) for pair in first]
    return [places.pop(0) for places in found if places]


def _place(pair: JudgedPair) -> tuple[Any, ...]:
    return pair.id, pair.source, pair.edits, pair.label, pair.task, pair.dimension


def _side(benchmark: Benchmark, result: Result, pairs: Sequence[JudgedPair], by: By) -> dict[str, Any]:
    report = _report(benchmark, pairs, by, 0)
    return {
        "judge": result.name, **{name: report[name] for name in ("official", "half_credit", "unparsed")},
        "failed": result.failed,
    }  # fmt: skip


def _json(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "ci95": estimate.ci95}
