"""From an editor recipe's data to the contexts of its training: read, checked, and with principles in every one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from edit_r1.editors.pipeline_editor import PipelineEditor
from edit_r1.images import ImageError
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
            key_env=settings.principles_key_env or judge.key_env, max_new_tokens=settings.principles_max_new_tokens,
            limit_key=settings.principles_limit_key, server_sampling=settings.principles_server_sampling,
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


def editable(
    editor: Any,
    contexts: Sequence[Context],
    validation: Sequence[Context],
    broken: Literal["refuse", "skip"],
    tell: Callable[[str], None],
) -> list[Context]:
    """The training contexts that this editor can edit, asked before the first is drawn: one that it cannot, too small
    or with references that it does not take, would end the run at the iteration that draws it.

    broken: "skip" leaves them out, and `tell` gets a line. Of an editor of other code nothing is asked.
    Raises ValueError when one cannot be edited and they are not skipped, or when none can.
    """
    if not isinstance(editor, PipelineEditor):
        return list(contexts)
    reasons: dict[str, str] = {}
    for context in (*contexts, *validation):
        try:
            editor.layout(context.sample)
        except ImageError as error:
            reasons[context.sample.id] = str(error)
    kept = [context for context in contexts if context.sample.id not in reasons]
    if not reasons:
        return kept
    name, reason = next(iter(reasons.items()))
    everything = len(contexts) + len(validation)
    told = f"{len(reasons)} of {everything} contexts cannot be edited by {editor.name} ({name}: {reason})"
    if broken == "refuse" or not kept:
        remedy = ", or leave them out with --broken skip" if kept else ""
        raise ValueError(f"{told}: mend the data, or name another editor{remedy}")
    tell(f"{told}: they are left out")
    return kept
