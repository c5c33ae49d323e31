"""Does a curation's memory stay flat? 100,000 contexts with pictures through all steps, the most memory at each tenth.

    python bench/curate_memory.py --out runs/curate-memory

Samples are drawn as they are asked for (JPEG, 256 px, some 10 KB each); the models answer at once with the same words,
as a served model's answers would come in. One process with two chunks at once. Memory is the resident set of the
process, read every tenth of a second. Prints a table and writes JSON; `--contexts 2000` looks at less.

`--source parquet` first writes the pictures into Parquet files of 1,000 rows in one row group each, as data sets of the
hub have, and curates these through the intake: read, checked for copies, then streamed. Its pass over the data is told
apart.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.engine import Local
from edit_r1.curate.failures import Failure
from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import curate
from edit_r1.curate.stage import CurateStage, Samples
from edit_r1.editors.protocol import EditedImage
from edit_r1.records import Principle, Sample, Verdict
from edit_r1.store import write_json
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling

PRINCIPLES = tuple(
    Principle(f"Is point {number} as it should be?", category)
    for number, category in enumerate(("Instruction Following", "Feature Preservation", "Image Quality") * 3)
)
QUESTIONS = [one.question for one in PRINCIPLES]
TEXTS = {
    "decomposer": write_principles(PRINCIPLES, "full"),
    "judge": write_trace(["It looks as it did."] * 9, [1] * 9, 8.0, "both", "full", QUESTIONS),
    "verifier": write_gold([Verdict(1, "It looks as it did.")] * 9, QUESTIONS),
}


class Drawn:
    """Samples that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def fingerprint(self) -> str:
        return f"drawn-{self.count}"

    def __len__(self) -> int:
        return self.count

    def rows(self, start: int, stop: int) -> Iterator[Sample | Failure]:
        for number in range(start, min(stop, self.count)):
            yield Sample(f"drawn-{number:06d}", picture(number), f"Make thing {number} blue.", "colour alteration")


def picture(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((256, 256), Image.Resampling.BILINEAR).save(stream, "JPEG", quality=90)
    return stream.getvalue()


class Fixed:
    """A model that always says the same."""

    simulated = True

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [[Completion(TEXTS[self.name], 100, "stop")] * n for _ in requests]


class Painter:
    """Another picture for each seed."""

    name, simulated = "painter", True

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        return [EditedImage(picture(seed)) for seed in seeds]


def write_parquet(folder: Path, contexts: int) -> None:
    """What a team has: embedded pictures and an instruction each; kept when it is there."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("source", image), ("instruction", pa.string()), ("licence", pa.string())])
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, contexts, 1000):
        path = folder / f"{first // 1000:04d}.parquet"
        if not path.exists():
            rows = [
                {
                    "source": {"bytes": picture(n), "path": None},
                    "instruction": f"Make thing {n} blue.",
                    "licence": "CC0",
                }
                for n in range(first, min(first + 1000, contexts))
            ]
            pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=1000)


def main(
    out: Path,
    contexts: int = 100_000,
    chunk_size: int = 64,
    chunks_at_once: int = 2,
    source: Literal["drawn", "parquet"] = "drawn",
) -> None:
    samples: Samples = Drawn(contexts)
    if source == "parquet":
        write_parquet(out / "given", contexts)
        samples = team_samples(out / "given")
    stage = CurateStage(
        samples=samples, decomposer=Fixed("decomposer"), editors=(Painter(),),
        pool=(PoolMember(Fixed("judge"), 2, Sampling(512, 1.0)),), verifier=Fixed("verifier"),
        candidates_per_context=1, chunk_size=chunk_size,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    looked: list[dict[str, Any]] = []
    peak = [0]
    stop = threading.Event()
    threading.Thread(target=watch, args=(peak, stop), daemon=True).start()
    start, total = time.monotonic(), -(-contexts // chunk_size)

    def progress(step: str, done: int, of: int) -> None:
        if step == "intake" and done * 10 // of > len(looked):
            looked.append({"share": done / of, "peak_mb": peak[0] / 2**20, "seconds": time.monotonic() - start})
            print(f"looked at {100 * done / of:5.0f} %  {looked[-1]['peak_mb']:7.0f} MB at most  "
                  f"{looked[-1]['seconds']:6.0f} s", flush=True)  # fmt: skip
            peak[0] = 0
        if step == STEPS[-1] and done * 10 // total > len(rows):
            rows.append({"share": done / total, "peak_mb": peak[0] / 2**20, "seconds": time.monotonic() - start})
            print(f"{100 * done / total:5.0f} %  {rows[-1]['peak_mb']:7.0f} MB at most  {rows[-1]['seconds']:6.0f} s",
                  flush=True)  # fmt: skip
            peak[0] = 0

    curate(stage, out / "data", progress, Local(chunks_at_once=chunks_at_once))
    stop.set()
    last = {"share": 1.0, "peak_mb": peak[0] / 2**20, "seconds": time.monotonic() - start}
    print(f"data sets assembled: {last['peak_mb']:.0f} MB at most, {last['seconds']:.0f} s in all")
    write_json(
        out / "curate_memory.json",
        {
            "contexts": contexts,
            "chunk_size": chunk_size,
            "source": source,
            "looked": looked,
            "tenths": rows,
            "end": last,
        },
    )


def watch(peak: list[int], stop: threading.Event) -> None:
    """The most resident memory of this process since `peak` was set to 0, bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not stop.wait(0.1):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        peak[0] = max(peak[0], resident)


if __name__ == "__main__":
    tyro.cli(main)
