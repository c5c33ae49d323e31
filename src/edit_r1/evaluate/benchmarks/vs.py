"""EditReward-Bench of VectorSpaceLab (EditScore): 13 kinds of edit, three dimensions, the winner always first.

Official: correct when the first score is strictly higher (a tie is wrong), the share per kind of edit, and the
unweighted mean over the kinds (evaluation.py and calculate_statistics.py of VectorSpaceLab/EditScore). Edits are
resized to the source's size before they are judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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

DIMENSIONS = ("overall", "prompt_following", "consistency")
GROUPS: dict[str, tuple[str, ...]] = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}
"""The 13 kinds of edit, as the official tables gather them."""


def read(row: RawRow) -> BenchPair:
    """A comparison from a row; ValueError for a malformed one."""
    values = row.values
    keys, edits = values["key"], values["output_images"]
    for name, value in (("key", keys), ("output_images", edits)):
        if not isinstance(value, list) or len(value) != 2:
            held = len(value) if isinstance(value, list) else type(value).__name__
            raise ValueError(f"{name} holds {held}: two are expected, the winner first")
    return make_pair(
        row, "|".join(map(str, keys)), values["input_image"], text_of(values, "instruction"), edits[0], edits[1],
        "first", task=text_of(values, "task_type"), dimension=one_of(values, "dimension", DIMENSIONS),
    )  # fmt: skip


def official(answers: Sequence[Answer]) -> Official:
    """The mean over kinds of edit of the strict accuracy; an answer without both scores is wrong.

    `groups` of the details holds the mean over the kinds of each official group that are there.
    """
    right = [float(answer.difference is not None and answer.difference > 0) for answer in answers]
    tasks = [answer.task for answer in answers]
    accuracy = share_by(tasks, right)
    groups = {name: [accuracy[task] for task in members if task in accuracy] for name, members in GROUPS.items()}
    details = {"groups": {name: float(np.mean(found)) for name, found in groups.items() if found}}
    return Official(tuple(right), tuple(tasks), tuple(answer.source for answer in answers), accuracy, details)


VS = Benchmark(
    name="vs",
    columns=("key", "instruction", "task_type", "dimension", "input_image", "output_images"),
    read=read,
    official=official,
    resize=True,
    dimensions=DIMENSIONS,
)
