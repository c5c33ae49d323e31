from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edit_r1.records import Candidate, Context, Preference, Sample
from edit_r1.store import (
    CANDIDATES,
    PREFERENCES,
    SAMPLES,
    Dataset,
    Stage,
    StoreError,
    read_dataset,
    read_json,
    read_rows,
    row_hash,
    write_bytes,
    write_dataset,
    write_json,
    write_rows,
    write_text,
)


def candidates(start: int, stop: int) -> list[Candidate]:
    return [Candidate(f"c{index}", "s", bytes([index % 256] * 50), "e", index) for index in range(start, stop)]


def test_row_hash_is_of_the_content() -> None:
    row = {"id": "a", "image": b"xyz", "score": 1.5, "items": [{"q": "ä", "v": 1}], "none": None}
    assert row_hash(row) == row_hash(dict(reversed(row.items())))
    assert row_hash(row) != row_hash({**row, "image": b"xyZ"})
    assert row_hash({"a": b"x"}) != row_hash({"a": "x"})
    assert row_hash({"a": 1, "b": None}) != row_hash({"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        row_hash({"a": float("nan")})
    with pytest.raises(TypeError, match="convert it to a Python value"):
        row_hash({"a": object()})


def test_rows_must_fit_their_features(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"columns \['b'\]"):
        write_rows(tmp_path / "x.parquet", [{"a": 1, "b": 2}], {"a": "int64"})
    with pytest.raises(ValueError, match="does not fit"):
        write_rows(tmp_path / "x.parquet", [{"a": "text"}], {"a": "int64"})
    with pytest.raises(ValueError, match="does not fit"):
        write_rows(tmp_path / "x.parquet", [{"a": 2**64}], {"a": "int64"})
    assert not list(tmp_path.iterdir())


def test_the_cut_into_parts_does_not_change_the_hash(tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / "a", "candidates", candidates(0, 250), CANDIDATES)
    dataset = Dataset(tmp_path / "b", "candidates", CANDIDATES)
    for start in range(0, 250, 50):
        dataset.append(candidates(start, start + 50))
    assert not dataset.done()
    with pytest.raises(StoreError, match="not finished"):
        list(dataset)
    assert dataset.finish({"seconds": 1}) == whole
    assert dataset.meta() == {"seconds": 1, "parts": 5, "rows": 250, "hash": whole}
    assert list(dataset) == candidates(0, 250)
    with pytest.raises(StoreError, match="nothing can be added"):
        dataset.append(candidates(0, 1))
    again = write_dataset(tmp_path / "b", "candidates", candidates(0, 3), CANDIDATES)
    assert again == whole, "a finished dataset is kept"


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path, name, candidates(0, 20), CANDIDATES)
    first, second = (tmp_path / name / "part-00000.parquet" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    Dataset(tmp_path, "candidates", CANDIDATES, key="v1").append(candidates(0, 2))
    with pytest.raises(StoreError, match="other settings"):
        Dataset(tmp_path, "candidates", CANDIDATES, key="v2").append(candidates(2, 4))
    Dataset(tmp_path, "candidates", CANDIDATES, key="v1").finish()
    with pytest.raises(StoreError, match="other settings"):
        Dataset(tmp_path, "candidates", CANDIDATES, key="v2").done()
    assert read_dataset(tmp_path, "candidates", CANDIDATES) == candidates(0, 2), "a reader needs no key"


def test_stage_marker(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "sft", key="k")
    assert not stage.done()
    with pytest.raises(StoreError, match="stage sft is not finished"):
        stage.meta()
    stage.finish({"loss": 0.5})
    assert stage.done()
    assert stage.meta() == {"loss": 0.5}
    stage.marker.write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        stage.done()


def test_damage_on_disk_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, "candidates", candidates(0, 3), CANDIDATES)
    with pytest.raises(StoreError, match="other columns"):
        read_dataset(tmp_path, "candidates", SAMPLES)
    part = tmp_path / "candidates" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"part-00000\.parquet: not a readable Parquet file"):
        read_dataset(tmp_path, "candidates", CANDIDATES)
    part.unlink()
    with pytest.raises(StoreError, match="some are gone"):
        read_dataset(tmp_path, "candidates", CANDIDATES)
    with pytest.raises(StoreError, match="not a readable"):
        read_rows(tmp_path / "missing.parquet")
    with pytest.raises(StoreError, match="no part was written"):
        Dataset(tmp_path, "empty", CANDIDATES).finish()


