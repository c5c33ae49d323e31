"""Files of edits: what is read and refused, and that a killed run ends as one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from edit_r1.images import encode_png
from edit_r1.records import CATEGORIES, INSTRUCTION_FOLLOWING
from edit_r1.store import StoreError, read_rows, write_rows
from edit_r1.verifier.batch import BatchOptions, score_file
from edit_r1.verifier.inputs import open_data, read_inputs
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.verifier.traces import write_trace
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.openai import OpenAIVLM
from edit_r1.vlm.protocol import Completion, Request, Sampling

PRINCIPLES = [{"question": "Is it bright?", "category": INSTRUCTION_FOLLOWING, "gold": 1}]
SOURCE = encode_png(np.zeros((16, 16, 3), np.uint8))
SMALL = BatchOptions(chunk=4, traces=2)
TRACE = write_trace(["seen"], [1], 7.5, "both", "compact")


def edited(level: int) -> bytes:
    return encode_png(np.full((16, 16, 3), level, np.uint8))


class Lamp:
    """A model that scores brightness, a little differently for every seed; it may be told to break down."""

    name, simulated = "lamp", False

    def __init__(self, calls: int = 10**9) -> None:
        self.calls_left = calls
        self.asked = 0

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KeyboardInterrupt
        self.asked += len(requests)
        return [[self._one(request, sampling.seed + copy) for copy in range(n)] for request in requests]

    def _one(self, request: Request, seed: int) -> Completion:
        if "odd" in request.text:
            return Completion("I cannot say.", 3, "stop")
        score = (len(request.images[-1]) + seed) % 10
        return Completion(write_trace([f"seed {seed}"], [1], score, "both", "compact"), 9, "stop")


def lamp(calls: int = 10**9) -> Verifier:
    return Verifier(Lamp(calls), variant="compact")


def jsonl(folder: Path, rows: Sequence[Any], name: str = "edits.jsonl") -> Path:
    """A data folder with pictures 0.png ... 9.png and source.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.png").write_bytes(SOURCE)
    for level in range(10):
        (folder / f"{level}.png").write_bytes(edited(25 * level))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def good(number: int, **change: Any) -> dict[str, Any]:
    row = {"id": f"e{number}", "source": "source.png", "edited": f"{number % 10}.png", "instruction": "Light it",
           "principles": PRINCIPLES, "category": "ignored"}  # fmt: skip
    return {**row, **change}


def results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def without_time(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_rows_go_in_and_rows_come_out(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(0), good(1, id=7), "", good(2, source=["source.png", "0.png"], id=None)])
    out = tmp_path / "out.jsonl"
    steps: list[tuple[int, int]] = []
    summary = score_file(lamp, data.parent, out, SMALL, {"model": "lamp"}, progress=lambda *at: steps.append(at))
    rows = results(out)
    assert [(row["row"], row["id"]) for row in rows] == [(0, "e0"), (1, "7"), (2, None)]
    assert all(row["score"] is not None and row["traces"] == 2 and row["tokens"] == 18 for row in rows)
    assert rows[0]["principles"][0]["verdict"] == 1.0 and set(rows[0]["categories"]) == set(CATEGORIES)
    assert rows[0].keys() >= {"score_std", "model", "seconds", "cause", "error"} and "texts" not in rows[0]
    assert (summary.rows, summary.scored, summary.unparsed, summary.failed) == (3, 3, 0, {})
    assert (summary.traces, summary.unparsed_traces, summary.tokens, summary.usage) == (6, 0, 54, None)
    assert steps == [(0, 3), (3, 3)]
    again = score_file(lambda: pytest.fail("opened"), data, out, SMALL, {"model": "lamp"})
    assert again == replace(summary, judged=0, seconds=0.0, edits_per_second=None)


