"""Preference pairs in our own format: the strict accuracy of the paper, "same" left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edit_r1.evaluate.benchmarks.opening import RawRow
from edit_r1.evaluate.benchmarks.pair import Answer, Benchmark, BenchPair, Label, Official, check_header, share_by
from edit_r1.records import Preference
from edit_r1.store import PREFERENCES, Dataset, row_hash
from edit_r1.store.parquet import completed
from edit_r1.store.tables import preference_from_row, preference_to_row
from edit_r1.verifier.prompts import check_instruction

_LABELS: dict[str, Label] = {"first": "first", "second": "second", "same": "tie"}


def of_preference(preference: Preference) -> BenchPair:
    """A comparison from our own record; principles come along where it has them."""
    context = preference.context
    return BenchPair(
        id=f"{preference.first.id}|{preference.second.id}",
        source=context.sample.source,
        instruction=context.sample.instruction,
        first=preference.first.image,
        second=preference.second.image,
        label=_LABELS[preference.choice],
        task=context.sample.category,
        dimension=preference.aspect,
        names=(preference.first.id, preference.second.id),
        principles=context.principles or None,
        hash=row_hash(preference_to_row(preference)),
    )


def read(row: RawRow) -> BenchPair:
    """A comparison from a row of our Parquet format; ValueError for a malformed one."""
    flat = {name: _unwrapped(value) for name, value in row.values.items()}
    complete = completed(flat, PREFERENCES.features)
    if complete is None:
        odd = sorted(flat.keys() ^ PREFERENCES.features.keys())
        raise ValueError(f"columns {', '.join(odd)} are not those of preferences")
    try:
        pair = of_preference(preference_from_row(complete))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"a column holds what it must not ({error})") from error
    check_instruction(pair.instruction)
    for name, picture in (("source image", pair.source), ("first edit", pair.first), ("second edit", pair.second)):
        if not isinstance(picture, bytes):
            raise ValueError(f"{name} is missing")
        check_header(picture, name)
    return pair


def _unwrapped(value: Any) -> Any:
    """A Hugging Face image as its bytes."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"]
    if isinstance(value, list):
        return [_nested(one) if isinstance(one, dict) else one for one in value]
    return value


def _nested(part: dict[str, Any]) -> dict[str, Any]:
    return {name: _unwrapped(value) for name, value in part.items()}


def official(answers: Sequence[Answer]) -> Official:
    """The share of pairs with a winner that are ordered strictly as people did, and that of each kind of edit.

    ValueError when no pair has a winner.
    """
    strict = [answer for answer in answers if answer.label != "tie"]
    if not strict:
        raise ValueError(f"{len(answers)} pairs and all are 'same': there is no order to get right; give decided pairs")
    right = [float(answer.matches()) for answer in strict]
    tasks = share_by([answer.task for answer in strict], right)
    return Official(tuple(right), ("",) * len(right), tuple(answer.source for answer in strict), tasks)


def open_own(data: str) -> tuple[Iterator[BenchPair], int] | None:
    """Comparisons and their number of a finished dataset of ours; None where `data` is none.

    Raises StoreError (a ValueError) for one that is damaged or of another record.
    """
    path = Path(data)
    if not path.with_name(f"{path.name}.done.json").exists():
        return None
    dataset = Dataset(path.parent, path.name, PREFERENCES)
    return map(of_preference, dataset), int(dataset.meta()["rows"])


_REQUIRED = ("context_source", "context_instruction", "first_image", "second_image", "choice")
PAIRS = Benchmark(
    name="pairs",
    columns=_REQUIRED,
    optional=tuple(name for name in PREFERENCES.features if name not in _REQUIRED),
    read=read,
    official=official,
    open_own=open_own,
)
