"""Every reader gives the same rows by number; what cannot be read is an error of its row, or one clear line."""

from __future__ import annotations

import gc
import io
import os
import random
import re
import resource
import tarfile
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.curate.intake.archives import Archive, ArchiveBytes, find_archives, list_members, member_table
from edit_r1.curate.intake.hub import HubRows
from edit_r1.curate.intake.imgedit import imgedit_rows
from edit_r1.curate.intake.jsonl import JsonlRows
from edit_r1.curate.intake.open import open_rows
from edit_r1.curate.intake.parquet import ParquetRows
from edit_r1.curate.intake.rows import Columns, Reader, Row, read_category, read_edits, read_row
from edit_r1.curate.intake.webdataset import WebDatasetRows
from edit_r1.images import ImageError, decode_rgb
from edit_r1.store import StoreError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows_of(reader: Reader) -> list[Row]:
    return [read_row(reader, number) for number in range(len(reader))]


def test_a_folder_with_jsonl(folder: Path, data_kit: Any) -> None:
    reader = JsonlRows(folder)
    rows = rows_of(reader)
    assert len(rows) == 7
    assert [row.sources[0] for row in rows[:6]] == [data_kit.photograph(number) for number in range(6)]
    assert rows[2].origin == "rows.jsonl:3"
    assert rows[3].origin == "rows.jsonl:5"  # after an empty line
    assert (rows[6].id, rows[0].id, rows[0].licence, rows[6].licence) == ("seventh", "", "CC0-1.0", "")
    assert [read_category(reader, number) for number in range(7)] == ["a", "b", "a", "b", "a", "b", ""]
    before = reader.fingerprint
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"source": "pictures/1.jpg", "instruction": "Blur it."}\n')
    assert JsonlRows(folder).fingerprint != before


def test_a_jsonl_that_is_written_anew_meanwhile_gives_no_row_of_another(folder: Path) -> None:
    reader = JsonlRows(folder)
    before = rows_of(reader)
    lines = (folder / "rows.jsonl").read_bytes()
    (folder / "rows.jsonl").write_bytes(
        lines.rstrip(b"\n") + b'\n{"source": "pictures/1.jpg", "instruction": "Blur it."}'
    )
    assert rows_of(reader) == before  # what is appended changes nothing
    first, rest = lines.split(b"\n", 1)
    for changed in (rest, b"\n" + lines, first.replace(b"1", b"2") + b"\n" + rest, b""):
        (folder / "rows.jsonl").write_bytes(changed)
        with pytest.raises(ValueError, match="rows.jsonl was changed since the run began: run again"):
            read_row(reader, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "of type list"),
        ("[" * 5000, "not valid JSON"),
        ('{"source": "pictures/0.jpg"}', "has no instruction"),
        ('{"source": [], "instruction": "x"}', "has no source"),
        ('{"source": "pictures/0.jpg", "instruction": 3}', "instruction of type int"),
        ('{"source": "pictures/0.jpg", "instruction": "\\ud800"}', "half a character"),
        ('{"source": 7, "instruction": "x"}', "source of type int"),
        ('{"source": "pictures/none.jpg", "instruction": "x"}', "no such file"),
        ('{"source": "../secret.png", "instruction": "x"}', "outside the data's folder"),
        ('{"source": "/etc/passwd", "instruction": "x"}', "outside the data's folder"),
        ('{"source": "link.png", "instruction": "x"}', "outside the data's folder"),
        ('{"source": "pictures/../../secret.png", "instruction": "x"}', "outside the data's folder"),
        ('{"source": "a\\u0000b", "instruction": "x"}', "cannot be read"),
        ('{"source": "pictures/0.jpg", "instruction": "x", "id": [1]}', "id of type list"),
    ],
)
def test_a_row_that_is_none_says_why(folder: Path, data_kit: Any, line: str, message: str) -> None:
    (folder.parent / "secret.png").write_bytes(data_kit.photograph(1))
    os.symlink(folder.parent / "secret.png", folder / "link.png")
    (folder / "rows.jsonl").write_text(f'{line}\n{{"source": "pictures/1.jpg", "instruction": "x"}}\n')
    reader = JsonlRows(folder)
    with pytest.raises(ValueError, match=message):
        read_row(reader, 0)
    assert read_row(reader, 1).instruction == "x"


