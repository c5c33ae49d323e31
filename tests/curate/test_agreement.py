"""Counts of agreement against brute force over the verdicts themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.agreement import EVERYTHING, AgreementTally, alpha, raw_agreement
from edit_r1.records import Context, GoldVerdicts, PoolTrace, Principle, Sample, Trace, Unparsed, Verdict
from edit_r1.stats import jackknife_interval

PRINCIPLES = (Principle("Is it red?", "Instruction Following"), Principle("Is it sharp?", "Image Quality"))


def context(number: int, category: str = "colour alteration") -> Context:
    return Context(Sample(f"row-{number}", f"picture {number}".encode(), "Make it red.", category), PRINCIPLES, "d")


def verdicts(values: Sequence[int]) -> tuple[Verdict, ...]:
    return tuple(Verdict(1 if value else 0) for value in values)


Candidate = tuple[list[tuple[str, list[int] | None]], list[int] | None]
"""(traces as (judge, verdicts or None for an unparsed one), gold)."""

PAIR = st.lists(st.integers(0, 1), min_size=2, max_size=2)
CANDIDATES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.none() | PAIR), max_size=6), st.none() | PAIR
    ),
    max_size=8,
)  # fmt: skip


def add(tally: AgreementTally, number: int, candidate: Candidate) -> None:
    traces = [
        PoolTrace("c", judge, index, Unparsed("?", "x") if values is None else Trace("t", 5.0, verdicts(values)))
        for index, (judge, values) in enumerate(candidate[0])
    ]
    gold = None if candidate[1] is None else GoldVerdicts("c", verdicts(candidate[1]), "v")
    tally.add(context(number), traces[::-1], gold)


def units_of(candidates: list[Candidate], comparison: str, who: str) -> list[list[int]]:
    """The units themselves, straight from the words of the module."""
    units: list[list[int]] = []
    for traces, gold in candidates:
        for place in range(2):
            first: dict[str, int] = {}
            every: dict[str, list[int]] = {}
            for judge, values in traces:
                if values is not None:
                    first.setdefault(judge, values[place])
                    every.setdefault(judge, []).append(values[place])
            if comparison == "between":
                wanted = list(first) if who == EVERYTHING else who.split(" | ")
                if len(first) > 1 and all(judge in first for judge in wanted):
                    units.append([first[judge] for judge in wanted])
            elif comparison == "repeats":
                units.append(every.get(who, []))
            elif gold is not None:
                units += [[value, gold[place]] for value in every.get(who, [])]
    return [unit for unit in units if len(unit) > 1]


def brute(units: list[list[int]]) -> tuple[float | None, float | None]:
    """Raw agreement and alpha by their definitions."""
    same = [a == b for unit in units for a, b in combinations(unit, 2)]
    values = [value for unit in units for value in unit]
    n, ones = len(values), sum(values)
    expected = 2 * ones * (n - ones) / (n * (n - 1)) if n else 0.0
    observed = sum(2 * sum(unit) * (len(unit) - sum(unit)) / (len(unit) - 1) for unit in units) / max(n, 1)
    return (sum(same) / len(same) if same else None, 1 - observed / expected if expected else None)


@given(CANDIDATES)
def test_agreement_is_its_definition(candidates: list[Candidate]) -> None:
    tally = AgreementTally()
    for number, candidate in enumerate(candidates):
        add(tally, number, candidate)
    told = tally.as_dict()
    for comparison, names in (("between", [EVERYTHING, "a | b", "a | c"]), ("repeats", ["a"]), ("gold", ["b", "c"])):
        for who in names:
            raw, wanted = brute(units := units_of(candidates, comparison, who))
            if not units:
                assert who not in told[comparison]
                continue
            row = told[comparison][who]
            assert row["units"] == len(units)
            assert row["raw"] == pytest.approx(raw, abs=1e-4)
            assert row["alpha"] == (None if wanted is None else pytest.approx(wanted, abs=1e-4))
            assert sum(part["units"] for part in row["principles"].values()) == len(units)
            assert sum(part["units"] for part in row["edits"].values()) == len(units)


@given(CANDIDATES, st.integers(0, 8))
def test_counts_of_parts_add_up_to_the_whole(candidates: list[Candidate], cut: int) -> None:
    whole, first, second, merged = (AgreementTally() for _ in range(4))
    for number, candidate in enumerate(candidates):
        add(whole, number, candidate)
        add(first if number < cut else second, number, candidate)
    for part in (second, first):
        merged.add_counts(json.loads(json.dumps(part.counts())))
    assert merged.as_dict() == whole.as_dict()


def test_against_gold_both_kinds_of_right_are_told() -> None:
    tally = AgreementTally()
    add(tally, 0, ([("a", [1, 1])], [1, 0]))
    add(tally, 1, ([("a", [0, 0])], [1, 0]))
    row = tally.as_dict()["gold"]["a"]
    assert (row["raw"], row["yes_right"], row["no_right"]) == (0.5, 0.5, 0.5)
    assert row["principles"]["Image Quality"]["yes_right"] is None


def test_an_interval_comes_of_groups_of_sources() -> None:
    """Two hundred sources whose verdicts all go together: the interval is that of the sources, not of the verdicts."""
    rng = np.random.default_rng(0)
    tally = AgreementTally()
    for number in range(200):
        same = bool(rng.random() < 0.7)
        for _ in range(10):
            add(tally, number, ([("a", [1, 0]), ("b", [1, 0] if same else [0, 1])], None))
    row = tally.as_dict()["between"]["a | b"]
    low, high = row["raw_ci95"]
    assert low < row["raw"] < high
    assert 0.06 < high - low < 0.26  # 0.127 for 200 independent sources; 0.028 were the 4,000 units independent
    assert row["alpha_ci95"][0] < row["alpha"] < row["alpha_ci95"][1]


def test_rows_of_one_picture_are_one_source() -> None:
    tally = AgreementTally()
    for number in range(40):
        asked = replace(context(0), sample=replace(context(0).sample, id=f"row-{number}"))
        said = ((1, 0), (1, number % 2))
        traces = [PoolTrace("c", "ab"[n], n, Trace("t", 5.0, verdicts(values))) for n, values in enumerate(said)]
        tally.add(asked, traces, None)
    row = tally.as_dict()["between"]["a | b"]
    assert row["raw"] == 0.75 and row["raw_ci95"] is None


def test_one_group_has_no_interval() -> None:
    tally = AgreementTally()
    add(tally, 0, ([("a", [1, 0]), ("b", [1, 1])], None))
    row = tally.as_dict()["between"][EVERYTHING]
    assert row["raw"] == 0.5 and row["raw_ci95"] is None and row["alpha_ci95"] is None


def test_nothing_to_divide_by() -> None:
    assert raw_agreement({}) is None and alpha({}) is None
    assert alpha({"2/2": 5}) is None and raw_agreement({"2/2": 5}) == 1
    empty: dict[str, Any] = AgreementTally().as_dict()
    assert empty == {"between": {}, "repeats": {}, "gold": {}}


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Of a mean with one value a group, the delete-one jackknife is the textbook's standard error times t."""
    scipy = pytest.importorskip("scipy.stats")
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    left_out = [sum(values[:i] + values[i + 1 :]) / 4 for i in range(5)]
    low, high = jackknife_interval(sum(values) / 5, left_out) or (0, 0)
    half = scipy.t.ppf(0.975, 4) * np.std(values, ddof=1) / 5**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert jackknife_interval(0.5, [0.5]) is None
    for g in range(2, 21):
        ends = jackknife_interval(0.0, [1.0] * g) or (0, 0)
        assert ends[1] == pytest.approx(scipy.t.ppf(0.975, g - 1) * (g - 1) ** 0.5, rel=1e-3)
