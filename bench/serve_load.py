"""The reward server under load: many clients at once, batching on and off, and a kill in the middle.

    python bench/serve_load.py --clients 64 --seconds 60 --out runs/serve_load.json

Starts `edit-r1 serve` with the packaged verifier three times on this machine (the clients share its cores):

1. batching as it comes, `clients` clients for `seconds`, each sending one edit at a time;
2. the same with batches of one trace;
3. batching again, each client with a fixed list of edits and retries; the server is killed (SIGKILL) halfway and
   started again. Every edit must be answered in the end.

The edits are EditWorld's, with their principles; every score is also compared with the others of the same edit, since
greedy answers must not depend on their company beyond rounding. Prints a table and writes JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro

from edit_r1.store import write_json
from edit_r1.world.export import write_world_samples

CONTEXTS = 16
"""Contexts of EditWorld; each has several candidates."""
START_SECONDS = 300
"""Longest start of the server."""


@dataclass
class Load:
    """What the clients saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of answered edits, seconds."""
    failures: int = 0
    """Requests without a 200, and edits without a score."""
    retries: int = 0
    scores: dict[int, set[float]] = field(default_factory=lambda: defaultdict(set))
    """Edit to every score it was given."""

    def row(self) -> dict[str, Any]:
        quantiles = np.quantile(self.latencies, [0.5, 0.95]) if self.latencies else [None, None]
        return {
            "seconds": self.seconds,
            "edits": len(self.latencies),
            "edits_per_second": len(self.latencies) / self.seconds,
            "p50_seconds": None if quantiles[0] is None else float(quantiles[0]),
            "p95_seconds": None if quantiles[1] is None else float(quantiles[1]),
            "failures": self.failures,
            "retries": self.retries,
            "edits_with_differing_scores": sum(len(scores) > 1 for scores in self.scores.values()),
        }


class Server:
    """`edit-r1 serve` in a process of its own, on a port that stays the same."""

    def __init__(self, batch_size: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._code = (
            "from edit_r1.cli import main; "
            f"main(['serve', '--port', '{self.port}', '--batch-size', '{batch_size}', '--queue', '4096'])"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", self._code], stdout=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise RuntimeError(f"the server did not start within {START_SECONDS} s")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(120)

    def batches(self) -> float | None:
        """Mean edits per call of the model, from the server's metrics."""
        figures = dict(
            line.rsplit(" ", 1) for line in httpx.get(f"{self.url}/metrics").text.splitlines() if line[:1] != "#"
        )
        calls = float(figures["edit_r1_batch_items_count"])
        return float(figures["edit_r1_batch_items_sum"]) / calls if calls else None


def edits(seed: int) -> list[dict[str, Any]]:
    """Bodies of /v1/judge, one edit each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "world"
        write_world_samples(folder, CONTEXTS, seed)
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        return [
            {
                "items": [
                    {
                        "sources": [base64.b64encode((folder / row["source"]).read_bytes()).decode()],
                        "edited": base64.b64encode((folder / row["edited"]).read_bytes()).decode(),
                        "instruction": row["instruction"],
                        "principles": [
                            {key: one[key] for key in ("question", "category")} for one in row["principles"]
                        ],
                    }
                ]
            }
            for row in rows
        ]


async def ask(client: httpx.AsyncClient, url: str, bodies: list[dict[str, Any]], number: int, load: Load) -> bool:
    """One edit; True when it was given a score."""
    start = time.monotonic()
    try:
        answer = await client.post(f"{url}/v1/judge", json=bodies[number % len(bodies)])
        score = answer.json()["judgments"][0]["score"] if answer.status_code == 200 else None
    except httpx.TransportError:
        score = None
    if score is None:
        return False
    load.latencies.append(time.monotonic() - start)
    load.scores[number % len(bodies)].add(score)
    return True


async def steady(url: str, bodies: list[dict[str, Any]], clients: int, seconds: float) -> Load:
    """Each client sends its next edit as soon as it has an answer."""
    load = Load()
    start = time.monotonic()

    async def one(first: int) -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            number = first
            while time.monotonic() < start + seconds:
                load.failures += not await ask(client, url, bodies, number, load)
                number += clients

    await asyncio.gather(*(one(first) for first in range(clients)))
    load.seconds = time.monotonic() - start
    return load


async def interrupted(server: Server, bodies: list[dict[str, Any]], clients: int, each: int) -> Load:
    """Each client has `each` edits and tries again until it has them all; the server is killed halfway."""
    load = Load()
    start = time.monotonic()

    async def one(first: int) -> None:
        async with httpx.AsyncClient(timeout=600) as client:
            for number in range(first * each, (first + 1) * each):
                while not await ask(client, server.url, bodies, number, load):
                    load.retries += 1
                    await asyncio.sleep(0.5)

    async def kill() -> None:
        while len(load.latencies) < clients * each // 2:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        await asyncio.to_thread(server.start)

    await asyncio.gather(kill(), *(one(first) for first in range(clients)))
    load.seconds = time.monotonic() - start
    load.failures = clients * each - len(load.latencies)
    return load


def measure(bodies: list[dict[str, Any]], clients: int, seconds: float, batch_size: int) -> dict[str, Any]:
    """A server with this batch size under a steady load."""
    server = Server(batch_size)
    server.start()
    try:
        asyncio.run(steady(server.url, bodies, 4, 2))  # the first calls of a process are slower
        row = asyncio.run(steady(server.url, bodies, clients, seconds)).row()
        return {"batch_size": batch_size, **row, "edits_per_call": server.batches()}
    finally:
        server.stop()


def main(
    clients: int = 64,
    seconds: float = 60.0,
    each: int = 12,
    batch_size: int = 64,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Measure.

    Args:
        clients: asking at once.
        seconds: of each steady load.
        each: edits per client in the run with the kill.
        batch_size: traces per call of the model where batching is on.
        seed: of the edits.
        out: where the numbers go, JSON.
    """
    bodies = edits(seed)
    rows = {
        "batched": measure(bodies, clients, seconds, batch_size),
        "one at a time": measure(bodies, clients, seconds, 1),
    }
    server = Server(batch_size)
    server.start()
    try:
        rows["killed and restarted"] = asyncio.run(interrupted(server, bodies, clients, each)).row()
    finally:
        server.stop()
    ratio = rows["batched"]["edits_per_second"] / rows["one at a time"]["edits_per_second"]
    print(f"{clients} clients, {os.cpu_count()} cores, load average of 15 minutes: {os.getloadavg()[2]:.1f}")
    print(f"{'':22}{'edits':>8}{'edits/s':>9}{'p50 s':>8}{'p95 s':>8}{'failures':>10}{'retries':>9}{'a call':>8}")
    for name, row in rows.items():
        call = f"{row['edits_per_call']:8.1f}" if row.get("edits_per_call") else ""
        times = f"{row['p50_seconds'] or 0:8.2f}{row['p95_seconds'] or 0:8.2f}"
        print(
            f"{name:22}{row['edits']:8}{row['edits_per_second']:9.2f}{times}{row['failures']:10}{row['retries']:9}{call}"
        )
    print(f"batching: {ratio:.2f} times the throughput")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = {"clients": clients, "seconds": seconds, "each": each, "seed": seed, "cores": os.cpu_count()}
        write_json(out, {**settings, "ratio": ratio, "runs": rows})


if __name__ == "__main__":
    tyro.cli(main)
