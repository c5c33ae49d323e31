"""From a verifier's parsed traces to one `Judgment`; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Judgment,
    Principle,
    PrincipleResult,
    Trace,
    Unparsed,
)

CATEGORY_WEIGHTS: dict[str, float] = {INSTRUCTION_FOLLOWING: 0.5, FEATURE_PRESERVATION: 0.3, IMAGE_QUALITY: 0.2}
"""Share of each category in `weighted_verdicts`: ours, the paper names no weights."""


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None for no value."""
    return math.fsum(values) / len(values) if values else None


def aggregate(
    outcomes: Sequence[Trace | Unparsed],
    principles: Sequence[Principle],
    model: str,
    seconds: float,
    simulated: bool = False,
    expected: Sequence[float | None] | None = None,
) -> Judgment:
    """One judgment from the traces of one edited image.

    expected: each outcome's expected score (`expected_score`), None for one that has none; None when not asked for.

    The score is the mean over the parsed traces, `score_std` their population standard deviation; an
    unparsed trace is counted and enters no number. Evidence comes from the trace whose score is nearest
    to the mean (the first of several). Every trace with verdicts has one per principle (ours).
    """
    parsed = [outcome for outcome in outcomes if isinstance(outcome, Trace)]
    score = mean([trace.score for trace in parsed])
    spread = None
    if score is not None and len(parsed) > 1:
        spread = math.sqrt(math.fsum((trace.score - score) ** 2 for trace in parsed) / len(parsed))
    tie_breakers = [] if expected is None else _of_parsed(expected, outcomes)
    results = _results(parsed, principles, score)
    categories: dict[str, float | None] = {}
    for category in CATEGORIES:
        values = [result.verdict for result in results if result.category == category and result.verdict is not None]
        categories[category] = mean(values)
    return Judgment(
        score=score,
        traces=len(outcomes),
        unparsed=len(outcomes) - len(parsed),
        score_std=spread,
        principles=results,
        categories=categories,
        model=model,
        seconds=seconds,
        simulated=simulated,
        expected_score=None if None in tie_breakers else mean([value for value in tie_breakers if value is not None]),
        outcomes=tuple(outcomes),
    )


def _of_parsed(expected: Sequence[float | None], outcomes: Sequence[Trace | Unparsed]) -> list[float | None]:
    """The expected scores of the parsed outcomes, so that their mean is over the same traces as the score."""
    pairs = zip(expected, outcomes, strict=True)
    return [value for value, outcome in pairs if isinstance(outcome, Trace)]


def _results(
    parsed: Sequence[Trace], principles: Sequence[Principle], score: float | None
) -> tuple[PrincipleResult, ...]:
    """The checklist: mean verdicts, evidence from the trace nearest to the mean score."""
    lists = [trace.verdicts for trace in parsed if trace.verdicts is not None]
    assert all(len(verdicts) == len(principles) for verdicts in lists), "a trace was parsed for other principles"
    nearest = None
    if score is not None:
        nearest = min(parsed, key=lambda trace: abs(trace.score - score)).verdicts
    return tuple(
        PrincipleResult(
            question=principle.question,
            category=principle.category,
            verdict=mean([verdicts[index].value for verdicts in lists]),
            evidence=None if nearest is None else nearest[index].evidence,
        )
        for index, principle in enumerate(principles)
    )


def failed(reason: Unparsed, traces: int, principles: Sequence[Principle], model: str, simulated: bool) -> Judgment:
    """The judgment of an item about which the judge was not asked: no score, every trace is `reason`."""
    return aggregate([reason] * traces, principles, model, 0.0, simulated)


def best_first(judgments: Sequence[Judgment]) -> list[int]:
    """Places of the judgments, best first; those without a score last. The order is that of `places_by_score`."""
    return places_by_score([(judgment.score, judgment.expected_score) for judgment in judgments])


def places_by_score(edits: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """Places of the edits, given as (score, expected score), best first; those without a score last.

    Higher scores stand before lower ones, always. Edits of one score are ordered by their expected scores when all of
    them have one; otherwise, and where those tie too, they keep their order.
    """
    alike: dict[float | None, list[int]] = {}
    for place, (score, _) in enumerate(edits):
        alike.setdefault(score, []).append(place)
    order: list[int] = []
    for _, places in sorted(alike.items(), key=lambda group: -1.0 if group[0] is None else group[0], reverse=True):
        breakers = {place: edits[place][1] for place in places}
        known = {place: value for place, value in breakers.items() if value is not None}
        order += sorted(places, key=lambda place: -known[place]) if len(known) == len(places) else places
    return order


@dataclass(frozen=True)
class TieRates:
    """How often the scores of edits of one context (sources and instruction) do not order them."""

    contexts: int
    """Contexts of which at least two edits have a score."""
    pairs: int
    """Pairs of two edits of one context that both have a score."""
    tie_rate: float | None
    """Share of the pairs whose scores are equal, 0 to 1; None without a pair."""
    tie_rate_expected: float | None
    """Share that `best_first` cannot order by the expected scores either, 0 to 1; None when no edit has one."""


def tie_rates(contexts: Iterable[Sequence[tuple[float | None, float | None]]]) -> TieRates:
    """Ties within each context, whose edits are given as (score, expected score); the pairs of all count alike."""
    several = pairs = tied = left = 0
    told = False
    for edits in contexts:
        alike: dict[float, list[float | None]] = {}
        for score, expected in edits:
            if score is not None:
                alike.setdefault(score, []).append(expected)
        scored = sum(map(len, alike.values()))
        if scored < 2:
            continue
        several += 1
        pairs += math.comb(scored, 2)
        for breakers in alike.values():
            told = told or any(value is not None for value in breakers)
            tied += math.comb(len(breakers), 2)
            known = None not in breakers  # as `best_first` has it
            left += sum(math.comb(count, 2) for count in (Counter(breakers).values() if known else (len(breakers),)))
    return TieRates(several, pairs, tied / pairs if pairs else None, left / pairs if pairs and told else None)


def weighted_verdicts(judgment: Judgment) -> float | None:
    """The checklist as one number, 0 to 10: category means weighted by `CATEGORY_WEIGHTS`.

    Categories without a verdict are left out and the other weights rescaled; None without any verdict.
    Reported beside the model's own score, which is not bound to the verdicts.
    """
    weighted = [
        (CATEGORY_WEIGHTS[category], value) for category, value in judgment.categories.items() if value is not None
    ]
    if not weighted:
        return None
    return 10 * math.fsum(weight * value for weight, value in weighted) / math.fsum(weight for weight, _ in weighted)


def judgment_json(judgment: Judgment) -> dict[str, Any]:
    """The judgment as the command line, the library and the server return it (design.md section 4); score 0 to 10."""
    return {
        "score": judgment.score,
        "traces": judgment.traces,
        "unparsed": judgment.unparsed,
        "score_std": judgment.score_std,
        "expected_score": judgment.expected_score,
        "principles": [
            {
                "question": result.question,
                "category": result.category,
                "verdict": result.verdict,
                "evidence": result.evidence,
            }
            for result in judgment.principles
        ],
        "categories": dict(judgment.categories),
        "model": judgment.model,
        "prompts": judgment.prompts,
        "seconds": judgment.seconds,
    }
