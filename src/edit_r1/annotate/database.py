"""`answers.sqlite`: the pairs of a task, who was shown what, and every answer.

Write-ahead log with `synchronous=FULL`: when a transaction has ended, its answers are on the disk, and neither a killed
server nor a lost power takes them back. Nothing is ever deleted: an answer that was undone stays, with the time at
which it was taken back, and a pair that left the data stays too, without being shown.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edit_r1.annotate.settings import Begun
from edit_r1.annotate.task import TaskPair
from edit_r1.store import StoreError
from edit_r1.store.tables import preference_to_row

FILE_NAME = "answers.sqlite"
VERSION = 1
_APPLICATION = 0x45523141
"""Marks the file as ours."""
_BUSY_S = 10.0
"""Longest wait for another process that writes."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE pairs (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  record TEXT NOT NULL,                 -- a row of a preference as JSON, pictures by their ids
  gold TEXT CHECK (gold IN ('first', 'second', 'same')),
  rank REAL NOT NULL,                   -- drawn: the order among pairs with equally many answers
  active INTEGER NOT NULL DEFAULT 1,    -- 0: no longer in the task's data
  answers INTEGER NOT NULL DEFAULT 0    -- those that count: neither skipped nor undone
) STRICT;
CREATE TABLE annotators (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, joined REAL NOT NULL, shown INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE showings (
  annotator INTEGER NOT NULL REFERENCES annotators, pair INTEGER NOT NULL REFERENCES pairs,
  place INTEGER NOT NULL,               -- 0, 1, ... per annotator
  turned INTEGER NOT NULL,              -- 1: the pair's second edit stands left
  open INTEGER NOT NULL DEFAULT 1,      -- 1: without an answer
  until REAL NOT NULL,                  -- end of the lease, seconds since 1970
  PRIMARY KEY (annotator, pair)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases ON showings (until) WHERE open;
CREATE TABLE answers (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,              -- made by the browser, so that an answer sent twice is stored once
  annotator INTEGER NOT NULL REFERENCES annotators, pair INTEGER NOT NULL REFERENCES pairs,
  choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'same', 'skip')),
  verdicts TEXT,                        -- {"first": [0|1|null, ...], "second": [...]}, one per principle
  seconds REAL,                         -- from the pair's appearance to the answer
  at REAL NOT NULL,                     -- seconds since 1970, by the server's clock
  undone REAL
) STRICT;
CREATE UNIQUE INDEX one_answer ON answers (annotator, pair) WHERE undone IS NULL;
"""


class TaskError(ValueError):
    """What a client asked for does not fit the task; one line for a person."""


class Database:
    """One connection, used by one thread at a time; several processes may each have theirs."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """
        Args:
            create: make the file when there is none.

        Raises:
            StoreError: for a file that is missing, not ours, damaged or of a newer version, or that cannot be written.
        """
        self.path = path
        if not create and not path.is_file():
            raise StoreError(f"{path}: no such file: `edit-r1 annotate {path.parent}` begins a task")
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, _BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: no file of answers ({error}): restore it from a copy") from error

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA foreign_keys=ON")
        with self.transaction():
            application, version = (run(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if (application, version) == (0, 0) and not run("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _SCHEMA.split(";\n"):
                    run(statement)
                run(f"PRAGMA application_id={_APPLICATION}")
                run(f"PRAGMA user_version={VERSION}")
                self.set_meta("task", secrets.token_hex(8))
            elif application != _APPLICATION or version != VERSION:
                raise StoreError(
                    f"{self.path}: not a file of answers that this version reads (version {version}, not {VERSION}): "
                    "move it away, or use the edit-r1 that wrote it"
                )

    def close(self) -> None:
        """Ends the connection; the write-ahead log is merged into the file."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is on the disk when it ends, or nothing of it is.

        Raises:
            StoreError: when the disk is full or read-only, or another process writes for more than 10 s.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
                if isinstance(error, sqlite3.IntegrityError):
                    raise
                raise StoreError(f"{self.path}: cannot be written ({error}): free space there, try again") from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query finds. Raises StoreError when the file cannot be read."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: cannot be read ({error}): restore it from a copy") from error

    def meta(self, key: str) -> str | None:
        found = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return None if not found else str(found[0][0])

    def set_meta(self, key: str, value: str) -> None:
        """Inside a transaction."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def begun(self) -> Begun:
        """What the task was begun with, or last told to be."""
        text = self.meta("begun")
        return Begun() if text is None else Begun(**json.loads(text))

    @property
    def task(self) -> str:
        """Drawn when the file was made: tells one task's answers from another's."""
        return str(self.meta("task"))

    def take_in(self, pairs: Sequence[TaskPair], seed: int, fingerprint: str) -> None:
        """Makes `pairs` the task's: new ones are added, known ones stay, others are shown no more.

        Args:
            fingerprint: what `unchanged` compares the next time.

        Raises:
            StoreError: when a pair that was shown to somebody is another one now: its answers would belong to other
                pictures.
        """
        known = {row["id"]: row for row in self.rows("SELECT number, id, record, gold FROM pairs")}
        ranks_N = np.random.default_rng([seed, len(known)]).random(len(pairs))
        with self.transaction() as connection:
            shown = {row[0] for row in connection.execute("SELECT DISTINCT pair FROM showings")}
            connection.execute("UPDATE pairs SET active = 0")
            for one, rank in zip(pairs, ranks_N, strict=True):
                record = record_of(one)
                if one.id not in known:
                    connection.execute(
                        "INSERT INTO pairs (id, record, gold, rank) VALUES (?, ?, ?, ?)",
                        (one.id, record, one.gold, float(rank)),
                    )
                    continue
                before = known[one.id]
                changed = _shown(before["record"]) != _shown(record) or before["gold"] != one.gold
                if changed and before["number"] in shown:
                    raise StoreError(
                        f"pair {one.id!r} is another one than {self.path} says that people were shown (instruction, a "
                        "picture, principles or gold): give it a new id"
                    )
                connection.execute(
                    "UPDATE pairs SET active = 1, record = ?, gold = ? WHERE id = ?", (record, one.gold, one.id)
                )
            self.set_meta("fingerprint", fingerprint)

    def unchanged(self, fingerprint: str) -> bool:
        """Whether the pairs were taken in from the same files."""
        return self.meta("fingerprint") == fingerprint

    def join(self, name: str) -> int:
        """The number of an annotator, who is entered when the name is new. Raises TaskError for an unusable name.

        A name that differs from a known one in case alone is the known one: phones begin names with a capital, and one
        person under two names would be shown a pair twice and agree with themselves.
        """
        name = check_name(name)
        with self.transaction() as connection:
            rows = connection.execute("SELECT name, number FROM annotators ORDER BY number").fetchall()
            exact = {row["name"]: row["number"] for row in rows}
            alike = {row["name"].casefold(): row["number"] for row in reversed(rows)}  # of several the first
            number = exact.get(name, alike.get(name.casefold()))
            if number is None:
                entered = "INSERT INTO annotators (name, joined) VALUES (?, ?)"
                number = connection.execute(entered, (name, time.time())).lastrowid
        assert number is not None, "a row was entered"
        return int(number)

    def annotator(self, name: str) -> int:
        """The number of an annotator who joined. Raises TaskError for others."""
        found = self.rows("SELECT number FROM annotators WHERE name = ?", (name,))
        if not found:
            raise TaskError(f"no annotator {name[:40]!r}: open the page again and give a name")
        return int(found[0][0])


def fingerprint(files: Sequence[Path], root: Path, options: Sequence[object]) -> str:
    """Names, sizes and times of a task's files, and the options that shape its pairs, as text.

    Raises:
        OSError: when a file is gone.
    """
    stats = [(os.path.relpath(path, root), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return json.dumps([stats, [str(option) for option in options]])


MAX_NAME_CHARS = 40


def check_name(name: str) -> str:
    """A name on one line without surrounding space. Raises TaskError for an empty, over-long or unprintable one."""
    text = unicodedata.normalize("NFC", " ".join(name.split()))
    if not text or len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise TaskError(f"a name of {len(text)} characters: give one of 1 to {MAX_NAME_CHARS} that can be printed")
    return text


def record_of(one: TaskPair) -> str:
    """A pair as JSON text; pictures are ids."""
    row = preference_to_row(one.pair)
    assert row["context_references"] is None  # `read_pairs` lets none through
    texts = {name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
    return json.dumps(texts, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _shown(record: str) -> list[Any]:
    """What an annotator sees of a record."""
    row = json.loads(record)
    names = ("context_source", "context_instruction", "context_principles", "first_image", "second_image")
    return [row[name] for name in names]
