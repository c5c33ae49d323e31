"""Public preference data into our Parquet format: row by row, checked, in bounded memory, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from edit_r1.images import ImageError, decode_pil
from edit_r1.preferences.formats import FORMATS, Format, preference_from
from edit_r1.preferences.kinds import Kind
from edit_r1.preferences.rows import RawRow, find_files, read_raw
from edit_r1.processes import cores
from edit_r1.records import Preference
from edit_r1.store import PREFERENCES, StoreError, stream_dataset, write_text

CHUNK = 32
"""Rows whose pictures are decoded side by side: with pictures of a megabyte, some 100 MB in memory."""
NAMED = 20
"""Broken rows that a summary names; all stand in NAME.broken.jsonl."""
KNOWN = 4096
"""Pictures remembered as readable: pairs of one context share their source, and follow each other."""


@dataclass(frozen=True)
class ImportOptions:
    """How a data set is imported."""

    broken: Literal["refuse", "skip"] = "refuse"
    """What a row that cannot be used does: end the import, or be left out and counted."""
    split: str = ""
    """Split of every pair; "": what the row says, else the format's ("test" for benchmarks)."""
    aspects: tuple[str, ...] = ()
    """Keep only pairs that compare these; "overall" is the edit as a whole. Empty: all."""
    most_rows: int = 0
    """Rows that are read, from the first on; 0 reads all."""
    allow_outside: bool = False
    """Read pictures outside the data's folder too."""


@dataclass(frozen=True)
class BrokenRow:
    """A row that was left out."""

    file: str
    row: int
    """From 1."""
    reason: str


@dataclass
class _Counts:
    rows: int = 0
    left_out: int = 0
    choices: Counter[str] = field(default_factory=Counter)
    broken: list[BrokenRow] = field(default_factory=list)


@dataclass(frozen=True)
class ImportSummary:
    """What an import read and wrote."""

    kind: str
    out: str
    rows: int
    """Rows read, usable or not."""
    written: int
    decided: int
    """Pairs with a winner."""
    same: int
    left_out: int
    """Good rows of other aspects than those asked for."""
    broken: int
    reasons: tuple[BrokenRow, ...]
    """The first broken rows."""
    order: Literal["kept", "drawn"]
    """Whether first and second are as the data had them, or drawn because it names only a winner."""
    hash: str


def import_preferences(
    kind: Kind,
    source: Path,
    out: Path,
    options: ImportOptions | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> ImportSummary:
    """Reads a file or folder of `kind` into the data set `out`.

    Args:
        progress: called with the rows read so far.

    Raises:
        ValueError: for no usable row, a file that cannot be read, or the first broken row unless these are skipped.
        StoreError: (one too) when `out` exists, or the disk refuses. Nothing is left of an import that failed.
    """
    options = options or ImportOptions()
    if options.most_rows < 0:
        raise ValueError(f"--most-rows {options.most_rows}: must be 0 (all) or more")
    form = FORMATS[kind]
    files = find_files(source)
    counts = _Counts()
    order: Literal["kept", "drawn"] = "drawn" if form.winner_first else "kept"
    log = out.with_name(f"{out.name}.broken.jsonl")

    def meta() -> dict[str, Any]:
        told = {"kind": kind, "order": order, "source_rows": counts.rows, "broken": len(counts.broken)}
        return told | {"same": counts.choices["same"], "left_out": counts.left_out}

    written = stream_dataset(out, _pairs(form, files, options, counts, progress), PREFERENCES, meta)
    log.unlink(missing_ok=True)  # of an import that was removed
    if counts.broken:
        write_text(log, "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in counts.broken))
    return ImportSummary(
        kind=kind,
        out=str(out),
        rows=counts.rows,
        written=written["rows"],
        decided=written["rows"] - counts.choices["same"],
        same=counts.choices["same"],
        left_out=counts.left_out,
        broken=len(counts.broken),
        reasons=tuple(counts.broken[:NAMED]),
        order=order,
        hash=written["hash"],
    )


def _pairs(
    form: Format, files: Sequence[Path], options: ImportOptions, counts: _Counts, progress: Callable[[int], None]
) -> Iterator[Preference]:
    """The good rows, in order; pictures are decoded by as many threads as there are cores."""
    columns = (*form.required, *form.optional)
    raw = (row for file in files for row in read_raw(file, columns, form.required))
    limited = islice(raw, options.most_rows or None)
    check = _Checked(form, options)
    aspects = {"" if aspect == "overall" else aspect for aspect in options.aspects}
    kept = 0
    with ThreadPoolExecutor(cores()) as threads:
        while chunk := list(islice(limited, CHUNK)):
            for row, result in zip(chunk, threads.map(check, chunk), strict=True):
                counts.rows += 1
                if isinstance(result, str):
                    _note(row, result, options, counts)
                elif aspects and result.aspect not in aspects:
                    counts.left_out += 1
                else:
                    kept += 1
                    counts.choices[result.choice] += 1
                    yield result
            progress(counts.rows)
    if kept == 0:
        first = f" ({counts.broken[0].reason})" if counts.broken else ""
        raise ValueError(
            f"{files[0]}: none of {counts.rows} rows can be used{first}: check the kind, --aspect and the data"
        )


def _note(row: RawRow, reason: str, options: ImportOptions, counts: _Counts) -> None:
    if options.broken == "refuse":
        raise ValueError(f"{row.place}: {reason}; mend it, or leave such rows out with --broken skip")
    counts.broken.append(BrokenRow(str(row.file), row.number, reason))


class _Checked:
    """A row's pair, or the reason why it is none; called by several threads."""

    def __init__(self, form: Format, options: ImportOptions) -> None:
        self._form, self._options = form, options
        self._readable: dict[bytes, None] = {}

    def __call__(self, row: RawRow) -> Preference | str:
        try:
            pair = preference_from(
                self._form, row.value, row.file.parent, self._options.split, self._options.allow_outside
            )
            sample = pair.context.sample
            self._check([sample.source, *sample.references], "source")
            self._check([pair.first.image], "first edit")
            self._check([pair.second.image], "second edit")
        except StoreError:
            raise
        except ValueError as error:
            return str(error)
        return pair

    def _check(self, pictures: Iterable[bytes], label: str) -> None:
        for picture in pictures:
            key = hashlib.sha256(picture).digest()
            if key in self._readable:
                continue
            try:
                decode_pil(picture)
            except ImageError as error:
                raise ImageError(f"{label}: {error}") from error
            if len(self._readable) >= KNOWN:
                self._readable.clear()
            self._readable[key] = None
