"""Whether answers fit together: pairs answered more than once, answers against each other, cycles, no-choices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edit_r1.preferences.cycles import components, shortest_cycle
from edit_r1.preferences.facts import PairFacts
from edit_r1.preferences.votes import FlipRate, flip_rate

NAMED = 20
"""Examples kept of each kind."""


@dataclass(frozen=True)
class Repeats:
    """Pairs by how often and how they were answered. Two rows are about one pair when all pixels are the same."""

    pairs: int
    """Different pairs of pictures."""
    answered_again: int
    """Of these, those with more than one answer."""
    by_one_annotator: int
    """Of these, those that one annotator answered more than once."""
    contradictory: int
    """Of those answered again: each picture won at least once."""
    undecided: int
    """Of those answered again and not contradictory: both a winner and "same"."""
    examples: list[list[int]]
    """Rows of contradictory pairs."""


@dataclass(frozen=True)
class NoChoices:
    """Pairs in which there was nothing to choose, or a copy won."""

    identical: int
    """Both pictures are the same pixels."""
    identical_decided: int
    """Of these, those with a winner."""
    unedited_wins: int
    """Decided pairs whose winner is the source, pixel by pixel, while the loser is not."""
    examples: list[list[int]]
    """Rows of identical pictures with a winner, and of unedited winners."""


@dataclass(frozen=True)
class Cycle:
    """Candidates of one context, each beating the next and the last the first."""

    pictures: int
    """Length of the cycle."""
    rows: list[int]
    """A row for each step: in it the n-th picture beats the next."""
    component: int
    """Pictures of which each beats every other, directly or through others."""


@dataclass(frozen=True)
class Cycles:
    """Intransitive contexts. An edge goes to the picture that lost more answers of a pair than it won."""

    contexts: int
    """Contexts that could have a cycle: at least three pictures compared, and as many pairs."""
    cyclic: int
    """Contexts with at least one."""
    components: int
    """Strongly connected components of more than one picture."""
    examples: list[Cycle]
    """The shortest cycle of a component, short ones first."""


Pair = tuple[bytes, frozenset[bytes]]


def group_pairs(facts: Sequence[PairFacts]) -> dict[Pair, list[PairFacts]]:
    """Answers by context and the two pictures, in whatever order these stood."""
    groups: dict[Pair, list[PairFacts]] = defaultdict(list)
    for fact in facts:
        groups[fact.context, frozenset((fact.first, fact.second))].append(fact)
    return dict(groups)


def repeats(groups: dict[Pair, list[PairFacts]]) -> Repeats:
    """Counts over the groups of `group_pairs`."""
    again = [group for group in groups.values() if len(group) > 1]
    contradictory, undecided = [], 0
    for group in again:
        winners = {fact.winner for fact in group}
        if len(winners - {None}) > 1:
            contradictory.append([fact.row for fact in group])
        elif None in winners and len(winners) > 1:
            undecided += 1
    by_one = sum(len({fact.annotator for fact in group}) < len(group) for group in again)
    return Repeats(len(groups), len(again), by_one, len(contradictory), undecided, contradictory[:NAMED])


def no_choices(facts: Sequence[PairFacts]) -> NoChoices:
    """Counts over all rows."""
    identical = [fact for fact in facts if fact.first == fact.second]
    chosen = [fact for fact in identical if fact.decided]
    copies = [fact for fact in facts if fact.winner == fact.source and fact.first != fact.second]
    rows = [[fact.row] for fact in (*copies, *chosen)]
    return NoChoices(len(identical), len(chosen), len(copies), rows[:NAMED])


def cycles(groups: dict[Pair, list[PairFacts]]) -> Cycles:
    """Strongly connected components of each context's graph of who beats whom."""
    graphs: dict[bytes, dict[bytes, list[bytes]]] = defaultdict(dict)
    rows: dict[tuple[bytes, bytes, bytes], int] = {}
    pairs: dict[bytes, int] = defaultdict(int)
    for (context, pictures), group in groups.items():
        graph = graphs[context]
        for picture in sorted(pictures):
            graph.setdefault(picture, [])
        if len(pictures) < 2:
            continue
        pairs[context] += 1
        one, other = sorted(pictures)
        lead = sum(fact.winner == one for fact in group) - sum(fact.winner == other for fact in group)
        if lead:
            winner, loser = (one, other) if lead > 0 else (other, one)
            graph[winner].append(loser)
            rows[context, winner, loser] = next(fact.row for fact in group if fact.winner == winner)
    found: list[Cycle] = []
    cyclic = 0
    for context, graph in graphs.items():
        knots = [component for component in components(graph) if len(component) > 1]
        cyclic += bool(knots)
        for component in knots:
            path = shortest_cycle(graph, component)
            steps = [rows[context, path[n], path[(n + 1) % len(path)]] for n in range(len(path))]
            found.append(Cycle(len(path), steps, len(component)))
    found.sort(key=lambda cycle: (cycle.pictures, cycle.rows))
    possible = sum(len(graph) >= 3 and pairs[context] >= 3 for context, graph in graphs.items())
    return Cycles(possible, cyclic, len(found), found[:NAMED])


def flips(groups: dict[Pair, list[PairFacts]], seed: int = 0) -> FlipRate | None:
    """`votes.flip_rate` over groups: an annotator has one vote a pair, and rows pooled already have none."""
    votes: list[tuple[int, int]] = []
    sources: list[bytes] = []
    for (_, pictures), group in groups.items():
        one = min(pictures)
        marks: dict[str, list[float]] = defaultdict(list)
        for fact in group:
            if not fact.soft and len(pictures) == 2:
                marks[fact.annotator].append(0.5 if fact.winner is None else float(fact.winner == one))
        means = [sum(values) / len(values) for values in marks.values()]
        votes.append((sum(mean > 0.5 for mean in means), sum(mean < 0.5 for mean in means)))
        sources.append(group[0].source)
    return flip_rate(votes, sources, seed)