def test_ties_are_counted_among_the_edits_of_one_source_and_instruction(tmp_path: Path) -> None:
    """The lamp scores by the length of the picture's bytes: pictures 1 and 2 are as long, and tie."""
    level = len({len(edited(25)), len(edited(50))})
    assert level == 1
    rows = [good(1), good(2), good(1, instruction="Paint it"), good(2, source="9.png"), good(3, edited="missing.png")]
    options = replace(SMALL, traces=1)
    summary = score_file(lamp, jsonl(tmp_path / "data", rows), tmp_path / "out.jsonl", options, {})
    assert summary.ties == {"contexts": 1, "pairs": 1, "tie_rate": 1.0, "tie_rate_expected": None}
    written = results(tmp_path / "out.jsonl")
    same, other, *apart, broken = [row["context"] for row in written]
    assert same == other and len({same, *apart}) == 3 and broken is None
    assert summary.repeated == 0


def test_a_file_of_an_older_version_is_finished_without_what_it_did_not_note(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(6)])
    for name in ("out.jsonl", "out.parquet"):
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            score_file(lambda: lamp(1), data, out, SMALL, {})
        journal = out if out.suffix == ".jsonl" else tmp_path / "out.parquet.rows.jsonl"
        old = [{k: v for k, v in row.items() if k not in ("context", "repeated")} for row in results(journal)]
        journal.write_text("".join(json.dumps(row) + "\n" for row in old))
        summary = score_file(lamp, data, out, SMALL, {})
        assert (summary.scored, summary.judged) == (6, 2)
        assert summary.ties is not None and summary.ties["pairs"] == 1
        record = tmp_path / f"{name}.run.json"
        state = json.loads(record.read_text())
        del state["summary"]["ties"], state["summary"]["repeated"]
        record.write_text(json.dumps(state))
        again = score_file(lambda: pytest.fail("opened"), data, out, SMALL, {})
        assert (again.scored, again.ties, again.repeated) == (6, None, 0)


def test_repeated_principles_are_counted_once_a_context(tmp_path: Path) -> None:
    class Writer(Lamp):
        def _one(self, request: Request, seed: int) -> Completion:
            if len(request.images) > 1:
                return super()._one(request, seed)
            return Completion("1 [Follow] Is it bright?\n2 [Follow] is it BRIGHT", 9, "stop")

    rows = [good(1, principles=None), good(2, principles=None), good(3)]
    data = jsonl(tmp_path / "data", rows)
    summary = score_file(lambda: Verifier(Writer(), variant="compact"), data, tmp_path / "out.parquet", SMALL, {})
    assert (summary.scored, summary.repeated) == (3, 1)
    assert [row["repeated"] for row in read_rows(tmp_path / "out.parquet")] == [1, 1, 0]


def bad_rows(tmp_path: Path) -> list[tuple[Any, str, str]]:
    (tmp_path / "secret.png").write_bytes(SOURCE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "torn.png").write_bytes(SOURCE[:40])
    os.mkfifo(tmp_path / "data" / "pipe.png")
    return [
        ("{torn", "row", "not valid JSON"),
        ("[" * 100_000, "row", "not valid JSON"),
        ([1], "row", "of type list"),
        ({"source": "source.png"}, "row", "no edited, instruction"),
        (good(0, edited=None), "row", "no edited"),
        (good(0, edited=3), "row", "edited of type int"),
        (good(0, instruction=["x"]), "row", "instruction of type list"),
        (good(0, instruction=" "), "row", "empty"),
        (good(0, instruction="half \ud800"), "row", "half a character"),
        (good(0, source=[]), "row", "0 source images"),
        (good(0, principles=[]), "row", "no principles"),
        (good(0, principles=[{"question": "?"}]), "row", "principle 1 is malformed"),
        (good(0, edited="missing.png"), "picture", "no such file"),
        (good(0, edited="torn.png"), "picture", "not an image"),
        (good(0, edited="edits.jsonl"), "picture", "not an image"),
        (good(0, edited="pipe.png"), "picture", "no such file"),
        (good(0, edited="null\0.png"), "picture", "cannot be read"),
        (good(0, edited="x" * 5000), "picture", "cannot be read"),
        (good(0, source="../secret.png"), "picture", "outside"),
        (good(0, source=str(tmp_path / "secret.png")), "picture", "outside"),
        (good(0, source="link.png"), "picture", "outside"),
        (good(0, instruction="odd"), "unparsed", ""),
    ]


