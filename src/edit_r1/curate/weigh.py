"""How far each member of an ensemble can be trusted, from a small set of verdicts that are known to be right."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edit_r1.curate.chunk_file import chunk_file
from edit_r1.curate.ensemble import pool_votes
from edit_r1.curate.inputs import read_run
from edit_r1.records import GoldVerdicts, PoolTrace
from edit_r1.store import GOLD_VERDICTS, POOL_TRACES, Dataset, StoreError, read_json, read_rows
from edit_r1.store.parquet import iterate_rows

SHRINKAGE = 4.0
"""Verdicts of either kind, half of them right, that every member is taken to have given beside its own: with few gold
verdicts weights stay small and alike."""


@dataclass(frozen=True)
class Reliability:
    """A member against the gold set."""

    member: str
    verdicts: int
    """Compared ones."""
    yes_right: float | None
    """Share of the gold set's 1 that it said, 0 to 1; None without any."""
    no_right: float | None
    """Share of its 0."""
    balanced: float
    """Mean of the two after shrinkage, 0 to 1."""
    weight: float
    """log(balanced / (1 - balanced)), and 0 for a member no better than chance: nobody's word is turned round."""
    yes_weight: float
    """log(p(yes | 1) / p(yes | 0)) after shrinkage, likewise: little for a member that says yes to nearly all."""
    no_weight: float
    """log(p(no | 0) / p(no | 1)) after shrinkage, likewise: much for such a member."""


def reliabilities(
    votes: Iterable[GoldVerdicts], gold: Mapping[str, tuple[int, ...]], shrinkage: float = SHRINKAGE
) -> list[Reliability]:
    """One entry per member that voted on a candidate of the gold set, by name.

    With r right of n and shrinkage s, each share is (r + s / 2) / (n + s), for the gold set's 1 and 0 apart, so that a
    member that always says yes has a balanced accuracy of 0.5 however rare failures are.

    Args:
        gold: by candidate, its verdicts.

    Raises:
        ValueError: when no vote is on a candidate of the gold set, for lists of different lengths, or a negative
            shrinkage.
    """
    if shrinkage < 0:
        raise ValueError(f"shrinkage={shrinkage}: 0 or more")
    counts: dict[str, Counter[tuple[int, int]]] = {}
    for vote in votes:
        truth = gold.get(vote.candidate_id)
        if truth is None:
            continue
        if len(truth) != len(vote.gold):
            raise ValueError(
                f"candidate {vote.candidate_id}: {len(truth)} gold verdicts, {vote.verifier} voted on "
                f"{len(vote.gold)}: the gold set is of other principles"
            )
        own = counts.setdefault(vote.verifier, Counter())
        own.update((verdict.value, value) for verdict, value in zip(vote.gold, truth, strict=True))
    if not counts:
        raise ValueError(f"no vote is on any of the {len(gold)} candidates of the gold set: check their ids")
    return [_reliability(member, own, shrinkage) for member, own in sorted(counts.items())]


def _reliability(member: str, counts: Counter[tuple[int, int]], shrinkage: float) -> Reliability:
    shares, shrunk = [], []
    for value in (1, 0):
        right, all_of = counts[value, value], counts[0, value] + counts[1, value]
        shares.append(right / all_of if all_of else None)
        shrunk.append((right + shrinkage / 2) / (all_of + shrinkage) if all_of + shrinkage else 0.5)
    balanced = sum(shrunk) / 2
    yes, no = shrunk
    return Reliability(
        member, sum(counts.values()), shares[0], shares[1], balanced, _log_ratio(balanced, 1 - balanced),
        _log_ratio(yes, 1 - no), _log_ratio(no, 1 - yes),
    )  # fmt: skip


def _log_ratio(part: float, other: float) -> float:
    """0 where `other` is as large; bounded, because without shrinkage a member may be right throughout."""
    return max(0.0, math.log(max(part, 1e-6) / max(other, 1e-6)))


def read_gold_set(path: Path) -> dict[str, tuple[int, ...]]:
    """Verdicts known to be right, by candidate, of a data set of gold verdicts or a JSONL file.

    A line is {"candidate_id": id, "gold": [0 or 1, ...]} in the order of the candidate's principles; further keys are
    left alone.

    Raises:
        StoreError: for a data set that cannot be read.
        ValueError: for a file that cannot be read, or a line that is none of these; the message names it.
    """
    if path.is_dir():
        dataset = Dataset(path.parent, path.name, GOLD_VERDICTS)
        return {row.candidate_id: tuple(verdict.value for verdict in row.gold) for row in dataset}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error}): give a JSONL file or a data set") from error
    found: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, values = _gold_line(path, number, line)
            if name in found:
                raise ValueError(f"{path}, line {number}: candidate {name} stands there twice: keep one of them")
            found[name] = values
    if not found:
        raise ValueError(f"{path}: holds no gold verdicts")
    return found


