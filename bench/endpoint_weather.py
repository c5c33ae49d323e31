"""A curation over an endpoint in bad weather: how much of what the endpoint allows is used, and what is paid twice.

    python bench/endpoint_weather.py --out runs/endpoint_weather --rate 10 --minutes 4

A server of tests/weather_server.py, in a process of its own, gives at most `rate` answers a second, and goes wrong in
30 % of the requests: 429 with Retry-After as seconds and as a date, 500, 502, 503, resets, 60 s stalls, truncated
bodies, HTML in place of JSON, lists of verdicts that are too short. A curation with four models of that server (a
decomposer, two judges, a verifier; the editors cost nothing) runs until everything is made, with `chunks` chunks at
once. `--whole` begins with a folder of pictures and a JSONL: a fifth model is asked which of the requests are hard, and
two editors behind the same server paint the candidates. Told are

- the answers a second against `rate`, over the whole run, and without its first and last tenth of the answers (the last
  chunks leave nothing to ask for);
- what became of the requests, and rows that failed, by cause;
- answers that were billed twice. With `--kills N` the curation is killed (SIGKILL) N times, at seeded numbers of
  answers: the answers that were stored by then are compared with what was billed afterwards.

Prints a table and writes JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro
from kept import begin_anew
from rich.console import Console
from rich.table import Table

from edit_r1.curate.engine import Local
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.run import curate
from edit_r1.curate.status import read_status
from edit_r1.editors.http import HttpEditor, HttpEditorSettings
from edit_r1.images import encode_png
from edit_r1.store import read_json, write_json
from edit_r1.store.journal import read_journal
from edit_r1.vlm.openai import OpenAIVLM, Prices

TESTS = Path(__file__).parents[1] / "tests"
ANSWERS = 9
"""Paid answers of a sample: one decomposition, two candidates with three traces and one gold list each."""
WHOLE_ANSWERS = ANSWERS + 3
"""And the filter's word and two pictures."""
PICTURES = 40
"""Of the folder; each has several requests."""


def build(url: str, samples: int, concurrency: int, timeout: float, data: Path | None) -> Any:
    """The stage of tests/curate/served.py, with one connection for each model and time-outs for stalls of a minute.

    data: a folder that samples are taken from, with a filter, and whose edits are served; None for neither."""
    sys.path[:0] = [str(TESTS), str(TESTS / "curate")]
    served: Any = importlib.import_module("served")

    def model(name: str) -> OpenAIVLM:
        return OpenAIVLM(url, name, concurrency=concurrency, timeout_s=timeout, prices=Prices(0.0, 1e4))

    first, second = (
        served.PoolMember(model("judge-1"), 2, served.WARM),
        served.PoolMember(model("judge-2"), 1, served.WARM),
    )
    changes: dict[str, Any] = {}
    if data is not None:
        settings = HttpEditorSettings(concurrency=concurrency, timeout_s=timeout, price=0.5)
        changes["samples"] = team_samples(data, hard=HardFilter(model("picker"), at_once=16))
        changes["editors"] = tuple(HttpEditor(url, replace(settings, model=name), name) for name in ("ed-1", "ed-2"))
    return served.build(
        url,
        samples,
        decomposer=model("decomposer"),
        pool=(first, second),
        verifier=model("verifier"),
        chunk_size=10,
        **changes,
    )


def write_data(data: Path, samples: int) -> None:
    """A folder of noise of 64 px with a JSONL of requests."""
    data.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        (data / f"{number}.png").write_bytes(encode_png(pixels))
    rows = [{"source": f"{n % PICTURES}.png", "instruction": f"Make circle {n} blue."} for n in range(samples)]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def child(url: str, out: Path, samples: int, concurrency: int, timeout: float, chunks: int, data: Path | None) -> None:
    started = time.process_time()
    curate(build(url, samples, concurrency, timeout, data), out, None, Local(chunks_at_once=chunks))
    write_json(out.parent / "cpu.json", {"seconds": time.process_time() - started})


def books(url: str) -> dict[str, Any]:
    answer = httpx.get(url.removesuffix("/v1") + "/books", timeout=60, trust_env=False)
    told: dict[str, Any] = answer.json()
    return told


