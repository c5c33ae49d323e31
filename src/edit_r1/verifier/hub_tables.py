"""Tables that the library `datasets` opens: what it saved, a folder of any layout it knows, a dataset on the hub.

Rows come undecoded, so that pictures are the bytes of the data. `datasets` comes with the extra `train`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ROWS = 16
"""Rows in memory at once; few because rows hold pictures."""


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `datasets` saved (`save_to_disk`)."""
    return path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_table(path: Path, split: str = "") -> Any:
    """The table that `save_to_disk` wrote; of several splits the one named, or the only one where none is.

    Raises ValueError for a damaged folder, or a split that is not there.
    """
    DatasetDict, load_from_disk = _library(path, "DatasetDict", "load_from_disk")
    try:
        table = load_from_disk(str(path))
    except Exception as error:  # a boundary: what a damaged folder raises is the library's own choice
        raise ValueError(f"{path}: cannot be opened as a saved dataset ({_line(error)}): save it anew") from error
    if not isinstance(table, DatasetDict):
        return table
    if not split and len(table) == 1:
        return next(iter(table.values()))
    if split not in table:
        asked = f"no split {split!r}; it has" if split else "several splits:"
        raise ValueError(f"{path}: has {asked} {', '.join(table)}: choose one with --split")
    return table[split]


def hub_table(data: str, split: str, config: str = "", revision: str | None = None) -> tuple[Any, Path]:
    """(table, folder that its relative paths start from) of a folder or of a dataset on the hub, OWNER/NAME.

    Raises ValueError when it cannot be opened.
    """
    load_dataset, settings = _library(data, "load_dataset", "config")
    try:
        at = {} if revision is None else {"revision": revision}
        table = load_dataset(data, config or None, split=split, **at)
    except Exception as error:  # a boundary: network, hub and formats each raise classes of their own
        where = "holds no data that can be read" if Path(data).is_dir() else "no such folder, nor a dataset on the hub"
        raise ValueError(
            f"{data}: {where} ({_line(error)}): check the name, the split {split!r} and the configuration"
        ) from error
    return table, Path(data) if Path(data).is_dir() else Path(settings.HF_DATASETS_CACHE)


def table_rows(table: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, of `columns` as far as they are there; no picture is decoded on the way."""
    for batch in undecoded(table, columns).iter(batch_size=_ROWS):
        yield from batch.to_pylist()


def undecoded(table: Any, columns: Sequence[str]) -> Any:
    """A view of `columns`, as far as they are there, whose rows by number are tables of one undecoded row."""
    there = [name for name in dict.fromkeys(columns) if name in table.column_names]
    return table.select_columns(there).with_format("arrow")


def _library(data: object, *names: str) -> list[Any]:
    """Names of `datasets`. Raises ValueError when it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{data}: opening it needs the library datasets: pip install 'edit-r1[train]'") from error
    return [getattr(datasets, name) for name in names]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
