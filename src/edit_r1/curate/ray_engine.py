"""Chunks of a curation on Ray Data: this machine, or a cluster by its address.

Every worker is an actor that opens the stage's models once and then works on chunks, with the code of the local engine
(`curate.chunk`). `out` must be a folder that all machines see (a network file system): shards are written there by
whoever made them, and nothing but numbers goes through Ray's object store. Workers go into the folder that the run was
started in, where they see it, so that a recipe's relative paths mean the same everywhere. An actor that dies is started
again by Ray, and its chunk goes on with what is stored.

Ray is an extra: pip install 'edit-r1[ray]'.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edit_r1.curate.chunk import STEPS, ChunkWork
from edit_r1.curate.engine import Build, Done
from edit_r1.curate.failures import OutageError
from edit_r1.curate.stage import CurateStage
from edit_r1.processes import one_core
from edit_r1.store import StoreError, write_bytes
from edit_r1.vlm.budget import Budget, BudgetError
from edit_r1.vlm.usage import Usage


@dataclass(frozen=True)
class OnRay:
    """Ray Data over the numbers of the chunks."""

    build: Build
    """Makes the stage in every worker; pickled by Ray, so it may come from a file that workers do not have."""
    workers: int = 1
    address: str | None = None
    """Of a cluster, "auto" for the one that this machine is of; None starts Ray here and ends it afterwards."""
    cpus: float = 1.0
    """Of each worker."""
    gpus: float = 0.0
    """Of each worker: for models that run in it, and not behind an endpoint."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus < 0 or self.gpus < 0:
            raise ValueError(
                f"workers={self.workers}, cpus={self.cpus}, gpus={self.gpus}: at least one worker, and no less than 0"
            )

    @property
    def at_once(self) -> int:
        return self.workers

    def run(self, stage: CurateStage, out: Path, retry: bool, moved: Mapping[str, Sequence[int]], done: Done) -> None:
        """As `curate.engine.Engine.run`. Raises ValueError too when Ray is not installed or cannot be reached."""
        try:
            import ray
        except ImportError:
            raise ValueError(
                "the engine 'ray' needs Ray: pip install 'edit-r1[ray]', or use the engine 'local'"
            ) from None
        ray.data.DataContext.get_current().enable_progress_bars = False
        started = not ray.is_initialized()
        if started:
            _start(ray, self.address, self.workers, self.cpus, self.gpus)
        try:
            chunks = ray.data.range(stage.chunks, override_num_blocks=stage.chunks)
            worked = chunks.map_batches(
                _Worker,
                fn_constructor_args=(self.build, str(out.resolve()), os.getcwd(), retry, dict(moved)),
                batch_size=1,
                # One chunk at a time: those that wait at one worker could not go to another that is idle.
                compute=ray.data.ActorPoolStrategy(size=self.workers, max_tasks_in_flight_per_actor=1),
                num_cpus=self.cpus,
                num_gpus=self.gpus or None,
            )
            _stop_file(out).unlink(missing_ok=True)
            problem: Exception | None = None
            left = 0
            for row in worked.iter_rows():
                if row["outcome"] == "done":
                    for step in STEPS:
                        done(step)
                elif row["outcome"] == "left":
                    left += 1
                elif problem is None:
                    problem = _error(row, stage.budget)
            # Told at the end: Ray would kill the workers, and what they have paid for with them.
            if problem is not None:
                raise problem
            if left:
                raise ValueError(
                    f"{left} chunks were left, as a worker failed and died before it said why: what is finished is "
                    "kept, run again"
                )
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"Ray ended the run ({type(error).__name__}: {reason[-1] if reason else 'no reason given'}): what is "
                "finished is kept, run again"
            ) from error
        finally:
            if started:
                ray.shutdown()


def _start(ray: Any, address: str | None, workers: int, cpus: float, gpus: float) -> None:
    try:
        if address is None:
            ray.init(  # "local": without an address Ray joins a cluster of this machine, if there is one
                address="local", num_cpus=max(1, round(workers * cpus + 1)), num_gpus=gpus * workers or None,
                include_dashboard=False, configure_logging=True, logging_level="ERROR", log_to_driver=False,
            )  # fmt: skip
        else:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError) as error:
        where = "here" if address is None else f"at {address}"
        raise ValueError(
            f"Ray cannot be started {where} ({error}): check the address, or use the engine 'local'"
        ) from error


def _stop_file(out: Path) -> Path:
    """Is there when a worker has failed: the others begin no further chunk."""
    return out / ".work" / "stop"


def _error(row: Mapping[str, Any], budget: Budget) -> Exception:
    """What a worker raised."""
    if row["outcome"] == "budget":
        name = str(row["told"])
        return BudgetError(name, asdict(budget)[name], Usage())
    return (OutageError if row["outcome"] == "outage" else ValueError)(str(row["told"]))


class _Worker:
    """An actor of Ray Data."""

    def __init__(self, build: Build, out: str, folder: str, retry: bool, moved: dict[str, Sequence[int]]) -> None:
        one_core()
        self.stop = _stop_file(Path(out))
        self.work: ChunkWork | None = None
        self.problem = ""
        with suppress(OSError):
            os.chdir(folder)
        try:
            self.work = ChunkWork(build(), Path(out), retry, moved)
        except (ValueError, OSError, ImportError) as error:
            self.problem = f"a worker on {socket.gethostname()}, in {os.getcwd()}, cannot begin: {error}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """An error is a result: Ray would try a worker's exception again, and tell it in words of its own."""
        outcomes = [("left", "") if self.stop.exists() else self._run(int(number)) for number in batch["id"]]
        return {"outcome": [outcome for outcome, _ in outcomes], "told": [told for _, told in outcomes]}

    def _run(self, number: int) -> tuple[str, str]:
        """(outcome, its words) of a chunk."""
        try:
            if self.work is None:
                raise ValueError(self.problem)
            self.work.run(number)
        except (ValueError, OSError) as error:
            with suppress(StoreError):  # a full disk; the others will find it so
                write_bytes(self.stop, b"")
            if isinstance(error, BudgetError):
                return "budget", error.name
            return "outage" if isinstance(error, OutageError) else "error", str(error)
        return "done", ""
