"""Our official numbers against brute-force twins, written from the benchmarks' definitions and nothing of ours.

The twins read rows of plain dictionaries: ties, unparsed answers, torn and whole groups included.
"""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluate.benchmarks import compass, pairs, tiger, vs
from edit_r1.evaluate.benchmarks.pair import Answer

Score = float | None
SCORES = st.one_of(st.none(), st.sampled_from([0.0, 2.0, 2.5, 5.0, 5.5, 8.0, 10.0]))


# --- VS ---------------------------------------------------------------------------------------------------------


def vs_twin(rows: list[tuple[str, Score, Score]]) -> float:
    """For every kind of edit the share of rows with score[0] > score[1], then the plain mean over the kinds."""
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for task, first, second in rows:
        total[task] += 1
        if first is None or second is None:
            continue
        if first > second:
            right[task] += 1
    return sum(right[task] / total[task] for task in total) / len(total)


@given(st.lists(st.tuples(st.sampled_from(["compose", "extract", "subject-add"]), SCORES, SCORES), min_size=1))
def test_vs(rows: list[tuple[str, Score, Score]]) -> None:
    answers = [Answer("first", a, b, task, source=f"s{n}") for n, (task, a, b) in enumerate(rows)]
    found = vs.official(answers)
    assert found.estimate().mean == pytest.approx(vs_twin(rows))
    assert found.tasks == {task: pytest.approx(vs_twin([row for row in rows if row[0] == task])) for task, _, _ in rows}


def test_vs_by_hand() -> None:
    rows = [("compose", 9.0, 1.0), ("compose", 5.0, 5.0), ("compose", 1.0, 9.0), ("extract", 6.0, 5.9)]
    rows += [("extract", None, 1.0), ("subject-add", 7.0, 2.0), ("subject-remove", 7.0, 8.0)]
    found = vs.official([Answer("first", a, b, task) for task, a, b in rows])
    assert found.estimate().mean == pytest.approx((1 / 3 + 1 / 2 + 1 + 0) / 4)
    assert found.details["groups"] == {
        "object": pytest.approx(1 / 2), "scene": pytest.approx(1 / 2), "advanced": pytest.approx(1 / 3),
    }  # fmt: skip
    assert sum(len(tasks) for tasks in vs.GROUPS.values()) == 13


# --- TIGER ------------------------------------------------------------------------------------------------------


def tiger_group(rng: random.Random, number: int, size: int, values: list[Score]) -> list[dict[str, Any]]:
    """Rows of one group: a true order (or for two a tie), and a judge's score for each edit."""
    letters = "ABCD"[:size]
    order = list(letters)
    rng.shuffle(order)
    tie = size == 2 and rng.random() < 0.3
    scores = {letter: rng.choice(values) for letter in letters}
    rows = []
    for x, y in combinations(letters, 2):
        if rng.random() < 0.5:
            x, y = y, x
        better = 0 if tie else 1 if order.index(x) < order.index(y) else -1
        rows.append({"group": f"g{number}", "size": size, "x": x, "y": y, "better": better,
                     "sx": scores[x], "sy": scores[y]})  # fmt: skip
    return rows


