"""`edit-r1 evaluate gsb`: two editors compared by people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from edit_r1.commands.shared import USAGE, Json, complain, print_json

Data = tyro.conf.Positional[Path | None]
Names = tyro.conf.UseAppendAction[tuple[str, ...]]


def evaluate_gsb(
    data: Data = None,
    /,
    counts: tuple[int, int, int] | None = None,
    new: str = "",
    other: str = "",
    leave_out: Names = (),
    seed: int = 0,
    json: Json = False,
) -> int:
    """GSB = (G - B) / (G + S + B) of a new editor against another one, with its interval.

    Args:
        data: a study that `edit-r1 annotate` made; a data set of preferences; or a .jsonl or .json file of {"choice":
            good, same or bad, "id"}.
        counts: good, same and bad instead, of independent comparisons.
        new: name of the new editor in a data set of preferences.
        other: name of the editor it is compared with there; by default every other one.
        leave_out: name of an annotator whose answers do not count.
        seed: of the bootstrap.
    """
    from edit_r1.evaluate.gsb import gsb_of_counts

    if (data is None) == (counts is None):
        complain("evaluate gsb needs a study, preferences or a file of answers; or --counts GOOD SAME BAD")
        return USAGE
    if counts is not None:
        document = gsb_of_counts(*counts, seed)
    else:
        assert data is not None, "one of the two is given"
        document = _document(data, new, other, leave_out, seed)
    if json:
        print_json(document)
        return 0
    interval = "" if document["ci95"] is None else f" (95 % {document['ci95'][0]:+.1%} to {document['ci95'][1]:+.1%})"
    said = f"{document['good']} good, {document['same']} same, {document['bad']} bad"
    print(f"GSB {document['gsb']:+.1%}{interval}: {said}, {document['n']} answers")
    return 0


def _document(data: Path, new: str, other: str, leave_out: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Of whatever `data` is. Raises ValueError, StoreError (one too) as its readers do."""
    from edit_r1.annotate.database import FILE_NAME
    from edit_r1.evaluate.gsb import gsb_document, gsb_of_preferences, read_outcomes
    from edit_r1.store import PREFERENCES, Dataset

    if (data / FILE_NAME).is_file():
        return _study(data, new, other, leave_out, seed)
    if data.with_name(f"{data.name}.done.json").is_file():
        if not new:
            raise ValueError(f"{data}: preferences of several editors: name the new one by --new NAME")
        return gsb_of_preferences(Dataset(data.parent, data.name, PREFERENCES), new, other, leave_out, seed)
    if data.is_dir():
        raise ValueError(f"{data}: neither a study of `edit-r1 annotate` nor a data set of preferences: check the path")
    if new or other or leave_out:
        raise ValueError(f"{data}: a file of answers names neither editors nor annotators: leave those flags out")
    return gsb_document(*read_outcomes(data), seed)


def _study(folder: Path, new: str, other: str, leave_out: tuple[str, ...], seed: int) -> dict[str, Any]:
    from edit_r1.annotate.database import FILE_NAME, Database
    from edit_r1.annotate.progress import gsb_of

    database = Database(folder / FILE_NAME)
    try:
        document = gsb_of(database, leave_out, seed)
    finally:
        database.close()
    if document is None:
        raise ValueError(
            f"{folder}: pairs were compared there, not two editors: begin a study by --study NEW OTHER, or export the "
            "answers and name an editor by --new"
        )
    editors = (document["new"], document["other"])
    if (new or editors[0], other or editors[1]) != editors:
        raise ValueError(f"{folder}: a study of {editors[0]!r} against {editors[1]!r}: leave --new and --other out")
    if document["n"] == 0:
        raise ValueError(f"{folder}: holds no answers yet: annotate first")
    return document
