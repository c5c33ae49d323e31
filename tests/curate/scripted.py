"""A small curation that another process can build: `build(count)`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edit_r1.curate.intake.open import team_samples
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.editors.protocol import EditedImage
from edit_r1.images import encode_png
from edit_r1.records import Principle, Sample, Verdict
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling

PRINCIPLES = (
    Principle("Is the circle blue?", "Instruction Following"),
    Principle("Is the background grey?", "Feature Preservation"),
)
QUESTIONS = [one.question for one in PRINCIPLES]


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _picture(number: int) -> bytes:
    import numpy as np

    return encode_png(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8))


class Model:
    """Answers by the hash of what it is asked; one answer in nine cannot be parsed."""

    simulated = True

    def __init__(self, name: str, pause: float = 0.0) -> None:
        self.name, self.pause = name, pause

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        time.sleep(self.pause * len(requests))
        if log := os.environ.get("SCRIPTED_CALLS"):
            with Path(log).open("a") as file:
                file.write(f"{self.name} {len(requests)}\n")
        return [[self._answer(request, sampling, i) for i in range(n)] for request in requests]

    def _answer(self, request: Request, sampling: Sampling, i: int) -> Completion:
        number = _number(self.name, request, sampling.seed, i)
        values = [number >> bit & 1 for bit in range(2)]
        text = {
            "decomposer": write_principles(PRINCIPLES, "full"),
            "verifier": write_gold([Verdict(1 if value else 0, "seen") for value in values], QUESTIONS),
        }.get(self.name, write_trace(["seen"] * 2, values, number % 101 / 10, "both", "full", QUESTIONS))
        return Completion("no idea" if number % 9 == 0 else text, 5, "stop")


class Painter:
    simulated = True

    def __init__(self, name: str) -> None:
        self.name = name

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        return [EditedImage(_picture(_number(self.name, s.id, seed))) for s, seed in zip(samples, seeds, strict=True)]


def build(count: int, pause: float = 0.0) -> CurateStage:
    warm = Sampling(256, temperature=1.0, seed=1)
    return CurateStage(
        samples=GivenSamples(
            tuple(Sample(f"row-{i}", _picture(i), f"Make circle {i} blue.", "") for i in range(count))
        ),
        decomposer=Model("decomposer", pause),
        editors=(Painter("a"), Painter("b")),
        pool=(PoolMember(Model("j1", pause), 2, warm), PoolMember(Model("j2", pause), 1, warm)),
        verifier=Model("verifier", pause),
        candidates_per_context=2,
        decompose_sampling=warm,
        verify_sampling=warm,
        chunk_size=4,
    )


def build_in(process: int, count: int) -> CurateStage:
    """Only in the process of that number."""
    if os.getpid() != process:
        raise ValueError("model: no such folder: check the path")
    return build(count)


def build_team(folder: str) -> CurateStage:
    """The same models on a team's data."""
    return replace(build(1), samples=team_samples(folder, licence="CC0-1.0"))
