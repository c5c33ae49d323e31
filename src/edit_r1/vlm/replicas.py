"""One checkpoint, loaded several times, a process each: a GPU a replica, or a core a replica on a CPU.

Requests are cut into batches of like lengths before they are dealt out, so that the answers depend on the requests,
the batch size and the seed, and not on how many replicas there are or which of them was faster.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from edit_r1.processes import process_context, stay_single
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.vlm.transformers import Progress, TransformersVLM

_PRELOAD = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "edit_r1.vlm.transformers")

_replica: TransformersVLM | None = None
"""In a replica's process: its model."""
_problem = ""
"""In a replica's process: why it has no model."""


class TransformersReplicas:
    """Several `TransformersVLM` behind one `VLM`. Calls from several threads run one after another."""

    simulated = False

    def __init__(self, path: str | Path, devices: Sequence[str], batch_size: int = 64, **options: Any) -> None:
        """A replica per entry of `devices`; "cpu" may be named several times. options: as `TransformersVLM.load`.

        Raises `ModelError` as `TransformersVLM.load` does, before the first question is asked.
        """
        if not devices:
            raise ModelError("devices=(): name at least one device")
        self.name = Path(str(path)).name
        self.batch_size = batch_size
        context = process_context(_PRELOAD)
        left: Queue[str] = context.Queue()
        for device in devices:
            left.put(device)
        self._pool = ProcessPoolExecutor(
            len(devices), context, initializer=_load, initargs=(str(path), left, {**options, "batch_size": batch_size})
        )
        self._lock = threading.Lock()
        problems = [problem for problem in self._ask([self._pool.submit(_ready) for _ in devices]) if problem]
        if problems:
            self.close()
            raise ModelError(problems[0])

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, n: int = 1, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """n answers per request, in the order of the requests; see `VLM.generate`.

        Raises ValueError for sampling parameters out of range, `ModelError` when a replica's process has died.
        """
        order = sorted(range(len(requests)), key=lambda place: len(requests[place].text))
        per_batch = max(1, self.batch_size // max(n, 1))
        batches = [order[start : start + per_batch] for start in range(0, len(order), per_batch)]
        answers: list[list[Completion]] = [[] for _ in requests]
        done = 0
        with self._lock:
            asked = {}
            for number, batch in reversed(list(enumerate(batches))):  # the longest first: what is left last is short
                drawn = replace(sampling, seed=sampling.seed + number)
                asked[self._pool.submit(_answer, [requests[place] for place in batch], drawn, n)] = batch
            for future in as_completed(asked):
                batch = asked[future]
                for place, completions in zip(batch, self._result(future), strict=True):
                    answers[place] = completions
                done += len(batch)
                if progress is not None:
                    progress(done, len(requests))
        return answers

    def close(self) -> None:
        """End the replicas."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, futures: Sequence[Future[Any]]) -> list[Any]:
        return [self._result(future) for future in futures]

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            raise ModelError(
                f"{self.name}: a replica's process has died, often for want of memory: use fewer devices or a smaller "
                "batch_size"
            ) from None


def _load(path: str, devices: Queue[str], options: dict[str, Any]) -> None:
    global _replica, _problem
    import torch

    device = devices.get()
    if device == "cpu":
        stay_single()
        torch.set_num_threads(1)
    try:
        _replica = TransformersVLM.load(path, device=device, **options)
    except ModelError as error:  # told to the caller by `_ready`: what an initializer raises is lost
        _problem = str(error)


def _ready() -> str:
    return _problem


def _answer(requests: Sequence[Request], sampling: Sampling, n: int) -> list[list[Completion]]:
    if _replica is None:
        raise ModelError(_problem)
    return _replica.generate(requests, sampling, n)
