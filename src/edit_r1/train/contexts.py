"""Training data of editors: rows of (source, instruction[, principles][, references][, category]) become contexts.

What can be read:
- a folder that one of our stages wrote (its `NAME.done.json` stands beside it);
- a .jsonl or .parquet file, or a folder that holds one JSONL file or some Parquet files;
- a folder that `datasets` saved (`save_to_disk`), or any other that `datasets.load_dataset` opens;
- a dataset's id on the Hugging Face hub, "OWNER/NAME".

A picture is a path relative to the file (`verifier.inputs`), encoded bytes, or a Hugging Face `Image`. A list of
pictures as the source is the source and further references. Every picture is decoded once while reading, so that a
broken one is told before a model is opened. Rows are counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from edit_r1.records import Context, Sample
from edit_r1.store import CONTEXTS, read_dataset
from edit_r1.verifier.hub_tables import hub_table, is_saved, saved_table, table_rows
from edit_r1.verifier.inputs import (
    check_unicode,
    open_data,
    picture_of,
    picture_values,
    principles_of,
    raw_rows,
    text_of,
)
from edit_r1.verifier.items import check_pictures, context_key
from edit_r1.verifier.prompts import check_instruction, check_sources
from edit_r1.vlm.openai_wire import LimitKey

GIVEN = "data"
"""Decomposer of principles that stand in the data without a name."""
_TOLD = 3
"""Broken rows that a message names; the others are counted."""


@dataclass(frozen=True)
class DataSettings:
    """How a dataset of any origin is read."""

    source_column: str = "source"
    instruction_column: str = "instruction"
    principles_column: str = "principles"
    """A list of {"question", "category"}, or its JSON text; empty or absent: they are written."""
    references_column: str = "references"
    """A list of pictures: further images that the instruction speaks of."""
    category_column: str = "category"
    """Kind of edit."""
    id_column: str = "id"
    """Unique; a row without one is named after the hash of its content."""
    split: str = "train"
    """Of a dataset that `datasets` opens."""
    hub_config: str = ""
    """Name of such a dataset's configuration; empty: its only one."""
    most_rows: int = 0
    """Rows that are read, from the first on; 0 reads all."""
    broken: Literal["refuse", "skip"] = "refuse"
    """What a row that cannot be used does: end the run before it starts, or be left out and counted."""
    allow_outside: bool = False
    """Read pictures outside the data's folder too."""
    principles_model: str = ""
    """Who writes principles where the data has none, an address as the judge's; empty: the judge."""
    principles_key_env: str = ""
    """Environment variable with the key of that model's server; empty: the judge's."""
    principles_max_new_tokens: int | None = None
    """Longest list in tokens, the reasoning of thinking models included; None for the prompts' own limit."""
    principles_limit_key: LimitKey = "max_tokens"
    """How that model's server is told so; hosted reasoning models want max_completion_tokens."""
    principles_server_sampling: bool = False
    """Leave temperature and the like to that model's server, as hosted reasoning models want it."""

    def __post_init__(self) -> None:
        if self.most_rows < 0:
            raise ValueError(f"most_rows={self.most_rows}: must be 0 (all) or more")
        asked = (self.principles_key_env, self.principles_max_new_tokens, self.principles_limit_key)
        if not self.principles_model and (asked != ("", None, "max_tokens") or self.principles_server_sampling):
            raise ValueError(
                "principles_key_env, principles_max_new_tokens, principles_limit_key and principles_server_sampling "
                "are for a principles_model: name one, or leave them out (the judge is asked by its own settings)"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns that are read."""
        named = (self.principles_column, self.references_column, self.category_column, self.id_column)
        return (self.source_column, self.instruction_column, *named, *_OURS)


_OURS = ("subset", "split", "hidden", "decomposer", "simulated")
"""Further columns of our own format, read where they are there."""


@dataclass(frozen=True)
class ReadContexts:
    """What a dataset holds."""

    contexts: list[Context]
    """In the order of the rows; without principles where the data has none."""
    rows: int
    """Rows read, usable or not."""
    skipped: dict[int, str]
    """By row, from 1: why it was left out."""


def read_contexts(data: str, settings: DataSettings | None = None) -> ReadContexts:
    """The contexts of a dataset; `data` is a path or a hub id, see the module.

    Raises ValueError (StoreError and ImageError are some) that names the data, the row, the value and the remedy: when
    the data cannot be opened, lacks a column or holds no usable row, and for a broken row unless these are skipped.
    """
    settings = settings or DataSettings()
    contexts: list[Context] = []
    skipped: dict[int, str] = {}
    first_row: dict[str, int] = {}
    rows = 0
    raw = _rows(data, settings)
    for number, row in enumerate(islice(raw, settings.most_rows or None), start=1):
        rows = number
        try:
            context = _context(row, settings)
            contexts.append(_with_own_id(context, number, first_row))
        except ValueError as error:
            skipped[number] = str(error)
    if skipped and (settings.broken == "refuse" or not contexts):
        told = "; ".join(f"row {number}: {reason}" for number, reason in list(skipped.items())[:_TOLD])
        more = f"; and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
        remedy = "mend the rows" if not contexts else "mend the rows, or leave them out with --broken skip"
        raise ValueError(f"{data}: {len(skipped)} of {rows} rows cannot be used ({told}{more}): {remedy}")
    if not contexts:
        raise ValueError(f"{data}: holds no rows: an editor trains on rows of source and instruction")
    return ReadContexts(contexts, rows, skipped)


@dataclass(frozen=True)
class _Row:
    """A row as it was found, and the folder that its paths start from."""

    value: Any
    root: Path


def _rows(data: str, settings: DataSettings) -> Iterator[_Row | Context]:
    path = Path(data)
    if not data.strip():
        raise ValueError("data is empty: name a folder, a .jsonl or .parquet file, or a dataset on the hub, OWNER/NAME")
    if path.is_dir() and path.with_name(f"{path.name}.done.json").exists():
        yield from read_dataset(path.parent, path.name, CONTEXTS)
    elif is_saved(path):
        yield from _arrow_rows(saved_table(path, settings.split), data, settings, path)
    elif path.is_file() or (path.is_dir() and any(one.suffix in (".jsonl", ".parquet") for one in path.iterdir())):
        found = open_data(path, (settings.source_column, settings.instruction_column))
        for row in raw_rows(found, settings.columns):
            yield _Row(row, found.files[0].parent)
    elif path.is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        table, root = hub_table(data, settings.split, settings.hub_config)
        yield from _arrow_rows(table, data, settings, root)
    else:
        raise ValueError(f"{data}: no such file or folder: check the path, or name a dataset on the hub as OWNER/NAME")


def _arrow_rows(table: Any, data: str, settings: DataSettings, root: Path) -> Iterator[_Row]:
    """Rows without a picture decoded on the way."""
    missing = [name for name in (settings.source_column, settings.instruction_column) if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{data}: has no column {', '.join(missing)}; it has {', '.join(table.column_names)}: name the right ones "
            "with --source-column and --instruction-column"
        )
    for row in table_rows(table, settings.columns):
        yield _Row(row, root)


def _context(row: _Row | Context, settings: DataSettings) -> Context:
    """A checked context; its id is empty where the row has none. Raises ValueError for an unusable row."""
    context = row if isinstance(row, Context) else _from_row(row, settings)
    sample = context.sample
    check_instruction(sample.instruction)
    check_pictures((sample.source,), "source image")
    check_pictures(sample.references, "reference image")
    check_sources(sample.sources)
    return context


def _from_row(found: _Row, settings: DataSettings) -> Context:
    row = found.value
    if isinstance(row, ValueError):
        raise row
    needed = (settings.source_column, settings.instruction_column)
    if not isinstance(row, dict):
        raise ValueError(f"a row of type {type(row).__name__}: write an object with {', '.join(needed)}")
    missing = [name for name in needed if row.get(name) in (None, [])]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}: a row needs {', '.join(needed)}")
    instruction = row[settings.instruction_column]
    if not isinstance(instruction, str):
        raise ValueError(f"{settings.instruction_column} of type {type(instruction).__name__}: write a text")
    check_unicode(settings.instruction_column, instruction)
    sources = _pictures(row[settings.source_column], settings.source_column, found.root, settings.allow_outside)
    references = _pictures(
        row.get(settings.references_column), settings.references_column, found.root, settings.allow_outside
    )
    principles = row.get(settings.principles_column)
    if principles in (None, "", []):
        principles = None
    sample = Sample(
        id=text_of(row, settings.id_column),
        source=sources[0],
        instruction=instruction,
        category=text_of(row, settings.category_column),
        subset="hard" if row.get("subset") == "hard" else "random",
        split=text_of(row, "split") or "train",
        hidden=text_of(row, "hidden") or None,
        references=(*sources[1:], *references),
    )
    decomposer = text_of(row, "decomposer") or GIVEN
    written = () if principles is None else principles_of(principles)
    return Context(sample, written, decomposer if written else "", row.get("simulated") is True)


def _pictures(value: Any, label: str, root: Path, allow_outside: bool) -> tuple[bytes, ...]:
    return tuple(picture_of(one, label, root, allow_outside) for one in picture_values(value))


def _with_own_id(context: Context, number: int, first_row: dict[str, int]) -> Context:
    """The context with an id that no row before it has. Raises ValueError for an id of the data given twice."""
    name = context.sample.id
    if name:
        if name in first_row:
            raise ValueError(f"id {name!r} is that of row {first_row[name]} too: an id names one row")
    else:
        sample = context.sample
        base = context_key(sample.sources, sample.instruction)[:16]
        name, copies = base, 1
        while name in first_row:
            copies += 1
            name = f"{base}-{copies}"
    first_row[name] = number
    return replace(context, sample=replace(context.sample, id=name))
