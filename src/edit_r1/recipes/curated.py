"""A curation with its progress and its cards. Nothing of training is imported: endpoints need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edit_r1.curate.card import write_card
from edit_r1.curate.engine import Engine
from edit_r1.curate.run import curate
from edit_r1.curate.stage import CurateStage
from edit_r1.store import QUADRUPLES, Dataset, write_text
from edit_r1.train.verifier_card import quadruples_card


def run_curation(stage: CurateStage, out: Path, engine: Engine | None = None, retry: bool = False) -> Path:
    """`edit-r1 curate run`: all steps, with a progress bar. Raises as `curate.run.curate`."""
    with bar_of_steps() as bar:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total)

        curate(stage, out, progress, engine, retry)
    selected = out / "selected"
    write_text(selected / "README.md", quadruples_card(Dataset(out, "selected", QUADRUPLES)))
    write_card(stage, out)
    return out


def bar_of_steps(quiet: bool = False) -> Progress:
    """The bar of every command that works through something."""
    return Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        disable=quiet,
    )
