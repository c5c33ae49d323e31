"""Shards that a retry writes again, and what a kill leaves of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from edit_r1.curate import shards as module
from edit_r1.curate.failures import Failure
from edit_r1.curate.shards import Made, Shards, read_shard_failures
from edit_r1.records import GoldVerdicts, Verdict
from edit_r1.store import GOLD_VERDICTS, read_rows, write_json, write_rows
from edit_r1.store.parquet import read_key


class Killed(Exception):
    pass


def row(name: str) -> Made[GoldVerdicts]:
    return Made((GoldVerdicts(name, (Verdict(1, "seen"),), "verifier"),))


def lost(name: str) -> Made[GoldVerdicts]:
    return Made((), (Failure("verify", name, "verifier", "no answer came"),))


def good(names: list[str], _: int = 0) -> list[Made[GoldVerdicts]]:
    return [row(name) for name in names]


def bad(names: list[str], _: int = 0) -> list[Made[GoldVerdicts]]:
    return [lost(name) for name in names]


def nothing(names: list[str], _: int = 0) -> Sequence[Made[GoldVerdicts]]:
    raise AssertionError(f"{names} are made again")


def wanted(*names: str) -> dict[str, str]:
    return {f"key-{name}": name for name in names}


def test_a_retry_that_is_killed_at_any_write_leaves_each_unit_a_row_or_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Shards(tmp_path, GOLD_VERDICTS)
    first = kept.fill("family", wanted("a", "b"), lambda names, turn: [row("a"), lost("b")])

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", killed)
        with pytest.raises(Killed):
            kept.fill("family", wanted("a", "b"), good, retry=True)
    again = kept.fill("family", wanted("a", "b"), nothing)
    assert again.units == first.units and [one.row for one in again.failures] == ["b"]
    mended = kept.fill("family", wanted("a", "b"), good, retry=True)
    assert [one.candidate_id for one in mended.rows] == ["a", "b"] and not mended.failures and mended.new == 1
    assert read_shard_failures(mended.path) == []


def test_a_unit_that_failed_in_one_shard_is_taken_from_the_one_where_it_did_not(tmp_path: Path) -> None:
    for failing in (("a", "b"), ("a", "c")):  # whichever of the two files is read first
        kept = Shards(tmp_path / failing[1], GOLD_VERDICTS)
        other = ("a", "c") if failing == ("a", "b") else ("a", "b")
        kept.fill("one", wanted(*failing), bad)
        kept.fill("two", wanted(*other), good)
        for order in (("one", "two"), ("two", "one")):
            found = kept.fill(f"new-{order[0]}", wanted("a"), nothing, older=order)
            assert [one.candidate_id for one in found.rows] == ["a"] and not found.failures


def test_older_shards_with_failures_in_a_file_of_their_own_are_read(tmp_path: Path) -> None:
    kept = Shards(tmp_path, GOLD_VERDICTS)
    shard = kept.fill("family", wanted("a", "b"), lambda names, turn: [row("a"), lost("b")])
    index = json.loads(read_key(shard.path))
    beside = shard.path.with_name(f"{shard.path.stem}.failures.json")
    write_json(beside, index.pop("failures"))
    write_rows(shard.path, read_rows(shard.path), GOLD_VERDICTS.features, json.dumps(index))
    assert kept.fill("family", wanted("a", "b"), nothing).units == shard.units
    assert read_shard_failures(shard.path) == shard.failures
    assert not kept.fill("family", wanted("a", "b"), good, retry=True).failures and not beside.exists()