def test_a_bad_row_is_a_row_with_a_reason(tmp_path: Path) -> None:
    bad = bad_rows(tmp_path)
    rows = [row for one, _, _ in bad for row in (one, good(1))]
    data = jsonl(tmp_path / "data", rows)
    summary = score_file(lamp, data, tmp_path / "out.jsonl", replace(SMALL, keep_texts=True), {})
    written = results(tmp_path / "out.jsonl")
    assert len(written) == len(rows) == summary.rows
    assert all(row["score"] is not None and row["cause"] is None for row in written[1::2])
    for (_, cause, said), row in zip(bad, written[::2], strict=True):
        assert row["score"] is None and row["cause"] == cause and said in row["error"], row
        assert row["traces"] == row["unparsed"] == (2 if cause == "unparsed" else 0)
    assert summary.unparsed == 1 and summary.scored == len(bad)
    assert (summary.traces, summary.unparsed_traces) == (2 * len(bad) + 2, 2)
    assert summary.failed == {"picture": 9, "row": 12} and set(summary.reasons) == {"picture", "row", "unparsed"}
    assert written[1]["texts"][0]["text"].startswith("1 seed") and written[0]["texts"] == []
    assert written[-2]["texts"][0] == {"text": "I cannot say.", "score": None, "reason": written[-2]["error"]}


def test_paths_outside_are_read_when_allowed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(SOURCE)
    data = jsonl(tmp_path / "data", [good(0, source="../secret.png"), good(1, source=str(tmp_path / "secret.png"))])
    summary = score_file(lamp, data, tmp_path / "out.jsonl", replace(SMALL, allow_outside=True), {})
    assert summary.scored == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, suffix: str, calls: int) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(11)])
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    score_file(lamp, data, whole, SMALL, {})
    with pytest.raises(KeyboardInterrupt):
        score_file(lambda: lamp(calls), data, out, SMALL, {})
    journal = out if suffix == ".jsonl" else tmp_path / "out.parquet.rows.jsonl"
    assert len(results(journal)) == 4 * calls
    if calls:  # a kill in the middle of a write leaves whole lines of a chunk and a torn one
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines, lines[0].replace(b'"row": 0', f'"row": {4 * calls}'.encode()), b'{"ro']))
    model = Lamp()
    # Another chunk size has no say: neighbours and seeds stay those of the run that was begun.
    summary = score_file(lambda: Verifier(model, variant="compact"), data, out, replace(SMALL, chunk=3), {})
    assert model.asked == summary.judged == 11 - 4 * calls
    read = results if suffix == ".jsonl" else read_rows
    assert without_time(read(out)) == without_time(read(whole))
    assert not (tmp_path / "out.parquet.rows.jsonl").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == [
        f"out{suffix}", f"out{suffix}.run.json"
    ]  # fmt: skip


def test_a_damaged_file_is_not_taken_for_a_killed_one(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(11)])
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(lambda: lamp(2), data, out, SMALL, {})
    out.write_bytes(out.read_bytes().replace(b'"row": 1', b'"row": 5', 1))
    before = out.read_bytes()
    with pytest.raises(StoreError, match="line 2 is damaged"):
        score_file(lamp, data, out, SMALL, {})
    assert out.read_bytes() == before


def test_a_served_model_may_have_moved(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(9)])
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(lambda: lamp(1), data, out, SMALL, {"model": "lamp", "endpoint": "http://one:8000/v1"})
    summary = score_file(lamp, data, out, SMALL, {"model": "lamp", "endpoint": "http://two:8000/v1"})
    assert (summary.scored, summary.judged) == (9, 5)


