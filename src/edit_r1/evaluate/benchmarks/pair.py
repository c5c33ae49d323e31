"""What benchmarks share: a comparison as it stands in the data, a judge's answer to it, and an official number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edit_r1.evaluate.benchmarks.opening import RawRow, open_rows
from edit_r1.images import ImageError, image_size
from edit_r1.records import Principle
from edit_r1.stats import Estimate, macro_ci
from edit_r1.store import row_hash
from edit_r1.verifier.inputs import check_unicode, picture_of
from edit_r1.verifier.prompts import check_instruction

Label = Literal["first", "second", "tie"]
"""Which edit people preferred."""


@dataclass(frozen=True)
class BenchPair:
    """One comparison of a benchmark, its pictures as the data holds them (encoded)."""

    id: str
    source: bytes
    instruction: str
    first: bytes
    second: bytes
    label: Label
    task: str = ""
    """Kind of edit; "" where the benchmark has none."""
    dimension: str = ""
    """What people were asked to compare; "" for the edits as wholes."""
    group: str = ""
    """Comparisons of one group count together; "" for one that stands alone."""
    names: tuple[str, str] = ("A", "B")
    """Names of the two edits in their group."""
    candidates: int = 2
    """Edits in the group."""
    principles: tuple[Principle, ...] | None = None
    hash: str = ""
    """SHA-256 of the row as it was read."""


@dataclass(frozen=True)
class Answer:
    """A comparison's label and a judge's two scores: all that a metric reads."""

    label: Label
    first: float | None
    """Score of the first edit, higher is better; None when there is none."""
    second: float | None
    task: str = ""
    dimension: str = ""
    group: str = ""
    names: tuple[str, str] = ("A", "B")
    candidates: int = 2
    source: str = ""
    """Names the source image: intervals are clustered by it."""

    @property
    def difference(self) -> float | None:
        """Score of the first edit minus that of the second; None when one is missing."""
        return None if self.first is None or self.second is None else self.first - self.second

    def matches(self, threshold: float = 0.0) -> bool:
        """Whether label and scores agree, differences up to `threshold` (0 or more) being ties. False without both."""
        if self.difference is None:
            return False
        if abs(self.difference) <= threshold:
            return self.label == "tie"
        return self.label == ("first" if self.difference > 0 else "second")


@dataclass(frozen=True)
class Official:
    """A benchmark's own number: what is counted as right or wrong, and how it is averaged.

    The number is the unweighted mean over the strata of the share of right units in each.
    """

    right_U: tuple[float, ...]
    """1 or 0 per unit, which is a pair, or a group of pairs that count together."""
    strata_U: tuple[str, ...]
    sources_U: tuple[str, ...]
    """Source image of each unit: intervals are clustered by it."""
    tasks: dict[str, float]
    """The official metric per task, dimension or size of group."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further keys of the JSON."""
    apart: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Further numbers over the same units, by their key in `details`: 1 or 0 per unit."""

    def estimate(self, seed: int = 0, number: str = "") -> Estimate:
        """The number, 0 to 1, with its 95 % interval; or the one of `apart` that is named."""
        return macro_ci(self._units(number), self.strata_U, self.sources_U, seed)

    def minus(self, other: Official, seed: int = 0, number: str = "") -> Estimate:
        """This number minus another judge's on the same units, paired, as `estimate`. ValueError for other units."""
        if (self.strata_U, self.sources_U) != (other.strata_U, other.sources_U):
            raise ValueError("the two results do not count the same pairs: evaluate both on one benchmark")
        gains_U = np.subtract(self._units(number), other._units(number))
        return macro_ci(gains_U, self.strata_U, self.sources_U, seed)

    def _units(self, number: str) -> tuple[float, ...]:
        return self.apart[number] if number else self.right_U


