"""Edits to be judged, read from a person's files: JSONL or Parquet, a row each; and principles from JSON.

A row has `source` (a picture, or a list of them), `edited`, `instruction`, and optionally `principles` (a list of
{"question", "category"}) and `id`; what else it holds is ignored. In JSONL a picture is a path relative to the file. In
Parquet it is encoded bytes, a Hugging Face `Image` ({"bytes", "path"}), or such a path. A path that leads out of the
file's folder, by "..", a link or by being absolute, is refused unless the caller allows it: a data set made by
others must not be able to send this machine's files to a server.

A row that cannot be read is a row with a reason, never an exception: one bad row must not cost the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.images import DEFAULT_LIMITS, ImageError, read_image_file
from edit_r1.records import CATEGORIES, Principle
from edit_r1.verifier.prompts import check_instruction, check_principles, check_sources
from edit_r1.verifier.scoring import ScoreItem

REQUIRED = ("source", "edited", "instruction")
_COLUMNS = (*REQUIRED, "principles", "id")
_REMEDY = f'write a JSON list of {{"question": ..., "category": one of {", ".join(CATEGORIES)}}}'
_PARQUET_BATCH = 16
"""Rows in memory at once; small because rows hold pictures."""


@dataclass(frozen=True)
class Question:
    """What a model is asked about, read and checked: a mistake in it is told before any model is opened."""

    sources: tuple[bytes, ...]
    edited: tuple[bytes, ...]
    instruction: str
    principles: tuple[Principle, ...] | None


def read_question(
    sources: Sequence[Path], edited: Sequence[Path], instruction: str, principles: Path | None = None
) -> Question:
    """Reads the pictures and the file of principles. Raises ValueError that names the file for what is unusable."""
    checked = check_instruction(instruction)
    given = None if principles is None else read_principles(principles)
    pictures = check_sources([read_image_file(source) for source in sources])
    return Question(pictures, tuple(map(read_image_file, edited)), checked, given)


@dataclass(frozen=True)
class InputRow:
    """One row: an edit to be judged, or the reason why it is none."""

    index: int
    """Its place among the rows, from 0; empty lines of JSONL are none."""
    id: str | None
    item: ScoreItem | None
    problem: str | None = None
    """What is wrong, for a person; None when there is an item."""
    cause: Literal["row", "picture"] = "row"
    """What is at fault where there is a problem."""


@dataclass(frozen=True)
class InputData:
    """Files of rows, found and counted."""

    files: tuple[Path, ...]
    """One JSONL file, or Parquet files in the order of their names."""
    rows: int
    sha256: str
    """Of the files' bytes, hexadecimal; of JSONL without the pictures that it names."""

    @property
    def parquet(self) -> bool:
        return self.files[0].suffix == ".parquet"


def open_data(path: Path, required: Sequence[str] = REQUIRED) -> InputData:
    """A JSONL or Parquet file, or a folder that holds one JSONL file or else Parquet files.

    required: columns that a Parquet file must have, and that a message asks for.
    Raises ValueError, naming the path and the remedy, for anything else, no row, or Parquet without the columns.
    """
    files = _find(path)
    digest = hashlib.sha256()
    rows = 0
    try:
        for file in files:
            with open(file, "rb") as stream:
                for line in stream:
                    digest.update(line)
                    rows += bool(line.strip())
        if files[0].suffix == ".parquet":
            rows = sum(_parquet_rows(file, required) for file in files)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    if rows == 0:
        raise ValueError(f"{path}: holds no rows: write one JSON object per line with {', '.join(required)}")
    return InputData(files, rows, digest.hexdigest())


def _find(path: Path) -> tuple[Path, ...]:
    if path.is_dir():
        # What stands beside a NAME.run.json is the output of `score-many`, which may lie in the same folder. Hidden
        # files are no data: macOS writes a ._rows.jsonl beside rows.jsonl.
        files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
        files = [
            file for file in files if not file.with_name(f"{file.name.removesuffix('.rows.jsonl')}.run.json").exists()
        ]
        found = [file for file in files if file.suffix == ".jsonl"]
        if len(found) > 1:
            raise ValueError(f"{path}: holds {len(found)} JSONL files ({found[0].name}, ...): name the one you mean")
        found = found or [file for file in files if file.suffix == ".parquet"]
        if not found:
            raise ValueError(f"{path}: holds neither a JSONL nor a Parquet file of rows: write one there")
        return tuple(found)
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder: check the path")
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: give a .jsonl or .parquet file, or a folder that holds one")
    return (path,)


def _parquet_rows(file: Path, required: Sequence[str]) -> int:
    try:
        with pq.ParquetFile(file) as table:
            missing = [name for name in required if name not in table.schema_arrow.names]
            if missing:
                raise ValueError(f"{file}: has no column {', '.join(missing)}; needed are {', '.join(required)}")
            return int(table.metadata.num_rows)
    except pa.ArrowException as error:
        raise ValueError(f"{file}: not a readable Parquet file ({error}): write it anew") from error


