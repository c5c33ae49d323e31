"""What winners have in common: sides, editors, looks. Every share is of decided pairs, its interval by source.

A share whose 95 % interval excludes one half is flagged, where at least `FEW_SOURCES` sources stand behind it: of
fewer a bootstrap makes intervals that are too narrow. Of seven shares without a bias one is flagged by chance in three
sets of ten: a flag is a reason to look, not a verdict, and a bias need not be a fault: better edits may be sharper.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edit_r1.preferences.facts import MEASURES, PairFacts
from edit_r1.stats import proportion

FEW_SOURCES = 20
NAMED = 30
"""Editors and annotators listed: those with the most pairs."""


@dataclass(frozen=True)
class Share:
    """A share of pairs that would be one half without a bias."""

    share: float | None
    """0 to 1; None without a pair."""
    ci95: list[float] | None
    """Clustered by source; None with fewer than two sources."""
    n: int
    """Pairs in the share."""
    flagged: bool
    """The interval excludes 0.5, and enough sources stand behind it."""


def share_of(flags: Sequence[bool], sources: Sequence[bytes], seed: int = 0) -> Share:
    """Share of true flags, with its interval."""
    if not flags:
        return Share(None, None, 0, False)
    estimate = proportion(flags, sources, seed)
    interval = estimate.ci95
    apart = interval is not None and not interval[0] <= 0.5 <= interval[1]
    return Share(estimate.mean, interval, len(flags), apart and estimate.clusters >= FEW_SOURCES)


@dataclass(frozen=True)
class MeasureBias:
    """Whether the edit with more of something wins."""

    measure: str
    share: Share
    """Of the decided pairs that differ in it: those in which the winner has more."""
    equal: int
    """Decided pairs in which both have as much."""
    missing: int
    """Decided pairs that could not be compared: an edit of another aspect than the source's."""


def measure_biases(facts: Sequence[PairFacts], seed: int = 0) -> list[MeasureBias]:
    """One entry for each of `MEASURES`."""
    decided = [fact for fact in facts if fact.decided]
    found = []
    for place, name in enumerate(MEASURES):
        flags: list[bool] = []
        sources: list[bytes] = []
        equal = missing = 0
        for fact in decided:
            sign = fact.more[place]
            if sign is None:
                missing += 1
            elif sign == 0:
                equal += 1
            else:
                flags.append((sign > 0) == (fact.choice == "first"))
                sources.append(fact.source)
        found.append(MeasureBias(name, share_of(flags, sources, seed), equal, missing))
    return found


def position_bias(facts: Sequence[PairFacts], seed: int = 0) -> Share:
    """Share of decided pairs that the first edit wins."""
    decided = [fact for fact in facts if fact.decided]
    return share_of([fact.choice == "first" for fact in decided], [fact.source for fact in decided], seed)


@dataclass(frozen=True)
class CategoryCount:
    """A kind of edit."""

    name: str
    pairs: int
    share: float
    """Of all pairs."""
    same: int


def categories(facts: Sequence[PairFacts]) -> list[CategoryCount]:
    """Most pairs first."""
    pairs = Counter(fact.category for fact in facts)
    same = Counter(fact.category for fact in facts if not fact.decided)
    return [CategoryCount(name, count, count / len(facts), same[name]) for name, count in pairs.most_common()]


def effective_number(counts: Sequence[int]) -> float | None:
    """1 / sum p^2, the number of equally frequent kinds that would be as varied; None without any."""
    total = sum(counts)
    return total**2 / sum(count**2 for count in counts) if total else None


@dataclass(frozen=True)
class EditorCount:
    """An editor against all others; pairs of two of its own edits say nothing of it and are left out of `wins`."""

    name: str
    shown: int
    """Edits in pairs."""
    same: int
    """Pairs against others without a winner."""
    wins: Share
    """Of its decided pairs against other editors."""


def editors(facts: Sequence[PairFacts], seed: int = 0) -> list[EditorCount]:
    """The `NAMED` editors with the most edits shown."""
    shown: Counter[str] = Counter()
    same: Counter[str] = Counter()
    flags: dict[str, list[bool]] = defaultdict(list)
    sources: dict[str, list[bytes]] = defaultdict(list)
    for fact in facts:
        shown.update((fact.first_editor, fact.second_editor))
        if fact.first_editor == fact.second_editor:
            continue
        for name, side in ((fact.first_editor, "first"), (fact.second_editor, "second")):
            if fact.decided:
                flags[name].append(fact.choice == side)
                sources[name].append(fact.source)
            else:
                same[name] += 1
    return [
        EditorCount(name, count, same[name], share_of(flags[name], sources[name], seed))
        for name, count in shown.most_common(NAMED)
    ]


@dataclass(frozen=True)
class AnnotatorCount:
    """How one annotator answers."""

    name: str
    answers: int
    same: int
    first: Share
    """Of the decided answers, those for the first edit."""
    agreement: float | None
    """Share of decided answers of others on the same pairs that are this annotator's; None without one."""
    compared: int
    """Pairs of answers in `agreement`."""


def annotators(facts: Sequence[PairFacts], seed: int = 0) -> list[AnnotatorCount]:
    """The `NAMED` annotators with the most answers; what was pooled from several is nobody's."""
    facts = [fact for fact in facts if not fact.soft]
    answers = Counter(fact.annotator for fact in facts)
    by_pair: dict[tuple[bytes, frozenset[bytes]], list[PairFacts]] = defaultdict(list)
    for fact in facts:
        if fact.decided:
            by_pair[fact.context, frozenset((fact.first, fact.second))].append(fact)
    agreed: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    for group in by_pair.values():
        for one in group:
            others = [other for other in group if other.annotator != one.annotator]
            compared[one.annotator] += len(others)
            agreed[one.annotator] += sum(other.winner == one.winner for other in others)
    found = []
    for name, count in answers.most_common(NAMED):
        own = [fact for fact in facts if fact.annotator == name]
        agreement = agreed[name] / compared[name] if compared[name] else None
        same = sum(not fact.decided for fact in own)
        found.append(AnnotatorCount(name, count, same, position_bias(own, seed), agreement, compared[name]))
    return found


@dataclass(frozen=True)
class RatingAgreement:
    """Whether a scale says what the choice says, over decided pairs that have it."""

    name: str
    agree: int
    equal: int
    """Both edits rated alike, one chosen all the same."""
    against: int


def rating_agreement(facts: Sequence[PairFacts]) -> list[RatingAgreement]:
    """One entry for each name of a rating, in the order in which they first appear."""
    counts: dict[str, Counter[str]] = {}
    for fact in facts:
        if not fact.decided:
            continue
        for rating in fact.ratings:
            gap = (rating.first - rating.second) * (1 if fact.choice == "first" else -1)
            word = "agree" if gap > 0 else "equal" if gap == 0 else "against"
            counts.setdefault(rating.name, Counter())[word] += 1
    return [RatingAgreement(name, c["agree"], c["equal"], c["against"]) for name, c in counts.items()]
