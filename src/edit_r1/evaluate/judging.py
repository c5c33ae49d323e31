"""A benchmark's edits judged: a chunk of comparisons at a time, each edit once, what is known from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from PIL import Image

from edit_r1.evaluate.benchmarks.pair import Answer, Benchmark, BenchPair, Label, OpenedBenchmark
from edit_r1.evaluate.judges import EditJudge, check_endpoints
from edit_r1.evaluate.judgment_cache import Grade, JudgmentCache, grade_from_row, grade_of, judgment_key
from edit_r1.images import decode_pil, encode_png, image_size
from edit_r1.records import CATEGORIES, FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING
from edit_r1.store.hashes import RowHashes
from edit_r1.verifier.items import ScoreItem, check_item

CHUNK = 32
"""Comparisons judged together: what a kill may lose, and whose pictures are in memory at once."""
By = Literal["score", "dimension"]
"""What is compared: the judge's score for everything, or in a dimension its own part of the judgment."""

PARTS: dict[str, str] = {
    "prompt_following": INSTRUCTION_FOLLOWING,
    "consistency": FEATURE_PRESERVATION,
    "IA": INSTRUCTION_FOLLOWING,
    "VC": FEATURE_PRESERVATION,
    "VQ": IMAGE_QUALITY,
}
"""The category of the checklist that a benchmark's dimension asks about."""


@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is asked."""

    traces: int = 1
    temperature: float | None = None
    seed: int = 0
    expected: bool = False
    """Also ask for expected scores, which break ties in a report apart."""


@dataclass(frozen=True)
class JudgedPair:
    """A comparison and both grades; pictures by their hashes."""

    id: str
    source: str
    label: Label
    task: str
    dimension: str
    group: str
    names: tuple[str, str]
    candidates: int
    edits: tuple[str, str]
    """Hash of each edit's picture."""
    first: Grade
    second: Grade

    def answer(self, by: By = "score") -> Answer:
        """What a metric reads of it."""
        return Answer(
            self.label, part(self.first, self.dimension, by), part(self.second, self.dimension, by), self.task,
            self.dimension, self.group, self.names, self.candidates, self.source,
        )  # fmt: skip


def part(grade: Grade, dimension: str, by: By) -> float | None:
    """What is compared of a grade, 0 to 10: its score, or by "dimension" ten times the mean verdict of its category."""
    category = PARTS.get(dimension) if by == "dimension" else None
    if category is None:
        return grade.score
    share = grade.categories[CATEGORIES.index(category)]
    return None if share is None else 10 * share


@dataclass(frozen=True)
class JudgedBenchmark:
    """All comparisons of a benchmark, judged."""

    pairs: list[JudgedPair]
    edits: int
    """Different edits."""
    failed: dict[str, str]
    """Edits for which an answer never came, by what names them, with the reason."""
    reasons: dict[str, int]
    """Why there is no score, of answers that came: reason to number of edits."""
    hash: str
    """Of the rows, in any order."""


def judge_benchmark(
    benchmark: Benchmark,
    opened: OpenedBenchmark,
    open_judge: Callable[[], EditJudge],
    cache: JudgmentCache,
    identity: str,
    options: JudgeOptions,
    dimension: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> JudgedBenchmark:
    """Every comparison's two edits, judged each by itself; of `dimension` alone when one is named.

    A judge sees neither which of two edits stands first nor which was preferred. The edits of a chunk that are not in
    the cache are asked for in the order of their keys, so that not even a batch's order tells.

    Args:
        open_judge: called when the first edit has to be judged, not at all when all are known.
        identity: of the judge; part of the cache's keys.
        progress: called with (comparisons judged, comparisons in all).

    Raises:
        ValueError: for a broken row; ModelError (one too) when the judge cannot be opened, or its server has stopped
            answering: what is judged is kept, and the same call goes on.
    """
    judged: list[JudgedPair] = []
    hashes = RowHashes()
    dimensions: set[str] = set()
    seen: dict[str, Grade] = {}
    opener = _Once(open_judge)
    done = 0
    try:
        for chunk in _chunks(opened.pairs):
            hashes.add(pair.hash for pair in chunk)
            dimensions |= {pair.dimension for pair in chunk}
            kept = [pair for pair in chunk if not dimension or pair.dimension == dimension]
            asked = [_questions(pair, benchmark.resize, identity, options) for pair in kept]
            grades = _grades({one.key: one for two in asked for one in two}, opener, cache, options)
            seen |= grades
            judged += [_judged(pair, two, grades) for pair, two in zip(kept, asked, strict=True)]
            done += len(chunk)
            if progress is not None:
                progress(done, opened.rows)
    finally:
        opener.close()
    if not judged:
        raise no_comparison(dimension, dimensions)
    reasons: dict[str, int] = {}
    for grade in seen.values():
        if grade.score is None and not grade.failed:
            reasons[grade.reason or "no score"] = reasons.get(grade.reason or "no score", 0) + 1
    return JudgedBenchmark(
        judged,
        len(seen),
        {key: grade.reason or "part of the traces never came" for key, grade in seen.items() if grade.failed},
        dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))),
        hashes.digest(),
    )


class _Once:
    """A judge that is opened when it is first needed."""

    def __init__(self, open_judge: Callable[[], EditJudge]) -> None:
        self._open = open_judge
        self._judge: EditJudge | None = None

    def __call__(self) -> EditJudge:
        if self._judge is None:
            self._judge = self._open()
            check_endpoints(self._judge)
        return self._judge

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()