def _gold_line(path: Path, number: int, line: str) -> tuple[str, tuple[int, ...]]:
    wanted = f'{path}, line {number}: not a line {{"candidate_id": ID, "gold": [0 or 1, ...]}}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{wanted}: {str(error)[:80]}") from error
    if not isinstance(row, dict) or not isinstance(row.get("candidate_id"), str):
        raise ValueError(f"{wanted}: candidate_id is missing or no text")
    values = row.get("gold")
    if not isinstance(values, list) or not values or any(type(one) is not int or one not in (0, 1) for one in values):
        raise ValueError(f"{wanted}: gold is no list of 0 and 1")
    return row["candidate_id"], tuple(values)


def votes_of(out: Path) -> Iterator[GoldVerdicts]:
    """Every vote of a finished curation: of its verifier or ensemble, and of each judge but `judges_left_out`.

    Raises StoreError for a curation that is not finished.
    """
    chunks = _finished(out)
    named: set[str] = set()
    for vote in _verifiers(out):
        named.add(vote.verifier)
        yield vote
    for own in _by_candidate(out, chunks):
        yield from (vote for vote in pool_votes(own) if vote.verifier not in named)


def judges_left_out(out: Path) -> list[str]:
    """Judges that have the name of a verifier: weights are by name, and it stands for what the model says as verifier.

    None where the pool voted in an ensemble, whose members have names of their own. Raises as `votes_of`.
    """
    if any(_pool_voted(out, number) for number in range(_finished(out))):
        return []
    verifiers = {row["verifier"] for path in _verifiers(out).paths() for row in iterate_rows(path, ["verifier"])}
    traces = Dataset(out, "traces", POOL_TRACES)
    return sorted(verifiers & {row["judge"] for path in traces.paths() for row in iterate_rows(path, ["judge"])})


def _finished(out: Path) -> int:
    """Chunks of a finished curation."""
    run = read_run(out)
    if run is None or not run["done"]:
        raise StoreError(f"{out}: holds no finished curation: run `edit-r1 curate run RECIPE --out {out}` to its end")
    return int(run["chunks"])


def _verifiers(out: Path) -> Dataset[GoldVerdicts]:
    """What an ensemble's members said, or without one its only verifier, which is gold."""
    votes = Dataset(out, "votes", GOLD_VERDICTS)
    return votes if votes.done() else Dataset(out, "gold", GOLD_VERDICTS)


def _pool_voted(out: Path, chunk: int) -> bool:
    """Whether votes of a chunk were made of the judges' traces: they lie in shards of their own (`curate.chunk`)."""
    votes = chunk_file(out, chunk).read()["steps"].get("votes", {"shards": ()})
    return any(Path(shard).parent.name.startswith("pool-") for shard in votes["shards"])


def _by_candidate(out: Path, chunks: int) -> Iterator[list[PoolTrace]]:
    """Traces of one candidate together; those of a chunk lie together, so few are held at a time.

    chunks: of the last run. Files of further ones are left of an earlier cut of the samples, which this one holds too.
    """
    for number in range(chunks):
        own: dict[str, list[PoolTrace]] = {}
        for shard in chunk_file(out, number).read()["steps"]["traces"]["shards"]:
            for trace in _shard_traces(out / shard):
                own.setdefault(trace.candidate_id, []).append(trace)
        yield from own.values()


def _shard_traces(path: Path) -> list[PoolTrace]:
    return [POOL_TRACES.from_row(row) for row in read_rows(path)]


Sides = Literal["two", "one"]
"""Whether a member's yes and no weigh apart, or as much as its balanced accuracy says."""


def weights_of(members: Iterable[Reliability], sides: Sides = "two") -> tuple[tuple[str, float, float], ...]:
    """For `Ensemble.weights`."""
    if sides == "one":
        return tuple((one.member, one.weight, one.weight) for one in members)
    return tuple((one.member, one.yes_weight, one.no_weight) for one in members)


def read_weights(path: Path, sides: Sides = "two") -> tuple[tuple[str, float, float], ...]:
    """`weights_of` what `edit-r1 curate weigh --out` wrote. Raises StoreError for another file."""
    found: Any = read_json(path)
    try:
        return weights_of([Reliability(**one) for one in found["members"]], sides)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: holds no weights; make them with `edit-r1 curate weigh DIR --gold FILE --out {path}`"
        ) from error
