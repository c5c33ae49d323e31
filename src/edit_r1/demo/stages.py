"""Stages that run once: a marker on disk, the time they took, and a progress bar with the time left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edit_r1.processes import return_freed_memory, standing_workers
from edit_r1.store import Stage, StoreError, read_json, write_json

Tick = Callable[[int, int], None]
"""Called with (done, total) as a stage goes on."""
Work = Callable[[Tick], dict[str, Any]]
"""A stage's work: given a tick (done, total), it returns a JSON result."""

QUIET_EVERY_S = 20.0
"""Without a terminal, a line of progress this often."""
CLOCK_EVERY_S = 5.0
"""How often a stage's time is saved: the most of it that a kill can lose, where progress is reported as often."""


class Stages:
    """The stages of one run in `out`; a finished one is skipped, its result and its seconds are kept."""

    def __init__(self, out: Path, key: str, recipe: Mapping[str, Any]) -> None:
        """`key` and `recipe` (JSON): what must be the same for a run to continue.

        Raises:
            ValueError: when the folder holds another run. Settings that one of the two recipes does not know are not
                compared: they are older or newer than the run.
        """
        self.out = out
        self.key = key
        run = out / "run.json"
        if not run.exists():
            write_json(run, {"key": key, "recipe": recipe})
        found = read_json(run)
        if found["key"] != key:
            raise ValueError(
                f"{out}: holds a run with other settings ({found['key']}, now {key}): choose another --out"
            )
        if changed := _changed(found.get("recipe", {}), json.loads(json.dumps(recipe))):
            raise ValueError(
                f"{out}: holds a run by another recipe ({', '.join(changed)}): choose another --out, or remove it"
            )
        self._names: list[str] = []
        self._console = Console(stderr=True)

    def run(self, name: str, work: Work) -> None:
        """Do one stage unless it is done."""
        self._names.append(name)
        stage = self._stage(name)
        if stage.done():
            self._console.print(f"[dim]{name}: done before ({self.seconds(name):.0f} s)[/dim]")
            return
        return_freed_memory()  # of the stages before, which the processes of this one can use
        earlier, start = self._partial_seconds(name), time.monotonic()

        def save_clock() -> float:
            spent = earlier + time.monotonic() - start
            write_json(self.out / "stages" / f"{self._file(name)}.clock.json", spent)
            return spent

        try:
            with _Ticker(name, self._console, save_clock) as tick, standing_workers():
                result = work(tick)
        except BaseException:  # interrupted too: the control is given as long as GCPO took, over all attempts
            with suppress(StoreError):  # a full disk has been told of, or will be
                save_clock()
            raise
        stage.finish({"seconds": save_clock(), "result": result})

    def done(self, name: str) -> bool:
        """Whether a stage is finished."""
        return self._stage(name).done()

    def names(self) -> list[str]:
        """Stages in the order in which they ran."""
        return list(self._names)

    def result(self, name: str) -> dict[str, Any]:
        """What a finished stage returned."""
        return cast(dict[str, Any], self._stage(name).meta()["result"])

    def seconds(self, name: str) -> float:
        """Time a finished stage took, over all attempts."""
        return float(self._stage(name).meta()["seconds"])

    def _stage(self, name: str) -> Stage:
        return Stage(self.out / "stages", self._file(name), self.key)

    def _file(self, name: str) -> str:
        return name.replace(" ", "-").replace(",", "")

    def _partial_seconds(self, name: str) -> float:
        """Time that a killed attempt had spent when it last reported progress."""
        clock = self.out / "stages" / f"{self._file(name)}.clock.json"
        return float(read_json(clock)) if clock.exists() else 0.0


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """Names of the settings that both know and that differ."""
    changed: list[str] = []
    for name in sorted(before.keys() & now.keys()):
        if isinstance(before[name], dict) and isinstance(now[name], dict):
            changed += _changed(before[name], now[name], f"{within}{name}.")
        elif before[name] != now[name]:
            changed.append(f"{within}{name}")
    return changed


class _Ticker:
    """A progress bar on a terminal, now and then a line elsewhere; callable with (done, total)."""

    def __init__(self, name: str, console: Console, save_clock: Callable[[], float]) -> None:
        self.name, self.save_clock = name, save_clock
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        ) if console.is_terminal else None  # fmt: skip
        self.task = self.bar.add_task(name, total=None) if self.bar else None
        self.started = self.last = self.saved = time.monotonic()
        self.first: tuple[int, float] | None = None

    def __enter__(self) -> _Ticker:
        if self.bar:
            self.bar.start()
        else:
            print(f"{self.name}: started", file=sys.stderr, flush=True)
        return self

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self.first = self.first or (done, now)
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, total=total)
        if now - self.saved >= CLOCK_EVERY_S:
            self.saved = now
            self.save_clock()
        if not self.bar and now - self.last >= QUIET_EVERY_S:
            self.last = now
            # The first report may be of work that an earlier attempt had done: it tells nothing of the pace.
            gained = done - self.first[0]
            left = f", {(now - self.first[1]) / gained * (total - done):.0f} s left" if gained else ""
            print(f"{self.name}: {done}/{total}, {now - self.started:.0f} s{left}", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()
        if error[0] is None and not self.bar:
            print(f"{self.name}: done in {time.monotonic() - self.started:.0f} s", file=sys.stderr, flush=True)
