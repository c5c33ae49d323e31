"""EditWorld as a benchmark of editors: contexts with their exact principles, and the oracle as a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edit_r1.evaluate.editor_benchmarks import EDITWORLD, EditorBenchmark, Task, benchmark_of
from edit_r1.evaluate.editor_judges import Grade, JudgedEdit, Scale
from edit_r1.images import ImageError, decode_rgb, to_same_size
from edit_r1.processes import spread
from edit_r1.records import Principle, Sample
from edit_r1.world.checks import checks_for, principle
from edit_r1.world.frozen import VERSION
from edit_r1.world.perceive import judge_pixels
from edit_r1.world.samples import edit_of, make_samples, scene_of

_FIRST = 300_000
"""Index of the first context: a stretch of the split "test" that no role of the demo takes (`recipes.tiny`)."""


def editworld_benchmark(count: int, split: str = "test", seed: int = 0) -> EditorBenchmark:
    """`count` contexts of a split, categories in turn. Raises ValueError for an unknown split or fewer than one."""
    if count < 1:
        raise ValueError(f"{count} contexts of EditWorld: ask for at least 1")
    tasks = [task_of(sample) for sample in make_samples(count, split, seed, start=_FIRST)]
    # Context n does not depend on how many there are, so neither does the revision.
    return replace(benchmark_of(EDITWORLD, tasks), revision=f"world-{VERSION}-{split}-{seed}")


def task_of(sample: Sample) -> Task:
    """An EditWorld context as a task; ValueError for any other."""
    return Task(sample, "en", ready=(sample.id,), principles=exact_principles(sample))


def exact_principles(sample: Sample) -> tuple[Principle, ...]:
    """Every principle of an EditWorld context, none left out or doubled; ValueError for any other."""
    return tuple(principle(check) for check in checks_for(scene_of(sample), edit_of(sample)))


def oracle_score(sample: Sample, image: bytes) -> float:
    """The utility of an edit, 0 to 10, from its pixels alone, brought to the source's size.

    Raises ImageError for a picture that cannot be read.
    """
    pixels_HWC = to_same_size(decode_rgb(sample.source), decode_rgb(image))[1]
    return judge_pixels(scene_of(sample), edit_of(sample), pixels_HWC).utility


def oracle_scores(work: Sequence[tuple[Sample, bytes]], processes: int | None = None) -> list[float | None]:
    """`oracle_score` of many on every core; None for a picture that cannot be read."""
    return spread(_score_or_none, work, processes)


def _score_or_none(work: tuple[Sample, bytes]) -> float | None:
    try:
        return oracle_score(*work)
    except ImageError:
        return None


class OracleJudge:
    """The oracle as an `EditJudge`: what it says is true by construction, within EditWorld."""

    kind = "oracle"
    name = "EditWorld oracle"
    scale = Scale("utility", ("utility",), 0, 10)
    note = "EditWorld's oracle reads the picture's own pixels; there is nothing published to compare with"

    @property
    def settings(self) -> dict[str, Any]:
        return {"world": VERSION}

    def grade(self, edits: Sequence[JudgedEdit], retries: int) -> list[Grade]:
        """Raises ValueError for a task that is not of EditWorld."""
        scores = oracle_scores([(edit.task.sample, edit.image) for edit in edits])
        return [
            Grade(None, {"utility": None}, reason="edited image: cannot be read")
            if score is None
            else Grade(score, {"utility": score})
            for score in scores
        ]

    def close(self) -> None:
        """Nothing is open."""