@given(st.lists(st.text('{}[]":,\\abesource instruction/.\0é', max_size=60).map(str.encode) | st.binary(max_size=40)))
def test_lines_of_any_bytes_are_rows_or_reasons(tmp_path_factory: Any, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("data")
    good = b'{"source": "a.png", "instruction": "Blur it."}'
    (folder / "a.png").write_bytes(b"a picture, undecoded")
    (folder / "rows.jsonl").write_bytes(b"\n".join([*lines, good]))
    reader = JsonlRows(folder)
    assert len(reader) == sum(bool(line.strip()) for line in b"\n".join([*lines, good]).split(b"\n"))
    for number in range(len(reader) - 1):
        try:
            read_row(reader, number)
        except ValueError as error:
            assert "\n" not in str(error)
    last = read_row(reader, len(reader) - 1)
    assert (last.sources, last.instruction) == ((b"a picture, undecoded",), "Blur it.")


def write_parquet(path: Path, data_kit: Any, count: int = 90, group: int = 20) -> None:
    """Embedded pictures, as `datasets` writes them."""
    rows = [
        {"source": {"bytes": data_kit.photograph(n), "path": None}, "instruction": f"Make thing {n} red."}
        for n in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("source", IMAGE), ("instruction", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=group)


def test_parquet_rows_in_any_order(tmp_path: Path, data_kit: Any) -> None:
    write_parquet(tmp_path / "data" / "a.parquet", data_kit, 90)
    write_parquet(tmp_path / "data" / "deep" / "b.parquet", data_kit, 7, group=3)
    reader = ParquetRows(tmp_path / "data")
    assert len(reader) == 97
    numbers = list(range(97))
    for order in (numbers, numbers[::-1], random.Random(0).sample(numbers, 97), [5, 5, 4, 96, 0]):
        for number in order:
            row, expected = read_row(reader, number), number if number < 90 else number - 90
            assert row.instruction == f"Make thing {expected} red."
            assert row.sources == (data_kit.photograph(expected),)
    assert reader.origin(91) == "deep/b.parquet: row 2"
    assert [read_category(reader, number) for number in (0, 96)] == ["", ""]  # the column is not there


def test_an_output_among_the_data_is_refused(tmp_path: Path, data_kit: Any) -> None:
    """Its own files would be rows of the next run."""
    data = tmp_path / "data"
    write_parquet(data / "a.parquet", data_kit, 3)
    inside = data / "runs" / "cold" / ".work" / "intake"
    with pytest.raises(ValueError, match=f"{data}: .* choose an --out that is not in it"):
        ParquetRows(data).prepare(inside)
    ParquetRows(data / "a.parquet").prepare(inside)
    ParquetRows(data).prepare(tmp_path / "data-runs" / ".work" / "intake")


def test_folders_behind_links_are_gone_into_once_and_unreadable_ones_told(
    tmp_path: Path, data_kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data / "sub", other):
        write_parquet(folder / "rows.parquet", data_kit, 3)
    (data / "linked").symlink_to(other, target_is_directory=True)
    (data / "sub" / "up").symlink_to(data, target_is_directory=True)  # a cycle
    (data / "sub" / "._rows.parquet").write_bytes(b"of macOS")
    assert [file.relative_to(data).as_posix() for file in ParquetRows(data).files] == [
        "linked/rows.parquet", "sub/rows.parquet"
    ]  # fmt: skip

    def walk(top: Any, onerror: Any, followlinks: bool) -> Any:  # as `os.walk` tells it; root may read everything
        onerror(PermissionError(13, "Permission denied", str(data / "sub")))
        yield from ()

    monkeypatch.setattr("edit_r1.curate.intake.folders.os.walk", walk)
    for read in (ParquetRows, find_archives, open_rows):
        with pytest.raises(ValueError, match=f"{data / 'sub'}: cannot be read .Permission denied.: allow it"):
            read(data)


def test_parquet_of_paths_and_lists(folder: Path, data_kit: Any) -> None:
    rows = [
        {"images": ["pictures/0.jpg", "pictures/1.jpg"], "prompt": "Swap them.", "out": ["pictures/2.jpg"], "n": 4},
        {"images": ["../rows.jsonl"], "prompt": "Steal.", "out": [], "n": 5},
        {"images": [], "prompt": "None.", "out": [], "n": 6},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "p.parquet")
    reader = ParquetRows(folder / "p.parquet", Columns("images", "prompt", "", "out", id="n"))
    row = read_row(reader, 0)
    assert (row.id, row.sources) == ("4", (data_kit.photograph(0), data_kit.photograph(1)))
    assert read_edits(reader, 0) == [data_kit.photograph(2)]
    for number, message in ((1, "outside"), (2, "has no images")):
        with pytest.raises(ValueError, match=message):
            read_row(reader, number)


def test_a_column_that_was_named_and_is_nowhere_ends_the_run(tmp_path: Path, data_kit: Any) -> None:
    """A licence by a misspelt name would be lost without a word."""
    write_parquet(tmp_path / "a.parquet", data_kit, 3)
    there = ", ".join(sorted(ParquetRows(tmp_path).names))
    with pytest.raises(ValueError, match=f"has no column key, license; it has {there}: name the right ones"):
        open_rows(tmp_path, Columns(id="key", licence="license"))
    assert len(open_rows(tmp_path, Columns(references=""))) == len(open_rows(tmp_path)) == 3


def test_parquet_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, data_kit: Any) -> None:
    write_parquet(tmp_path / "a.parquet", data_kit, 40, 10)
    with pytest.raises(ValueError, match="has no column prompt; it has instruction, source"):
        ParquetRows(tmp_path, Columns(instruction="prompt"))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.parquet: cannot be read .*: download or write it again"):
        ParquetRows(tmp_path)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match="holds no Parquet file"):
        ParquetRows(tmp_path)
    # Damaged in the middle: the footer is whole, the rows of one group are not.
    (tmp_path / "a.parquet").write_bytes(whole[:2000] + b"\0" * 4000 + whole[6000:])
    reader = ParquetRows(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        rows_of(reader)
    assert read_row(reader, 39).instruction == "Make thing 39 red."


@given(st.integers(0, 20_000), st.binary(min_size=1, max_size=300))
def test_damaged_parquet_ends_in_rows_or_one_line(tmp_path_factory: Any, data_kit: Any, at: int, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    write_parquet(path, data_kit, 12, 4)
    data = path.read_bytes()
    path.write_bytes(data[: at % len(data)] + noise + data[at % len(data) + len(noise) :])
    try:
        reader = ParquetRows(path)
        for number in range(len(reader)):
            with suppress(ValueError):
                read_row(reader, number)
    except ValueError as error:
        assert "a.parquet: cannot be read" in str(error) or "has no column" in str(error) or "no rows" in str(error)
        assert "\n" not in str(error)


def test_values_without_a_python_value_are_reasons(tmp_path: Path, data_kit: Any) -> None:
    far = pa.array([2**31 - 1, 0], pa.date32())
    table = pa.table({"source": pa.array([b"p", b"p"]), "instruction": ["Blur it.", "Add a tree."], "id": far})
    (tmp_path / "deep.parquet").mkdir()  # as Spark writes
    pq.write_table(table, tmp_path / "deep.parquet" / "a.parquet")
    (tmp_path / "._a.parquet").write_bytes(b"of macOS")
    reader = ParquetRows(tmp_path)
    assert len(reader) == 2
    for number, message in ((0, "holds a value that cannot be read"), (1, "id of type date")):
        with pytest.raises(ValueError, match=message):
            read_row(reader, number)


def test_a_saved_dataset_and_a_folder_of_the_hub(tmp_path: Path, data_kit: Any) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"source": datasets.Image(), "instruction": datasets.Value("string")})
    rows = {
        "source": [{"bytes": data_kit.photograph(n), "path": None} for n in range(5)],
        "instruction": [f"Make thing {n} red." for n in range(5)],
    }
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "saved"))
    reader = HubRows(str(tmp_path / "saved"))
    assert [row.sources[0] for row in rows_of(reader)] == [data_kit.photograph(n) for n in range(5)]
    assert reader.origin(2) == "saved: row 3" and read_category(reader, 2) == ""
    assert reader.fingerprint == HubRows(str(tmp_path / "saved")).fingerprint
    with pytest.raises(ValueError, match="has no column prompt"):
        HubRows(str(tmp_path / "saved"), Columns(instruction="prompt"))
    with pytest.raises(ValueError, match="no such folder"):
        HubRows(str(tmp_path / "none"))