def test_another_question_is_refused_and_the_difference_told(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(9)])
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(lambda: lamp(1), data, out, SMALL, {"model": "lamp", "endpoint": None})
    before = out.read_bytes()
    for options, settings, said in (
        (SMALL, {"model": "sun", "endpoint": None}, "model: 'lamp' then, 'sun' now"),
        (replace(SMALL, seed=3), {"model": "lamp", "endpoint": None}, "seed: 0 then, 3 now"),
        (replace(SMALL, traces=4), {"model": "lamp", "endpoint": None}, "traces: 2 then, 4 now"),
    ):
        with pytest.raises(StoreError, match=said):
            score_file(lamp, data, out, options, settings)
    with pytest.raises(StoreError, match="endpoint: None then"):
        score_file(lamp, data, out, SMALL, {"model": "lamp", "endpoint": "http://one:8000/v1"})
    with pytest.raises(StoreError, match="expected: None then, True now"):
        score_file(lamp, data, out, replace(SMALL, expected=True), {"model": "lamp", "endpoint": None})
    jsonl(tmp_path / "data", [good(number) for number in range(10)])
    with pytest.raises(StoreError, match="data: .* then, .* now; rows: 9 then, 10 now"):
        score_file(lamp, data, out, SMALL, {"model": "lamp", "endpoint": None})
    assert out.read_bytes() == before
    (tmp_path / "other.jsonl").write_text("mine")
    with pytest.raises(StoreError, match=r"has no other.jsonl.run.json"):
        score_file(lamp, data, tmp_path / "other.jsonl", SMALL, {})
    with pytest.raises(ValueError, match="end its name"):
        score_file(lamp, data, tmp_path / "out.csv", SMALL, {})


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(3)])
    out = tmp_path / "out.jsonl"

    def second() -> Verifier:
        with pytest.raises(StoreError, match="another process"):
            score_file(lamp, data, out, SMALL, {})
        return lamp()

    assert score_file(second, data, out, SMALL, {}).scored == 3


def test_parquet_in_and_out(tmp_path: Path) -> None:
    features: Any = {"source": "image", "edited": "image", "instruction": "string", "principles": "string"}
    rows = [
        {
            "source": SOURCE,
            "edited": edited(25 * level),
            "instruction": "Light it",
            "principles": json.dumps(PRINCIPLES),
        }
        for level in range(5)
    ]
    rows.append({**rows[0], "edited": b"broken"})
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "a.parquet", rows[:3], features)
    write_rows(tmp_path / "data" / "b.parquet", rows[3:], features)
    summary = score_file(lamp, tmp_path / "data", tmp_path / "out.parquet", replace(SMALL, keep_texts=True), {})
    assert (summary.rows, summary.scored, summary.failed) == (6, 5, {"picture": 1})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 6 and b"huggingface" in table.schema.metadata
    out = table.to_pylist()
    assert (
        [row["row"] for row in out] == list(range(6)) and out[5]["score"] is None and "not an image" in out[5]["error"]
    )
    assert out[0]["Instruction Following"] == 1.0 and out[0]["Image Quality"] is None
    assert out[0]["principles"][0]["evidence"].startswith("seed") and len(out[0]["texts"]) == 2


