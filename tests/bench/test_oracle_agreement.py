"""The bench of the two ways into the oracle: shares follow from its counts, and there is none of nothing."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("oracle_agreement")


def test_shares_follow_from_the_counts(bench: Any) -> None:
    tally = bench.Tally()
    assert tally.row()["agreement"] is None
    for gold, seen in ((1, 1), (1, 0), (1, 1)):
        tally.add("keep", gold, seen)
    assert tally.row()["agreement"] == 2 / 3 and tally.row()["failed_agreement"] is None
    for gold, seen in ((0, 0), (0, 1)):
        tally.add("sharp", gold, seen)
    row = bench.merged([tally, tally]).row()
    assert (row["verdicts"], row["failed"], row["failed_agreement"]) == (10, 4, 0.5)


def test_what_never_failed_has_no_share(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(count=24, stress=0, out=tmp_path / "told.json")
    kinds = json.loads((tmp_path / "told.json").read_text())["train and test"]["kinds"]
    assert {one["failed_agreement"] is None for one in kinds.values() if not one["failed"]} == {True}
    assert all(0 <= one["failed_agreement"] <= 1 for one in kinds.values() if one["failed"])
    lines = {line[:22].strip(): line.split()[-1] for line in capsys.readouterr().out.splitlines() if len(line) > 40}
    assert {lines[kind] for kind, one in kinds.items() if not one["failed"]} == {"-"}
