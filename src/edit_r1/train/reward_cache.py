"""Grades that were paid for once: a cache of judgments keyed by everything that shapes them.

The key is the hash of source, edit, instruction, principles, and of who judged how: model, prompts, limits, number of
traces, temperature and *trace seed* (peers.md, trap 18: without the seed, N sampled judgments of one picture would be
one). A failed judgment is never kept.

What is put becomes visible with `publish`, at the end of an iteration: what a batch finds must not depend on which of
its neighbours was answered first. On disk an entry is a JSON line, appended at once, in a file per process; a line torn
by a kill is left out. So a run that was killed pays only for what it had not judged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edit_r1.algo.edit_change import Box
from edit_r1.evaluate.judgment_cache import number_or_none
from edit_r1.records import CATEGORIES
from edit_r1.store import StoreError
from edit_r1.train.judges import JudgeSettings
from edit_r1.verifier.items import ScoreItem, question_key


@dataclass(frozen=True)
class Grade:
    """What a reward needs of a judgment."""

    score: float | None
    """0 to 10; None: not judged."""
    categories: tuple[float | None, ...]
    """Mean verdict of each of `records.CATEGORIES`, 0 to 1; None without a verdict."""
    boxes: tuple[Box, ...] = ()
    """Where the evidence of the instruction's own principles says that something changed."""


def grade_key(item: ScoreItem, judge: str, settings: JudgeSettings) -> str:
    """Hash, hexadecimal. judge: its identity."""
    return question_key(item, judge, settings.traces, settings.temperature, settings.seed)


class GradeCache:
    """In memory, and in a folder when one is named. Safe for several threads; a folder for several processes."""

    def __init__(self, folder: Path | None = None, writer: int = 0, entries: int = 100_000) -> None:
        """writer: number of this process, which names its file. entries: most that stay in memory, oldest dropped.

        Raises ValueError (StoreError) when the folder cannot be made or written.
        """
        if entries < 0:
            raise ValueError(f"entries={entries}: 0 keeps none")
        self.entries = entries
        self.hits = self.misses = 0
        self._kept: dict[str, Grade] = {}
        self._new: dict[str, Grade] = {}
        self._lock = threading.Lock()
        self._file = None if folder is None else folder / f"grades-{writer}.jsonl"
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for path in sorted(folder.glob("grades-*.jsonl")):
                    self._kept.update(_read(path))
                if self._file is not None and self._file.exists() and not self._file.read_bytes().endswith(b"\n"):
                    with self._file.open("a", encoding="utf-8") as file:
                        file.write("\n")  # ends the line that a kill tore, so that the next is whole
            except OSError as error:
                raise StoreError(f"{folder}: cannot hold the reward cache ({error.strerror}): name another") from error
            self._shorten()

    def get(self, keys: Sequence[str]) -> list[Grade | None]:
        """What was published under each key; counts hits and misses."""
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            self.misses += found.count(None)
            self.hits += len(found) - found.count(None)
        return found

    def put(self, grades: dict[str, Grade]) -> None:
        """Keeps grades with a score; they are found after the next `publish`."""
        good = {key: grade for key, grade in grades.items() if grade.score is not None}
        with self._lock:
            self._new.update(good)
            if self._file is not None and good:
                lines = "".join(json.dumps({"key": key, **asdict(grade)}) + "\n" for key, grade in good.items())
                try:
                    with self._file.open("a", encoding="utf-8") as file:
                        file.write(lines)
                except OSError as error:
                    raise StoreError(f"{self._file}: cannot be written ({error.strerror}): free space there") from error

    def publish(self) -> None:
        """Makes what was put findable, in the order of the keys."""
        with self._lock:
            for key in sorted(self._new):
                self._kept.setdefault(key, self._new[key])
            self._new.clear()
            self._shorten()

    def _shorten(self) -> None:
        for key in list(self._kept)[: max(0, len(self._kept) - self.entries)]:
            del self._kept[key]


def _read(path: Path) -> dict[str, Grade]:
    """The entries of a file; lines that cannot be read are left out."""
    found = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text)
            boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in row["boxes"])
            categories = tuple(number_or_none(value, 1) for value in row["categories"])
            if len(categories) == len(CATEGORIES):
                found[str(row["key"])] = Grade(number_or_none(row["score"], 10), categories, boxes)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found