def share_by(names: Sequence[str], right: Sequence[float]) -> dict[str, float]:
    """The mean of `right` for each name, in the order of the names."""
    return {
        name: float(np.mean([one for one, own in zip(right, names, strict=True) if own == name]))
        for name in sorted(set(names))
    }


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read and counted."""

    name: str
    columns: tuple[str, ...]
    """Columns that every row must have."""
    read: Callable[[RawRow], BenchPair]
    """A comparison from a row; ValueError for a malformed one."""
    official: Callable[[Sequence[Answer]], Official]
    """The official number of at least one answer."""
    optional: tuple[str, ...] = ()
    """Further columns that are read where they are there."""
    resize: bool = False
    """Edits are brought to the source's size before they are judged, as the official script does."""
    dimensions: tuple[str, ...] = ()
    """Dimensions that are reported apart, the one that the official number is of first."""
    open_own: Callable[[str], tuple[Iterable[BenchPair], int] | None] | None = None
    """Comparisons and their number where the data is a finished dataset of ours, else None."""


@dataclass(frozen=True)
class OpenedBenchmark:
    """A benchmark's data, its rows read as they are asked for."""

    pairs: Iterable[BenchPair]
    rows: int
    revision: str | None
    """Commit of the dataset on the hub; None for data of which no commit is known."""


def open_benchmark(
    benchmark: Benchmark, data: str, split: str = "", revision: str | None = None, allow_outside: bool = False
) -> OpenedBenchmark:
    """Opens the data; see `opening.open_rows`. Iterating raises ValueError that names row, value and remedy."""
    own = None if benchmark.open_own is None else benchmark.open_own(data)
    if own is not None:
        return OpenedBenchmark(*own, None)
    opened = open_rows(data, benchmark.columns, benchmark.optional, split, revision, allow_outside)

    def pairs() -> Iterable[BenchPair]:
        for number, row in enumerate(opened.rows, start=1):
            try:
                yield benchmark.read(row)
            except ValueError as error:
                raise ValueError(
                    f"{data}: row {number}: {error}; without it this is not the benchmark: mend or download it again"
                ) from error

    return OpenedBenchmark(pairs(), opened.count, opened.revision)


# --- reading a row ----------------------------------------------------------------------------------------------


def make_pair(
    row: RawRow, id: str, source: Any, instruction: str, first: Any, second: Any, label: Label, **rest: Any
) -> BenchPair:
    """A checked comparison with its hash; pictures are bytes, Hugging Face images or paths.

    Raises ValueError for a picture that is not there or cannot be read, or an unusable instruction.
    """
    check_unicode("instruction", instruction)
    check_instruction(instruction)
    pictures = {}
    for name, value in {"source image": source, "first edit": first, "second edit": second}.items():
        pictures[name] = _picture(row, value, name)
        check_header(pictures[name], name)
    content: dict[str, Any] = {
        "id": id, "source": pictures["source image"], "instruction": instruction, "first": pictures["first edit"],
        "second": pictures["second edit"], "label": label,
    }  # fmt: skip
    hashed = content | {name: list(value) if isinstance(value, tuple) else value for name, value in rest.items()}
    return BenchPair(**content, **rest, hash=row_hash(hashed))


def check_header(picture: bytes, label: str) -> None:
    """`ImageError` (a ValueError) for bytes that are no image we read; pixels are looked at when they are judged."""
    try:
        image_size(picture)
    except ImageError as error:
        raise ImageError(f"{label}: {error}") from error


def _picture(row: RawRow, value: Any, label: str) -> bytes:
    *others, last = row.roots
    for root in others:
        try:
            return picture_of(value, label, root, row.allow_outside)
        except ValueError:
            continue  # a path may start from the data's folder instead of the file's
    return picture_of(value, label, last, row.allow_outside)


def text_of(values: Mapping[str, Any], column: str, empty: bool = False) -> str:
    """A column's text, a whole number as text. Raises ValueError for anything else, and for none unless `empty`."""
    value = values.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise ValueError(f"{column} of type {type(value).__name__}: a text is expected")
    text = "" if value is None else str(value).strip()
    if not text and not empty:
        raise ValueError(f"{column} is empty")
    check_unicode(column, text)
    return text


def one_of(values: Mapping[str, Any], column: str, known: Sequence[str]) -> str:
    """A column's text, one of `known`. Raises ValueError for another."""
    text = text_of(values, column)
    if text not in known:
        raise ValueError(f"{column} is {text[:60]!r}: expected one of {', '.join(known)}")
    return text
