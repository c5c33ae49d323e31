"""Processes of this machine: how they start, that they use one core each, and that they end with their starter.

On a CPU, models of a few million parameters and numpy on small pictures gain next to nothing from a second thread and
nearly all of a second process: their operations are too small to be split.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_context(preload: Iterable[str] = ()) -> BaseContext:
    """How processes are started: by a fork server on Linux, else each from nothing (spawn).

    Either way a script that starts some needs the usual `if __name__ == "__main__"`. preload: modules that the
    server imports once for all; only what is asked for before the first process starts has an effect.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    modules = list(preload)
    if modules:
        context.set_forkserver_preload(modules)
    return context


def stay_single() -> None:
    """To be called in a new process: no more than one core, and an end when the starter has ended, even by a kill."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_end_with_starter, daemon=True).start()


def _end_with_starter() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int | None = None, few: int = 24
) -> list[Result]:
    """`function` of every item, in order, on several processes; here when there are fewer than `few` items.

    function and items must be picklable. processes: None takes as many as there are cores. Raises what the
    function raises.
    """
    work = list(items)
    count = min(processes or os.cpu_count() or 1, len(work))
    if count < 2 or len(work) < few:
        return [function(item) for item in work]
    with ProcessPoolExecutor(count, process_context(), initializer=stay_single) as pool:
        return list(pool.map(function, work, chunksize=4))
