"""EditReward-Compass: pairs with a winner or a tie, each about one of three dimensions.

Official: a preference needs a strictly higher score of the winner, a tie a difference below 1e-5; the share per
dimension, and the share of all pairs (eval.py of bxhsort/Edit-Compass-and-EditReward-Compass).
"""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.evaluate.benchmarks.opening import RawRow
from edit_r1.evaluate.benchmarks.pair import (
    Answer,
    Benchmark,
    BenchPair,
    Official,
    make_pair,
    one_of,
    share_by,
    text_of,
)

DIMENSIONS = ("IA", "VC", "VQ")
TIE = 1e-5
"""Differences of scores below it are ties. On the scale of the script's own judges, 0 to 10 as ours."""


def read(row: RawRow) -> BenchPair:
    """A comparison from a row; ValueError for a malformed one."""
    values = row.values
    tie = one_of(values, "label", ("preference", "tie")) == "tie"
    return make_pair(
        row, text_of(values, "id", empty=True), values["source_image"], text_of(values, "prompt"), values["winner"],
        values["loser"], "tie" if tie else "first", dimension=one_of(values, "dimension", DIMENSIONS),
        task=text_of(values, "task_type", empty=True),
    )  # fmt: skip


def is_right(answer: Answer) -> bool:
    """The official rule; False without both scores."""
    gap = answer.difference
    if gap is None:
        return False
    return abs(gap) < TIE if answer.label == "tie" else (gap > 0) == (answer.label == "first") and gap != 0


def official(answers: Sequence[Answer]) -> Official:
    """The share of all pairs that are right, and that of each dimension."""
    right = [float(is_right(answer)) for answer in answers]
    tasks = share_by([answer.dimension for answer in answers], right)
    return Official(tuple(right), ("",) * len(right), tuple(answer.source for answer in answers), tasks)


COMPASS = Benchmark(
    name="compass",
    columns=("source_image", "prompt", "winner", "loser", "label", "dimension"),
    optional=("id", "task_type"),
    read=read,
    official=official,
)
