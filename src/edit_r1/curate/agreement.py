"""How far judges agree: with each other, with themselves when asked again, with gold.

A unit is one principle of one candidate, its values the 0/1 verdicts on it. All that is counted are units by what their
values are, so counts of chunks, workers and runs add up, and no verdict is kept:

- between: one trace of each judge (its first that could be parsed), over all judges ("all") and for each two of them.
  One trace, because a mean of several is steadier than what it would be compared with;
- repeats: the parsed traces of one judge, where it wrote two or more;
- gold: each parsed trace of a judge against gold, by what was said and what gold says.

Each is counted over everything, per principle category, per category of edit, and over everything in `GROUPS` groups
of sources, from which `stats.jackknife_interval` makes an interval that knows that verdicts on one source go together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from edit_r1.curate.draws import number_of
from edit_r1.records import Context, GoldVerdicts, PoolTrace, Trace, Verdict
from edit_r1.stats import alphas, jackknife_interval, unit_coincidences

GROUPS = 20
"""Groups of sources that an interval is made of."""
LISTED = 50
"""Categories of edit that are reported, the most frequent first: public data may name thousands."""
EVERYTHING = "everything"
"""The name of the comparison of all judges at once; a pair is named "A | B"."""

Cells = Counter[str]
"""Units by their values: "YES/VALUES" where all values are alike, "SAID,GOLD" against gold."""


class AgreementTally:
    """Counts of agreement; see the module."""

    def __init__(self) -> None:
        self._cells: defaultdict[tuple[str, str, str], Cells] = defaultdict(Counter)
        """By (comparison, who, where)."""

    def add(self, context: Context, traces: Sequence[PoolTrace], gold: GoldVerdicts | None) -> None:
        """One candidate: its traces in any order, and its gold where there is any."""
        by_judge: dict[str, list[tuple[Verdict, ...]]] = {}
        for trace in sorted(traces, key=lambda one: one.index):
            if isinstance(trace.outcome, Trace) and trace.outcome.verdicts is not None:
                by_judge.setdefault(trace.judge, []).append(trace.outcome.verdicts)
        self._add(context, by_judge, gold)

    def add_votes(self, context: Context, votes: Sequence[GoldVerdicts], gold: GoldVerdicts | None) -> None:
        """One candidate on which verifiers voted."""
        self._add(context, {vote.verifier: [vote.gold] for vote in votes}, gold)

    def _add(
        self, context: Context, verdicts_of: Mapping[str, list[tuple[Verdict, ...]]], gold: GoldVerdicts | None
    ) -> None:
        group = f"group:{number_of(hashlib.sha256(context.sample.source).hexdigest()) % GROUPS}"
        edit = f"edit:{context.sample.category or 'unknown'}"
        for place, principle in enumerate(context.principles):
            wheres = ("", f"principle:{principle.category}", edit, group)
            said = {judge: [own[place].value for own in verdicts] for judge, verdicts in verdicts_of.items()}
            for comparison, who, cell in _units(said, None if gold is None else gold.gold[place].value):
                for where in wheres:
                    self._cells[comparison, who, where][cell] += 1

    def counts(self) -> dict[str, Any]:
        """Everything counted, as JSON that `add_counts` takes."""
        nested: dict[str, Any] = {}
        for (comparison, who, where), cells in self._cells.items():
            nested.setdefault(comparison, {}).setdefault(who, {})[where] = dict(cells)
        return nested

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """What another tally counted."""
        for comparison, by_who in counts.items():
            for who, by_where in by_who.items():
                for where, cells in by_where.items():
                    self._cells[comparison, who, where].update(cells)

    def as_dict(self) -> dict[str, Any]:
        """{"between": {who: ROW}, "repeats": {judge: ROW}, "gold": {judge: ROW}}; see `_row`."""
        names: dict[str, set[str]] = {"between": set(), "repeats": set(), "gold": set()}
        for comparison, who, _ in self._cells:
            names[comparison].add(who)
        return {
            comparison: {who: self._row(comparison, who) for who in sorted(own, key=lambda n: (n != EVERYTHING, n))}
            for comparison, own in names.items()
        }

    def _row(self, comparison: str, who: str) -> dict[str, Any]:
        """{"units", "raw", "raw_ci95", "alpha", "alpha_ci95", "principles": {category: {...}}, "edits": {...}}, and
        against gold also "yes_right", the share of gold's 1 that was said, and "no_right", of its 0."""
        cells = {where: own for (kind, name, where), own in self._cells.items() if (kind, name) == (comparison, who)}
        whole = cells[""]
        groups = [own for where, own in cells.items() if where.startswith("group:")]
        rests = [whole - own for own in groups]
        row = _measures(whole)
        parts = {
            part: {
                where.removeprefix(f"{prefix}:"): _measures(own)
                for where, own in sorted(cells.items(), key=lambda item: (-item[1].total(), item[0]))
                if where.startswith(f"{prefix}:")
            }
            for part, prefix in (("principles", "principle"), ("edits", "edit"))
        }
        parts["edits"] = dict(list(parts["edits"].items())[:LISTED])
        return {
            **row,
            "raw_ci95": _interval(raw_agreement(whole), [raw_agreement(rest) for rest in rests]),
            "alpha_ci95": _interval(alpha(whole), [alpha(rest) for rest in rests]),
            **parts,
        }