def test_parquet_of_other_shapes(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "e.png").write_bytes(edited(3))
    struct = {"bytes": None, "path": "e.png"}
    table = pa.table({
        "source": [[{"bytes": SOURCE, "path": None}, struct]], "edited": [edited(9)], "instruction": ["x"],
        "principles": [PRINCIPLES], "extra": [1.5],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "data.parquet")
    (row,) = read_inputs(open_data(tmp_path / "data.parquet"))
    assert row.item is not None and row.item.sources == (SOURCE, edited(3)) and row.item.edited == edited(9)
    pq.write_table(table.drop_columns("edited"), tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="no column edited"):
        open_data(tmp_path / "data.parquet")
    (tmp_path / "data.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        open_data(tmp_path / "data.parquet")


def test_data_that_is_none(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "no.jsonl", "no such file"),
        (tmp_path, "neither a JSONL nor a Parquet"),
    ):
        with pytest.raises(ValueError, match=said):
            open_data(path)
    (tmp_path / "a.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no rows"):
        open_data(tmp_path)
    (tmp_path / "b.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="name the one you mean"):
        open_data(tmp_path)
    (tmp_path / "a.csv").write_text("{}")
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        open_data(tmp_path / "a.csv")


def test_an_edit_may_be_refused(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "data", [good(0), good(1, instruction="Paint it")])

    def refuse(item: ScoreItem) -> str | None:
        return "no painting" if "Paint" in item.instruction else None

    summary = score_file(lamp, data, tmp_path / "out.jsonl", SMALL, {}, refuse)
    assert (summary.scored, summary.failed, summary.reasons) == (1, {"row": 1}, {"row": "no painting"})


def served(url: str) -> Verifier:
    vlm = OpenAIVLM(url, "judge", max_retries=1, backoff_s=0.01)
    return Verifier(vlm, variant="compact")


def test_an_outage_stops_the_run_and_is_no_fault_of_the_rows(tmp_path: Path, fake_openai: Any, reply: Any) -> None:
    data = jsonl(tmp_path / "data", [good(number) for number in range(10)])
    out = tmp_path / "out.jsonl"
    options = BatchOptions(chunk=4)
    down = fake_openai(lambda body, number: TRACE if number < 7 else reply({"error": "gone"}, 503))
    with pytest.raises(ModelError, match="503"):  # the check, 4 rows, 2 rows, then the outage
        score_file(lambda: served(down.url), data, out, options, {})
    assert len(results(out)) == 4
    up = fake_openai(lambda body, number: TRACE)
    summary = score_file(lambda: served(up.url), data, out, options, {})
    assert (summary.scored, summary.judged) == (10, 6)
    assert summary.usage is not None
    # Each call's check is counted too; what was under way at the outage was not written down.
    assert (summary.usage["requests"], summary.usage["prompt_tokens"]) == (1 + 4 + 1 + 6, 120)


def test_a_row_that_a_living_server_refuses_is_a_row(tmp_path: Path, fake_openai: Any, reply: Any) -> None:
    data = jsonl(tmp_path / "data", [good(number, instruction=f"Step {number}") for number in range(4)])

    def answer(body: dict[str, Any], number: int) -> Any:
        return reply({"error": "unsafe"}, 400) if "Step 2" in json.dumps(body) else TRACE

    server = fake_openai(answer)
    summary = score_file(lambda: served(server.url), data, tmp_path / "out.jsonl", SMALL, {})
    assert (summary.scored, summary.failed) == (3, {"no answer": 1})
    assert "unsafe" in summary.reasons["no answer"]


KILLED = """
import sys
from edit_r1.cli import main
main(sys.argv[1:])
"""


def test_a_killed_process_loses_nothing(tmp_path: Path, fake_openai: Any) -> None:
    """`score-many` against a server that stops answering, killed with SIGKILL, then run again."""
    rows = [good(number) for number in range(150)]
    data = jsonl(tmp_path / "data", rows)
    out = tmp_path / "out.jsonl"
    slow = fake_openai(lambda body, number: TRACE if number < 70 else None)
    command = ["score-many", str(data), "--out", str(out), "--model", "judge", "--variant", "compact", "--json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "OPENAI_API_KEY": ""}}
    process = subprocess.Popen([sys.executable, "-c", KILLED, *command, "--endpoint", slow.url], **options)
    try:
        while process.poll() is None and len(slow.bodies) < 80:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = out.read_bytes()
    assert [row["row"] for row in results(out)] == list(range(64))
    slow.answer = lambda body, number: TRACE
    slow.bodies.clear()
    again = subprocess.run([sys.executable, "-c", KILLED, *command, "--endpoint", slow.url], check=True, **options)
    summary = json.loads(again.stdout)
    assert (summary["rows"], summary["scored"], summary["judged"]) == (150, 150, 86)
    assert len(slow.bodies) == 87  # one to see that the server answers
    assert out.read_bytes().startswith(kept)
    assert [row["row"] for row in results(out)] == list(range(150))
