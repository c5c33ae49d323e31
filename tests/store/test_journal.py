"""Journals: what was appended is read, whatever was torn."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.store import StoreError
from edit_r1.store.journal import TAIL, Journal, encode_line, last_values, read_journal, read_lines

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=6), st.data())
def test_what_is_torn_at_any_byte_is_the_last_line_alone(values: list[Any], data: st.DataObject) -> None:
    lines = [encode_line(value) for value in values]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    # A line is whole without its newline too: its checksum says so.
    ends = [sum(map(len, lines[: number + 1])) - 1 for number in range(len(lines))]
    assert list(read_lines(whole[:cut])) == values[: sum(end <= cut for end in ends)]


@given(st.lists(JSON, min_size=1, max_size=5), st.data())
def test_a_damaged_byte_loses_its_line_at_most(values: list[Any], data: st.DataObject) -> None:
    lines = [encode_line(value) for value in values]
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 2))  # a damaged newline joins two lines, and loses both
    damaged = bytearray(lines[number])
    damaged[place] ^= data.draw(st.integers(1, 255))
    if b"\n" in damaged[:-1]:
        return
    lines[number] = bytes(damaged)
    assert list(read_lines(b"".join(lines))) == values[:number] + values[number + 1 :]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(data: bytes) -> None:
    assert list(read_lines(data)) == []


def test_writers_have_files_of_their_own_and_threads_share_one(tmp_path: Path) -> None:
    journals = [Journal(tmp_path), Journal(tmp_path)]
    assert not list(tmp_path.iterdir())
    threads = [
        threading.Thread(target=lambda number=number: [journals[number % 2].append([number, n]) for n in range(50)])
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for journal in journals:
        journal.close()
        journal.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert sorted(read_journal(tmp_path)) == [[number, n] for number in range(4) for n in range(50)]


def test_the_last_value_of_each_writer(tmp_path: Path) -> None:
    short, long = Journal(tmp_path), Journal(tmp_path)
    for number in range(100):
        short.append(number)
    long.append("x" * 3 * TAIL)
    with open(long.path, "ab") as file:
        file.write(encode_line("torn")[:-3])
    assert last_values(tmp_path) == {short.path.name: 99, long.path.name: "x" * 3 * TAIL}
    size = short.size
    short.restart({"all": 100})
    assert short.size < size and last_values(tmp_path)[short.path.name] == {"all": 100}
    short.append(101)
    assert list(read_lines(short.path.read_bytes())) == [{"all": 100}, 101]
    assert last_values(tmp_path / "none") == {}


def test_a_killed_process_loses_nothing_it_was_told_is_written(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom edit_r1.store.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(10**9):\n    journal.append(number)\n    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 300:
            break
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split() if line]
    process.wait()
    kept = list(read_journal(tmp_path))
    assert kept == list(range(len(kept))) and len(kept) > max([300, *told])


@pytest.mark.parametrize("half", [False, True], ids=["refused", "half a line"])
def test_a_full_disk_is_told_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    journal = Journal(tmp_path)
    journal.append("before")
    write = os.write

    def full(file: int, data: bytes) -> int:
        if half:
            return write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edit_r1.store.journal.os.write", full)
        with pytest.raises(StoreError, match="cannot be written"):
            journal.append("lost")
    journal.append("after")
    assert list(read_journal(tmp_path)) == ["before", "after"]


def test_what_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(tmp_path).append(float("nan"))
