"""The whole curation: all chunks by an engine, then one dataset per step, assembled of the chunks' shards.

A run that was killed goes on where it was, and so does one to which a judge, an editor or samples were added: rows are
found again by what they were made from (`curate.shards`), and only what depends on a change is made anew. Nothing is
dropped without a line in `STEP.failures/`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edit_r1.curate.chunk import BESIDE, TABLES
from edit_r1.curate.chunk_file import chunk_file, held_samples, read_homes, write_homes
from edit_r1.curate.engine import Engine, Local
from edit_r1.curate.failures import Failure, by_cause
from edit_r1.curate.inputs import LOCK, RUN, check_ready, moved_chunks, read_run, with_weights
from edit_r1.curate.keeping import budget_row, budget_told, drop_leftovers, open_ledger, spent_table
from edit_r1.curate.shards import read_shard_failures, read_shard_hashes
from edit_r1.curate.stage import CurateStage
from edit_r1.curate.summary import Tally
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Quadruple, Sample
from edit_r1.store import Dataset, StoreError, drop_unfinished, locked, read_json, write_json

Progress = Callable[[str, int, int], None]
"""Called with (step, chunks done, chunks in all)."""


@dataclass(frozen=True)
class Curation:
    """A finished curation on disk."""

    out: Path

    def dataset(self, step: str) -> Dataset[Any]:
        return Dataset(self.out, step, (TABLES | BESIDE)[step])

    @property
    def samples(self) -> Dataset[Sample]:
        return self.dataset("samples")

    @property
    def contexts(self) -> Dataset[Context]:
        return self.dataset("contexts")

    @property
    def candidates(self) -> Dataset[Candidate]:
        return self.dataset("candidates")

    @property
    def traces(self) -> Dataset[PoolTrace]:
        return self.dataset("traces")

    @property
    def gold(self) -> Dataset[GoldVerdicts]:
        return self.dataset("gold")

    @property
    def selected(self) -> Dataset[Quadruple]:
        return self.dataset("selected")


def curate(
    stage: CurateStage, out: Path, progress: Progress | None = None, engine: Engine | None = None, retry: bool = False
) -> Curation:
    """Run all steps into `out`; continues a run that was stopped, and makes what a change of the stage asks for.

    Args:
        engine: None works in this process, one chunk after the other.
        retry: ask again for what failed.

    Raises:
        ValueError: when there is nothing to be made: no sample, or ready edits of none.
        StoreError: when `out` cannot be written, holds something else, or another process is at work on it.
        OutageError: when a model answers nothing at all; the next run asks again for what it left.
        BudgetError: when `stage.budget` is spent; the next run with a higher one goes on.
    """
    ledger = open_ledger(out, stage)  # a budget that cannot be kept is refused before anything is written
    counts: Counter[str] = Counter()

    def done(step: str) -> None:
        counts[step] += 1
        if progress is not None:
            progress(step, counts[step], stage.chunks)

    engine = engine or Local()
    refuse_foreign(out)
    with at_work(out), budget_told(out):
        stage.prepare(out, retry, None if progress is None else partial(progress, "intake"), ledger)
        ledger.close()
        check_ready(stage)
        stage = with_weights(stage, out)
        lay = _begin(stage, out, engine.at_once)
        shared = moved_chunks(out)
        engine.run(stage, out, retry, lay, done)
        made = _assemble(stage, out)
        drop_leftovers(out, shared)
        if retry or not any(read_json(out / "summary.json")["failed"].values()):
            drop_leftovers(out)
    return made


@contextmanager
def at_work(out: Path) -> Iterator[None]:
    """Inside, no other process works on `out`: two would pay for the same, and remove what the other has kept."""
    with locked(out / LOCK, "another run is at work here: wait for it, or choose another --out"):
        drop_unfinished(out / ".work")
        yield


def refuse_foreign(out: Path) -> None:
    """Raises StoreError when `out` holds data sets of these names that no curation made."""
    taken = [step for step in (*TABLES, *BESIDE) if (out / step).exists()]
    made_here = (out / RUN).exists() or (out / ".work" / "chunks").exists()
    if taken and not made_here:  # assembling would replace it
        raise StoreError(f"{out / taken[0]}: stands there and was not made by this curation: choose another --out")


def _begin(stage: CurateStage, out: Path, at_once: int) -> dict[str, list[int]]:
    """Notes what is run. Returns by sample the chunks that held it in earlier runs; {} while samples lay in one way."""
    told: dict[str, Any] = {
        "samples": stage.samples.fingerprint,
        "chunk_size": stage.chunk_size,
        "chunks": stage.chunks,
    }
    before = read_run(out) or {}
    lay = read_homes(out)
    moved = moved_chunks(out)
    if {name: before.get(name) for name in told} != told:
        if held := held_samples(out):
            lay = write_homes(out, lay, held)  # before the note of the run: a kill between them finds the chunks again
        moved |= held.keys()
    # What was moved stays noted until all is done: till then answers for others lie in the folders of these chunks.
    more = {"run": stage.run_key(), "moved_from": sorted(moved), "at_once": at_once, "budget": budget_row(stage.budget)}
    write_json(out / RUN, told | more | {"weights": dict(stage.weights_before), "done": False})
    return lay


def _assemble(stage: CurateStage, out: Path) -> Curation:
    """Data sets, failures and summary of finished chunks."""
    chunks, tally = [], Tally(stage.seed)
    for number in range(stage.chunks):
        chunk = chunk_file(out, number).read()
        tally.add_counts(chunk["tally"])
        chunks.append(chunk["steps"])  # no more than that: there are thousands of chunks
    metas = {}
    for step, table in (TABLES | BESIDE).items():
        if not all(step in chunk for chunk in chunks):  # of a stage before this one
            if (marker := Dataset(out, step, table).stage.marker).exists():
                shutil.rmtree(out / step, ignore_errors=True)
                shutil.rmtree(out / f"{step}.failures", ignore_errors=True)
                marker.unlink()
            continue
        shards = [[out / name for name in chunk[step]["shards"]] for chunk in chunks]
        shutil.rmtree(out / f"{step}.failures", ignore_errors=True)
        failed: Counter[str] = Counter()
        for number, paths in enumerate(shards):
            failures = [failure for path in paths for failure in read_shard_failures(path)]
            if failures:
                write_json(out / f"{step}.failures" / f"part-{number:05d}.json", [asdict(one) for one in failures])
            failed.update(chunks[number][step]["failed"])
        dataset: Dataset[Any] = Dataset(out, step, table)
        parts = ((path, read_shard_hashes(path)) for paths in shards for path in paths)
        dataset.assemble(parts, {"failed": by_cause(failed)})
        metas[step] = dataset.meta()
    write_json(
        out / "summary.json",
        {
            "given": len(stage.samples),
            "rows": {name: metas[name]["rows"] for name in TABLES},
            "hashes": {name: metas[name]["hash"] for name in TABLES},
            "failed": {name: metas[name]["failed"] for name in TABLES},
            "spent": spent_table(out),
            "beside": {name: {"rows": m["rows"], "hash": m["hash"]} for name, m in metas.items() if name in BESIDE},
            **tally.as_dict(),
        },
    )
    path = out / RUN
    write_json(path, {**read_json(path), "moved_from": [], "done": True})
    return Curation(out)


def read_failures(out: Path, step: str) -> list[Failure]:
    """What a step of a finished curation could not make."""
    return [
        Failure(**row) for path in sorted((out / f"{step}.failures").glob("part-*.json")) for row in read_json(path)
    ]
