"""The annotation app in a real browser: two annotators at once, the server killed twice in between.

    python bench/annotate.py --answers 200 --out runs/annotate.json

Starts `edit-r1 annotate` on a task of `answers` / 2 pairs that two annotators answer in full, in two windows of one
headless Chromium (Playwright), each `think` seconds after the pair became visible. After a third and two thirds of the
answers the server is killed (SIGKILL) and started again `down` seconds later; the windows go on meanwhile. At the end
every key that was pressed must be in answers.sqlite, once, as it was pressed.

The time from a key to the next pair is the page's own measure: from the key event's timestamp to the second frame
callback after the pictures were put into the page, when the frame that shows them has been drawn. Times and load of the
machine go into the table and into the JSON: server, browser and driver share its cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from playwright.async_api import Page, async_playwright

from edit_r1.images import encode_png
from edit_r1.store import write_json

KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "same", "ArrowUp": "skip"}
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PATIENCE_MS = 120_000
VISIBLE = (
    "() => { const all = [...document.querySelectorAll('.view img.edit')];"
    " return all.length === 3 && all.every((one) => one.complete && one.naturalWidth) }"
)
MOVED_ON = (
    "(asked) => document.getElementById('instruction').textContent !== asked"
    " || !document.getElementById('pause').hidden"
)
ACKNOWLEDGED = "() => !Object.keys(localStorage).some((key) => /^edit-r1:[0-9a-f]+:/.test(key))"
MEASURES = "performance.getEntriesByName('edit-r1:next').map((one) => one.duration)"


@dataclass
class Study:
    """What the annotators did."""

    wanted: int
    pressed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(annotator, instruction) to the answer."""
    while_down: int = 0
    """Answers given while no server ran."""
    latencies_ms: list[float] = field(default_factory=list)
    down: bool = False


class Server:
    """The command, at a port of its own that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "edit_r1", "annotate", str(self._folder), "--port", str(self._port)]
        self.process = subprocess.Popen([*command, "--gold-every", "0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://[\d.]+:(\d+)", self.process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        self.url, self._port = found[0], int(found[1])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def write_task(folder: Path, pairs: int, side: int, seed: int) -> float:
    """Smooth random pictures with a changed patch, as PNG. Returns the mean size of a picture in MB."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows, size = [], 0
    for number in range(pairs):
        small = Image.fromarray(rng.integers(0, 256, (side // 32, side // 32, 3), dtype=np.uint8))
        source = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).copy()
        row: dict[str, Any] = {"id": number, "instruction": f"Change picture {number}."}
        for place, name in enumerate(("source", "first", "second")):
            pixels = source.copy()
            if place:
                pixels[place * side // 4 : place * side // 4 + side // 8, side // 3 : side // 2] = rng.integers(
                    0, 256, 3
                )
            data = encode_png(pixels, compress_level=1)
            size += len(data)
            row[name] = f"images/{number}-{name}.png"
            (folder / row[name]).write_bytes(data)
        rows.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return size / (3 * pairs) / 1e6


async def annotate(page: Page, url: str, name: str, study: Study, think: float, seed: int) -> None:
    """One person, until nothing is left for them and everything is acknowledged."""
    rng = np.random.default_rng(seed)
    await page.goto(url)
    await page.fill("#name", name)
    await page.press("#name", "Enter")
    for _ in range(study.wanted // 2):
        await page.wait_for_function(VISIBLE, timeout=PATIENCE_MS)
        await asyncio.sleep(think)
        asked = await page.inner_text("#instruction")
        key = list(KEYS)[int(rng.choice(4, p=[0.4, 0.4, 0.15, 0.05]))]
        study.while_down += study.down
        await page.keyboard.press(key)
        study.pressed[name, asked] = KEYS[key]
        await page.wait_for_function(MOVED_ON, arg=asked, timeout=PATIENCE_MS)
    await page.wait_for_function(ACKNOWLEDGED, timeout=PATIENCE_MS)
    study.latencies_ms += await page.evaluate(MEASURES)


async def kill_twice(server: Server, study: Study, down: float) -> None:
    for share in (1 / 3, 2 / 3):
        while len(study.pressed) < share * study.wanted:
            await asyncio.sleep(0.02)
        server.kill()
        study.down = True
        await asyncio.sleep(down)
        await asyncio.to_thread(server.start)
        study.down = False


def stored(folder: Path) -> list[tuple[str, str, str]]:
    """(annotator, instruction, answer as it was shown) of every answer in the file."""
    with sqlite3.connect(folder / "answers.sqlite") as connection:
        rows = connection.execute(
            "SELECT n.name, json_extract(p.record, '$.context_instruction'), a.choice, s.turned FROM answers a "
            "JOIN annotators n ON n.number = a.annotator JOIN pairs p ON p.number = a.pair "
            "JOIN showings s ON s.annotator = a.annotator AND s.pair = a.pair WHERE a.undone IS NULL"
        ).fetchall()
    sides = {("first", 0): "left", ("first", 1): "right", ("second", 0): "right", ("second", 1): "left"}
    return [(name, asked, sides.get((choice, turned), choice)) for name, asked, choice, turned in rows]


async def run(folder: Path, answers: int, think: float, down: float, seed: int) -> Study:
    study = Study(answers)
    server = Server(folder)
    try:
        async with async_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            pages = []
            for _ in range(2):
                context = await browser.new_context(viewport={"width": 1280, "height": 800})
                pages.append(await context.new_page())
                pages[-1].set_default_timeout(PATIENCE_MS)
            await asyncio.gather(
                annotate(pages[0], server.url, "Ann", study, think, seed),
                annotate(pages[1], server.url, "Bob", study, think, seed + 1),
                kill_twice(server, study, down),
            )
            await browser.close()
    finally:
        server.kill()
    return study


def main(
    answers: int = 200,
    think: float = 0.5,
    down: float = 1.0,
    side: int = 768,
    seed: int = 0,
    out: Path = Path("runs/annotate.json"),
) -> None:
    """Run it.

    Args:
        answers: by both annotators together.
        think: seconds between a pair's appearance and the key.
        down: seconds from a kill to the next start.
        side: of the square pictures, in px.
    """
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "task"
        megabytes = write_task(folder, answers // 2, side, seed)
        started = time.monotonic()
        study = asyncio.run(run(folder, answers, think, down, seed))
        seconds = time.monotonic() - started
        found = stored(folder)
    lost = study.pressed.keys() - {(name, asked) for name, asked, _ in found}
    wrong = [row for row in found if study.pressed.get(row[:2]) != row[2]]
    median, p95 = np.quantile(study.latencies_ms, [0.5, 0.95])
    row = {
        "answers": len(study.pressed), "stored": len(found), "lost": len(lost), "twice": len(found) - len(set(found)),
        "wrong": len(wrong), "kills": 2, "while_down": study.while_down, "measured": len(study.latencies_ms),
        "median_ms": float(median), "p95_ms": float(p95), "slowest_ms": max(study.latencies_ms),
        "think_s": think, "picture_px": side, "picture_mb": megabytes, "seconds": seconds,
        "cores": os.cpu_count(), "load_before": before, "load_after": os.getloadavg(),
    }  # fmt: skip
    for name, value in row.items():
        print(f"{name:12} {f'{value:.2f}' if isinstance(value, float) else value}")
    write_json(out, row)
    if lost or wrong or len(found) != len(study.pressed):
        raise SystemExit("answers were lost, changed or stored twice")


if __name__ == "__main__":
    tyro.cli(main)
