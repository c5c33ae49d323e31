"""`edit-r1 preferences` through `main`: from public data to an audit, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edit_r1.cli import main
from edit_r1.images import encode_png

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["preferences", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def document(capsys: Capture, *arguments: object) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def fails(capsys: Capture, *arguments: object, code: int = 1) -> str:
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, ""), err
    assert err.startswith("edit-r1: ") and err.count("\n") == 1
    return err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two annotators on two pairs, and a row whose picture is missing."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        (folder / f"{number}.png").write_bytes(encode_png(pixels))
    rows = [
        {"source": "0.png", "first": "1.png", "second": "2.png", "choice": choice, "annotator": annotator}
        for choice, annotator in (("first", "ann"), ("second", "bob"))
    ] + [{"source": "0.png", "first": "3.png", "second": "4.png", "choice": "same", "annotator": "ann"},
         {"source": "0.png", "first": "3.png", "second": "gone.png", "choice": "first"}]  # fmt: skip
    text = "".join(json.dumps({"instruction": "Make it blue.", **row}) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(text)
    return folder


def test_import_audit_pool_and_export(capsys: Capture, tmp_path: Path, data: Path) -> None:
    pairs, page = tmp_path / "pairs", tmp_path / "audit.html"
    told = document(capsys, "import", "jsonl", data, "--out", pairs, "--broken", "skip")
    assert (told["written"], told["decided"], told["same"], told["broken"]) == (3, 2, 1, 1)
    assert told["reasons"][0]["row"] == 4 and "gone.png" in told["reasons"][0]["reason"]

    found = document(capsys, "audit", pairs, "--against", data, "--html", page)
    assert (found["rows"], found["repeats"]["contradictory"], found["flip_rate"]["disagreement"]) == (3, 1, 1.0)
    assert found["overlaps"][0]["exact"]["rows"] == 3 and found["findings"]
    assert page.read_text().startswith("<!doctype html>")
    code, out, err = run(capsys, "audit", pairs)
    assert (code, err) == (0, "") and "answered both ways" in out

    pooled = document(capsys, "pool", pairs, "--out", tmp_path / "pooled")
    assert (pooled["rows"], pooled["pairs"], pooled["several"], pooled["same"]) == (3, 2, 1, 2)
    assert pooled["flip_rate"]["rate"] == 0.5

    for kind, out_name, written in (("trl", "t.parquet", 2), ("label-studio", "studio", 2), ("jsonl", "lines", 3)):
        summary = document(capsys, "export", kind, pairs, "--out", tmp_path / out_name)
        assert summary["written"] == written and (tmp_path / out_name).exists()


def test_people_get_sentences(capsys: Capture, tmp_path: Path, data: Path) -> None:
    code, out, err = run(capsys, "import", "jsonl", data, "--out", tmp_path / "pairs", "--broken", "skip")
    assert (code, err) == (0, "")
    assert out.startswith("3 pairs in ") and "row 4" in out and "1 of 4 rows left out" in out
    code, out, _ = run(capsys, "pool", tmp_path / "pairs", "--out", tmp_path / "pooled")
    assert code == 0 and "flip rate: 0.500, from 1 pairs" in out
    code, out, _ = run(capsys, "pool", tmp_path / "pooled", "--out", tmp_path / "again")
    assert code == 0 and "flip rate: unknown" in out
    code, out, _ = run(capsys, "export", "trl", tmp_path / "pairs", "--out", tmp_path / "t")
    assert code == 0 and out.startswith("2 rows in ")


def test_mistakes_are_one_line_and_leave_nothing(capsys: Capture, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    assert "row 4: second 'gone.png': no such file" in fails(capsys, "import", "jsonl", data, "--out", out)
    assert "no column" in fails(capsys, "import", "vs", make_parquet(tmp_path), "--out", out)
    assert "no such file" in fails(capsys, "import", "vs", tmp_path / "gone", "--out", out)
    assert "not finished" in fails(capsys, "audit", tmp_path / "gone")
    assert "--threshold 200" in fails(capsys, "audit", data, "--threshold", 200)
    # Before the data are read, which may take an hour.
    assert "data: cannot be written" in fails(capsys, "audit", tmp_path / "gone", "--html", data)
    assert "not finished" in fails(capsys, "export", "trl", tmp_path / "gone", "--out", out)
    assert "at least one data set" in fails(capsys, "pool", "--out", out, code=2)
    for arguments in (("import", "csv", data, "--out", out), ("export", "coco", data, "--out", out), ("import", "vs")):
        code, text, err = run(capsys, *arguments)
        assert (code, text) == (2, "") and err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.parquet"]


def make_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    return folder / "x.parquet"
