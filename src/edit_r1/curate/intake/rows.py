"""One row of a team's data, whatever holds it: a picture, an instruction, and where both come from.

A reader knows the number of its rows and finds each by its number; pictures are read when a row is asked for. What
cannot be read is an error of that row, with its cause.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from edit_r1.curate.shards import unit_key
from edit_r1.verifier.inputs import check_unicode, picture_of, picture_values, text_of


@dataclass(frozen=True)
class Columns:
    """What holds what in a row; a column that is not there is empty, but for the first two."""

    source: str = "source"
    """A picture; or a list of them, of which the first is edited and the others are references."""
    instruction: str = "instruction"
    references: str = "references"
    """Further pictures that the instruction speaks of."""
    edits: str = ""
    """Edits that exist already, a picture or a list of them; "" when there are none."""
    category: str = "category"
    id: str = "id"
    """Unique and stable; rows without one are named after the hash of their content."""
    licence: str = "licence"

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns without pictures."""
        return (self.instruction, self.category, self.id, self.licence)

    @property
    def pictures(self) -> tuple[str, ...]:
        """The columns of what is edited."""
        return (self.source, self.references)


class Pictures(Protocol):
    """Where the pictures lie that rows name."""

    @property
    def fingerprint(self) -> str:
        """Changes when the files change; "" where the rows tell all."""

    def prepare(self, kept: Path) -> None:
        """Looks up what must be looked up once; `kept` is a folder for it, made when it is needed."""

    def read(self, value: Any, label: str, root: Path) -> bytes:
        """The encoded picture that a row in `root` holds or names. Raises ImageError or ValueError, naming `label`."""


@dataclass(frozen=True)
class FolderPictures:
    """Encoded bytes, Hugging Face images, or paths relative to the file of rows."""

    allow_outside: bool = False
    """Follow paths and links out of that folder too; data made by others should not be able to name any file."""

    @property
    def fingerprint(self) -> str:
        # Rows that were refused must be looked at anew when it is allowed; the default names nothing, as it always did.
        return "outside" if self.allow_outside else ""

    def prepare(self, kept: Path) -> None:
        """Nothing."""

    def read(self, value: Any, label: str, root: Path) -> bytes:
        return picture_of(value, label, root, self.allow_outside)


class Reader(Protocol):
    """Rows by number, from 0."""

    @property
    def columns(self) -> Columns: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the files change, as far as names, sizes and times tell."""

    def prepare(self, kept: Path) -> None:
        """As `Pictures.prepare`. Raises ValueError for data that cannot be opened."""

    def __len__(self) -> int:
        """Rows; raises ValueError for data that cannot be opened."""

    def origin(self, number: int) -> str:
        """File, and line, row or member."""

    def values(self, number: int, names: Sequence[str]) -> Mapping[str, Any]:
        """What the row holds in these columns, unchecked. Raises ValueError for a row that is none."""

    def picture(self, number: int, value: Any, label: str) -> bytes:
        """As `Pictures.read`, for a value of this row."""


@dataclass(frozen=True)
class Row:
    """One row, read; its pictures are not decoded yet."""

    origin: str
    id: str
    """As the data has it; "" when it has none."""
    sources: tuple[bytes, ...]
    instruction: str
    category: str
    licence: str


def read_row(reader: Reader, number: int) -> Row:
    """A row with its pictures. Raises ImageError for a picture that cannot be read, ValueError for a malformed row."""
    columns = reader.columns
    values = reader.values(number, (*columns.texts, *columns.pictures))
    missing = [name for name in (columns.source, columns.instruction) if values.get(name) in (None, [])]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}: a row needs {columns.source} and {columns.instruction}")
    instruction = values[columns.instruction]
    if not isinstance(instruction, str):
        raise ValueError(f"{columns.instruction} of type {type(instruction).__name__}: write a text")
    check_unicode(columns.instruction, instruction)
    sources = [
        reader.picture(number, value, name) for name in columns.pictures for value in picture_values(values.get(name))
    ]
    return Row(
        reader.origin(number),
        text_of(values, columns.id),
        tuple(sources),
        instruction,
        text_of(values, columns.category),
        text_of(values, columns.licence),
    )


def read_edits(reader: Reader, number: int) -> list[bytes]:
    """The ready edits of a row, in order; none where the data has none. Raises as `read_row`."""
    name = reader.columns.edits
    if not name:
        return []
    return [reader.picture(number, value, name) for value in picture_values(reader.values(number, (name,)).get(name))]


def read_category(reader: Reader, number: int) -> str:
    """The category of a row, without its pictures; "" for a row that is none."""
    try:
        return text_of(reader.values(number, (reader.columns.category,)), reader.columns.category)
    except ValueError:
        return ""  # looked at and counted when the row is drawn


def files_fingerprint(files: Sequence[Path], *more: object) -> str:
    """Hash of the names, sizes and times of files, and of more. Raises ValueError for one that is not there."""
    try:
        stats = [(path, path.stat()) for path in files]
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): check the path") from error
    return unit_key([[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in stats], *more)


def columns_key(columns: Columns) -> dict[str, str]:
    """For a fingerprint."""
    return asdict(columns)


def check_named(columns: Columns, there: Collection[str], data: str | Path) -> None:
    """Raises ValueError for a column that was named and is not there: ids or licences would be lost without a word."""
    usual = asdict(Columns())
    missing = [name for field, name in asdict(columns).items() if name not in ("", usual[field], *there)]
    if missing:
        raise ValueError(
            f"{data}: has no column {', '.join(missing)}; it has {', '.join(sorted(there))}: name the right ones in "
            "`Columns`"
        )
