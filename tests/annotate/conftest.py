"""A small task: pictures of plain colours, pairs in JSONL, and a running server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edit_r1.annotate.run import open_task
from edit_r1.annotate.settings import AnnotateSettings
from edit_r1.images import encode_png


def picture(*colour: int, size: int = 24) -> bytes:
    pixels = np.full((size, size, 3), colour, np.uint8)
    pixels[2:6, 2:6] = 255
    return encode_png(pixels)


def write_task(folder: Path, pairs: int, gold: int = 0, principles: int = 0, size: int = 24) -> Path:
    """`pairs` distinct pairs in pairs.jsonl and `gold` in gold.jsonl, whose right answer is "first"."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    checklist = [{"question": f"Is point {n} right?", "category": "Instruction Following"} for n in range(principles)]
    rows: dict[str, list[dict[str, Any]]] = {"pairs.jsonl": [], "gold.jsonl": []}
    for number in range(pairs + gold):
        names = {}
        for place, side in enumerate(("source", "first", "second")):
            names[side] = f"images/{number}-{side}.png"
            colour = (number % 256, 80 * place, number // 256)
            (folder / names[side]).write_bytes(picture(*colour, size=size))
        row: dict[str, Any] = {"id": f"pair-{number}", "instruction": f"Make it number {number}.", **names}
        if checklist:
            row["principles"] = checklist
        if number < pairs:
            rows["pairs.jsonl"].append(row)
        else:
            rows["gold.jsonl"].append({**row, "gold": "first"})
    for name, written in rows.items():
        if written:
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in written))
    return folder


class Server:
    """`edit-r1 annotate` as a process that can be killed and started again at its port."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder, self.flags, self.port = folder, flags, 0
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "edit_r1", "annotate", str(self.folder), "--port", str(self.port), *self.flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert found, self.said
        self.port, self.url = int(found[1]), found[0]

    def stop(self, sent: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(sent)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code


MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where the system has such a folder: every commit waits for the disk, which others may keep busy."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=MEMORY if usable else None) as folder:
        yield Path(folder)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts servers on a folder; all end with the test."""
    servers: list[Server] = []

    def start(folder: Path, *flags: str) -> Server:
        servers.append(Server(folder, *flags))
        return servers[-1]

    yield start
    for server in servers:
        if server.process is not None:
            server.stop()


@pytest.fixture
def kit() -> SimpleNamespace:
    def opened(folder: Path, **settings: Any) -> tuple[Any, Any]:
        return open_task(folder, AnnotateSettings(**settings))

    return SimpleNamespace(picture=picture, write_task=write_task, open=opened)
