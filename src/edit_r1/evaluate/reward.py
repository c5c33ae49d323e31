"""How well a verifier orders pairs of edits as people do, and whether its checklist stays true.

Legend: M pairs, P principles. The official accuracy is strict (a tie is wrong); beside it stands
half credit for ties, which is what breaking ties at random would score on average, so a judge cannot
gain in it by breaking ties blindly. A pair with an unparsed judgment earns nothing in either, and is
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edit_r1.records import Judgment, Preference, Trace
from edit_r1.stats import Estimate, bootstrap_ci, paired_difference
from edit_r1.verifier.scoring import ScoreItem, Verifier


@dataclass(frozen=True)
class PairScore:
    """One strict preference with the verifier's two scores; stored per pair, so that any two runs can be paired."""

    sample_id: str
    """The source: intervals are clustered by it."""
    category: str
    winner_id: str
    loser_id: str
    winner: float | None
    """Mean score of x_w, 0 to 10; None when no trace could be parsed."""
    loser: float | None
    winner_expected: float | None = None
    """Expected score of x_w (`Judgment.expected_score`); None when there is none."""
    loser_expected: float | None = None

    @property
    def parsed(self) -> bool:
        return self.winner is not None and self.loser is not None

    @property
    def tie(self) -> bool:
        return self.parsed and self.winner == self.loser

    @property
    def strict(self) -> float:
        """1 when score(x_w) > score(x_l), else 0."""
        return float(self.winner is not None and self.loser is not None and self.winner > self.loser)

    @property
    def half_credit(self) -> float:
        """1, 0.5 for a tie, 0."""
        return 0.5 if self.tie else self.strict

    @property
    def tie_broken(self) -> float:
        """Half credit after a tie of the scores was broken by the expected scores, where both edits have one."""
        if not self.tie or self.winner_expected is None or self.loser_expected is None:
            return self.half_credit
        return 0.5 + 0.5 * float(np.sign(self.winner_expected - self.loser_expected))


@dataclass(frozen=True)
class TieBreakReport:
    """What the expected score adds as a breaker of ties; it changes no pair that has a winner by score."""

    half_credit: float
    tie_rate: float
    """Pairs that still tie."""
    broken: int
    """Ties that were broken."""
    right: int
    """Of those, in favour of x_w."""
    gain: float
    """Half credit with the breaker minus without."""
    gain_ci95: list[float] | None
    """Of the gain, paired and clustered by source; None with a single source."""


@dataclass(frozen=True)
class PairReport:
    """The JSON of `evaluate reward` (design.md section 4)."""

    benchmark: str
    official: float
    """Strict accuracy."""
    half_credit: float
    tie_rate: float
    unparsed: int
    """Pairs in which at least one image has no score."""
    pairs: int
    ci95: list[float] | None
    """Of half_credit, clustered by source; None with a single source."""
    tasks: dict[str, float]
    """Half-credit accuracy per category of edit."""
    at_margin: dict[str, float]
    """Share of pairs won by more than 0.5 and by more than 1 point."""
    tie_break: TieBreakReport | None = None
    """With ties broken by the expected scores; None when no judgment has one."""


def judge_candidates(
    verifier: Verifier,
    preferences: Sequence[Preference],
    traces: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    expected: bool = False,
) -> dict[str, Judgment]:
    """A judgment for every candidate that appears in `preferences`, by candidate id; each is judged once.

    expected: also ask for expected scores, for the report with broken ties.
    """
    items: dict[str, ScoreItem] = {}
    for preference in preferences:
        sample = preference.context.sample
        for candidate in (preference.first, preference.second):
            items[candidate.id] = ScoreItem(
                sources=sample.sources,
                edited=candidate.image,
                instruction=sample.instruction,
                principles=preference.context.principles,
            )
    judgments = verifier.score_many(
        list(items.values()), traces=traces, seed=seed, progress=progress, expected=expected
    )
    return dict(zip(items, judgments, strict=True))


def pair_scores(preferences: Sequence[Preference], judgments: Mapping[str, Judgment]) -> list[PairScore]:
    """Scores of winner and loser for every strict preference; "same" is left out."""
    return [
        PairScore(
            preference.context.sample.id,
            preference.context.sample.category,
            preference.winner.id,
            preference.loser.id,
            judgments[preference.winner.id].score,
            judgments[preference.loser.id].score,
            judgments[preference.winner.id].expected_score,
            judgments[preference.loser.id].expected_score,
        )
        for preference in preferences
        if preference.winner is not None and preference.loser is not None
    ]