# --- archives


@given(st.lists(st.tuples(st.text("ab/._-é", min_size=1, max_size=120), st.binary(max_size=700)), max_size=6))
def test_members_lie_where_the_index_says(tmp_path_factory: Any, files: list[tuple[str, bytes]]) -> None:
    """Against `tarfile` itself, over parts of any size."""
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    whole = path.read_bytes()
    archive = Archive(path.name, (path,))
    with tarfile.open(path) as tar:
        expected = [tar.extractfile(one).read() for one in tar.getmembers() if one.isreg()]  # type: ignore[union-attr]
    members = list(list_members(archive))
    assert [whole[one.offset : one.offset + one.size] for one in members] == expected


def test_links_and_devices_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "s"),
            (tarfile.LNKTYPE, "l"),
            (tarfile.CHRTYPE, "c"),
            (tarfile.DIRTYPE, "d"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("./../../up.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [one.name for one in list_members(Archive("x.tar", (tmp_path / "x.tar",)))] == ["../../up.png"]


def test_headers_without_end_are_told(tmp_path: Path) -> None:
    """A chain of long names without a file recurses in `tarfile`; one that claims gigabytes would be read whole."""
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 4
    (tmp_path / "chain.tar").write_bytes((long.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 900)
    long.size = 3 * 2**30
    (tmp_path / "long.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    comment = tarfile.TarInfo("x")
    comment.type, comment.size = tarfile.XHDTYPE, 2**19
    piece = comment.tobuf() + b"524288 comment=".ljust(2**19 - 1, b"x") + b"\n"
    (tmp_path / "comments.tar").write_bytes(piece * 3 + tarfile.TarInfo("a").tobuf() + bytes(1024))
    for name in ("chain", "long", "comments"):
        with pytest.raises(ValueError, match=rf"{name}\.tar: damaged, cut off or no plain tar") as told:
            list(list_members(Archive(f"{name}.tar", (tmp_path / f"{name}.tar",))))
        assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        list(list_members(Archive("x.tar", (tmp_path / "x.tar",))))
    gc.collect()  # and nothing is written to stderr when the half-made object goes


def test_more_parts_than_may_be_open(tmp_path: Path, data_kit: Any) -> None:
    """A tenth of the descriptors is enough; the bytes are those of the whole."""
    data_kit.write_tar(tmp_path / "x.tar", {f"{n}.jpg": data_kit.photograph(n) for n in range(30)})
    whole = (tmp_path / "x.tar").read_bytes()
    data_kit.split(tmp_path / "x.tar", 1 + len(whole) // 150)
    [archive] = find_archives(tmp_path)
    assert len(archive.parts) > 140
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        data = ArchiveBytes(archive)
        assert data.read(0, data.size) == whole
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_shards_of_one_name_size_and_time_are_two(tmp_path: Path, data_kit: Any) -> None:
    """Padded and stamped alike, as images of containers are."""
    for folder, kind in (("train", "JPEG"), ("val", "PNG")):
        files = [("a.jpg", data_kit.photograph(1)), ("a.txt", kind.encode()), ("b.jpg", data_kit.photograph(2))]
        data_kit.write_tar(tmp_path / folder / "0.tar", files if folder == "train" else files[::-1])
        os.utime(tmp_path / folder / "0.tar", ns=(0, 0))
    sizes = {(tmp_path / folder / "0.tar").stat().st_size for folder in ("train", "val")}
    assert len(sizes) == 1
    kept = tmp_path / "kept"
    for folder, first in (("train", "a.jpg"), ("val", "b.jpg")):
        table = member_table(Archive("0.tar", (tmp_path / folder / "0.tar",)), kept)
        assert table["name"][0].as_py() == first


@pytest.mark.parametrize("cut", [100, 700, 3000, 9000])
def test_a_cut_archive_is_told(tmp_path: Path, data_kit: Any, cut: int) -> None:
    data_kit.write_tar(tmp_path / "x.tar", {f"{n}.jpg": data_kit.photograph(n) for n in range(4)})
    data = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"x\.tar: damaged, cut off or no plain tar .*: download it again"):
        list(list_members(Archive("x.tar", (tmp_path / "x.tar",))))


@given(st.binary(max_size=1500), st.integers(0, 3000))
def test_damaged_archives_end_in_one_line_or_in_members(tmp_path_factory: Any, noise: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("tar")
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name in "abc":
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(b"x" * 600))
    data = (folder / "x.tar").read_bytes()
    (folder / "x.tar").write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        members = list(list_members(Archive("x.tar", (folder / "x.tar",))))
    except ValueError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
    else:
        assert all(one.size >= 0 for one in members)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        info = tarfile.TarInfo("a")
        tar.addfile(info)
    with pytest.raises(ValueError, match="compressed ones have to be decompressed"):
        list(list_members(Archive("x.tar", (tmp_path / "x.tar",))))


def test_parts_are_found_and_missing_ones_told(tmp_path: Path, data_kit: Any) -> None:
    for name in ("one.tar.split.000", "one.tar.split.001", "two.tar.aa", "two.tar.ab", "three.tar", "four.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [(one.name, len(one.parts)) for one in find_archives(tmp_path)] == [
        ("one.tar", 2),
        ("three.tar", 1),
        ("two.tar", 2),
    ]
    (tmp_path / "._three.tar").write_bytes(b"of macOS")
    (tmp_path / "folder.tar").mkdir()
    assert len(find_archives(tmp_path)) == 3
    (tmp_path / "two.tar.001").write_bytes(b"")
    with pytest.raises(ValueError, match=r"two\.tar\.ab: the same part as two\.tar\.001: remove one"):
        find_archives(tmp_path)
    (tmp_path / "two.tar.001").unlink()
    (tmp_path / "one.tar.split.003").write_bytes(b"")
    with pytest.raises(ValueError, match=r"one\.tar: part 2 of 4 is missing"):
        find_archives(tmp_path)


@pytest.fixture
def imgedit(tmp_path: Path, data_kit: Any) -> Path:
    """Two archives in parts, cut through members; and a row whose picture is in neither."""
    data = tmp_path / "ImgEdit"
    rows = []
    for kind in ("action", "add"):
        files = {}
        for n in range(5):
            files[f"{kind}_part/{n}/original.jpg"] = data_kit.photograph(n)
            files[f"{kind}_part/{n}/result.png"] = data_kit.photograph(50 + n, kind="PNG")
            rows.append(
                {
                    "input_images": [f"{kind}_part/{n}/original.jpg"],
                    "output_images": [f"{kind}_part/{n}/result.png"],
                    "prompt": f"{kind} {n}",
                }
            )
        data_kit.write_tar(data / "Singleturn" / f"{kind}.tar", files)
        assert len(data_kit.split(data / "Singleturn" / f"{kind}.tar", 7001)) > 3
    rows.append({"input_images": ["gone.jpg"], "output_images": ["gone.png"], "prompt": "lost"})
    rows.append({"input_images": ["add/add_part/1/original.jpg"], "output_images": [], "prompt": "with the archive"})
    (data / "Parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), data / "Parquet" / "all.parquet")
    return data


def test_imgedit_is_read_in_place(imgedit: Path, tmp_path: Path, data_kit: Any) -> None:
    kept = tmp_path / "out" / ".work"
    before = sorted(path for path in imgedit.rglob("*"))
    reader = imgedit_rows(imgedit)
    reader.prepare(kept)
    for number in range(10):
        row = read_row(reader, number)
        assert row.sources == (data_kit.photograph(number % 5),)
        assert row.instruction == f"{'action' if number < 5 else 'add'} {number % 5}"
        assert read_edits(reader, number) == [data_kit.photograph(50 + number % 5, kind="PNG")]
    with pytest.raises(ImageError, match=r"input_images 'gone.jpg': in none of the 2 archives"):
        read_row(reader, 10)
    assert read_row(reader, 11).sources == (data_kit.photograph(1),)
    assert sorted(path for path in imgedit.rglob("*")) == before  # nothing is written beside the data
    assert len(list(kept.rglob("*.parquet"))) == 2


def test_the_index_is_kept_and_made_anew_when_the_archive_changes(tmp_path: Path, data_kit: Any) -> None:
    path = tmp_path / "x.tar"
    data_kit.write_tar(path, {"a.jpg": data_kit.photograph(0)})
    kept = tmp_path / "kept"
    first = member_table(Archive("x.tar", (path,)), kept)
    [file] = kept.rglob("*.parquet")
    written = file.stat().st_mtime_ns
    assert member_table(Archive("x.tar", (path,)), kept).equals(first)
    assert file.stat().st_mtime_ns == written
    data_kit.write_tar(path, {"a.jpg": data_kit.photograph(0), "b.jpg": data_kit.photograph(1)})
    assert len(member_table(Archive("x.tar", (path,)), kept)) == 2
    for file in kept.rglob("*.parquet"):
        file.write_bytes(b"torn")
    with pytest.raises(StoreError, match="remove it, the archive is indexed again"):
        member_table(Archive("x.tar", (path,)), kept)


# --- WebDataset


@pytest.fixture
def shards(tmp_path: Path, data_kit: Any) -> Path:
    data = tmp_path / "shards"
    first = []
    for n in range(3):
        first += [(f"s/{n:05d}.jpg", data_kit.photograph(n)), (f"s/{n:05d}.txt", f"Make thing {n} red.".encode())]
    data_kit.write_tar(data / "00000.tar", first)
    second = [
        ("a.source.png", data_kit.photograph(7, kind="PNG")),
        ("a.edited.jpg", data_kit.photograph(8)),
        ("a.json", b'{"instruction": "From JSON.", "licence": "MIT", "id": 12}'),
        ("b.jpg", data_kit.photograph(9)),
        ("b.json", b"[1]"),
        ("c.jpg", data_kit.photograph(9)),
        ("c.png", data_kit.photograph(9, kind="PNG")),
        ("c.txt", b"Two."),
        ("d.txt", b"\xff"),
        ("e.json", b'{"source": "/etc/passwd", "instruction": "Steal."}'),
    ]
    data_kit.write_tar(data / "00001.tar", second)
    return data


def test_an_output_among_shards_is_refused(shards: Path, tmp_path: Path) -> None:
    """Its Parquet files would be taken for ImgEdit's."""
    for out in (shards / "out" / ".work", shards / ".work"):
        with pytest.raises(ValueError, match=f"{shards}: .* choose an --out that is not in it"):
            WebDatasetRows(shards).prepare(out)
    WebDatasetRows(shards).prepare(tmp_path / "beside")


def test_webdataset_shards(shards: Path, tmp_path: Path, data_kit: Any) -> None:
    reader = WebDatasetRows(shards, Columns(edits="edited"))
    reader.prepare(tmp_path / "kept")
    assert len(reader) == 8
    for number in (2, 0, 1):
        row = read_row(reader, number)
        assert (row.instruction, row.sources) == (f"Make thing {number} red.", (data_kit.photograph(number),))
        assert row.origin == f"00000.tar: s/{number:05d}"
    row = read_row(reader, 3)
    assert (row.instruction, row.licence, row.id) == ("From JSON.", "MIT", "12")
    assert row.sources == (data_kit.photograph(7, kind="PNG"),)
    assert read_edits(reader, 3) == [data_kit.photograph(8)]
    for number, message in (
        (4, "write an object"),
        (5, "two pictures for source"),
        (6, "not UTF-8"),
        (7, "file of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            read_row(reader, number)
    with pytest.raises(ValueError, match="no shard"):
        WebDatasetRows(tmp_path / "none")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b"", "a.txt": b"Blur it."}, "empty"),
        ({"a.jpg": b"p", "a.json": b'{"instruction": 1}'}, "instruction of type int"),
        ({"a.jpg": b"p", "a.json": b'{"instruction": ["x"]}'}, "instruction of type list"),
        ({"a.jpg": b"p", "a.txt": b"Blur it.", "a.json": b'{"id": {"a": 1}}'}, "id of type dict"),
        ({"a.jpg": b"p", "a.txt": b"Blur it.", "a.json": b'{"id": ' + b"9" * 5000 + b"}"}, "'a.json': not valid JSON"),
        ({"a.jpg": b"p", "a.txt": b"Blur it.", "a.json": b""}, "'a.json': not valid JSON"),
        (
            {"a.jpg": b"p", "a.txt": b"Blur it.", "a.json": b'{"instruction": "Add a tree."}'},
            "instruction stands there",
        ),
        ({"a.jpg": b"p", "a.txt": bytes(2**20 + 1)}, "larger than 1048576 bytes"),
        ({"a.jpg": b"p", "a.references.png": b"p", "a.json": b'{"references": ["/etc/passwd"]}'}, "has no instruction"),
        (
            {"x/../../a.jpg": b"p", "x/../../a.json": b'{"instruction": "x", "source": "../a"}'},
            "not an image that can be read",
        ),
    ],
)
def test_a_sample_of_hostile_files_says_why(
    tmp_path: Path, data_kit: Any, files: dict[str, bytes], message: str
) -> None:
    data_kit.write_tar(tmp_path / "x.tar", [*files.items(), ("z.jpg", b"p"), ("z.txt", b"Sharpen it.")])
    reader = WebDatasetRows(tmp_path / "x.tar")
    assert len(reader) == 2 and read_row(reader, 1).instruction == "Sharpen it."
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        decode_rgb(read_row(reader, 0).sources[0])
    assert "\n" not in str(told.value)


def test_what_is_told_twice_alike_is_taken_and_columns_of_texts_too(tmp_path: Path, data_kit: Any) -> None:
    """As img2dataset writes it; and what macOS adds takes no sample apart."""
    files = [
        ("README", b"Hello."),
        ("s/._0.jpg", b"of macOS"),
        ("s/0.jpg", b"p"),
        ("s/._0.txt", b"of macOS"),
        ("s/0.txt", b"Blur it."),
        ("s/0.json", b'{"instruction": "Add a tree.", "instruction": "Blur it."}'),  # the last of two keys, as in JSON
        ("s/0.category.txt", b"style transfer"),
    ]
    data_kit.write_tar(tmp_path / "x.tar", files)
    reader = WebDatasetRows(tmp_path / "x.tar")
    assert len(reader) == 1
    row = read_row(reader, 0)
    assert (row.sources, row.instruction, row.category) == ((b"p",), "Blur it.", "style transfer")
    assert read_category(reader, 0) == "style transfer" and row.origin == "x.tar: s/0"


names = st.text("ab./", min_size=1, max_size=6)
endings = st.sampled_from(["jpg", "PNG", "source.webp", "txt", "json", "edited.jpg", "", "cls"])


@given(
    st.lists(
        st.tuples(names, endings, st.sampled_from([b"{}", b'{"id": 1}', b"text", b"\xff", b"[" * 3000])), max_size=8
    )
)
def test_shards_of_any_names_are_rows_or_reasons(tmp_path_factory: Any, data_kit: Any, files: list[Any]) -> None:
    """Against a grouping by hand: files that follow each other and share what stands before the first dot."""
    path = tmp_path_factory.mktemp("shard") / "x.tar"
    members = [(f"{name}.{ending}", data) for name, ending, data in files]
    data_kit.write_tar(path, [*members, ("zz/last.jpg", b"p"), ("zz/last.txt", b"Blur it.")])
    reader = WebDatasetRows(path)
    with tarfile.open(path) as tar:
        keys = [re.fullmatch(r"(?:\./)?((?:.*/)?[^/.]+)\.[^/]*", one.name) for one in tar.getmembers()]
    assert len(reader) == sum(1 for _ in groupby(found[1] for found in keys if found))
    for number in range(len(reader) - 1):
        try:
            read_row(reader, number)
        except ValueError as error:
            assert "\n" not in str(error)
    assert read_row(reader, len(reader) - 1).instruction == "Blur it."
