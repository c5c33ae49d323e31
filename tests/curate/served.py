"""A small curation with models behind an endpoint, which another process can build: `build(url, count)`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edit_r1.curate.engine import Local
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import curate
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.editors.protocol import EditedImage
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.vlm import budget
from edit_r1.vlm.openai import OpenAIVLM, Prices
from edit_r1.vlm.protocol import Sampling

CONCURRENCY = 8
WARM = Sampling(512, temperature=1.0, seed=3)
budget.REFRESH_S = 0.0  # else it would depend on the clock what processes know of each other


def _picture(*parts: object) -> bytes:
    seed = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
    return encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


class Painter:
    """Costs nothing."""

    simulated = True

    def __init__(self, name: str) -> None:
        self.name = name

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        return [EditedImage(_picture(self.name, one.id, seed)) for one, seed in zip(samples, seeds, strict=True)]


def build(url: str, count: int, retries: int = 8, **changes: Any) -> CurateStage:
    """One connection for all models of the endpoint would do; several are the harder case."""

    def served(name: str) -> OpenAIVLM:
        return OpenAIVLM(
            url,
            name,
            concurrency=CONCURRENCY,
            timeout_s=3.0,
            max_retries=retries,
            backoff_s=0.02,
            prices=Prices(0.0, 1e4),
        )

    first = served("judge-1")
    settings: dict[str, Any] = {
        "samples": GivenSamples(
            tuple(Sample(f"row-{n}", _picture("source", n), f"Make circle {n} blue.", "") for n in range(count))
        ),
        "decomposer": served("decomposer"),
        "editors": (Painter("a"), Painter("b")),
        "pool": (PoolMember(first, 2, WARM), PoolMember(served("judge-2"), 1, WARM)),
        "verifier": served("verifier"),
        "candidates_per_context": 2,
        "chunk_size": 4,
    }
    return CurateStage(**(settings | changes))


if __name__ == "__main__":  # URL COUNT OUT CHUNKS_AT_ONCE: the run that is killed
    url, count, out, at_once = sys.argv[1:]
    curate(build(url, int(count)), Path(out), None, Local(chunks_at_once=int(at_once)))