def tiger_twin(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """(official_script, untuned): every threshold tried on the pairs of 2; a group counts when all its pairs match."""

    def match(row: dict[str, Any], threshold: float) -> bool:
        if row["sx"] is None or row["sy"] is None:
            return False
        gap = row["sx"] - row["sy"]
        said = 0 if abs(gap) <= threshold else 1 if gap > 0 else -1
        return bool(said == row["better"])

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    twos = [group[0] for group in groups.values() if group[0]["size"] == 2]
    thresholds = [0.0] + [abs(r["sx"] - r["sy"]) for r in twos if r["sx"] is not None and r["sy"] is not None]
    most = max(sum(match(row, threshold) for row in twos) for threshold in thresholds)
    larger = [group for group in groups.values() if group[0]["size"] > 2]
    whole = sum(all(match(row, 0.0) for row in group) for group in larger)
    plain = sum(match(row, 0.0) for row in twos)
    return (most + whole) / len(groups), (plain + whole) / len(groups)


def tiger_pairwise_twin(rows: list[dict[str, Any]], ties: bool) -> float:
    """C, D, Th, Tm and Thm as the public script counts them, at every threshold, or below any for groups of 3 and 4."""

    def accuracy(threshold: float) -> float:
        counts = {"C": 0, "D": 0, "Th": 0, "Tm": 0, "Thm": 0}
        for row in rows:
            if row["sx"] is None or row["sy"] is None:
                counts["D"] += 1
                continue
            gap = row["sx"] - row["sy"]
            if row["better"] == 0:
                counts["Thm" if abs(gap) <= threshold else "Th"] += 1
            elif abs(gap) <= threshold:
                counts["Tm"] += 1
            else:
                counts["C" if row["better"] * gap > 0 else "D"] += 1
        if ties:
            return (counts["C"] + counts["Thm"]) / sum(counts.values())
        return counts["C"] / (counts["C"] + counts["D"] + counts["Tm"])

    gaps = [abs(row["sx"] - row["sy"]) for row in rows if row["sx"] is not None and row["sy"] is not None]
    return max(accuracy(threshold) for threshold in [0.0, *gaps]) if ties else accuracy(-1.0)


def tiger_answers(rows: list[dict[str, Any]]) -> list[Answer]:
    labels = {1: "first", -1: "second", 0: "tie"}
    return [
        Answer(labels[row["better"]], row["sx"], row["sy"], f"K={row['size']}", group=row["group"],  # type: ignore[arg-type]
               names=(row["x"], row["y"]), candidates=row["size"], source=row["group"])
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_tiger(seed: int) -> None:
    rng = random.Random(seed)
    values: list[Score] = [0.0, 1.0, 1.5, 4.0, 6.0, 6.5, 9.0, 10.0] + [None] * (seed % 2)
    rows = [row for n in range(40) for row in tiger_group(rng, n, rng.choice([2, 2, 3, 4]), values)]
    rng.shuffle(rows)
    found = tiger.official(tiger_answers(rows))
    script, untuned = tiger_twin(rows)
    assert found.estimate().mean == pytest.approx(script)
    assert found.details["official_script"] == pytest.approx(script)
    assert found.details["untuned"] == found.estimate(number="untuned").mean == pytest.approx(untuned)
    assert script >= untuned
    worse = tiger.official(tiger_answers([{**row, "sx": 5.0, "sy": 5.0} for row in rows]))
    ties = tiger_twin([{**row, "sx": 5.0, "sy": 5.0} for row in rows])
    assert found.minus(worse).mean == pytest.approx(script - ties[0])
    assert found.minus(worse, number="untuned").mean == pytest.approx(untuned - ties[1])
    assert found.details["script_pairwise"] == pytest.approx(tiger_pairwise_twin(rows, ties=True))
    for size in (2, 3, 4):
        own = [row for row in rows if row["size"] == size]
        if own:
            by_pair = tiger_pairwise_twin(own, ties=size == 2)
            assert found.details["by_size"][f"K={size}"]["script_pairwise"] == pytest.approx(by_pair)
        if own:
            expected = tiger_twin(own)[0]
            assert found.details["by_size"][f"K={size}"]["official_script"] == pytest.approx(expected)


def pair(label: str, first: Score, second: Score, number: int = 0) -> Answer:
    return Answer(label, first, second, group=f"p{number}", source=f"p{number}")  # type: ignore[arg-type]


def three(first: Score, second: Score, third: Score) -> list[Answer]:
    """A group whose labels say A > B > C."""
    return [
        Answer("first", x, y, group="t", names=names, candidates=3, source="t")
        for x, y, names in ((first, second, ("A", "B")), (first, third, ("A", "C")), (second, third, ("B", "C")))
    ]


def test_tiger_by_hand() -> None:
    # Differences 0.5 (tie), 0.4 (tie), 0.3 (preferred, rightly), 3 (rightly), none: at 0.5 two ties are won, one pair
    # lost.
    answers = [pair("tie", 5.5, 5.0, 0), pair("tie", 5.0, 5.4, 1), pair("first", 5.3, 5.0, 2), pair("first", 8, 5, 3)]
    answers += [pair("tie", None, 5.0, 4)]
    found = tiger.official(answers)
    assert found.details["script_threshold"] == 0.5
    assert found.details["official_script"] == pytest.approx(3 / 5)
    assert found.details["untuned"] == pytest.approx(2 / 5)
    # The script's other number lets the threshold serve ties alone, so that the small preference counts as well.
    assert found.details["script_strict_ranking"] == pytest.approx(4 / 5)


def test_tiger_a_group_counts_whole_or_not_at_all() -> None:
    assert tiger.official(three(9, 5, 1)).details["official_script"] == 1
    for wrong in (three(9, 1, 5), three(5, 9, 1), three(9, 5, None), three(9, 5, 5), three(5, 5, 5)):
        assert tiger.official(wrong).details["official_script"] == 0
    together = tiger.official([*three(9, 5, 1), pair("first", 1, 2)])
    assert together.estimate().mean == pytest.approx(1 / 2)  # of groups, not of the four pairs


def test_tiger_equal_scores_in_the_scripts_ranking() -> None:
    """numpy.argsort turned round puts the later of two equal scores first: B before A, never A before B."""
    assert tiger.official([pair("second", 5, 5)]).details["script_strict_ranking"] == 1
    assert tiger.official([pair("first", 5, 5)]).details["script_strict_ranking"] == 0
    assert tiger.official([pair("second", 5, 5)]).details["official_script"] == 0
    assert tiger.official(three(9, 5, 5)).details["script_strict_ranking"] == 0


def test_tiger_a_torn_group_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pairs instead of 3"):
        tiger.official(three(9, 5, 1)[:2])
    with pytest.raises(ValueError, match="each once"):
        tiger.official([*three(9, 5, 1)[:2], three(9, 5, 1)[0]])


def test_the_threshold_is_the_first_of_the_best() -> None:
    assert tiger.tuned_threshold([]) == 0.0
    assert tiger.tuned_threshold([pair("first", 5, 4), pair("tie", 5, 5)]) == 0.0


# --- Compass ----------------------------------------------------------------------------------------------------


def compass_twin(rows: list[tuple[str, str, Score, Score]]) -> float:
    right = 0
    for _, label, winner, loser in rows:
        if winner is None or loser is None:
            continue
        if (label == "preference" and winner > loser) or (label == "tie" and abs(winner - loser) < 1e-5):
            right += 1
    return right / len(rows)


NEAR = st.one_of(st.none(), st.sampled_from([5.0, 5.000001, 5.00002, 7.0]))


@given(
    st.lists(
        st.tuples(st.sampled_from(["IA", "VC", "VQ"]), st.sampled_from(["preference", "tie"]), NEAR, NEAR), min_size=1
    )
)
def test_compass(rows: list[tuple[str, str, Score, Score]]) -> None:
    answers = [
        Answer("tie" if label == "tie" else "first", winner, loser, dimension=dimension, source=str(number))
        for number, (dimension, label, winner, loser) in enumerate(rows)
    ]
    found = compass.official(answers)
    assert found.estimate().mean == pytest.approx(compass_twin(rows))  # pooled: not the mean over dimensions
    for dimension in {row[0] for row in rows}:
        assert found.tasks[dimension] == pytest.approx(compass_twin([row for row in rows if row[0] == dimension]))


def test_compass_a_preference_of_less_than_the_tie_still_counts() -> None:
    """The script asks a preference for nothing but >: 1e-6 is enough, and would be a tie for a row of that label."""
    assert compass.official([Answer("first", 5.000001, 5.0)]).estimate().mean == 1
    assert compass.official([Answer("tie", 5.000001, 5.0)]).estimate().mean == 1
    assert compass.official([Answer("tie", 5.00002, 5.0)]).estimate().mean == 0


# --- our own ----------------------------------------------------------------------------------------------------


def test_pairs_leave_same_out() -> None:
    answers = [Answer("first", 7, 3, "x"), Answer("second", 7, 3, "x"), Answer("tie", 5, 5, "x"), Answer("first", 5, 5)]
    found = pairs.official(answers)
    assert found.estimate().mean == pytest.approx(1 / 3)
    assert found.tasks == {"": 0.0, "x": 0.5}
    with pytest.raises(ValueError, match="all are 'same'"):
        pairs.official([Answer("tie", 5, 5)])