def report_pairs(benchmark: str, scores: Sequence[PairScore], seed: int = 0) -> PairReport:
    """Accuracy strictly and with half credit, tie rate, unparsed pairs, per category, with an interval.

    Raises:
        ValueError: without a single pair.
    """
    if not scores:
        raise ValueError(f"{benchmark}: no strict pair to evaluate (all are 'same', or none were given)")
    half = np.array([score.half_credit for score in scores])
    clusters = [score.sample_id for score in scores]
    categories = sorted({score.category for score in scores})
    gaps = np.array([
        score.winner - score.loser if score.winner is not None and score.loser is not None else -np.inf
        for score in scores
    ])  # fmt: skip
    return PairReport(
        benchmark=benchmark,
        official=float(np.mean([score.strict for score in scores])),
        half_credit=float(half.mean()),
        tie_rate=float(np.mean([score.tie for score in scores])),
        unparsed=sum(not score.parsed for score in scores),
        pairs=len(scores),
        ci95=bootstrap_ci(half, clusters, seed).ci95,
        tasks={
            category: float(np.mean([score.half_credit for score in scores if score.category == category]))
            for category in categories
        },
        at_margin={str(margin): float((gaps > margin).mean()) for margin in (0.5, 1.0)},
        tie_break=_tie_break(scores, seed),
    )


def task_intervals(scores: Sequence[PairScore], seed: int = 0) -> dict[str, list[float] | None]:
    """95 % interval of half credit per category of edit, clustered by source; None with a single source."""
    found: dict[str, list[float] | None] = {}
    for category in sorted({score.category for score in scores}):
        own = [score for score in scores if score.category == category]
        credit, sources = [score.half_credit for score in own], [score.sample_id for score in own]
        found[category] = bootstrap_ci(credit, sources, seed).ci95
    return found


def _tie_break(scores: Sequence[PairScore], seed: int) -> TieBreakReport | None:
    if all(score.winner_expected is None and score.loser_expected is None for score in scores):
        return None
    credit = [score.tie_broken for score in scores]
    broken = [score.tie_broken for score in scores if score.tie and score.tie_broken != 0.5]
    gain = paired_difference(credit, [s.half_credit for s in scores], [s.sample_id for s in scores], seed)
    return TieBreakReport(
        half_credit=float(np.mean(credit)),
        tie_rate=float(np.mean([score.tie for score in scores])) - len(broken) / len(scores),
        broken=len(broken),
        right=sum(value == 1 for value in broken),
        gain=gain.mean,
        gain_ci95=gain.ci95,
    )


def compare_pairs(new: Sequence[PairScore], old: Sequence[PairScore], seed: int = 0) -> Estimate:
    """Half-credit accuracy of `new` minus `old` on the same pairs, with a paired interval clustered by source.

    Raises:
        ValueError: when the two were not computed on the same pairs in the same order.
    """
    if [(s.winner_id, s.loser_id) for s in new] != [(s.winner_id, s.loser_id) for s in old]:
        raise ValueError("the two results are not on the same pairs: evaluate both on one set of preferences")
    return paired_difference(
        [score.half_credit for score in new],
        [score.half_credit for score in old],
        [score.sample_id for score in new],
        seed,
    )


@dataclass(frozen=True)
class ChecklistReport:
    """Whether the verdicts are true: order can improve while the checklist rots."""

    tpr: float | None
    """Share of truly fulfilled principles that traces pass; None without one."""
    tnr: float | None
    """Share of truly failed principles that traces fail; None without one."""
    verdicts: int
    agreement: float | None
    """Pearson correlation of a trace's score and the mean of its verdicts, over the traces that have some; None when
    either is constant."""
    mean_score: float | None
    score_error: float | None
    """Mean absolute difference of score and gold utility, points; None without gold utilities."""
    mean_tokens: float | None
    """Of the parsed traces; None without one."""
    traces: int
    unparsed: int


def report_checklist(
    judgments: Sequence[Judgment], gold_values: Sequence[Sequence[int]], gold_scores: Sequence[float] | None = None
) -> ChecklistReport:
    """Verdicts against gold over every parsed trace of `judgments`.

    Args:
        gold_values: per judgment the gold verdicts, in the order of its principles.
        gold_scores: per judgment the gold utility, 0 to 10.
    """
    passed: dict[int, list[int]] = {0: [], 1: []}
    scores: list[float] = []
    judged: list[tuple[float, float]] = []
    errors: list[float] = []
    tokens: list[int] = []
    outcomes = 0
    for number, (judgment, gold) in enumerate(zip(judgments, gold_values, strict=True)):
        outcomes += len(judgment.outcomes)
        for trace in judgment.outcomes:
            if not isinstance(trace, Trace):
                continue
            scores.append(trace.score)
            tokens.append(trace.tokens)
            if gold_scores is not None:
                errors.append(abs(trace.score - gold_scores[number]))
            if not trace.verdicts:
                continue
            judged.append((trace.score, float(np.mean([verdict.value for verdict in trace.verdicts]))))
            for verdict, truth in zip(trace.verdicts, gold, strict=True):
                passed[truth].append(verdict.value)
    return ChecklistReport(
        tpr=float(np.mean(passed[1])) if passed[1] else None,
        tnr=1 - float(np.mean(passed[0])) if passed[0] else None,
        verdicts=len(passed[0]) + len(passed[1]),
        agreement=_correlation([score for score, _ in judged], [mean for _, mean in judged]),
        mean_score=float(np.mean(scores)) if scores else None,
        score_error=float(np.mean(errors)) if errors else None,
        mean_tokens=float(np.mean(tokens)) if tokens else None,
        traces=outcomes,
        unparsed=outcomes - len(scores),
    )


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(first) < 2 or np.std(first) == 0 or np.std(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
