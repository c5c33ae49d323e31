"""What is known of a row once its picture was looked at: a few hundred bytes, kept on disk, so that it is done once.

    .work/intake/looked-KEY/000012.parquet    the rows of one block of numbers that were looked at so far
    .work/intake/looked-KEY/changed/12345     a row whose picture was replaced since, which a retry looks at anew

KEY is of the reader's files. Limits are applied to facts later (`intake.checks`), so that changing one decodes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from edit_r1.algo.picture_hash import exact_hash, perceptual_hash
from edit_r1.curate.intake.rows import Reader, Row, read_row
from edit_r1.images import ImageError, decode_rgb
from edit_r1.processes import cores
from edit_r1.store import Features, read_rows, write_bytes, write_rows
from edit_r1.verifier.items import context_key
from edit_r1.verifier.prompts import check_sources

_VERSION = 1
"""Raised when other facts are kept, or other hashes are taken."""
BLOCK = 1024
"""Rows of one file: what a kill can cost, some seconds of decoding."""
_AT_ONCE = 16
"""Rows whose pictures are in memory."""

_REMEMBERED = 4096
"""Pictures whose facts are in memory."""

_FEATURES: Features = {
    "number": "int64",
    "origin": "string",
    "id": "string",
    "instruction": "string",
    "category": "string",
    "licence": "string",
    "content": "string",
    "pictures": {"exact": "string", "near": "string", "width": "int64", "height": "int64"},
    "problem": "string",
    "cause": "string",
}


@dataclass(frozen=True)
class Picture:
    """A picture of a row, decoded once."""

    exact: bytes
    """`algo.picture_hash.exact_hash`."""
    near: bytes | None
    """`perceptual_hash`; None for a flat picture."""
    width: int
    """Pixels, upright."""
    height: int


@dataclass(frozen=True)
class Facts:
    """One row without its pictures."""

    number: int
    origin: str
    id: str
    """The data's own, or the beginning of `content`."""
    instruction: str
    category: str
    licence: str
    content: str
    """Hash of the pictures' bytes and the instruction; "" for a row that is none."""
    pictures: tuple[Picture, ...]
    """The source, then references."""
    problem: str = ""
    """Why it is no row, for a person; "" when it is one."""
    cause: str = ""
    """"row", or "source image" for a picture at fault."""

    @property
    def hashes(self) -> list[tuple[bytes, bytes | None]]:
        """Of its pictures, (exact, perceptual)."""
        return [(one.exact, one.near) for one in self.pictures]


class Looked:
    """Facts by number, found or made."""

    def __init__(self, work: Path, reader: Reader) -> None:
        """work: `.work/intake` of the output."""
        self.folder, self._reader = work / f"looked-{reader.fingerprint[:16]}-{_VERSION}", reader
        self._pictures: dict[bytes, Future[Picture]] = {}
        self._remembering = threading.Lock()

    def look(self, numbers: Iterable[int], again: bool = False) -> Iterator[Facts]:
        """The facts of rows, given in ascending order; one block of them is in memory.

        again: look anew at those that were no rows, and at those that have `changed`.

        Raises StoreError when the disk refuses.
        """
        for block, own in groupby(numbers, key=lambda number: number // BLOCK):
            path = self.folder / f"{block:06d}.parquet"
            known = {row["number"]: _from_row(row) for row in read_rows(path)} if path.exists() else {}
            wanted = list(own)
            changed = self.changed() if again else set()
            new = [n for n in wanted if n not in known or (again and known[n].problem) or n in changed]
            if new:
                known |= {facts.number: facts for facts in self._decode(new)}
                write_rows(path, [_to_row(known[number]) for number in sorted(known)], _FEATURES)
                for number in changed.intersection(new):
                    self._mark(number).unlink(missing_ok=True)
            yield from (known[number] for number in wanted)

    def note_changed(self, number: int) -> None:
        """A row is no longer what was seen. Raises StoreError when the disk refuses."""
        if not (mark := self._mark(number)).exists():
            write_bytes(mark, b"")

    def changed(self) -> set[int]:
        """Numbers of the rows of which that was noted."""
        return {int(path.name) for path in (self.folder / "changed").glob("[0-9]*")}

    def _mark(self, number: int) -> Path:
        return self.folder / "changed" / str(number)

    def _decode(self, numbers: Sequence[int]) -> Iterator[Facts]:
        with ThreadPoolExecutor(cores()) as threads:
            remaining = iter(numbers)
            while some := list(islice(remaining, _AT_ONCE)):
                # Read in this thread, in order: a Parquet file is then read forwards.
                yield from threads.map(self._facts, [_found(self._reader, number) for number in some])

    def _facts(self, found: _Found) -> Facts:
        row = found.row
        if isinstance(row, ValueError):
            cause = "source image" if isinstance(row, ImageError) else "row"
            return Facts(found.number, found.origin, "", "", "", "", "", (), str(row), cause)
        try:
            check_sources(row.sources)
            pictures = tuple(self._picture(source) for source in row.sources)
        except ValueError as error:
            return Facts(
                found.number, row.origin, row.id, row.instruction, row.category, row.licence, "", (), str(error),
                "source image",
            )  # fmt: skip
        content = context_key(row.sources, row.instruction)
        return Facts(
            found.number,
            row.origin,
            row.id or content[:16],
            row.instruction,
            row.category,
            row.licence,
            content,
            pictures,
        )

    def _picture(self, data: bytes) -> Picture:
        """Decoded once, by the first thread that comes to it: rows of one picture often follow each other."""
        key = hashlib.sha256(data).digest()
        with self._remembering:
            known = self._pictures.get(key)
            if first := known is None:
                if len(self._pictures) >= _REMEMBERED:
                    self._pictures.clear()
                known = self._pictures[key] = Future()
        assert known is not None
        if first:
            try:
                known.set_result(_picture(data))
            except BaseException as error:  # the others' too
                known.set_exception(error)
        return known.result()


@dataclass(frozen=True)
class _Found:
    number: int
    origin: str
    row: Row | ValueError


def _found(reader: Reader, number: int) -> _Found:
    try:
        return _Found(number, reader.origin(number), read_row(reader, number))
    except ValueError as error:
        return _Found(number, reader.origin(number), error)


def _picture(data: bytes) -> Picture:
    pixels_HW3 = decode_rgb(data)
    height, width = pixels_HW3.shape[:2]
    return Picture(exact_hash(pixels_HW3), perceptual_hash(pixels_HW3), width, height)


def _to_row(facts: Facts) -> dict[str, Any]:
    return {
        **{name: getattr(facts, name) for name in _FEATURES if name != "pictures"},
        "pictures": [
            {
                "exact": one.exact.hex(),
                "near": None if one.near is None else one.near.hex(),
                "width": one.width,
                "height": one.height,
            }
            for one in facts.pictures
        ],
    }


def _from_row(row: dict[str, Any]) -> Facts:
    pictures = tuple(
        Picture(
            bytes.fromhex(one["exact"]),
            None if one["near"] is None else bytes.fromhex(one["near"]),
            one["width"],
            one["height"],
        )
        for one in row["pictures"]
    )
    return Facts(**{**row, "pictures": pictures})
