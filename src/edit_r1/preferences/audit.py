"""What a set of preferences would teach beside what it should: balance, biases, contradictions, noise, leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edit_r1.algo.picture_hash import NEAR
from edit_r1.preferences import biases, consistency
from edit_r1.preferences.facts import PairFacts, Unreadable, read_facts
from edit_r1.preferences.overlap import Overlap, overlap
from edit_r1.preferences.votes import FlipRate
from edit_r1.records import Preference
from edit_r1.store import PREFERENCES, Dataset

UNREADABLE_NAMED = 20
FEW = 100
"""Fewer decided pairs than this are said to be few: an interval of a share is then some 20 points wide."""

WINNER_IS = {
    "sharpness": "sharper", "saturation": "more saturated", "brightness": "brighter", "pixels": "larger in pixels",
    "file size": "larger as a file", "distance from source": "farther from the source",
}  # fmt: skip
"""What the edit with more of a measure is, in words."""


@dataclass(frozen=True)
class Audit:
    """All that was found in one data set of preferences."""

    data: str
    """Name of its folder."""
    hash: str
    rows: int
    decided: int
    same: int
    unreadable: int
    """Rows that were left out of everything else."""
    unreadable_examples: list[Unreadable]
    contexts: int
    sources: int
    """Different source images, by their pixels."""
    pictures: int
    """Different edits."""
    simulated: int
    """Rows whose annotator is a simulation."""
    order: Literal["kept", "drawn", "unknown"]
    """Whether first and second are as annotators saw them; "drawn" where an import drew them."""
    categories: list[biases.CategoryCount]
    effective_categories: float | None
    editors: list[biases.EditorCount]
    effective_editors: float | None
    annotators: list[biases.AnnotatorCount]
    position: biases.Share
    measures: list[biases.MeasureBias]
    ratings: list[biases.RatingAgreement]
    repeats: consistency.Repeats
    no_choices: consistency.NoChoices
    cycles: consistency.Cycles
    flip_rate: FlipRate | None
    overlaps: list[Overlap]


def audit(
    folder: Path,
    against: Sequence[Path] = (),
    seed: int = 0,
    threshold: int = NEAR,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Reads the data set once; in memory are a few rows with pictures, and less than a kilobyte of every other.

    Args:
        against: data sets or folders of pictures that must not be in this one, such as benchmarks.
        threshold: most bits of 256 by which copies differ.
        progress: called with (rows read, rows in all).

    Raises:
        StoreError: (a ValueError) when the data set is not finished or damaged.
        ValueError: when it is empty, none of its rows can be read, or one of `against` holds no picture.
    """
    dataset = Dataset(folder.parent, folder.name, PREFERENCES)
    meta = dataset.meta()
    facts: list[PairFacts] = []
    unreadable: list[Unreadable] = []
    for number, one in enumerate(read_facts(dataset), start=1):
        if isinstance(one, Unreadable):
            unreadable.append(one)
        else:
            facts.append(one)
        if progress is not None:
            progress(number, int(meta["rows"]))
    if not facts:
        reason = f": {unreadable[0].reason}" if unreadable else ""
        raise ValueError(f"{folder}: holds no pair that can be read{reason}")
    groups = consistency.group_pairs(facts)
    kinds, editors = biases.categories(facts), biases.editors(facts, seed)
    order = meta.get("order")
    return Audit(
        data=folder.name,
        hash=str(meta["hash"]),
        rows=len(facts) + len(unreadable),
        decided=sum(fact.decided for fact in facts),
        same=sum(not fact.decided for fact in facts),
        unreadable=len(unreadable),
        unreadable_examples=unreadable[:UNREADABLE_NAMED],
        contexts=len({fact.context for fact in facts}),
        sources=len({fact.source for fact in facts}),
        pictures=len({picture for fact in facts for picture in (fact.first, fact.second)}),
        simulated=sum(fact.simulated for fact in facts),
        order=order if order in ("kept", "drawn") else "unknown",
        categories=kinds,
        effective_categories=biases.effective_number([kind.pairs for kind in kinds]),
        editors=editors,
        effective_editors=biases.effective_number([editor.shown for editor in editors]),
        annotators=biases.annotators(facts, seed),
        position=biases.position_bias(facts, seed),
        measures=biases.measure_biases(facts, seed),
        ratings=biases.rating_agreement(facts),
        repeats=consistency.repeats(groups),
        no_choices=consistency.no_choices(facts),
        cycles=consistency.cycles(groups),
        flip_rate=consistency.flips(groups, seed),
        overlaps=[overlap(facts, other, threshold) for other in against],
    )


