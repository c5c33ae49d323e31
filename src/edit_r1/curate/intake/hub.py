"""What the library `datasets` opens: a folder that it saved, one of a layout that it knows, a dataset on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_r1.curate.intake.rows import Columns, FolderPictures, Pictures, check_named, columns_key
from edit_r1.curate.shards import unit_key
from edit_r1.verifier.hub_tables import hub_table, is_saved, saved_table, undecoded


class HubRows:
    """The rows of a table of `datasets`; they lie in files that are mapped into memory, and come undecoded."""

    def __init__(
        self,
        data: str,
        columns: Columns | None = None,
        split: str = "train",
        config: str = "",
        revision: str | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        """data: a folder, or OWNER/NAME on the hub. Raises ValueError when it cannot be opened or lacks a column."""
        self.columns = columns or Columns()
        self.pictures: Pictures = pictures or FolderPictures()
        self.data = data
        self._views: dict[tuple[str, ...], Any] = {}
        path = Path(data)
        if is_saved(path):
            self._table, self._root = saved_table(path, split), path
        else:
            self._table, self._root = hub_table(data, split, config, revision)
        names = self._table.column_names
        missing = [name for name in (self.columns.source, self.columns.instruction) if name not in names]
        if missing:
            raise ValueError(
                f"{data}: has no column {', '.join(missing)}; it has {', '.join(names)}: name the right ones in "
                "`Columns`"
            )
        if columns is not None:
            check_named(columns, names, data)
        if not len(self._table):
            raise ValueError(f"{data}: holds no rows")

    @property
    def fingerprint(self) -> str:
        return unit_key(str(self._table._fingerprint), columns_key(self.columns), self.pictures.fingerprint)

    def prepare(self, kept: Path) -> None:
        self.pictures.prepare(kept)

    def __len__(self) -> int:
        return len(self._table)

    def origin(self, number: int) -> str:
        return f"{Path(self.data).name if Path(self.data).is_dir() else self.data}: row {number + 1}"

    def values(self, number: int, names: Sequence[str]) -> Mapping[str, Any]:
        wanted = tuple(names)
        if wanted not in self._views:  # making one takes longer than reading a row
            self._views[wanted] = undecoded(self._table, wanted)
        view = self._views[wanted]
        found: dict[str, Any] = view[number].to_pylist()[0] if view.column_names else {}
        return found

    def picture(self, number: int, value: Any, label: str) -> bytes:
        return self.pictures.read(value, label, self._root)
