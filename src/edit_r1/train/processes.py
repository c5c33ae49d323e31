"""A training in several processes of this machine, as `torchrun` would start it, without leaving the caller."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from edit_r1.processes import end_with_starter, one_core, process_context
from edit_r1.train.verifier_run import Progress

POLL_S = 0.5


class Training(Protocol):
    """What is run: `train_sft` with all but `progress` given, in a form that can be pickled."""

    def __call__(self, *, progress: Progress | None) -> Path: ...


def in_processes(count: int, training: Training, progress: Progress | None = None) -> Path:
    """Run a training on `count` processes of one thread each; 1 runs it here, on the threads there are.

    Several are for a CPU: they do not see this machine's GPUs, which want `torchrun`. They find each other by torch's
    environment variables, so that transformers' trainers distribute the work, and end with the caller, however it ends.
    `progress` is called here with what the first one reports.

    Raises:
        ValueError: what the training raises.
        ChildProcessError: when a process died without a word, by a kill or for memory.
    """
    if count < 1:
        raise ValueError(f"count={count}: at least one process is needed")
    if count == 1:
        return training(progress=progress)
    context: Any = process_context()
    messages: multiprocessing.Queue[tuple[str, Any]] = context.Queue()
    port = _free_port()
    members = [
        context.Process(target=_member, args=(rank, count, port, training, messages), daemon=True)
        for rank in range(count)
    ]
    started = []
    try:
        for member in members:
            member.start()
            started.append(member)
        return _wait(members, messages, progress)
    finally:
        for member in started:
            member.kill()
            member.join()


def _wait(members: list[Any], messages: multiprocessing.Queue[tuple[str, Any]], progress: Progress | None) -> Path:
    """Pass progress on until the first process has a result or any has failed."""
    result: Path | None = None
    while True:
        try:
            kind, content = messages.get(timeout=POLL_S)
        except queue.Empty:
            codes = [member.exitcode for member in members]
            if result is not None and all(code == 0 for code in codes):
                return result
            if any(code not in (None, 0) for code in codes) or (result is None and all(code == 0 for code in codes)):
                raise ChildProcessError(
                    f"a training process ended with {codes} (-9: killed, often for want of memory): run again, it "
                    "continues from its last checkpoint"
                ) from None
            continue
        if kind == "progress" and progress is not None:
            progress(*content)
        elif kind == "result":
            result = content
        elif kind == "error":
            raise content


def _member(
    rank: int, count: int, port: int, training: Training, messages: multiprocessing.Queue[tuple[str, Any]]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted too, and ends its processes
    end_with_starter()
    one_core()  # also keeps accelerate from setting as many threads as there are cores
    # Before anything asks for a GPU: two processes on one of them cannot exchange, and each would fill a part of it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    try:
        result = training(progress=partial(_report, messages) if rank == 0 else None)
    except (ValueError, OSError) as error:
        messages.put(("error", error))
        time.sleep(5 * POLL_S)  # until the caller has read it
        raise SystemExit(1) from None
    if rank == 0:
        messages.put(("result", result))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _report(
    messages: multiprocessing.Queue[tuple[str, Any]], done: int, total: int, logged: Mapping[str, float]
) -> None:
    messages.put(("progress", (done, total, dict(logged))))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
