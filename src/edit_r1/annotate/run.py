"""Opens a task's folder and serves it until told to stop."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import uvicorn

from edit_r1.annotate.app import create_app
from edit_r1.annotate.assignment import Plan
from edit_r1.annotate.database import FILE_NAME, Database, fingerprint
from edit_r1.annotate.pictures import Pictures
from edit_r1.annotate.settings import AnnotateSettings, Begun
from edit_r1.annotate.task import BrokenRow, TaskData, TaskPair, find_data, read_pairs
from edit_r1.web.access import check_exposure, read_tokens
from edit_r1.web.listen import address, bind, server_config


def run(directory: Path, settings: AnnotateSettings) -> None:
    """Serves a task's folder until SIGTERM or SIGINT; what was sent by then is answered.

    Raises:
        ValueError: for an unusable task, a bad token file, an exposed address without a token, or one that cannot be
            bound.
    """
    tokens = () if settings.token_file is None else read_tokens(settings.token_file)
    check_exposure(settings.host, tokens)
    with bind(settings.host, settings.port) as listener:
        database, pictures = open_task(directory, settings)
        try:
            app = create_app(database, pictures, plan_of(database, settings), tokens)
            AnnotationServer(app, f"{directory} ({_counted(database)})").run(sockets=[listener])
        finally:
            database.close()


def _counted(database: Database) -> str:
    """How many pairs are asked for: a file of gold pairs that was not found would else be missed at the end."""
    query = "SELECT COUNT(*), COUNT(gold) FROM pairs WHERE active"
    every, gold = database.rows(query)[0]
    return f"{every - gold} {'pair' if every - gold == 1 else 'pairs'}, {gold or 'no'} gold"


def plan_of(database: Database, settings: AnnotateSettings) -> Plan:
    """How the pairs of an opened task are handed out."""
    begun = database.begun()
    return Plan(begun.annotators_per_pair, begun.gold_every, settings.lease_minutes * 60, begun.seed)


def open_task(root: Path, settings: AnnotateSettings) -> tuple[Database, Pictures]:
    """The answers and pictures of a task, after its pairs were taken in, if they are new or have changed.

    What a task was begun with (its data and `Begun`) is remembered in its answers, so it need not be named again.

    Raises:
        ValueError: when the folder holds no task, or a pair that cannot be used (unless those are skipped).
        StoreError: when something cannot be written, or a pair changed that may have answers.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder: make it, with the pairs to compare in it")
    database = Database(root / FILE_NAME) if (root / FILE_NAME).is_file() else None
    try:
        begun = settings.begun(Begun() if database is None else database.begun())
        data = _remembered(database, root) if database and not (settings.pairs or settings.study) else None
        data = data or find_data(root, settings)
        pictures = Pictures(root / "pictures")
        pairs = None
        files = _fingerprint(data, root, begun, settings)
        if database is None or not database.unchanged(files):
            pairs = _usable(data, pictures, begun, settings)
        database = database or Database(root / FILE_NAME, create=True)  # only when the task has proved usable
        if pairs is not None:
            database.take_in(pairs, begun.seed, files)
            _remember(database, data, root, pairs)
        with database.transaction():
            database.set_meta("begun", json.dumps(asdict(begun)))
    except BaseException:
        if database is not None:
            database.close()
        raise
    return database, pictures


def _fingerprint(data: TaskData, root: Path, begun: Begun, settings: AnnotateSettings) -> str:
    try:
        return fingerprint(data.files(), root, [begun.pairs_per_context, settings.broken])
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror}): put it back, or name others") from error


def _usable(data: TaskData, pictures: Pictures, begun: Begun, settings: AnnotateSettings) -> list[TaskPair]:
    """The pairs of a task, each id once."""
    pairs: dict[str, TaskPair] = {}
    broken: list[BrokenRow] = []
    repeated = 0
    for number, one in enumerate(read_pairs(data, pictures, begun, settings.allow_outside), start=1):
        if isinstance(one, BrokenRow):
            broken.append(one)
        elif one.id not in pairs:
            pairs[one.id] = one
        elif pairs[one.id] in (one, one.swap()):
            repeated += 1
        else:
            broken.append(BrokenRow(f"pair {number}", f"id {one.id!r} is also another pair's: give each its own"))
        if number % 500 == 0:
            print(f"edit-r1 annotate: {number} pairs read", file=sys.stderr, flush=True)
    if broken and settings.broken == "stop":
        raise ValueError(
            f"{broken[0].place}: {broken[0].reason} ({len(broken)} of {len(broken) + len(pairs)} pairs cannot be used: "
            "mend them, or leave them out by --broken skip)"
        )
    if not any(one.gold is None for one in pairs.values()):
        reason = f": {broken[0].place}: {broken[0].reason}" if broken else ""
        raise ValueError(f"{data.directory}: holds no pair to compare{reason}")
    if broken or repeated:
        print(
            f"edit-r1 annotate: {repeated} pairs repeated, {len(broken)} left out"
            + (f", the first being {broken[0].place}: {broken[0].reason}" if broken else ""),
            file=sys.stderr,
            flush=True,
        )
    return list(pairs.values())


def _remember(database: Database, data: TaskData, root: Path, pairs: Sequence[TaskPair]) -> None:
    """Keeps what the task was begun with, relative to its folder."""

    def relative(path: Path) -> str:
        return os.path.relpath(path, root)

    with database.transaction() as connection:
        document = {
            "pairs": None if data.pairs is None else relative(data.pairs),
            "study": None if data.study is None else [relative(folder) for folder in data.study],
        }
        database.set_meta("data", json.dumps(document))
        connection.execute("DELETE FROM meta WHERE key = 'study'")
        if data.study is not None:
            compared = next(one.pair for one in pairs if one.gold is None)
            database.set_meta("study", json.dumps([compared.first.editor, compared.second.editor]))


def _remembered(database: Database, root: Path) -> TaskData | None:
    text = database.meta("data")
    if text is None:
        return None
    document = json.loads(text)
    pairs = None if document["pairs"] is None else root / document["pairs"]
    study = None if document["study"] is None else (root / document["study"][0], root / document["study"][1])
    return TaskData(root, pairs, study)


class AnnotationServer(uvicorn.Server):
    """A uvicorn server that says where it listens, and ends with code 0 on a signal."""

    def __init__(self, app: object, task: str) -> None:
        super().__init__(server_config(app))
        self._task = task

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(list(sockets or []))
        for listener in sockets or []:
            url = address(listener)
            print(f"edit-r1 annotate: {self._task} at {url} (figures at {url}/progress)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets requests end; the second does not. uvicorn's own would raise the signal once more."""
        self.force_exit = self.should_exit
        self.should_exit = True