def test_a_foreign_or_missing_part_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = Dataset(tmp_path, "candidates", CANDIDATES)
    dataset.append(candidates(0, 1))
    dataset.append(candidates(1, 2))
    (dataset.folder / "part-00000.parquet").unlink()
    with pytest.raises(StoreError, match="part 0 is missing"):
        dataset.parts()
    pq.write_table(pa.table({"a": [1]}), dataset.folder / "part-00000.parquet")
    with pytest.raises(StoreError, match="not written by edit-r1"):
        dataset.parts()


KILLED = """
import os, signal, sys
from pathlib import Path
from edit_r1.records import Candidate
from edit_r1.store import CANDIDATES, Dataset
import edit_r1.store.files as files

dataset = Dataset(Path(sys.argv[1]), "candidates", CANDIDATES, key="k")
real = os.replace
def replace(*paths):
    if dataset.parts() == 2:
        os.kill(os.getpid(), signal.SIGKILL)  # while the third part lies beside its place
    real(*paths)
files.os.replace = replace
for start in range(dataset.parts() * 10, 50, 10):
    rows = [Candidate(f"c{i}", "s", bytes([i % 256] * 50), "e", i) for i in range(start, start + 10)]
    dataset.append(rows)
"""


def test_a_killed_stage_goes_on_after_its_last_part(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert run.returncode == -signal.SIGKILL
    dataset = Dataset(tmp_path, "candidates", CANDIDATES, key="k")
    assert dataset.parts() == 2
    assert len(list(dataset.folder.glob(".*.tmp"))) == 1, "the interrupted part left its temporary file"
    for start in range(dataset.parts() * 10, 50, 10):
        dataset.append(candidates(start, start + 10))
    assert dataset.finish() == write_dataset(tmp_path / "whole", "candidates", candidates(0, 50), CANDIDATES)
    assert not list(dataset.folder.glob(".*.tmp"))
    assert list(dataset) == candidates(0, 50)


FULL = """
import resource, sys
from pathlib import Path
from edit_r1.store import StoreError, write_text

target = Path(sys.argv[1])
write_text(target, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(target, "new" * 1000)
except StoreError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    run = subprocess.run([sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"{target}: cannot be written (File too large)")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "x.json", tmp_path):
        with pytest.raises(StoreError, match="cannot be written"):
            write_json(path, {})
    with pytest.raises(StoreError, match="cannot be read"):
        read_json(tmp_path / "missing.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="Permission denied"):
        write_text(tmp_path / "x", "y")


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    value = {"score": None, "ci95": [0.1, 0.2], "text": "ä"}
    write_json(tmp_path / "deep" / "x.json", value)
    assert read_json(tmp_path / "deep" / "x.json") == value
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    write_bytes(tmp_path / "b", b"\0")
    assert (tmp_path / "b").read_bytes() == b"\0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "deep"]
    for hostile in ("[" * 100_000, "{", "\xff"):
        (tmp_path / "b").write_text(hostile)
        with pytest.raises(StoreError, match="not valid JSON"):
            read_json(tmp_path / "b")


def test_a_picture_of_several_records_is_held_once(tmp_path: Path) -> None:
    """As the source of a context's candidates; records that are iterated over hold their own."""
    pictures = [b"source", b"source", b"other"]
    preferences = [_compared(number, picture) for number, picture in enumerate(pictures)]
    write_dataset(tmp_path, "pairs", preferences, PREFERENCES)
    read = read_dataset(tmp_path, "pairs", PREFERENCES)
    assert read == preferences
    sources = [one.context.sample.source for one in read]
    assert sources[0] is sources[1]
    assert [one.context.sample.references[0] for one in read] == pictures
    assert read[0].context.sample.references[0] is sources[1]
    assert len({id(one.first.image) for one in read}) == 1
    assert list(Dataset(tmp_path, "pairs", PREFERENCES)) == preferences


def _compared(number: int, source: bytes) -> Preference:
    sample = Sample(f"s{number}", source, "make it red", "colour", references=(source,))
    edits = [Candidate(f"{number}-{side}", sample.id, b"edit", "none", 0) for side in "ab"]
    return Preference(Context(sample, (), "nobody"), edits[0], edits[1], "first", "nobody")


def test_records_of_another_kind_are_named_and_not_to_be_removed(tmp_path: Path) -> None:
    """A person named the wrong dataset: it is not the dataset that is wrong."""
    write_dataset(tmp_path, "edits", candidates(0, 1), CANDIDATES)
    with pytest.raises(
        StoreError, match=r"part-00000\.parquet: holds other columns than what is read here \(category, "
    ):
        read_dataset(tmp_path, "edits", SAMPLES)
