"""Answers as they come from browsers: stored once each, however often they are sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edit_r1.annotate.database import Database, TaskError

Shown = Literal["left", "right", "same", "skip"]
Verdicts = Sequence[int | None]
"""Per principle: 1 yes, 0 no, None not answered."""


@dataclass(frozen=True)
class Given:
    """An answer to a pair."""

    id: str
    """Made by the browser; the same when the answer is sent again."""
    pair: int
    choice: Shown
    """As it was shown to this annotator."""
    seconds: float | None = None
    """From the pair's appearance to the answer."""
    left: Verdicts | None = None
    """Verdicts on the left edit, one per principle; None when none was given."""
    right: Verdicts | None = None


@dataclass(frozen=True)
class Undone:
    """An answer is taken back."""

    answer: str
    """Id of that answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of the events of one request."""

    stored: int
    """New answers."""
    refused: dict[str, str]
    """Id of an answer that will never be stored to the reason: the browser drops it and says so."""


def record(
    database: Database, annotator: int, events: Sequence[Given | Undone], now: float, lease_seconds: float
) -> Outcome:
    """Stores events in their order; when it returns they are on the disk.

    What was stored before is not stored again, so a browser that saw no acknowledgement sends everything once more.

    Args:
        now: seconds since 1970.
        lease_seconds: how long a pair whose answer was undone is kept for the annotator.

    Raises:
        StoreError: when nothing could be stored, as `Database.transaction`.
    """
    stored = 0
    refused: dict[str, str] = {}
    with database.transaction() as connection:
        for event in events:
            if isinstance(event, Undone):
                _undo(connection, annotator, event, now, lease_seconds)
                continue
            try:
                stored += _answer(connection, annotator, event, now)
            except TaskError as error:
                refused[event.id] = str(error)
    return Outcome(stored, refused)


def _answer(connection: sqlite3.Connection, annotator: int, given: Given, now: float) -> bool:
    """Stores an answer; False when it is stored already. Raises TaskError for one that does not fit the task."""
    known = connection.execute("SELECT annotator, pair FROM answers WHERE id = ?", (given.id,)).fetchone()
    if known is not None:
        if tuple(known) != (annotator, given.pair):
            raise TaskError("another answer has this id")
        return False
    showing = connection.execute(
        "SELECT turned, open FROM showings WHERE annotator = ? AND pair = ?", (annotator, given.pair)
    ).fetchone()
    if showing is None:
        raise TaskError("this pair was not shown to you")
    if not showing["open"]:
        raise TaskError("you answered this pair already, in another window")
    record_text = connection.execute("SELECT record FROM pairs WHERE number = ?", (given.pair,)).fetchone()[0]
    principles = len(json.loads(record_text)["context_principles"])
    for side in (given.left, given.right):
        if side is not None and len(side) != principles:
            raise TaskError(f"{len(side)} verdicts for {principles} principles")
    first, second = (given.right, given.left) if showing["turned"] else (given.left, given.right)
    verdicts = {"first": first, "second": second}
    connection.execute(
        "UPDATE pairs SET answers = answers + ? WHERE number = ?", (int(given.choice != "skip"), given.pair)
    )
    connection.execute("UPDATE showings SET open = 0 WHERE annotator = ? AND pair = ?", (annotator, given.pair))
    connection.execute(
        "INSERT INTO answers (id, annotator, pair, choice, verdicts, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            given.id,
            annotator,
            given.pair,
            choice_of(given.choice, bool(showing["turned"])),
            None if first is None and second is None else json.dumps(verdicts),
            given.seconds,
            now,
        ),
    )
    return True


def choice_of(shown: Shown, turned: bool) -> str:
    """The pair's own edit that a side stands for: "first", "second", "same" or "skip"."""
    if shown in ("same", "skip"):
        return shown
    return "first" if (shown == "left") != turned else "second"


def _undo(connection: sqlite3.Connection, annotator: int, event: Undone, now: float, lease_seconds: float) -> None:
    """Takes an answer back. One that never came, or was taken back before, needs nothing."""
    known = connection.execute(
        "SELECT pair, choice FROM answers WHERE id = ? AND annotator = ? AND undone IS NULL", (event.answer, annotator)
    ).fetchone()
    if known is None:
        return
    connection.execute("UPDATE answers SET undone = ? WHERE id = ?", (now, event.answer))
    connection.execute(
        "UPDATE pairs SET answers = answers - ? WHERE number = ?", (int(known["choice"] != "skip"), known["pair"])
    )
    connection.execute(
        "UPDATE showings SET open = 1, until = ? WHERE annotator = ? AND pair = ?",
        (now + lease_seconds, annotator, known["pair"]),
    )
