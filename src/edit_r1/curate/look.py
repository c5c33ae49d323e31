"""Quadruples of a curation to look at: first which ones, by a few columns, then their rows and no others.

Both passes go chunk by chunk (`.work/chunks`), whose shards hold a candidate's traces together: of two million
quadruples a chunk's short columns and the chosen ids are in memory, and only chunks with a chosen one are read in full.
Finished chunks of a curation that is under way can be looked at too.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from edit_r1.curate.chunk import BESIDE, TABLES
from edit_r1.curate.chunk_file import chunk_file
from edit_r1.curate.findings import FAULTS, ContextFinding
from edit_r1.curate.inputs import read_run
from edit_r1.curate.select import Decision
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Trace
from edit_r1.store import Row, Table
from edit_r1.store.parquet import completed, iterate_rows

T = TypeVar("T")
Which = Literal["low-agreement", "rejected", "disagreement", "failed", "unparsed", "findings"]
"""low-agreement: traces that agree least with gold; rejected: traces furthest below the kept one; disagreement: judges
that contradict each other; failed: nothing was selected; unparsed: traces that could not be read; findings: principles
with faults. Each the worst first."""


@dataclass(frozen=True)
class Looked:
    """One quadruple with everything that was said of it."""

    context: Context
    candidate: Candidate
    traces: tuple[PoolTrace, ...]
    """By index."""
    gold: GoldVerdicts | None
    votes: tuple[GoldVerdicts, ...]
    """Of an ensemble; empty for a single verifier."""
    decisions: tuple[Decision, ...]
    """By index, one per trace."""
    findings: tuple[ContextFinding, ...]
    """In its context."""

    @property
    def agreement(self) -> float | None:
        """Mean agreement of the compared traces with gold, 0 to 1; None when none could be compared."""
        known = [one.agreement for one in self.decisions if one.agreement is not None]
        return sum(known) / len(known) if known else None

    @property
    def disagreement(self) -> float | None:
        """Share of verdicts on which two judges differ, 0 to 1, over all pairs of them; None with fewer than two."""
        said = [(t.judge, t.index, [v.value for v in t.outcome.verdicts]) for t in self.traces
                if isinstance(t.outcome, Trace) and t.outcome.verdicts]  # fmt: skip
        return disagreement(said)


def disagreement(said: Sequence[tuple[str, int, Sequence[int]]]) -> float | None:
    """Of (judge, index, verdicts): each judge by its first trace. As `Looked.disagreement`."""
    firsts: dict[str, Sequence[int]] = {}
    for judge, _, values in sorted(said, key=lambda one: one[1]):
        firsts.setdefault(judge, values)
    pairs = [a != b for one, other in combinations(firsts.values(), 2) for a, b in zip(one, other, strict=False)]
    return sum(pairs) / len(pairs) if pairs else None


@dataclass(frozen=True)
class _Place:
    candidate_id: str
    chunk: int
    measure: float
    """Lowest first."""


def look(out: Path, which: Which | None, count: int, seed: int) -> list[Looked]:
    """`count` quadruples of a curation at most, the worst first, or without a filter a seeded draw.

    Raises:
        ValueError: when `out` holds no curation, or for a count below 1.
        StoreError: for a damaged shard.
    """
    if count < 1:
        raise ValueError(f"count={count}: ask for at least one quadruple")

    def order(place: _Place) -> tuple[float, bytes]:
        return place.measure, hashlib.sha256(f"{seed}|{place.candidate_id}".encode()).digest()

    chunks = _chunks(out)
    chosen = heapq.nsmallest(count, (place for number in chunks for place in _measured(out, number, which)), key=order)
    by_candidate: dict[str, Looked] = {}
    for number, places in groupby(sorted(chosen, key=lambda place: place.chunk), key=lambda place: place.chunk):
        by_candidate |= _read(out, number, {place.candidate_id for place in places})
    return [by_candidate[place.candidate_id] for place in chosen]


def _chunks(out: Path) -> list[int]:
    """Numbers of the finished chunks of the present stage."""
    run = read_run(out)
    if run is None:
        raise ValueError(f"{out}: holds no curation; start one with `edit-r1 curate run RECIPE --out {out}`")
    found = []
    for number in range(run["chunks"]):
        chunk = chunk_file(out, number).read()
        if chunk.get("run") == run["run"] and chunk.get("done"):
            found.append(number)
    if not found:
        raise ValueError(f"{out}: no chunk is finished yet; `edit-r1 curate status {out}` tells how far it is")
    return found


def _measured(out: Path, number: int, which: Which | None) -> Iterator[_Place]:
    """The quadruples of a chunk that a filter lets through."""
    steps = chunk_file(out, number).read()["steps"]
    decisions: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(out, steps, "decisions", ("candidate_id", "agreement", "cause")):
        decisions[row["candidate_id"]].append(row)
    if which == "disagreement":
        said: dict[str, list[tuple[str, int, list[int]]]] = defaultdict(list)
        for row in _rows(out, steps, "traces", ("candidate_id", "judge", "index", "verdicts")):
            if row["verdicts"]:
                said[row["candidate_id"]].append(
                    (row["judge"], row["index"], [one["value"] for one in row["verdicts"]])
                )
        for candidate, own in said.items():
            differ = disagreement(own)
            if differ:
                yield _Place(candidate, number, -differ)
    elif which == "findings":
        faults: dict[str, int] = defaultdict(int)
        for row in _rows(out, steps, "findings", ("sample_id", "kind")):
            faults[row["sample_id"]] += row["kind"] in FAULTS
        for row in _rows(out, steps, "candidates", ("id", "sample_id")):
            if found := faults.pop(row["sample_id"], 0):  # one picture of a context is enough
                yield _Place(row["id"], number, -float(found))
    else:
        for candidate, rows in decisions.items():
            measure = _measure(rows, which)
            if measure is not None:
                yield _Place(candidate, number, measure)


def _measure(decisions: Sequence[Row], which: Which | None) -> float | None:
    """How bad a candidate's traces are, the lower the worse; None for one that a filter leaves out."""
    if which is None:
        return 0.0
    causes = [row["cause"] for row in decisions]
    known = [row["agreement"] for row in decisions if row["agreement"] is not None]
    if which == "failed":
        return None if "kept" in causes else 0.0
    if which == "unparsed":
        return -float(causes.count("unparsed")) or None
    if which == "rejected":
        return min(known) - max(known) if "less accurate" in causes else None
    return sum(known) / len(known) if known else None


