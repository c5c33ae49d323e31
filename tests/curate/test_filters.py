"""What the gates keep, against counting by hand."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.filters import FilterTally, distance
from edit_r1.curate.select import select
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Principle, Sample, Trace, Unparsed, Verdict

PRINCIPLES = (Principle("Is it red?", "Instruction Following"), Principle("Is it sharp?", "Image Quality"))
CONTEXTS = [
    Context(Sample(f"s{number}", b"", "Make it red.", category), PRINCIPLES, "d")
    for number, category in enumerate(("colour alteration", "style transfer"))
]


def trace(candidate: str, judge: str, index: int, values: list[int] | None, score: float = 5.0) -> PoolTrace:
    if values is None:
        return PoolTrace(candidate, judge, index, Unparsed("?", "no score"))
    return PoolTrace(
        candidate, judge, index, Trace("t", score, tuple(Verdict(1 if v else 0) for v in values), None, 10)
    )


def gold(candidate: str, values: list[int]) -> GoldVerdicts:
    return GoldVerdicts(candidate, tuple(Verdict(1 if value else 0) for value in values), "v")


def fill(tally: FilterTally, parts: list[int], filter_on: bool = True) -> None:
    pools = {
        0: ([trace("c0", "a", 0, [1, 1], 9.0), trace("c0", "b", 1, [1, 0], 4.0), trace("c0", "b", 2, None)], [1, 0]),
        1: ([trace("c1", "a", 0, [0, 0], 1.0), trace("c1", "b", 1, [0, 0], 2.0), trace("c1", "b", 2, [0, 0], 8.0)],
            [0, 0]),
        2: ([trace("c2", "a", 0, [1, 1], 7.0)], None),
        3: ([trace("c3", "a", 0, None)], [1, 1]),
    }  # fmt: skip
    for number in parts:
        traces, values = pools[number]
        name = f"c{number}"
        truth = None if values is None else gold(name, values)
        chosen = select(traces, truth, "neutral", filter_on, 0)
        candidate = Candidate(name, f"s{number % 2}", b"", "editor", 0)
        tally.add(CONTEXTS[number % 2], candidate, traces, chosen.decisions, filter_on)


def test_each_gate_counts_what_passed_it() -> None:
    tally = FilterTally()
    fill(tally, [0, 1, 2, 3])
    rows = tally.as_dict()
    assert list(rows) == ["written", "parsed", "gold", "accurate", "kept"]
    assert [row["traces"] for row in rows.values()] == [8, 6, 5, 4, 2]
    assert [row["quadruples"] for row in rows.values()] == [4, 3, 2, 2, 2]
    assert rows["written"]["of_before"] is None and rows["kept"]["of_before"] == 0.5
    assert rows["parsed"]["mean_score"] == round((9 + 4 + 1 + 2 + 8 + 7) / 6, 4) == rows["written"]["mean_score"]
    assert rows["gold"]["mean_score"] == 4.8 and rows["accurate"]["mean_score"] == 3.75
    assert rows["kept"]["mean_score"] == 3.0  # 4.0 alone, and the one nearest to the median
    assert rows["gold"]["yes"] == 0.3 and rows["kept"]["yes"] == 0.25
    assert rows["kept"]["yes_by_category"] == {"Instruction Following": 0.5, "Image Quality": 0.0}
    assert rows["accurate"]["moved"] == {"edits": 0.15, "editors": 0.0, "judges": 0.15}
    assert rows["kept"]["mean_tokens"] == 10


def test_without_the_filter_there_are_three_gates() -> None:
    tally = FilterTally()
    fill(tally, [0, 1, 2, 3], filter_on=False)
    rows = tally.as_dict()
    assert {gate: row["traces"] for gate, row in rows.items()} == {"written": 8, "parsed": 6, "kept": 3}


@given(st.permutations([0, 1, 2, 3]), st.integers(0, 4))
def test_counts_of_parts_add_up_in_any_order(order: list[int], cut: int) -> None:
    whole, first, second, merged = (FilterTally() for _ in range(4))
    fill(whole, [0, 1, 2, 3])
    fill(first, order[:cut])
    fill(second, order[cut:])
    for part in (second, first):
        merged.add_counts(json.loads(json.dumps(part.counts())))
    assert merged.as_dict() == whole.as_dict()


COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


@given(COUNTS, COUNTS)
def test_distance_is_half_the_sum_of_differences(before: dict[str, int], after: dict[str, int]) -> None:
    n, m = sum(before.values()), sum(after.values())
    brute = sum(abs(before.get(name, 0) / n - after.get(name, 0) / m) for name in "abcd") / 2
    assert abs((distance(before, after) or 0) - brute) < 1e-4
    assert distance(before, before) == 0 and distance({}, after) is None
