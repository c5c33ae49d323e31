"""From a path or a name to the reader that fits, and to samples in one call."""

from __future__ import annotations

import re
from pathlib import Path

from edit_r1.curate.intake.archives import find_archives
from edit_r1.curate.intake.checks import IntakeChecks
from edit_r1.curate.intake.draw import Draw
from edit_r1.curate.intake.folders import files_below
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.hub import HubRows
from edit_r1.curate.intake.imgedit import IMGEDIT, imgedit_rows
from edit_r1.curate.intake.jsonl import JsonlRows
from edit_r1.curate.intake.parquet import ParquetRows
from edit_r1.curate.intake.rows import Columns, FolderPictures, Reader, check_named
from edit_r1.curate.intake.source import TeamSamples
from edit_r1.curate.intake.webdataset import WebDatasetRows
from edit_r1.verifier.hub_tables import is_saved


def open_rows(
    data: str | Path, columns: Columns | None = None, split: str = "train", allow_outside: bool = False
) -> Reader:
    """The reader of a data set, by what lies there:

    - a .jsonl file, or a folder that holds one;
    - a .parquet file, or a folder with such files at any depth; with archives beside them it is read as ImgEdit;
    - a .tar, or a folder of tars alone: WebDataset shards;
    - a folder that `datasets` saved, any other that it opens, or OWNER/NAME on the hub.

    Args:
        columns: names in the data; None for ours, or ImgEdit's.
        split: of what `datasets` opens.
        allow_outside: follow paths out of the folder of the rows.

    Raises ValueError when nothing of this lies there, or it cannot be opened.
    """
    path = Path(data)
    pictures = FolderPictures(allow_outside)
    if is_saved(path):
        return HubRows(str(data), columns, split, pictures=pictures)
    if path.suffix == ".jsonl" or (path.is_dir() and any(_is_data(file) for file in path.glob("*.jsonl"))):
        return JsonlRows(path, columns, pictures)
    if path.suffix == ".parquet" or (path.is_dir() and any(file.suffix == ".parquet" for file in files_below(path))):
        with_archives = path.is_dir() and find_archives(path)
        rows = imgedit_rows(path, columns or IMGEDIT) if with_archives else ParquetRows(path, columns, pictures)
        if columns is not None:
            check_named(columns, rows.names, data)
        return rows
    if path.suffix == ".tar" or (path.is_dir() and find_archives(path)):
        return WebDatasetRows(path, columns)
    if path.is_file():  # else asked for on the hub, under its path
        raise ValueError(
            f"{data}: is no .jsonl, .parquet or .tar: write the rows as one of these, or name their folder"
        )
    if path.is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", str(data)):
        return HubRows(str(data), columns, split, pictures=pictures)
    raise ValueError(f"{data}: no such file or folder: check the path, or name a data set on the hub as OWNER/NAME")


def _is_data(path: Path) -> bool:
    """Hidden files are none: macOS writes a ._NAME beside NAME."""
    return path.is_file() and not path.name.startswith(".")


def team_samples(
    data: str | Path,
    licence: str = "",
    columns: Columns | None = None,
    checks: IntakeChecks | None = None,
    draw: Draw | None = None,
    hard: HardFilter | None = None,
    split: str = "train",
    allow_outside: bool = False,
) -> TeamSamples:
    """The samples of a data set: `open_rows` and `TeamSamples` in one. Raises ValueError as `open_rows`."""
    return TeamSamples(open_rows(data, columns, split, allow_outside), checks, draw, hard, licence)
