"""ImgEdit as it is published: Parquet {input_images, output_images, prompt} and archives in parts that hold the files.

The archives are read in place; nothing is unpacked.
"""

from __future__ import annotations

from pathlib import Path

from edit_r1.curate.intake.archives import TarPictures
from edit_r1.curate.intake.parquet import ParquetRows
from edit_r1.curate.intake.rows import Columns

IMGEDIT = Columns(source="input_images", instruction="prompt", references="", edits="output_images")


def imgedit_rows(folder: Path, columns: Columns = IMGEDIT, archives: Path | None = None) -> ParquetRows:
    """The rows of a folder that holds ImgEdit, or a part of it.

    archives: folder of the archives, where they lie elsewhere.

    Raises ValueError for no Parquet file, no archive, missing parts or columns.
    """
    return ParquetRows(folder, columns, TarPictures(archives or folder))
