"""Small models whose answers are scripted, for the curation: the protocols, and nothing of EditWorld."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import encode_png
from edit_r1.records import Principle, Sample, Verdict
from edit_r1.verifier.traces import write_gold, write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling

PRINCIPLES = (
    Principle("Is the circle blue?", "Instruction Following"),
    Principle("Is the background grey?", "Feature Preservation"),
    Principle("Is the image sharp?", "Image Quality"),
)
QUESTIONS = [principle.question for principle in PRINCIPLES]


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def make_sample(number: int, category: str = "colour alteration") -> Sample:
    """Ids are not hexadecimal: those of public data sets are not either."""
    return Sample(f"row-{number:04d}", picture(number), f"Make circle {number} blue.", category)


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4], "big")


def contents(request: Request) -> str:
    return hashlib.sha256(b"|".join(p if isinstance(p, bytes) else p.encode() for p in request.parts)).hexdigest()


class ScriptedVLM:
    """Answers by a function of (request, number of the draw); the draw depends on content and seed alone."""

    def __init__(self, name: str, answer: Callable[[Request, int], str | Completion], simulated: bool = False) -> None:
        self.name, self.simulated, self._answer = name, simulated, answer
        self.calls: list[tuple[Request, Sampling]] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.calls += [(request, sampling) for request in requests]
        return [[self._complete(request, sampling, i) for i in range(n)] for request in requests]

    def _complete(self, request: Request, sampling: Sampling, i: int) -> Completion:
        answer = self._answer(request, digest(self.name, contents(request), sampling.seed, i))
        return answer if isinstance(answer, Completion) else Completion(answer, len(answer.split()), "stop")


class ScriptedEditor:
    """Paints noise; fails where told to."""

    def __init__(self, name: str, fails: Callable[[Sample, int], str | None] = lambda sample, seed: None) -> None:
        self.name, self.simulated, self._fails = name, False, fails

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        made = []
        for sample, seed in zip(samples, seeds, strict=True):
            error = self._fails(sample, seed)
            image = None if error else picture(digest(self.name, sample.id, seed))
            made.append(EditedImage(image, error))
        return made


def decomposer(lost_share: int = 0) -> ScriptedVLM:
    """One draw in `lost_share` (0: none) cannot be parsed."""
    return ScriptedVLM(
        "decomposer",
        lambda _, draw: (
            "I cannot say." if lost_share and draw % lost_share == 0 else write_principles(PRINCIPLES, "full")
        ),
    )


def judge(name: str, lost_share: int = 0) -> ScriptedVLM:
    """Verdicts and scores by the draw."""

    def answer(_: Request, draw: int) -> str:
        if lost_share and draw % lost_share == 0:
            return "no idea"
        values = [draw >> bit & 1 for bit in range(3)]
        return write_trace(["seen"] * 3, values, draw % 101 / 10, "both", "full", QUESTIONS)

    return ScriptedVLM(name, answer)


def verifier(lost_share: int = 0) -> ScriptedVLM:
    """Gold by the draw; a lost one is a list that is too short."""

    def answer(_: Request, draw: int) -> str:
        gold = [Verdict(1 if draw >> bit & 1 else 0, "because") for bit in range(3)]
        count = 2 if lost_share and draw % lost_share == 0 else 3
        return write_gold(gold[:count], QUESTIONS[:count])

    return ScriptedVLM("verifier", answer)


class Kit:
    """All of the above in one fixture: with importmode=importlib, tests cannot import from a conftest."""

    PRINCIPLES, QUESTIONS = PRINCIPLES, QUESTIONS
    VLM, Editor = ScriptedVLM, ScriptedEditor
    make_sample, picture = staticmethod(make_sample), staticmethod(picture)
    decomposer, judge, verifier = staticmethod(decomposer), staticmethod(judge), staticmethod(verifier)


@pytest.fixture
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def samples() -> list[Sample]:
    return [make_sample(number) for number in range(10)]


@pytest.fixture(scope="session")
def scripted() -> ModuleType:
    """The module beside this one whose curation another process can build."""
    spec = importlib.util.spec_from_file_location("scripted_curation", Path(__file__).parent / "scripted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
