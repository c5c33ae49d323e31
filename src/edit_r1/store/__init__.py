"""Records on disk: Parquet datasets with images, written atomically, and the progress of a stage.

A finished dataset `name` in a run's folder is

    name/part-00000.parquet ...   the rows; images as Hugging Face `Image` features
    name.done.json                written last: number of rows, hash, and what the stage reported

A killed stage leaves its finished parts and goes on after the last one (`Dataset.parts`). The hash of a
dataset is that of its sorted row hashes, so neither the order nor the cut into parts changes it.
"""

from edit_r1.store.files import (
    BusyError,
    StoreError,
    drop_unfinished,
    is_locked,
    locked,
    new_folder,
    read_json,
    write_bytes,
    write_json,
    write_text,
    writing,
)
from edit_r1.store.hashes import RowHashes
from edit_r1.store.mapped import open_dataset
from edit_r1.store.parquet import Feature, Features, Row, read_rows, row_hash, stream_rows, write_rows
from edit_r1.store.stages import Dataset, Stage, Table, read_dataset, write_dataset
from edit_r1.store.streaming import stream_dataset
from edit_r1.store.tables import (
    CANDIDATES,
    CONTEXTS,
    GOLD_VERDICTS,
    POOL_TRACES,
    PREFERENCES,
    QUADRUPLES,
    SAMPLES,
)

__all__ = [
    "CANDIDATES",
    "CONTEXTS",
    "GOLD_VERDICTS",
    "POOL_TRACES",
    "PREFERENCES",
    "QUADRUPLES",
    "SAMPLES",
    "BusyError",
    "Dataset",
    "Feature",
    "Features",
    "Row",
    "RowHashes",
    "Stage",
    "StoreError",
    "Table",
    "drop_unfinished",
    "is_locked",
    "locked",
    "new_folder",
    "open_dataset",
    "read_dataset",
    "read_json",
    "read_rows",
    "row_hash",
    "stream_dataset",
    "stream_rows",
    "write_bytes",
    "write_dataset",
    "write_json",
    "write_rows",
    "write_text",
    "writing",
]
