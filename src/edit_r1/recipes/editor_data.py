"""From an editor recipe's data to the contexts of its training: read, checked, and with principles in every one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edit_r1.records import Context
from edit_r1.store import write_json
from edit_r1.train.contexts import DataSettings, read_contexts
from edit_r1.train.data_parallel import Team
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.written_principles import complete_principles, reasons


def open_contexts(
    data: str,
    settings: DataSettings,
    judge: JudgeSettings,
    out: Path,
    name: str,
    team: Team,
    resumed: bool,
    tell: Callable[[str], None],
) -> list[Context]:
    """The contexts of `data`; `tell` gets a line wherever something was left out or written.

    judge: writes missing principles unless the settings name another. name: of the files in `out` that keep what was
    read (NAME.json) and written (NAME_principles.json). Raises ValueError as `read_contexts` and `complete_principles`.
    """
    found = read_contexts(data, settings)
    if settings.principles_model:
        # Its own limits and traces are not the judge's; principles are greedy in any case.
        judge = JudgeSettings(
            settings.principles_model, dtype=judge.dtype, concurrency=judge.concurrency, timeout_s=judge.timeout_s,
            key_env=judge.key_env,
        )  # fmt: skip
    missing = sum(not context.principles for context in found.contexts)
    if missing:
        tell(f"{name}: {missing} of {len(found.contexts)} contexts have no principles: {judge.address} writes them")
    done = complete_principles(found.contexts, judge, out / f"{name}_principles.json", team, resumed)
    if found.skipped:
        number, reason = next(iter(found.skipped.items()))
        tell(f"{name}: {len(found.skipped)} of {found.rows} rows were left out (row {number}: {reason})")
    if done.failed:
        tell(f"{name}: {len(done.failed)} contexts were left out for want of principles ({reasons(done.failed)})")
    if team.first:
        counts = {
            "rows": found.rows, "contexts": len(done.contexts), "principles_written": done.written,
            "skipped": found.skipped, "without_principles": done.failed,
        }  # fmt: skip
        write_json(out / f"{name}.json", counts)
    return done.contexts
