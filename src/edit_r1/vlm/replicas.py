"""One checkpoint, loaded several times, a process each: a GPU a replica, or a core a replica on a CPU.

Requests are cut into batches of like lengths before they are dealt out, so that the answers depend on the requests,
the batch size and the seed, and not on how many replicas there are or which of them was faster.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edit_r1.processes import cores, end_at_interrupt, end_with_starter, one_core, process_context
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.vlm.transformers import Progress, TransformersVLM

_replica: TransformersVLM | None = None
"""In a replica's process: its model."""
_problem = ""
"""In a replica's process: why it has no model."""


class TransformersReplicas:
    """Several `TransformersVLM` behind one `VLM`. Calls from several threads run one after another."""

    simulated = False

    def __init__(self, path: str | Path, devices: Sequence[str], batch_size: int = 64, **options: Any) -> None:
        """A replica per entry of `devices`; "cpu" may be named several times. options: as `TransformersVLM.load`.

        A script that calls this needs the usual `if __name__ == "__main__"`. Raises `ModelError` when a replica
        cannot be loaded, before the first question is asked.
        """
        if not devices:
            raise ModelError("devices=(): name at least one device")
        self.name = Path(str(path)).name
        self.batch_size = batch_size
        context = process_context()
        given = {**options, "batch_size": batch_size}
        self._replicas = [
            ProcessPoolExecutor(1, context, initializer=_load, initargs=(str(path), device, len(devices), given))
            for device in devices
        ]
        self._lock = threading.Lock()
        try:
            for problem in [self._submit(replica, _why_not) for replica in self._replicas]:
                if why := self._result(problem):
                    raise ModelError(why)
        except ModelError:
            self.close()
            raise

    @property
    def capacity(self) -> int:
        """Sequences decoded at once by all replicas; calls with far fewer leave some idle."""
        return self.batch_size * len(self._replicas)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, n: int = 1, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """n answers per request, in the order of the requests; see `VLM.generate`.

        Raises ValueError for sampling parameters out of range, `ModelError` when a replica's process has died.
        """
        order = sorted(range(len(requests)), key=lambda place: len(requests[place].text))
        per_batch = max(1, self.batch_size // max(n, 1))
        left = list(enumerate(order[start : start + per_batch] for start in range(0, len(order), per_batch)))
        answers: list[list[Completion]] = [[] for _ in requests]
        done = 0
        with self._lock:
            free = list(self._replicas)
            running: dict[Future[Any], tuple[ProcessPoolExecutor, list[int]]] = {}
            while left or running:
                while left and free:
                    number, batch = left.pop()  # the longest first: what is left last is short
                    replica, drawn = free.pop(), replace(sampling, seed=sampling.seed + number)
                    asked = self._submit(replica, _answer, [requests[place] for place in batch], drawn, n)
                    running[asked] = (replica, batch)
                for finished in wait(running, return_when=FIRST_COMPLETED).done:
                    replica, batch = running.pop(finished)
                    free.append(replica)
                    for place, completions in zip(batch, self._result(finished), strict=True):
                        answers[place] = completions
                    done += len(batch)
                    if progress is not None:
                        progress(done, len(requests))
        return answers

    def close(self) -> None:
        """End the replicas."""
        for replica in self._replicas:
            replica.shutdown(wait=True, cancel_futures=True)

    def _submit(self, replica: ProcessPoolExecutor, *work: Any) -> Future[Any]:
        try:
            return replica.submit(*work)
        except BrokenProcessPool:
            raise self._died() from None

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._died() from None

    def _died(self) -> ModelError:
        return ModelError(
            f"{self.name}: a replica's process has died: for want of memory (use fewer devices or a smaller "
            'batch_size), or because the script has no `if __name__ == "__main__"`'
        )


def _load(path: str, device: str, replicas: int, options: dict[str, Any]) -> None:
    global _replica, _problem
    end_with_starter()
    end_at_interrupt()
    if device == "cpu":
        one_core()
    else:  # pictures are prepared by the CPU, and the fork server has told torch of one thread
        torch.set_num_threads(max(1, cores() // replicas))
    try:
        _replica = TransformersVLM.load(path, device=device, **options)
    except (ValueError, RuntimeError, OSError) as error:  # asked for by `_why_not`: what an initializer raises is lost
        _problem = str(error)


def _why_not() -> str:
    return _problem


def _answer(requests: Sequence[Request], sampling: Sampling, n: int) -> list[list[Completion]]:
    assert _replica is not None, "a replica that was not loaded is not asked"
    return _replica.generate(requests, sampling, n)