def main(
    out: Path,
    rate: float = 10.0,
    minutes: float = 4.0,
    latency: float = 0.5,
    stall: float = 60.0,
    timeout: float = 15.0,
    concurrency: int = 64,
    chunks: int = 24,
    kills: int = 0,
    seed: int = 0,
    fair: bool = False,
    whole: bool = False,
    url: str | None = None,
) -> None:
    """rate: answers a second. minutes: of a run that gets them all. latency, stall, timeout: seconds. chunks: at once.
    fair: no faults but the limit. whole: from a folder, with a filter and editors behind the server. url: of the
    server; this is the curation alone."""
    samples = max(chunks, round(rate * 60 * minutes / (WHOLE_ANSWERS if whole else ANSWERS)))
    data = out.parent / "pictures" if whole else None
    if url is not None:
        child(url, out, samples, concurrency, timeout, chunks, data)
        return
    begin_anew(out)
    if whole:
        write_data(out / "pictures", samples)
    command = [sys.executable, str(TESTS / "weather_server.py"), f"--rate={rate}", f"--latency={latency}",
               f"--stall={stall}", *(["--fair"] if fair else [])]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        flags = {"out": out / "data", "rate": rate, "minutes": minutes, "timeout": timeout, "concurrency": concurrency,
                 "chunks": chunks, "url": address}  # fmt: skip
        own = [sys.executable, __file__, *(f"--{name}={value}" for name, value in flags.items())]
        own += ["--whole"] if whole else []
        limits, again, stored, killed = run(own, address, out / "data", samples, kills, seed)
        told = books(address)
    finally:
        server.kill()
    write_json(out / "endpoint_weather.json", result(told, out, rate, limits, killed, again, stored))
    show(out)


def run(
    command: list[str], url: str, out: Path, samples: int, kills: int, seed: int
) -> tuple[list[int], int, int, int]:
    """The curation, killed `kills` times, or fewer where it ends before. (Limits of requests in flight seen over the
    run, answers that were paid again after they were stored, answers that were stored when a kill came, kills)."""
    rng, stored, before = random.Random(seed), set[int](), 0
    again = killed = 0
    limits: list[int] = []
    for number in range(kills + 1):
        process = subprocess.Popen(command, start_new_session=True)
        until = rng.randint(samples, 2 * samples) if number < kills else sys.maxsize
        while process.poll() is None:
            time.sleep(0.5 if number < kills else 5.0)
            if number < kills and len(books(url)["times"]) - before >= until:
                os.killpg(process.pid, signal.SIGKILL)
            elif (out / ".work" / "run.json").exists():
                models = read_status(out)["spent"]["models"].values()
                limits += [sum(one["concurrency"] or 0 for one in models)]
        process.wait()
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"the curation ended with {process.returncode}")
        killed += process.returncode != 0
        marks = books(url)["marks"][before:]
        again += sum(mark in stored for mark in marks)
        before += len(marks)
        for folder in (out / ".work" / "kept").glob("*/*"):
            stored |= {line["usage"]["prompt_tokens"] for line in read_journal(folder) if "usage" in line}
    return limits, again, len(stored), killed


def result(
    told: dict[str, Any], out: Path, rate: float, limits: list[int], kills: int, again: int, stored: int
) -> dict[str, Any]:
    times, marks = told.pop("times"), told.pop("marks")
    tenth = len(times) // 10
    middle = times[tenth:-tenth]
    summary = read_json(out / "data" / "summary.json")
    failed: Counter[str] = Counter()
    for causes in summary["failed"].values():
        failed.update({cause.split(": ", 1)[-1][:80]: count for cause, count in causes.items()})
    return {
        "rate": rate,
        "seconds": times[-1] - times[0],
        "per_second": len(times) / (times[-1] - times[0]),
        "share_of_allowed": len(times) / (times[-1] - times[0]) / rate,
        "middle_share_of_allowed": len(middle) / (middle[-1] - middle[0]) / rate,
        "by_10_s": by_model(times, told.pop("by"), 10.0),
        "answers": len(times),
        "billed_twice": told["billed_twice"],
        "billed_again_after_stored": again,
        "kills": kills,
        "stored_at_kills": stored,
        "requests": told["requests"],
        "faults": told["faults"],
        "most_in_flight": told["most_in_flight"],
        # Of a run that was killed, dead processes would count in both.
        "limit": {"median": statistics.median(limits), "most": max(limits)} if limits and not kills else None,
        "cpu_ms_per_request": None if kills else 1000 * read_json(out / "cpu.json")["seconds"] / told["requests"],
        "rows": summary["rows"],
        "failed": dict(failed),
        "spent": summary["spent"],
        "distinct": len(set(marks)),
    }


def by_model(times: list[float], models: list[str], seconds: float) -> dict[str, list[int]]:
    """Answers in each `seconds` of the run, by model: what the ends of a run wait for."""
    last = int((times[-1] - times[0]) / seconds)
    found: dict[str, list[int]] = {}
    for at, model in zip(times, models, strict=True):
        found.setdefault(model, [0] * (last + 1))[int((at - times[0]) / seconds)] += 1
    return found


def show(out: Path) -> None:
    row = read_json(out / "endpoint_weather.json")
    table = Table("measure", "value")
    for name, value in row.items():
        if name not in ("spent", "rows", "failed", "by_10_s"):
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    table.add_row("failed rows", str(sum(row["failed"].values())))
    table.add_row("rows", str(row["rows"]))
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