def audit_json(found: Audit) -> dict[str, Any]:
    """The document of `preferences audit --json`."""
    return {**asdict(found), "findings": findings(found)}


def findings(found: Audit) -> list[str]:
    """What deserves a look, a sentence each; empty when nothing was flagged."""
    return [*_of_biases(found), *_of_consistency(found), *_of_overlap(found)]


def _of_biases(found: Audit) -> Iterable[str]:
    if found.unreadable:
        first = found.unreadable_examples[0]
        yield f"{_times(found.unreadable, 'row')} unreadable and left out; row {first.row + 1}: {first.reason}."
    if 0 < found.decided < FEW:
        yield f"Only {found.decided} pairs have a winner: intervals are wide, and what is not flagged may be there too."
    if found.decided == 0:
        yield "No pair has a winner: there is nothing to train on."
    if found.position.flagged and found.order != "drawn":
        yield f"The first edit wins {_percent(found.position)}: annotators may favour a side."
    for bias in found.measures:
        if bias.share.flagged:
            yield f"The edit that is {WINNER_IS[bias.measure]} wins {_percent(bias.share)}."
    uneven = sorted((one for one in found.editors if one.wins.flagged), key=lambda one: one.wins.share or 0)
    if uneven:
        ends = [uneven[-1], *uneven[:1]] if len(uneven) > 1 else uneven
        told = ", ".join(f"{one.name or 'an unnamed one'} {_percent(one.wins)}" for one in ends)
        yield f"{len(uneven)} of {len(found.editors)} editors win more or less than half against others: {told}."
    for annotator in found.annotators:
        if annotator.first.flagged and found.order != "drawn" and len(found.annotators) > 1:
            name = annotator.name or "without a name"
            yield f"Annotator {name} chooses the first edit in {_percent(annotator.first)}."


def _of_consistency(found: Audit) -> Iterable[str]:
    if found.repeats.contradictory:
        yield f"{_times(found.repeats.contradictory, 'pair')} answered both ways."
    if found.repeats.by_one_annotator:
        yield f"{_times(found.repeats.by_one_annotator, 'pair')} answered more than once by one annotator."
    if found.no_choices.identical:
        chosen = found.no_choices.identical_decided
        yield f"{_times(found.no_choices.identical, 'pair')} made of two identical pictures, {chosen} with a winner."
    if found.no_choices.unedited_wins:
        yield f"{_times(found.no_choices.unedited_wins, 'pair')} won by a copy of the source."
    if found.cycles.cyclic:
        yield f"{found.cycles.cyclic} of {found.cycles.contexts} contexts with three or more edits hold a cycle."
    for rating in found.ratings:
        if rating.against:
            total = rating.agree + rating.equal + rating.against
            yield f"The rating {rating.name!r} speaks against the choice in {rating.against} of {total} pairs."


def _of_overlap(found: Audit) -> Iterable[str]:
    for other in found.overlaps:
        if other.near.rows:
            yield (
                f"Pictures of {other.against} stand in {other.near.rows} of {found.rows} rows. By the same pixels: "
                f"sources {other.exact.sources}, edits {other.exact.edits}; with near copies: sources "
                f"{other.near.sources}, edits {other.near.edits}."
            )


def _times(count: int, noun: str) -> str:
    """ "3 pairs are", as the start of a sentence."""
    return f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"


def _percent(share: biases.Share) -> str:
    """Of a flagged share: with its interval."""
    low, high = share.ci95 or [float("nan")] * 2
    return f"{100 * (share.share or 0):.0f} % of {share.n} pairs (95 % interval {100 * low:.0f} to {100 * high:.0f})"


def example_rows(found: Audit) -> list[int]:
    """Rows that the examples of an audit name, from 0, in order."""
    rows: set[int] = {row for group in found.repeats.examples for row in group}
    rows |= {row for group in found.no_choices.examples for row in group}
    rows |= {row for cycle in found.cycles.examples for row in cycle.rows}
    rows |= {shared.row for other in found.overlaps for shared in other.examples}
    return sorted(rows)


def read_examples(folder: Path, rows: Sequence[int]) -> dict[int, Preference]:
    """These rows of a data set, with their pictures. Raises StoreError as reading does."""
    wanted, kept = set(rows), {}
    for number, preference in enumerate(Dataset(folder.parent, folder.name, PREFERENCES)):
        if number in wanted:
            kept[number] = preference
            if len(kept) == len(wanted):
                break
    return kept