def _units(said: Mapping[str, Sequence[int]], gold: int | None) -> Iterator[tuple[str, str, str]]:
    """(comparison, who, cell) of one principle of one candidate."""
    firsts = {judge: values[0] for judge, values in said.items()}
    if len(firsts) > 1:
        yield "between", EVERYTHING, _cell(list(firsts.values()))
        for a, b in combinations(sorted(firsts), 2):
            yield "between", f"{a} | {b}", _cell([firsts[a], firsts[b]])
    for judge, values in said.items():
        if len(values) > 1:
            yield "repeats", judge, _cell(values)
        if gold is not None:
            for value in values:
                yield "gold", judge, f"{value},{gold}"


def _cell(values: Sequence[int]) -> str:
    return f"{sum(values)}/{len(values)}"


def _alike(cells: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """(values of 1, values, units) of each cell; a verdict against gold is a unit of two values."""
    found = []
    for cell, units in cells.items():
        if "," in cell:
            said, gold = map(int, cell.split(","))
            found.append((said + gold, 2, units))
        else:
            yes, values = map(int, cell.split("/"))
            found.append((yes, values, units))
    return found


def raw_agreement(cells: Mapping[str, int]) -> float | None:
    """Share of the pairs of values of one unit that are the same, 0 to 1, over all pairs; None without one."""
    same = pairs = 0
    for yes, values, units in _alike(cells):
        same += units * (comb(yes, 2) + comb(values - yes, 2))
        pairs += units * comb(values, 2)
    return same / pairs if pairs else None


def alpha(cells: Mapping[str, int]) -> float | None:
    """Krippendorff's alpha, nominal (`stats.alphas`); None without units, or when all values are the same."""
    found = _alike(cells)
    if not found:
        return None
    counts_UC = np.array([[values - yes, yes] for yes, values, _ in found], dtype=np.float64)
    units_U = np.array([units for _, _, units in found], dtype=np.float64)
    whole = float(alphas((unit_coincidences(counts_UC) * units_U[:, None, None]).sum(axis=0)[None])[0])
    return None if np.isnan(whole) else whole


def _measures(cells: Mapping[str, int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "units": sum(cells.values()),
        "raw": _rounded(raw_agreement(cells)),
        "alpha": _rounded(alpha(cells)),
    }
    if any("," in cell for cell in cells):
        for name, value in (("yes_right", 1), ("no_right", 0)):
            right, wrong = cells.get(f"{value},{value}", 0), cells.get(f"{1 - value},{value}", 0)
            row[name] = _rounded(right / (right + wrong)) if right + wrong else None
    return row


def _interval(whole: float | None, left_out: Sequence[float | None]) -> list[float] | None:
    known = [value for value in left_out if value is not None]
    if whole is None or len(known) < len(left_out):
        return None
    interval = jackknife_interval(whole, known)
    return None if interval is None else [round(max(interval[0], -1.0), 4), round(min(interval[1], 1.0), 4)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
