"""The bench of a curation's memory runs on both kinds of samples, and every context gets through."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("source", ["drawn", "parquet"])
def test_every_context_gets_through(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    bench: Any = importlib.import_module("curate_memory")
    bench.main(tmp_path, contexts=20, chunk_size=2, source=source)
    summary = json.loads((tmp_path / "data" / "summary.json").read_text())
    assert summary["rows"]["selected"] == 20 and not any(summary["failed"].values())
    told = json.loads((tmp_path / "curate_memory.json").read_text())
    assert [row["share"] for row in told["tenths"]] == [place / 10 for place in range(1, 11)]
    assert told["end"]["seconds"] >= told["tenths"][-1]["seconds"]
    assert bool(told["looked"]) == (source == "parquet")
    assert "data sets assembled" in capsys.readouterr().out
