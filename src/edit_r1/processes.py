"""Processes of this machine: how they start, that they use one core each and keep memory, and end with their starter.

On a CPU, models of a few million parameters and numpy on small pictures gain more from a second process than from a
second thread: most of their operations are too small to be split.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing.context import BaseContext
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_context(preload: Iterable[str] = ()) -> BaseContext:
    """How processes are started: by a fork server on Linux, else each from nothing (spawn).

    Either way a script that starts some needs the usual `if __name__ == "__main__"`. The server starts now, and imports
    what is to be preloaded once for all while the caller goes on; later preloads have no effect, and its environment
    stays as it is now, but for `ONE_THREAD`.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    from multiprocessing import forkserver

    modules = list(preload)
    if modules:
        context.set_forkserver_preload(modules)
    with _environment(ONE_THREAD):
        forkserver.ensure_running()
    return context


ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For libraries that read it when they are loaded. numpy's OpenBLAS reads it at no other time, so a fork server that
has loaded numpy must have had it: two processes on two cores, each with a second thread that waits at work, took 40
times as long for small products."""


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def one_core() -> None:
    """To be called in a new process: torch, and what is imported later, computes on one thread."""
    os.environ.update(ONE_THREAD)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    keep_freed_memory()
    keep_few_kernels()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch computes on `count` threads, whatever OMP_NUM_THREADS and the machine's cores say.

    How a sum is shared among threads decides how it is rounded, so what is to have the same bits anywhere needs it.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """This process keeps up to 256 MB of what it frees, in place of giving it back to the system at once (glibc only).

    On a CPU every result of torch is new memory. By default glibc maps each larger one anew, and the system clears it
    page by page at its first use: a generation of GCPO on the tiny verifier has 2.9 times as many page faults and takes
    0.5 of its 12 s more in the system (bench/freed_memory.py). What is computed does not change.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes; larger blocks are mapped as before
        libc.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


def keep_few_kernels() -> None:
    """oneDNN keeps 64 of the kernels it has made, in place of 1,024, unless the environment says how many.

    It makes one for every shape, and lengths vary: few are met again. On the tiny verifier in bf16 the kept ones of
    four generations of GCPO took 300 MB of each process; with 64 a generation takes no longer. To be called before
    torch computes: oneDNN reads it once.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def return_freed_memory() -> None:
    """What this process no longer uses, and has kept, goes back to the system (glibc only): others need it now."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def end_with_starter() -> None:
    """To be called in a new process: it ends when its starter has ended, even by a kill."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def end_at_interrupt() -> None:
    """To be called in a new process: at Ctrl-C, which a terminal sends to all, it ends without a word.

    A second later, so that the starter, which says what is to be said, has learned of it before it misses the process.
    Where interrupts are ignored, as in a job that a shell started in the background, they still are.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, lambda *_: threading.Timer(_AFTER_STARTER_S, os._exit, (130,)).start())


_AFTER_STARTER_S = 1.0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int | None = None, few: int = 24
) -> list[Result]:
    """`function` of every item, in order, on several processes; here when there are fewer than `few` items.

    function and items must be picklable. processes: None takes as many as there are cores. Inside `standing_workers`
    the processes stay for the next call. In a worker (`begin_worker`) everything is done here: the cores are taken.

    Raises:
        ChildProcessError: when a process died; else what the function raises.
    """
    work = list(items)
    count = 1 if _is_worker else min(processes or cores(), len(work))
    if count < 2 or len(work) < few:
        return [function(item) for item in work]
    with nullcontext(_standing) if _standing is not None else standing_workers() as workers:
        try:
            return list(workers.of(count).map(function, work, chunksize=4))
        except BrokenProcessPool:
            workers.close()
            raise ChildProcessError(
                "a process died at its work: for want of memory, or because the script has no "
                '`if __name__ == "__main__"`'
            ) from None


class Workers:
    """Processes that wait for work; started when first needed."""

    def __init__(self) -> None:
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def of(self, count: int) -> ProcessPoolExecutor:
        """A pool of so many processes."""
        if count not in self._pools:
            self._pools[count] = ProcessPoolExecutor(count, process_context(), initializer=begin_worker)
        return self._pools[count]

    def close(self) -> None:
        """End them; the next call starts others."""
        while self._pools:
            self._pools.popitem()[1].shutdown(wait=True, cancel_futures=True)


_standing: Workers | None = None


@contextmanager
def standing_workers() -> Iterator[Workers]:
    """Inside, `spread` keeps its processes: starting two costs some seconds, for what they import and set up."""
    global _standing
    outer, workers = _standing, Workers()
    _standing = workers
    try:
        yield workers
    finally:
        _standing = outer
        workers.close()


_is_worker = False


def begin_worker() -> None:
    """To be called in a new process that does its share of the work: on one core, and it ends with its starter."""
    global _is_worker
    _is_worker = True
    end_with_starter()
    end_at_interrupt()
    one_core()
