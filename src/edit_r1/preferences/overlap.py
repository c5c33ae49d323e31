"""Pictures that two data sets share: the same pixels, or near enough to be a re-encoded or scaled copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.algo.picture_hash import NEAR, exact_hash, nearest, perceptual_hash
from edit_r1.images import ImageError, decode_rgb, read_image_file
from edit_r1.preferences.facts import PairFacts
from edit_r1.preferences.rows import arrow_batches
from edit_r1.processes import cores

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
NAMED = 20
_ROWS = 16


@dataclass(frozen=True)
class SharedPicture:
    """A picture of the data, found in the other data set."""

    row: int
    """A row of the data that shows it."""
    role: str
    """"source", "first" or "second" in that row."""
    other: str
    """Where it stands there: file, and row and column or nothing."""
    bits: int
    """Distance of the perceptual hashes, of 256; 0 for the same pixels."""
    exact: bool


@dataclass(frozen=True)
class Shared:
    """How much of the data another set holds too."""

    sources: int
    """Different source images that are shared."""
    edits: int
    """Different edits that are."""
    rows: int
    """Rows with at least one such picture."""


@dataclass(frozen=True)
class Overlap:
    """The data against one other set."""

    against: str
    pictures: int
    """Different pictures there."""
    unreadable: int
    """Pictures there that could not be decoded, and were not compared."""
    exact: Shared
    near: Shared
    """At most `threshold` bits apart, exact ones included."""
    threshold: int
    examples: list[SharedPicture]
    """Exact ones first, then by distance."""


def overlap(facts: Sequence[PairFacts], other: Path, threshold: int = NEAR) -> Overlap:
    """Compares every picture of `facts` with every picture of `other` (see `pictures_in`).

    Raises:
        ValueError: when `other` holds no picture, or cannot be read.
    """
    exact: dict[bytes, str] = {}
    near: dict[bytes, str] = {}
    unreadable = 0
    for place, hashes in _hashes(pictures_in(other)):
        if hashes is None:
            unreadable += 1
            continue
        if hashes[0] not in exact:
            exact[hashes[0]] = place
            if hashes[1] is not None:
                near.setdefault(hashes[1], place)
    if not exact:
        raise ValueError(f"{other}: holds no picture that can be read: give a data set or a folder of pictures")
    own: dict[bytes, SharedPicture] = {}
    for found in _matches(facts, exact, near, threshold):
        own[found[0]] = found[1]
    ranked = sorted(own.values(), key=lambda one: (not one.exact, one.bits, one.row))
    return Overlap(
        against=other.name,
        pictures=len(exact),
        unreadable=unreadable,
        exact=_shared(facts, {key for key, one in own.items() if one.exact}),
        near=_shared(facts, set(own)),
        threshold=threshold,
        examples=ranked[:NAMED],
    )


def _matches(
    facts: Sequence[PairFacts], exact: dict[bytes, str], near: dict[bytes, str], threshold: int
) -> Iterator[tuple[bytes, SharedPicture]]:
    """(exact hash, where it is found) of each different picture of the data that is shared."""
    shown: dict[bytes, tuple[int, str, bytes | None]] = {}
    for fact in facts:
        for role, key, hashed in zip(
            ("source", "first", "second"), (fact.source, fact.first, fact.second), fact.near, strict=True
        ):
            shown.setdefault(key, (fact.row, role, hashed))
    compared = [(key, hashed) for key, (_, _, hashed) in shown.items() if key not in exact and hashed is not None]
    for key in shown.keys() & exact.keys():
        row, role, _ = shown[key]
        yield key, SharedPicture(row, role, exact[key], 0, True)
    if not near or not compared:
        return
    there = list(near)
    bits_N, places_N = nearest([hashed for _, hashed in compared], there)
    for (key, _), bits, place in zip(compared, bits_N.tolist(), places_N.tolist(), strict=True):
        if bits <= threshold:
            row, role, _ = shown[key]
            yield key, SharedPicture(row, role, near[there[place]], bits, False)


def _shared(facts: Sequence[PairFacts], keys: set[bytes]) -> Shared:
    sources = {fact.source for fact in facts} & keys
    edits = {key for fact in facts for key in (fact.first, fact.second)} & keys
    return Shared(len(sources), len(edits - sources), sum(bool(keys & {f.source, f.first, f.second}) for f in facts))


def _hashes(pictures: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, tuple[bytes, bytes | None] | None]]:
    with ThreadPoolExecutor(cores()) as threads:
        while chunk := list(islice(pictures, 4 * _ROWS)):
            for (place, _), found in zip(chunk, threads.map(_hash, [data for _, data in chunk]), strict=True):
                yield place, found


def _hash(data: bytes) -> tuple[bytes, bytes | None] | None:
    try:
        pixels_HW3 = decode_rgb(data)
    except ImageError:
        return None
    return exact_hash(pixels_HW3), perceptual_hash(pixels_HW3)


def pictures_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """(place, encoded picture) of all that `path` holds: a picture, a Parquet or Arrow file, or a folder of these.

    In Parquet and Arrow (what `datasets` saves to disk) every column of Hugging Face images, of bytes, or of lists of
    either is read, whatever the data set is. Raises ValueError for a path that is not there, or a table that cannot be
    read.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder: check the path")
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    root = path.parent if path.is_file() else path
    for file in files:
        if file.suffix.lower() in PICTURES:
            with_reason = _file(file)
            yield str(file.relative_to(root)), with_reason
        elif file.suffix in (".parquet", ".arrow") and not file.name.startswith("cache-"):
            yield from _in_table(file, str(file.relative_to(root)))


def _file(file: Path) -> bytes:
    try:
        return read_image_file(file)
    except ImageError:
        return b""  # counted as unreadable


def _in_table(file: Path, name: str) -> Iterator[tuple[str, bytes]]:
    try:
        for row, values in enumerate(_table_rows(file), start=1):
            for column, value in values.items():
                for data in _image_bytes(value):
                    yield f"{name}: row {row}, {column}", data
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: cannot be read ({reason}): check it, or download it again") from error


def _table_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The columns that may hold pictures, row by row; a few rows are in memory at once."""
    if file.suffix == ".arrow":
        with arrow_batches(file) as (schema, batches):
            columns = [field.name for field in schema if _holds_images(field.type)]
            for batch in batches:
                chosen = batch.select(columns)
                for start in range(0, chosen.num_rows, _ROWS):
                    yield from chosen.slice(start, _ROWS).to_pylist()
        return
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as table:
        columns = [field.name for field in table.schema_arrow if _holds_images(field.type)]
        for batch in table.iter_batches(batch_size=_ROWS, columns=columns) if columns else ():
            yield from batch.to_pylist()


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_bytes(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _image_bytes(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _image_bytes(one)