def read_inputs(data: InputData, start: int = 0, allow_outside: bool = False) -> Iterator[InputRow]:
    """The rows from place `start` on, their pictures read as each is asked for; few are in memory at once."""
    root = data.files[0].parent
    for index, row in islice(enumerate(raw_rows(data, _COLUMNS)), start, None):
        name = row.get("id") if isinstance(row, dict) else None
        known = isinstance(name, str | int) and not isinstance(name, bool)
        given = str(name).encode("utf-8", "replace").decode() if known else None
        try:
            yield InputRow(index, given, _item(row, root, allow_outside))
        except ImageError as error:
            yield InputRow(index, given, None, str(error), "picture")
        except ValueError as error:
            yield InputRow(index, given, None, str(error))


def raw_rows(data: InputData, columns: Sequence[str]) -> Iterator[Any]:
    """What each row holds, unchecked; of Parquet only `columns`, as far as they are there. A ValueError in place of a
    JSONL line that is not JSON."""
    return _parquet(data.files, columns) if data.parquet else _jsonl(data.files[0])


def _jsonl(file: Path) -> Iterator[Any]:
    """What each line holds; a ValueError in place of a line that is not JSON."""
    with open(file, "rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ValueError(f"not valid JSON ({' '.join(str(error).split())}): write one object per line")


def _parquet(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Any]:
    for file in files:
        with pq.ParquetFile(file) as table:
            there = [name for name in columns if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH, columns=there):
                yield from batch.to_pylist()


def _item(row: Any, root: Path, allow_outside: bool) -> ScoreItem:
    """The edit in a row. Raises ImageError for a picture that is not there, ValueError for a malformed row."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a row of type {type(row).__name__}: write an object with {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if row.get(name) is None]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}: a row needs {', '.join(REQUIRED)}")
    if not isinstance(row["instruction"], str):
        raise ValueError(f"instruction of type {type(row['instruction']).__name__}: write a text")
    check_unicode("instruction", row["instruction"])
    sources = row["source"] if isinstance(row["source"], list) else [row["source"]]
    principles = row.get("principles")
    return ScoreItem(
        sources=tuple(picture_of(source, "source", root, allow_outside) for source in sources),
        edited=picture_of(row["edited"], "edited", root, allow_outside),
        instruction=row["instruction"],
        principles=None if principles is None else principles_of(principles),
    )


def picture_of(value: Any, label: str, root: Path, allow_outside: bool) -> bytes:
    """The encoded picture that a row holds or names, relative to `root`; not decoded.

    Raises ImageError for one that cannot be read, ValueError for what is none; both name the `label`.
    """
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"{label} of type {type(value).__name__}: give a path, or encoded bytes in Parquet")
    try:
        path = (root / value).resolve()
        if not allow_outside and not path.is_relative_to(root.resolve()):
            raise ImageError(f"{label} {value!r} lies outside the data's folder: move it there, or allow it")
        if not path.is_file():
            raise ImageError(f"{label} {value!r}: no such file")
        if path.stat().st_size > DEFAULT_LIMITS.max_bytes:
            raise ImageError(f"{label} {value!r}: larger than {DEFAULT_LIMITS.max_bytes} bytes")
        return path.read_bytes()
    except ImageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a name too long, a loop of links
        raise ImageError(f"{label} {value!r}: cannot be read ({' '.join(str(error).split())})") from error


def picture_values(value: Any) -> list[Any]:
    """What a column of pictures holds, one by one: a picture, a list of them, and what our own format wraps."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    return [one["image"] if isinstance(one, dict) and one.keys() == {"image"} else one for one in values]


def text_of(row: Mapping[str, Any], column: str) -> str:
    """A text, or a whole number as text; "" where there is none. Raises ValueError for other types."""
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{column} of type {type(value).__name__}: write a text")
    text = str(value)
    check_unicode(column, text)
    return text


def check_unicode(label: str, text: str) -> None:
    """ValueError for half a character, which JSON may spell and no model and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{label}: holds half a character (a lone surrogate): write it anew") from error


def principles_of(rows: Any) -> tuple[Principle, ...]:
    """Principles from JSON values: a list of {"question", "category"}, or its text. Raises ValueError for others."""
    if isinstance(rows, str):
        try:
            rows = json.loads(rows)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"principles are not valid JSON ({error}): {_REMEDY}") from error
    if not isinstance(rows, list):
        raise ValueError(f"holds no list of principles: {_REMEDY}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "category")):
            raise ValueError(f"principle {number} is malformed: {_REMEDY}")
        check_unicode(f"principle {number}", row["question"])
    return check_principles([Principle(row["question"], row["category"]) for row in rows])


def read_principles(path: Path) -> tuple[Principle, ...]:
    """Principles from a JSON file: a list, or the document that `edit-r1 principles --json` writes.

    Raises ValueError that names the file.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}): {_REMEDY}") from error
    try:
        return principles_of(rows.get("principles") if isinstance(rows, dict) else rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
