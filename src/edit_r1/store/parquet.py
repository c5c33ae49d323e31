"""Flat rows in Parquet files with Hugging Face features, and the hash of their content.

The schema is written by pyarrow with the metadata that `datasets` reads, so that the core needs no
`datasets` and `datasets.load_dataset("parquet", ...)` and the Hub's viewer show the images.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edit_r1.store.files import StoreError, write_bytes, writing

Row = dict[str, Any]
"""One flat row: column name to str, int, float, bool, bytes (an image), None, or a list of dicts of these."""
Feature = str | dict[str, str]
"""A kind ("string", "int64", "float64", "bool", "image", "images"), or {column: kind} for a list of structs."""
Features = dict[str, Feature]

ROW_GROUP = 100
"""Rows read at once by a viewer; small because rows hold images."""

_LATER = ("references", "aspect", "soft_label", "votes", "ratings", "origin", "licence")
"""Endings of columns added after data sets had been written: where they are empty a row keeps the hash it had."""

_ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "images": pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
}


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's content as hex digits; the order of columns does not matter.

    Raises:
        TypeError: for a value that is no `Row` value, such as a numpy scalar.
        ValueError: for NaN or infinity.
    """
    kept = {name: value for name, value in row.items() if value is not None or not name.endswith(_LATER)}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_hash_bytes)
    return hashlib.sha256(text.encode()).hexdigest()


def completed(row: Row, features: Features) -> Row | None:
    """A row with every column of today, those added later empty where the file is older; None for other columns."""
    missing = features.keys() - row.keys()
    if row.keys() - features.keys() or not all(name.endswith(_LATER) for name in missing):
        return None
    return row | dict.fromkeys(missing)


def write_rows(path: str | Path, rows: Sequence[Row], features: Features, key: str = "") -> None:
    """One Parquet file with Hugging Face features; `key` is kept in its metadata (see `Dataset`).

    Raises:
        StoreError: when it cannot be written.
        ValueError: when a row's columns or values do not fit the features.
    """
    table = row_table(path, rows, features, parquet_schema(features, key))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def stream_rows(path: str | Path, rows: Iterable[Row], features: Features) -> None:
    """As `write_rows`, with one row group in memory at a time; the file appears whole or not at all.

    Raises as `write_rows`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema = parquet_schema(features, "")
    remaining = iter(rows)
    with writing(path):
        try:
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                while group := list(islice(remaining, ROW_GROUP)):
                    writer.write_table(row_table(path, group, features, schema))
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def parquet_schema(features: Features, key: str) -> pa.Schema:
    """Arrow columns with the metadata that `datasets` and `read_key` look for."""
    schema = pa.schema([pa.field(name, _arrow_type(feature)) for name, feature in features.items()])
    info = {"info": {"features": hub_features(features)}}
    return schema.with_metadata({"huggingface": json.dumps(info), "edit_r1": json.dumps({"key": key})})


def hub_features(features: Features) -> dict[str, Any]:
    """As `datasets.Features.from_dict` takes them."""
    return {name: _hub_feature(feature) for name, feature in features.items()}


def row_table(path: str | Path, rows: Sequence[Row], features: Features, schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of `parquet_schema`; `path` stands in messages. Raises ValueError as `write_rows`."""
    for row in rows:
        if row.keys() != features.keys():
            odd = sorted(row.keys() ^ features.keys())
            raise ValueError(f"{path}: columns {odd} are in the row or in the features, not in both")
    columns = [_column([row[name] for row in rows], features[name]) for name in features]
    try:
        return pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"{path}: a value does not fit its column: {error}") from error


def read_rows(path: str | Path) -> list[Row]:
    """The rows of one Parquet file; images come back as bytes.

    Raises:
        StoreError: when the file is missing or not Parquet.
    """
    return list(iterate_rows(Path(path)))


def iterate_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """As `read_rows`, with one row group in memory at a time. Raises StoreError as it does.

    columns: the only ones to read; all without it.
    """
    try:
        # With pre_buffer, the default, what was read of a file stays in memory until its end.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=names):
                yield from plain_rows(batch)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def plain_rows(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """Rows of an Arrow table with our columns; images come back as bytes."""
    schema = table.schema
    images = [field.name for field in schema if field.type == _ARROW["image"]]
    several = [field.name for field in schema if field.type == _ARROW["images"]]
    lists = {field.name: nested for field in schema if (nested := _images_in_list(field.type))}
    rows: list[Row] = table.to_pylist()
    for row in rows:
        row.update({name: row[name] and row[name]["bytes"] for name in images})
        row.update({name: row[name] and [one["bytes"] for one in row[name]] for name in several})
        for name, nested in lists.items():
            for item in row[name] or ():
                item.update({part: item[part] and item[part]["bytes"] for part in nested})
    return rows


def read_key(path: Path) -> str:
    """The key that `write_rows` was given. Raises StoreError for a file that it did not write."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if b"edit_r1" not in metadata:
        raise StoreError(f"{path}: was not written by edit-r1: remove it or choose another folder")
    return str(json.loads(metadata[b"edit_r1"])["key"])


def read_columns(path: Path) -> list[str]:
    """Names of a file's columns. Raises StoreError as `read_rows`."""
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return StoreError(f"{path}: not a readable Parquet file ({reason}): check the path, or run its stage again")


def _arrow_type(feature: Feature) -> pa.DataType:
    if isinstance(feature, str):
        return _ARROW[feature]
    return pa.list_(pa.struct([(name, _ARROW[kind]) for name, kind in feature.items()]))


def _images_in_list(kind: pa.DataType) -> list[str]:
    """Fields that hold an image, of a list of structs; none for any other kind."""
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return []
    return [field.name for field in kind.value_type if field.type == _ARROW["image"]]


def _hub_feature(feature: Feature) -> dict[str, Any]:
    if isinstance(feature, dict):
        return {"feature": {name: _hub_feature(kind) for name, kind in feature.items()}, "_type": "List"}
    if feature == "images":
        return {"feature": {"_type": "Image"}, "_type": "List"}
    return {"_type": "Image"} if feature == "image" else {"dtype": feature, "_type": "Value"}


def _column(values: list[Any], feature: Feature) -> list[Any]:
    if feature == "image":
        return [None if value is None else {"bytes": value, "path": None} for value in values]
    if feature == "images":
        return [None if value is None else _column(value, "image") for value in values]
    if isinstance(feature, dict) and "image" in feature.values():
        return [
            value
            if value is None
            else [{name: _column([item[name]], kind)[0] for name, kind in feature.items()} for item in value]
            for value in values
        ]
    return values


def _hash_bytes(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored in a row: convert it to a Python value")
