"""The hash of a data set, against the plain way: all hashes as texts, sorted and joined."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from edit_r1.records import Candidate
from edit_r1.store import CANDIDATES, Dataset, RowHashes, StoreError, row_hash, write_dataset
from edit_r1.store import hashes as module


def plainly(hashes: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def some(count: int, seed: int) -> list[str]:
    """Hashes of which many begin alike, hold NUL bytes or end in them, and some stand there twice."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        kept = draw.randint(0, 32)
        found.append((bytes(draw.choice((0, 1, 127, 128, 255)) for _ in range(kept)) + bytes(32 - kept)).hex())
    return found + found[: count // 3]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 1000])
def test_the_digest_is_that_of_sorted_texts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for at_once in (1, 3, 10_000):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        for seed in range(10):
            given = some(count, seed)
            piled = RowHashes(given[: count // 2])
            for one in given[count // 2 :]:
                piled.add([one])
            assert len(piled) == len(given) and piled.digest() == plainly(given)
            random.Random(seed).shuffle(given)
            assert RowHashes(given).digest() == piled.digest() == plainly(given), "asked again too"


def test_rows_count_as_often_as_they_stand_there() -> None:
    once, empty = row_hash({"a": 1}), row_hash({})
    assert len({RowHashes(own).digest() for own in ((), (empty,), (once,), (once, once))}) == 4


def test_no_other_texts_are_taken() -> None:
    with pytest.raises(ValueError, match="give the 64 hex digits of `row_hash`"):
        RowHashes(["00ff"])
    with pytest.raises(ValueError, match="hexadecimal"):
        RowHashes(["no hash"])


def numbered(count: int) -> Iterator[str]:
    return (hashlib.sha256(str(number).encode()).hexdigest() for number in range(count))


def test_a_row_takes_some_36_bytes() -> None:
    count = 300_000
    tracemalloc.start()
    try:
        piled = RowHashes(numbered(count))
        held, _ = tracemalloc.get_traced_memory()
        assert held < 40 * count  # grown by an eighth at a time
        tracemalloc.reset_peak()
        piled.digest()
        assert tracemalloc.get_traced_memory()[1] - held < 4 * 2**20, "texts of a piece at a time"
    finally:
        tracemalloc.stop()


def test_a_data_set_is_assembled_without_the_texts_of_its_hashes(tmp_path: Path) -> None:
    write_dataset(tmp_path, "one", [Candidate("c", "s", b"x", "e", 0)], CANDIDATES)
    [file] = Dataset(tmp_path, "one", CANDIDATES).paths()
    count = 300_000
    tracemalloc.start()
    try:
        digest = Dataset(tmp_path, "two", CANDIDATES).assemble((file, own) for own in [numbered(count)])
        assert tracemalloc.get_traced_memory()[1] < 80 * count  # 40, and as much again where the array must be moved
    finally:
        tracemalloc.stop()
    assert digest == plainly(numbered(count))


def test_what_stood_there_stays_until_every_file_was_looked_at(tmp_path: Path) -> None:
    write_dataset(tmp_path, "one", [Candidate("c", "s", b"x", "e", 0)], CANDIDATES)
    dataset = Dataset(tmp_path, "one", CANDIDATES)

    def damaged() -> Iterator[tuple[Path, list[str]]]:
        yield dataset.paths()[0], list(numbered(1))
        raise StoreError("shard 2: damaged")

    with pytest.raises(StoreError, match="shard 2"):
        dataset.assemble(damaged())
    assert dataset.done() and len(list(dataset)) == 1
