"""Who works through the chunks of a curation: threads and processes of this machine. `curate.ray_engine` has the other.

A chunk's rows depend on nothing but its samples and the stage, and each chunk writes files of its own: in whatever
order and wherever chunks are worked on, the data sets are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from edit_r1.curate.chunk import STEPS, ChunkWork
from edit_r1.curate.stage import CurateStage
from edit_r1.processes import begin_worker, process_context

Build = Callable[[], CurateStage]
"""Makes the stage in another process; to be pickled, so a function of a module or a `functools.partial` of one."""
Done = Callable[[str], None]
"""Called with a step whenever one chunk has finished it."""


class Engine(Protocol):
    """Works through chunks, in any order and on any machine that sees the folder."""

    @property
    def at_once(self) -> int:
        """Chunks at work at a time."""

    def run(self, stage: CurateStage, out: Path, retry: bool, moved: Mapping[str, Sequence[int]], done: Done) -> None:
        """Every chunk of `stage` into `out`; retry and moved as `ChunkWork`.

        Raises what `ChunkWork.run` raises, after the chunks at work have stopped.
        """


@dataclass(frozen=True)
class Local:
    """Several chunks at once in this process, or a chunk in each of several processes.

    Models behind an endpoint wait most of the time: chunks in threads keep them busy, and the endpoint's own limit
    bounds the requests in flight. Work for a CPU gains by processes.
    """

    processes: int = 1
    chunks_at_once: int = 1
    """Threads of the one process; so many chunks are in memory."""
    build: Build | None = None
    """Needed for more than one process: every process opens models of its own."""

    def __post_init__(self) -> None:
        if self.processes < 1 or self.chunks_at_once < 1:
            raise ValueError(f"processes={self.processes}, chunks_at_once={self.chunks_at_once}: at least 1 of each")
        if self.processes > 1 and self.chunks_at_once > 1:
            raise ValueError(
                f"processes={self.processes} with chunks_at_once={self.chunks_at_once}: set one of them; a process "
                "works on a chunk at a time"
            )
        if self.processes > 1 and self.build is None:
            raise ValueError(
                f"processes={self.processes}: several processes need `build`, which makes the stage in each"
            )

    @property
    def at_once(self) -> int:
        return self.processes * self.chunks_at_once

    def run(self, stage: CurateStage, out: Path, retry: bool, moved: Mapping[str, Sequence[int]], done: Done) -> None:
        if self.processes == 1:
            work = ChunkWork(stage, out, retry, moved)
            try:
                if self.chunks_at_once == 1:
                    for number in range(stage.chunks):
                        work.run(number, lambda step, _: done(step))
                    return
                with ThreadPoolExecutor(self.chunks_at_once) as threads:
                    try:
                        _all(threads, work.run, stage.chunks, self.chunks_at_once, done)
                    except BaseException as error:
                        work.stop(at_once=not isinstance(error, Exception))  # Ctrl-C
                        raise
            finally:
                work.ledger.close()
            return
        assert self.build is not None, "checked"
        arguments = (self.build, out, retry, dict(moved))
        with ProcessPoolExecutor(self.processes, process_context(), _open, arguments) as pool:
            try:
                _all(pool, _work, stage.chunks, self.processes, done)
            except BrokenProcessPool:
                raise ChildProcessError(
                    "a process of the curation died, often for want of memory: run again, it goes on; fewer processes "
                    "or a smaller chunk_size take less"
                ) from None


def _all(executor: Executor, work: Callable[[int], object], chunks: int, at_once: int, done: Done) -> None:
    """Every chunk, few at a time, so that an error leaves little that was begun in vain."""
    numbers = iter(range(chunks))
    running = {executor.submit(work, number) for number in islice(numbers, at_once)}
    while running:
        ended, running = wait(running, return_when=FIRST_COMPLETED)
        for one in ended:
            one.result()
            for step in STEPS:
                done(step)
        running |= {executor.submit(work, number) for number in islice(numbers, len(ended))}


_opened: ChunkWork | str = "the process was not opened"
"""Or why there is none."""


def _open(build: Build, out: Path, retry: bool, moved: Mapping[str, Sequence[int]]) -> None:
    """In a new process. Raised here, an error would break the pool as a killed process does."""
    global _opened
    begin_worker()
    try:
        _opened = ChunkWork(build(), out, retry, moved)
    except (ValueError, OSError, ImportError) as error:
        _opened = f"a process of the curation cannot begin: {error}"


def _work(number: int) -> None:
    if isinstance(_opened, str):
        raise ValueError(_opened)
    _opened.run(number)