def _read(out: Path, number: int, wanted: Collection[str]) -> dict[str, Looked]:
    """By candidate."""
    steps = chunk_file(out, number).read()["steps"]

    def of(step: str, column: str, names: Collection[str], group: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        table: Table[Any] = (TABLES | BESIDE)[step]
        for row in _rows(out, steps, step):
            if row[column] in names and (whole := completed(row, table.features)) is not None:
                found[row[group]].append(table.from_row(whole))
        return found

    candidates = {name: own[0] for name, own in of("candidates", "id", wanted, "id").items()}
    samples = {candidate.sample_id for candidate in candidates.values()}
    contexts = of("contexts", "id", samples, "id")
    findings = of("findings", "sample_id", samples, "sample_id")
    traces, gold, votes, decisions = (
        of(step, "candidate_id", wanted, "candidate_id") for step in ("traces", "gold", "votes", "decisions")
    )
    return {
        name: Looked(
            contexts[candidate.sample_id][0],
            candidate,
            tuple(sorted(traces[name], key=lambda one: one.index)),
            gold[name][0] if name in gold else None,
            tuple(votes[name]) if name in votes else (),
            tuple(sorted(decisions[name], key=lambda one: one.index)),
            tuple(findings[candidate.sample_id]) if candidate.sample_id in findings else (),
        )
        for name, candidate in candidates.items()
    }


def _rows(out: Path, steps: Mapping[str, Any], step: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
    for shard in steps.get(step, {}).get("shards", ()):
        yield from iterate_rows(out / shard, columns)
