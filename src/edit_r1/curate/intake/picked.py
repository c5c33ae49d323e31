"""Rows on their way through a pass, and the file of what it picked: which became samples, and why others did not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.curate.intake.facts import Facts
from edit_r1.curate.intake.limits import Mark
from edit_r1.store import StoreError, write_bytes

_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("row", pa.string()),
        ("content", pa.string()),
        ("category", pa.string()),
        ("licence", pa.string()),
        ("subset", pa.string()),
        ("step", pa.string()),
        ("model", pa.string()),
        ("reason", pa.string()),
        ("failed_call", pa.bool_()),
    ]
)


class Entry(NamedTuple):
    """A row of the file: a sample's id in `row`, and for a failure its origin there and a `reason`."""

    number: int
    row: str
    content: str = ""
    category: str = ""
    licence: str = ""
    subset: str = ""
    step: str | None = None
    model: str | None = None
    reason: str | None = None
    failed_call: bool = False


class CheckedRow(NamedTuple):
    """A row that passed the checks."""

    facts: Facts
    mark: Mark


class PassedRow(NamedTuple):
    """One that the filter let pass too."""

    entry: Entry
    mark: Mark


class WaitingRow(NamedTuple):
    """One for which there may be no room."""

    number: int
    mark: Mark


def entry_of(facts: Facts, subset: str) -> Entry:
    """Of a row that becomes a sample."""
    return Entry(
        facts.number, facts.id, facts.content[:32], sys.intern(facts.category), sys.intern(facts.licence), subset
    )


def write_picked(path: Path, entries: Sequence[Entry]) -> None:
    """Raises StoreError when the disk refuses."""
    columns = zip(*entries, strict=True) if entries else [()] * len(_SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_picked(path: Path) -> pa.Table:
    """Raises StoreError for a damaged file."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged: remove it and run again, the rows are looked at anew") from error


def any_failed(picked: pa.Table) -> bool:
    """Whether a row of these is none that became a sample."""
    return bool(picked["reason"].null_count < len(picked))
