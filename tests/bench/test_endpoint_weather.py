"""The bench of a curation in bad weather runs, killed once, and its books add up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_a_small_storm_is_told(benches: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = benches("endpoint_weather")
    small = {
        "rate": 60.0,
        "minutes": 0.02,
        "latency": 0.01,
        "stall": 0.2,
        "timeout": 2.0,
        "concurrency": 8,
        "chunks": 2,
    }
    bench.main(tmp_path / "out", kills=1, **small)
    told = json.loads((tmp_path / "out" / "endpoint_weather.json").read_text())
    samples, rows = round(60 * 60 * 0.02 / bench.ANSWERS), told["rows"]
    assert rows["samples"] == samples and rows["contexts"] <= samples and rows["candidates"] == 2 * rows["contexts"]
    assert told["billed_again_after_stored"] == 0 and told["answers"] == told["distinct"] + told["billed_twice"]
    assert told["kills"] in (0, 1) and told["answers"] > samples and set(told["faults"]) - {"limit"}
    assert "share_of_allowed" in capsys.readouterr().out


def test_only_a_benchs_own_folder_is_emptied(benches: Any, tmp_path: Path) -> None:
    begin_anew = benches("kept").begin_anew
    begin_anew(tmp_path / "out")
    (tmp_path / "out" / "old").mkdir()
    begin_anew(tmp_path / "out")
    assert not (tmp_path / "out" / "old").exists()
    (tmp_path / "mine").mkdir()
    begin_anew(tmp_path / "mine")  # empty
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("{}")
    with pytest.raises(SystemExit, match="holds something else, which would be removed"):
        begin_anew(tmp_path / "data")
    assert (tmp_path / "data" / "rows.jsonl").read_text() == "{}"