@dataclass(frozen=True)
class _Question:
    """One edit of a comparison; nothing of it is decoded before it has to be asked."""

    key: str
    pair: str
    """The comparison's id, for a message."""
    item: ScoreItem
    resized: bool

    def shown(self) -> ScoreItem:
        """What the judge is asked. Raises ValueError for a picture that cannot be read."""
        try:
            check_item(self.item)
            if not self.resized:
                return self.item
            return replace(self.item, edited=at_size_of(self.item.sources[0], self.item.edited))
        except ValueError as error:
            raise ValueError(f"comparison {self.pair}: {error}; without it this is not the benchmark") from error


def _chunks(pairs: Iterable[BenchPair]) -> Iterable[list[BenchPair]]:
    remaining = iter(pairs)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _questions(pair: BenchPair, resize: bool, identity: str, options: JudgeOptions) -> tuple[_Question, _Question]:
    """Both edits of a comparison, each with its key."""
    made = []
    for edited in (pair.first, pair.second):
        resized = resize and image_size(pair.source) != image_size(edited)
        item = ScoreItem((pair.source,), edited, pair.instruction, pair.principles)
        key = judgment_key(item, identity, options.traces, options.temperature, options.seed, options.expected, resized)
        made.append(_Question(key, pair.id, item, resized))
    return made[0], made[1]


def at_size_of(source: bytes, edited: bytes) -> bytes:
    """The edit at the source's size, as a PNG where that needs another size. Raises ImageError (a ValueError)."""
    size = decode_pil(source).size
    image = decode_pil(edited)
    return edited if image.size == size else encode_png(image.resize(size, Image.Resampling.BICUBIC), compress_level=1)


def _grades(
    questions: Mapping[str, _Question], judge: Callable[[], EditJudge], cache: JudgmentCache, options: JudgeOptions
) -> dict[str, Grade]:
    """The grade of each question, by key; what is asked together is in the order of the keys."""
    known = {key: cache.get(key) for key in sorted(questions)}
    open_keys = [key for key, grade in known.items() if grade is None]
    if open_keys:
        items = [questions[key].shown() for key in open_keys]
        # Batches differ in their seed, by what is in them, or all would draw the same random numbers.
        seed = (options.seed + int(open_keys[0][:7], 16)) % 2**31
        judgments = judge().score_many(items, options.traces, options.temperature, seed, expected=options.expected)
        new = {key: grade_of(judgment) for key, judgment in zip(open_keys, judgments, strict=True)}
        cache.put(new)
        if any(grade.failed for grade in new.values()):
            check_endpoints(judge())  # an outage must not become the fault of the edits
        known |= new
    return {key: grade for key, grade in known.items() if grade is not None}


def _judged(pair: BenchPair, asked: tuple[_Question, _Question], grades: Mapping[str, Grade]) -> JudgedPair:
    first, second = asked
    return JudgedPair(
        pair.id, _name(pair.source), pair.label, pair.task, pair.dimension, pair.group, pair.names, pair.candidates,
        (_name(pair.first), _name(pair.second)), grades[first.key], grades[second.key],
    )  # fmt: skip


def _name(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()[:16]


def no_comparison(dimension: str, there: Iterable[str]) -> ValueError:
    """The error for a dimension that no comparison has; there: those that they have."""
    names = ", ".join(sorted(set(there) - {""})) or "none: leave --dimension out"
    return ValueError(f"no comparison of dimension {dimension!r}: the data has {names}")


# --- a result on disk -------------------------------------------------------------------------------------------


def pair_row(pair: JudgedPair) -> dict[str, Any]:
    """A judged comparison as JSON."""
    return {
        "id": pair.id, "source": pair.source, "label": pair.label, "task": pair.task, "dimension": pair.dimension,
        "group": pair.group, "names": list(pair.names), "candidates": pair.candidates, "edits": list(pair.edits),
        "first": _grade_row(pair.first), "second": _grade_row(pair.second),
    }  # fmt: skip


def _grade_row(grade: Grade) -> dict[str, Any]:
    return {
        "score": grade.score, "categories": list(grade.categories), "expected": grade.expected,
        "traces": list(grade.traces), "reason": grade.reason,
    }  # fmt: skip


def pair_of(row: Mapping[str, Any]) -> JudgedPair:
    """What `pair_row` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    if row["label"] not in ("first", "second", "tie"):
        raise ValueError(f"label {row['label']!r}")
    names, edits = _texts(row["names"], 2), _texts(row["edits"], 2)
    id, source, task, dimension, group = _texts([row[one] for one in ("id", "source", "task", "dimension", "group")], 5)
    if isinstance(row["candidates"], bool) or not isinstance(row["candidates"], int):
        raise ValueError(f"candidates {row['candidates']!r}")
    return JudgedPair(
        id, source, row["label"], task, dimension, group, (names[0], names[1]), row["candidates"],
        (edits[0], edits[1]), grade_from_row(row["first"]), grade_from_row(row["second"]),
    )  # fmt: skip


def _texts(values: Any, count: int) -> list[str]:
    if not isinstance(values, list) or len(values) != count or not all(isinstance(one, str) for one in values):
        raise ValueError(f"{str(values)[:60]} where {count} texts are expected")
    return values


def of_dimension(pairs: Sequence[JudgedPair], dimension: str) -> list[JudgedPair]:
    """The comparisons of one dimension; all for ""."""
    return [pair for pair in pairs if not dimension or pair.dimension == dimension]


def with_score(pair: JudgedPair, by: By) -> JudgedPair:
    """The comparison with what is compared in the places of the scores."""
    first, second = part(pair.first, pair.dimension, by), part(pair.second, pair.dimension, by)
    return replace(pair, first=replace(pair.first, score=first), second=replace(pair.second, score=second))
