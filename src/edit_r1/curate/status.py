"""How far a curation is: what `edit-r1 curate status` tells, while it runs and afterwards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.chunk_file import chunk_file
from edit_r1.curate.failures import by_cause
from edit_r1.curate.inputs import LOCK, read_run
from edit_r1.curate.keeping import spent_table, spent_whole
from edit_r1.store import is_locked


def read_status(out: Path) -> dict[str, Any]:
    """{"finished", "at_work", "seconds_left", "spent", "steps": [...]}, one per step: finished or not, chunks done of
    all, rows so far, rows a second and failures by cause.

    `at_work` is False when no run is, as far as the file system can tell.

    `per_second` is of the rows that were made and not found, while their step was at work; None where none was.
    `seconds_left` takes as much time for each chunk that is left as the others took, and as many chunks at once as the
    run has; None before a first chunk is done, and 0 when all are.

    `spent` is `curate.keeping.spent_table`, with "budget" ({"money", "requests", "tokens"} or None) and "whole_cost",
    what the whole is going to cost: what was spent, and for each chunk that is left as much as the others took; None
    before every step of a chunk is done, and without prices.

    Raises:
        ValueError: when `out` holds no curation.
    """
    run = _begun(out)
    chunks = []
    for number in range(run["chunks"]):
        chunk = chunk_file(out, number).read()
        chunk.pop("tally", None)  # the larger half of it
        if chunk.get("run") == run["run"]:  # the others are of an earlier stage
            chunks.append(chunk)
    steps, left, known, cost_left = [], 0.0, True, 0.0
    # Votes cost what gold costs, and are there where several verifiers are asked.
    votes = ("votes",) if any("votes" in chunk["steps"] for chunk in chunks) else ()
    for step in (*STEPS[: STEPS.index("gold")], *votes, *STEPS[STEPS.index("gold") :]):
        done = [chunk["steps"][step] for chunk in chunks if step in chunk["steps"]]
        if missing := run["chunks"] - len(done):
            known = known and bool(done)
            left += missing * sum(one["seconds"] for one in done) / max(1, len(done))
            cost_left += missing * _mean_cost([one for one in done if one["new"]])
        of = {"chunks": len(done), "of": run["chunks"]}
        steps.append({"step": step, "finished": bool(run["done"]), **of, **_made(done)})
    spent, at_work = spent_table(out), is_locked(out / LOCK)
    if not at_work:  # what processes that ended wrote last is no present limit
        spent["models"] = {name: own | {"concurrency": None} for name, own in spent["models"].items()}
    whole = None if spent["cost"] is None or not known else spent["cost"] + cost_left
    return {
        "finished": bool(run["done"]),
        "at_work": at_work,
        "seconds_left": left / run["at_once"] if known else None,
        "spent": spent | {"budget": run.get("budget"), "whole_cost": whole},
        "steps": steps,
    }


def _begun(out: Path) -> dict[str, Any]:
    """The note of the run. Raises ValueError where there is none, which tells how far it is."""
    run = read_run(out)
    if run is not None:
        return run
    if (out / "intake.json").exists():
        raise ValueError(
            f"{out}: its data were looked at (intake.json) and no chunk was begun{_paid_for(out)}: go on with "
            f"`edit-r1 curate run RECIPE --out {out}`"
        )
    if (out / ".work" / "intake").exists():
        raise ValueError(
            f"{out}: its data are being looked at, or a run was stopped meanwhile{_paid_for(out)}: ask again when the "
            "first chunk is at work, or run again"
        )
    raise ValueError(f"{out}: holds no curation; start one with `edit-r1 curate run RECIPE --out {out}`")


def _paid_for(out: Path) -> str:
    """What a filter of the samples has cost before there is anything else to tell; "" without one that is paid."""
    spent = spent_whole(out)
    return f" ({spent.told} so far)" if spent.requests else ""


def _made(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a step, by what the files of the chunks that have done it tell."""
    failed: Counter[str] = Counter()
    for one in done:
        failed.update(one["failed"])
    worked = [one for one in done if one["new"]]
    seconds = sum(one["seconds"] for one in worked)
    return {
        "rows": sum(one["rows"] for one in done),
        "per_second": sum(one["new_rows"] for one in worked) / seconds if seconds > 0 else None,
        "failed": by_cause(failed),
    }


def _mean_cost(worked: list[dict[str, Any]]) -> float:
    """Of one chunk's step."""
    costs = [(one.get("spent") or {}).get("cost") or 0.0 for one in worked]
    return sum(costs) / max(1, len(costs))
