"""`edit-r1 annotate`: people compare edits in a browser; the task's figures; its answers as preferences."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from edit_r1.annotate import AnnotateSettings, start_annotating
from edit_r1.commands.shared import Json, print_json

Folder = tyro.conf.Positional[Path]
Settings = Annotated[AnnotateSettings, tyro.conf.arg(name="")]
DEFAULTS = AnnotateSettings()


def annotate(directory: Folder, /, settings: Settings = DEFAULTS) -> int:
    """Compare edits in a browser: two side by side with their source; several people at once.

    Args:
        directory: the task: what to compare, and after the first start answers.sqlite and pictures/.
    """
    start_annotating(directory, settings)
    return 0


Names = tyro.conf.UseAppendAction[tuple[str, ...]]


def annotate_status(directory: Folder, /, leave_out: Names = (), json: Json = False) -> int:
    """Show a task's progress, pace, agreement and, for a study of two editors, GSB.

    Args:
        directory: the task's folder.
        leave_out: name of an annotator whose answers do not count in GSB; all else is of everybody.
    """
    from edit_r1.annotate.database import FILE_NAME, Database
    from edit_r1.annotate.progress import gsb_of, measure

    database = Database(directory / FILE_NAME)
    try:
        document = {**measure(database, time.time()), "gsb": gsb_of(database, leave_out)}
    finally:
        database.close()
    if json:
        print_json(document)
    else:
        from edit_r1.report.annotation import figures

        Console().print(figures(document))
    return 0


def annotate_export(
    directory: Folder,
    /,
    out: Path,
    leave_out: Names = (),
    json: Json = False,
) -> int:
    """Write a task's answers as a data set of preferences.

    Args:
        directory: the task's folder.
        out: folder of the new data set; continued where it was stopped.
        leave_out: name of an annotator whose answers are not written, nor counted in a study's GSB.
    """
    from edit_r1.annotate.database import FILE_NAME, Database
    from edit_r1.annotate.export import export
    from edit_r1.annotate.pictures import Pictures
    from edit_r1.annotate.progress import gsb_of

    database = Database(directory / FILE_NAME)
    try:
        written = export(database, Pictures(directory / "pictures"), out, leave_out)
        document = {**written, "gsb": gsb_of(database, leave_out)}
    finally:
        database.close()
    if json:
        print_json(document)
    else:
        people = ", ".join(f"{name} {answers}" for name, answers in document["annotators"].items())
        print(f"{document['preferences']} preferences in {out} ({people}), {document['skipped']} skipped")
        if document["verdicts"] or document["partial_verdicts"]:
            incomplete = document["partial_verdicts"]
            print(f"{document['verdicts']} checklists in {out}_verdicts, {incomplete} incomplete ones left out")
    return 0
