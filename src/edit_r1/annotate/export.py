"""Answers as preferences: a Parquet data set that `edit-r1 train gcpo` and `edit-r1 evaluate reward` read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from edit_r1.annotate.database import Database
from edit_r1.annotate.pictures import Pictures
from edit_r1.annotate.progress import check_left_out
from edit_r1.records import Choice, GoldVerdicts, Preference, Verdict
from edit_r1.store import GOLD_VERDICTS, PREFERENCES, Dataset
from edit_r1.store.tables import preference_from_row

SHARD = 200
"""Most answers in one part: the unit of resuming."""
SHARD_BYTES = 96 * 2**20
"""Most bytes of pictures in one part of several answers; what is written is in memory some three times."""
_PICTURES = ("context_source", "first_image", "second_image")

_ANSWERS = """
SELECT a.id, a.pair, a.choice, a.verdicts, n.name, s.turned
FROM answers a JOIN annotators n ON n.number = a.annotator
JOIN showings s ON s.annotator = a.annotator AND s.pair = a.pair JOIN pairs p ON p.number = a.pair
WHERE a.undone IS NULL AND p.gold IS NULL ORDER BY a.pair, a.number
"""


def export(database: Database, pictures: Pictures, out: Path, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Writes every answer but skipped ones and those to gold pairs as a data set of preferences at `out`.

    `first` is the edit that stood left, so that a preference for a side can still be measured. Verdicts, where an
    annotator gave one to every principle of an edit, become the data set `out`_verdicts. A stopped export continues;
    a finished one is kept as it is, and refused when answers have come since.

    Args:
        out: folder of the data set; its parent also gets `out`.done.json.
        leave_out: names of annotators whose answers are not written.

    Returns:
        {"out", "preferences", "annotators": {name: answers}, "same", "skipped", "verdicts": edits with verdicts,
        "partial_verdicts": edits with some verdicts, left out, "hash"}.

    Raises:
        ValueError: when there are no answers, or a name to leave out is nobody's.
        StoreError: when something cannot be read or written, or `out` holds other answers.
    """
    rows = database.rows(_ANSWERS)
    check_left_out(database, leave_out)
    rows = [row for row in rows if row["name"] not in leave_out]
    skipped = sum(row["choice"] == "skip" for row in rows)
    rows = [row for row in rows if row["choice"] != "skip"]
    if not rows:
        raise ValueError(f"{database.path}: holds no answers to export: annotate first")
    records = {row["number"]: row["record"] for row in database.rows("SELECT number, record FROM pairs")}
    parts = _parts([_bytes(records[row["pair"]], pictures) for row in rows])
    named: list[Any] = [[row["id"], row["name"]] for row in rows]
    if parts != _parts([0] * len(rows)):  # an export that was cut otherwise must not be continued
        named = [named, [part.stop for part in parts]]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()
    made: Dataset[Preference] = Dataset(out.parent, out.name, PREFERENCES, key)
    judged: Dataset[GoldVerdicts] = Dataset(out.parent, f"{out.name}_verdicts", GOLD_VERDICTS, key)
    partial = 0
    verdicts: list[GoldVerdicts] = []
    for row in rows:
        full, some = _verdicts(row, json.loads(records[row["pair"]]))
        verdicts += full
        partial += some
    if not made.done():
        for part in parts[made.parts() :]:
            made.append([preference(row, records[row["pair"]], pictures) for row in rows[part]])
        made.finish()
    if verdicts and not judged.done():
        if judged.parts() == 0:
            judged.append(verdicts)
        judged.finish()
    by_name: dict[str, int] = {}
    for row in rows:
        by_name[row["name"]] = by_name.get(row["name"], 0) + 1
    return {
        "out": str(out),
        "preferences": len(rows),
        "annotators": by_name,
        "same": sum(row["choice"] == "same" for row in rows),
        "skipped": skipped,
        "verdicts": len(verdicts),
        "partial_verdicts": partial,
        "hash": made.meta()["hash"],
    }


def _parts(sizes: Sequence[int]) -> list[slice]:
    """How answers are cut into parts: at `SHARD` of them, or before their pictures exceed `SHARD_BYTES`."""
    parts: list[slice] = []
    start = held = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start == SHARD or held + size > SHARD_BYTES):
            parts.append(slice(start, place))
            start, held = place, 0
        held += size
    return [*parts, slice(start, len(sizes))]


def _bytes(record: str, pictures: Pictures) -> int:
    """Size of a pair's pictures; a file that is gone counts nothing here, and ends the export when it is read."""
    columns = json.loads(record)
    paths = [pictures.path(columns[name]) for name in _PICTURES]
    return sum(path.stat().st_size for path in paths if path.is_file())


def preference(row: Any, record: str, pictures: Pictures) -> Preference:
    """One answer with its pictures, the edit that stood left first. Raises StoreError for a picture that is gone."""
    columns = json.loads(record)
    for name in _PICTURES:
        columns[name] = pictures.read(columns[name])
    columns |= {"choice": cast(Choice, row["choice"]), "annotator": row["name"], "simulated": False}
    asked = preference_from_row(columns)
    return asked.swap() if row["turned"] else asked


def _verdicts(row: Any, record: dict[str, Any]) -> tuple[list[GoldVerdicts], int]:
    """Complete lists of verdicts in an answer, and the number of incomplete ones."""
    given = json.loads(row["verdicts"]) if row["verdicts"] else {}
    full: list[GoldVerdicts] = []
    partial = 0
    for side in ("first", "second"):
        values = given.get(side) or []
        if values and None not in values:
            full.append(GoldVerdicts(record[f"{side}_id"], tuple(Verdict(value) for value in values), row["name"]))
        else:
            partial += any(value is not None for value in values)
    return full, partial
