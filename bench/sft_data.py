"""SFT's data in memory and mapped: what a process holds, and how long it takes to go through it and to read a row.

    python bench/sft_data.py --rows 4000 --side 512 --out runs/sft_data

Pictures are noise (a PNG of 512 px has 0.8 MB), ten edits a context. Each way in a process of its own: opened, gone
through as `train_sft` does before its first step, and 200 rows read at random as the training asks for them. Own memory
and file-backed pages are told apart (the system takes the latter back where it needs them). Prints Markdown.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro

from edit_r1.images import encode_png
from edit_r1.processes import process_context
from edit_r1.records import CATEGORIES, Candidate, Context, Principle, Quadruple, Sample
from edit_r1.store import QUADRUPLES, open_dataset, stream_dataset
from edit_r1.verifier.parsing import parse_trace
from edit_r1.verifier.traces import write_trace

EDITS = 10
"""Of a context."""
PRINCIPLES = tuple(
    Principle(f"Is point {number} of the request carried out?", CATEGORIES[number % 3]) for number in range(10)
)
READ = 200
"""Rows read at random."""


def main(out: Path, rows: int = 4000, side: int = 512, seed: int = 0) -> None:
    """out: folder for data and copy, made anew. rows: quadruples. side: of the pictures, in pixels."""
    shutil.rmtree(out, ignore_errors=True)
    stream_dataset(out / "selected", quadruples(rows, side, seed), QUADRUPLES)
    files = sum(path.stat().st_size for path in (out / "selected").iterdir())
    print(f"{rows} quadruples, {files / 2**30:.2f} GiB of Parquet\n")
    print("| | open, s | go through, ms a row | read one, ms | own memory, MiB | file-backed, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, memory in (("mapped, first time", 0), ("mapped", 0), ("in memory", 2**60)):
        with process_context().Pool(1) as pool:
            told = pool.apply(measure, (out, memory))
        print("| {} | {:.1f} | {:.2f} | {:.2f} | {:.0f} | {:.0f} |".format(name, *told))


def quadruples(rows: int, side: int, seed: int) -> Iterator[Quadruple]:
    rng = np.random.default_rng(seed)
    text = write_trace(["It is there."] * 10, [1] * 10, 8.0, "both", "full", [one.question for one in PRINCIPLES])
    target = parse_trace(text, PRINCIPLES, "both")
    picture = b""
    for number in range(rows):
        if number % EDITS == 0:
            picture = encode_png(rng.integers(256, size=(side, side, 3), dtype=np.uint8))
            sample = Sample(f"s{number // EDITS}", picture, "Make the parasol red and keep the rest.", "color")
        edit = encode_png(rng.integers(256, size=(side, side, 3), dtype=np.uint8))
        yield Quadruple(Context(sample, PRINCIPLES, "m"), Candidate(f"c{number}", sample.id, edit, "e", 0), target)


def measure(out: Path, memory: int) -> tuple[float, float, float, float, float]:
    """Seconds to open, milliseconds a row to go through and to read, MiB of own and of file-backed memory."""
    from edit_r1.train.sft import SFTStage, _Rows

    start = time.perf_counter()
    data = open_dataset(out, "selected", QUADRUPLES, memory, out / "cache")
    opened = time.perf_counter()
    rows = _Rows(SFTStage("model", "run"), data)
    gone = time.perf_counter()
    places = random.Random(0).sample(range(len(data)), min(READ, len(data)))
    begun = time.perf_counter()
    for place in places:
        data[place]
    read = time.perf_counter()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, file = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return opened - start, 1000 * (gone - opened) / len(rows), 1000 * (read - begun) / len(places), own, file


if __name__ == "__main__":
    tyro.cli(main)
