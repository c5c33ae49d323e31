"""Rows of a benchmark from wherever they lie.

What can be opened: a .json, .jsonl or .parquet file; a folder that `datasets` saved; a folder that holds Parquet files
at any depth, or else one JSON file; any other folder that `datasets.load_dataset` opens; a dataset on the hub,
OWNER/NAME.
A folder is read without the library `datasets`, unless only that can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_r1.verifier.hub_tables import hub_table, is_saved, saved_table, table_rows
from edit_r1.verifier.inputs import InputData, open_data, raw_rows

_SPLIT = re.compile(r"(train|test|validation|val|dev)(?=[-_./]|$)")
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")
"""Where the hub's client keeps a dataset of a commit."""


@dataclass(frozen=True)
class RawRow:
    """A row as it was found, and where its paths may start from."""

    values: Mapping[str, Any]
    roots: tuple[Path, ...]
    allow_outside: bool = False


@dataclass(frozen=True)
class OpenedRows:
    """Rows that are read as they are asked for."""

    rows: Iterable[RawRow]
    count: int
    revision: str | None


def open_rows(
    data: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    split: str = "",
    revision: str | None = None,
    allow_outside: bool = False,
) -> OpenedRows:
    """The rows of `data` with the columns `required` and, as far as they are there, `optional`.

    split: of data that has several. revision: of a dataset on the hub; the newest where none is named.
    Raises ValueError, naming the data and the remedy, when it cannot be opened or lacks a column.
    """
    path = Path(data)
    if path.exists():
        if revision is not None:
            raise ValueError(f"--revision {revision}: {data} lies on this machine, and a revision is the hub's")
        found = _SNAPSHOT.search(path.resolve().as_posix() + "/")
        rows, count = _local(path, required, optional, split)
        commit = found[1] if found else None
        roots: tuple[Path, ...] = (path if path.is_dir() else path.parent,)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        commit = _commit(data, revision)
        table, root = hub_table(data, split or "train", revision=commit)
        rows, count, roots = _of_table(table, data, required, optional), len(table), (root,)
    else:
        raise ValueError(f"{data}: no such file or folder: check the path, or name a dataset on the hub as OWNER/NAME")
    if count == 0:
        raise ValueError(f"{data}: holds no rows: download it again")
    return OpenedRows(_checked(rows, data, required, roots, allow_outside), count, commit)


def _commit(data: str, revision: str | None) -> str:
    """The commit that a dataset's revision stands for. Raises ValueError when the hub does not say."""
    try:
        from huggingface_hub import dataset_info
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    except ImportError as error:
        raise ValueError(f"{data}: opening a dataset of the hub needs: pip install 'edit-r1[train]'") from error
    try:
        return str(dataset_info(data, revision=revision).sha)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{data}: no such folder, and the hub gives no such dataset ({reason}): check the name, the network, and "
            "whether its terms have to be accepted first (hf auth login)"
        ) from error


_Found = tuple[Any, tuple[Path, ...]]
"""A row's value, and folders its paths may start from before the data's own."""


def _local(path: Path, required: Sequence[str], optional: Sequence[str], split: str) -> tuple[Iterable[_Found], int]:
    columns = (*required, *optional)
    if is_saved(path):
        table = saved_table(path, split)
        return _of_table(table, str(path), required, optional), len(table)
    if path.is_file():
        return _file(path, columns, required)
    parquet = _of_split(path, sorted(path.rglob("*.parquet")), split)
    if parquet:
        parts = [open_data(file, required) for file in parquet]
        return _parquet(parts, columns), sum(part.rows for part in parts)
    written = [file for suffix in ("*.json", "*.jsonl") for file in sorted(path.rglob(suffix))]
    written = _of_split(path, [file for file in written if _holds_rows(file.relative_to(path))], split)
    if len(written) > 1:
        raise ValueError(f"{path}: holds {len(written)} JSON files ({written[0].name}, ...): name the one you mean")
    if written:
        return _file(written[0], columns, required)
    table, _ = hub_table(str(path), split or "train")
    return _of_table(table, str(path), required, optional), len(table)


def _of_split(path: Path, files: list[Path], split: str) -> list[Path]:
    """The files of a split, told by the names that the hub gives them. ValueError for several splits and none named."""
    splits = {}
    for file in files:
        found = [match[1] for part in file.relative_to(path).parts if (match := _SPLIT.match(part))]
        splits[file] = found[-1] if found else ""
    there = sorted({name for name in splits.values() if name})
    if split:
        if files and split not in there:
            raise ValueError(f"{path}: has no files of split {split!r}{'; it has ' if there else ''}{', '.join(there)}")
        return [file for file in files if splits[file] == split]
    if len(there) > 1:
        raise ValueError(f"{path}: holds the splits {', '.join(there)}: choose one with --split")
    return files


def _holds_rows(file: Path) -> bool:
    """Whether a JSON file is data: not a card, an index, or what one of our runs left."""
    if file.name in ("dataset_infos.json", "dataset_info.json", "state.json") or file.name.endswith(
        (".run.json", ".done.json", ".rows.jsonl")
    ):
        return False
    return not any(part.startswith(".") for part in file.parts)


def _file(path: Path, columns: Sequence[str], required: Sequence[str]) -> tuple[Iterable[_Found], int]:
    if path.suffix != ".json":
        found = open_data(path, required)
        return ((row, (path.parent,)) for row in raw_rows(found, columns)), found.rows
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}): download it again") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds {type(rows).__name__} where a list of rows is expected: name the right file")
    return ((row, (path.parent,)) for row in rows), len(rows)


def _parquet(parts: Sequence[InputData], columns: Sequence[str]) -> Iterator[_Found]:
    for part in parts:
        for row in raw_rows(part, columns):
            yield row, (part.files[0].parent,)


def _of_table(table: Any, data: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[_Found]:
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{data}: has no column {', '.join(missing)}; it has {', '.join(table.column_names)}: is it this benchmark?"
        )
    for row in table_rows(table, (*required, *optional)):
        yield row, ()


def _checked(
    rows: Iterable[_Found], data: str, required: Sequence[str], roots: tuple[Path, ...], allow_outside: bool
) -> Iterator[RawRow]:
    for number, (row, starts) in enumerate(rows, start=1):
        if isinstance(row, ValueError):
            raise ValueError(f"{data}: row {number}: {row}")
        if not isinstance(row, dict):
            raise ValueError(f"{data}: row {number} is of type {type(row).__name__}: an object is expected")
        missing = [name for name in required if name not in row]
        if missing:
            raise ValueError(f"{data}: row {number} has no {', '.join(missing)}: is it this benchmark?")
        yield RawRow(row, tuple(dict.fromkeys((*starts, *roots))), allow_outside)
