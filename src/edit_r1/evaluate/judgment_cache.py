"""Judgments that were paid for once, on disk: a killed evaluation goes on, a second one over the same edits is free.

A judgment's key is the hash of all it depends on: the pictures, the instruction, the principles where they are given,
who judged how (`judges.cache_identity`: model, adapter, prompts and their version, limits, dtype), the number of
traces, their temperature and seed. A file per judge holds a JSON line per judgment, appended a chunk at once and
flushed, under a lock, so that several processes may share a folder; a line torn by a kill is left out.

An answer that could not be parsed is an answer and is kept: asking again until one parses would be another judge. An
answer that never came is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edit_r1.records import CATEGORIES, Judgment, Trace, Unparsed
from edit_r1.store import StoreError
from edit_r1.verifier.items import ScoreItem, question_key
from edit_r1.verifier.principles_cache import default_cache

try:
    import fcntl
except ImportError:  # not on Windows, where two processes should name folders of their own
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Grade:
    """What an evaluation keeps of a judgment."""

    score: float | None
    """0 to 10; None when no trace could be parsed, or no answer came."""
    categories: tuple[float | None, ...] = (None,) * len(CATEGORIES)
    """Mean verdict of each of `records.CATEGORIES`, 0 to 1."""
    expected: float | None = None
    """Expected score (`Judgment.expected_score`)."""
    traces: tuple[float | None, ...] = ()
    """Score of each trace; None for an unparsed one."""
    reason: str | None = None
    """Why there is no score."""
    failed: bool = False
    """Whether an answer never came; such a grade is not kept."""


def grade_of(judgment: Judgment) -> Grade:
    """What is kept of a judgment; failed when any of its answers never came."""
    lost = [one for one in judgment.outcomes if isinstance(one, Unparsed)]
    unanswered = [one for one in lost if one.failed_call]
    told = (unanswered or lost)[:1]
    return Grade(
        score=judgment.score,
        categories=tuple(judgment.categories.get(category) for category in CATEGORIES),
        expected=judgment.expected_score,
        traces=tuple(one.score if isinstance(one, Trace) else None for one in judgment.outcomes),
        reason=told[0].reason if told and judgment.score is None else None,
        failed=bool(unanswered),
    )


def judgment_key(
    item: ScoreItem,
    judge: str,
    traces: int,
    temperature: float | None,
    seed: int,
    expected: bool = False,
    resized: bool = False,
) -> str:
    """Hash, hexadecimal. The seed of greedy traces does not count.

    judge: its identity. resized: the edit is shown at the source's size, which is not its own.
    """
    greedy = temperature == 0 or (temperature is None and traces == 1)
    return question_key(item, judge, traces, temperature, None if greedy else seed, expected, resized)


class JudgmentCache:
    """Grades of one judge by key, in memory, and in a folder when one is named."""

    def __init__(self, folder: Path | None, judge: str) -> None:
        """judge: the judge's identity. Raises StoreError (a ValueError) when the folder cannot be used."""
        self.found = 0
        """Judgments that an earlier run had paid for."""
        self._kept: dict[str, Grade] = {}
        self._used: set[str] = set()
        self._file: Path | None = None
        if folder is not None:
            self._file = folder / f"{hashlib.sha256(judge.encode()).hexdigest()[:16]}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if self._file.exists():
                    self._kept = _read(self._file)
            except OSError as error:
                raise StoreError(
                    f"{folder}: cannot hold the judgments ({error.strerror or error}): name another folder with --cache"
                ) from error
        self._old = set(self._kept)

    def get(self, key: str) -> Grade | None:
        """The grade under `key`; None when there is none."""
        grade = self._kept.get(key)
        if grade is not None and key in self._old and key not in self._used:
            self._used.add(key)
            self.found += 1
        return grade

    def put(self, grades: Mapping[str, Grade]) -> None:
        """Keeps grades: those that never came in memory alone. Raises StoreError when the disk refuses."""
        self._kept.update(grades)
        lines = [
            json.dumps({"key": key, **asdict(grade)}, ensure_ascii=False, allow_nan=False)
            for key, grade in grades.items()
            if not grade.failed
        ]
        if self._file is None or not lines:
            return
        try:
            with open(self._file, "a+b") as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":
                        lines.insert(0, "")  # ends the line that a kill tore
                file.write("".join(line + "\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{self._file}: cannot be written ({reason}): free space there") from error


def default_folder() -> Path | None:
    """Beside the cache of principles (docs/commands.md); None when that is off."""
    principles = default_cache()
    return None if principles is None else principles.folder.parent / "judgments"


def _read(file: Path) -> dict[str, Grade]:
    """The entries of a file; lines that cannot be read are left out."""
    found = {}
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                found[str(row["key"])] = grade_from_row(row)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return found


def grade_from_row(row: Mapping[str, Any]) -> Grade:
    """A grade from its fields as JSON has them. Raises ValueError, KeyError or TypeError for what is none."""
    categories = tuple(number_or_none(value, 1) for value in row["categories"])
    if len(categories) != len(CATEGORIES):
        raise ValueError("another number of categories")
    reason = row["reason"]
    score, expected = number_or_none(row["score"], 10), number_or_none(row["expected"], 10)
    traces = tuple(number_or_none(value, 10) for value in row["traces"])
    return Grade(score, categories, expected, traces, None if reason is None else str(reason))


def number_or_none(value: Any, most: float) -> float | None:
    """A number from 0 to `most`, or None. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]} is no number from 0 to {most:g}")
    return float(value)
