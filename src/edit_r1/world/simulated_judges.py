"""Simulated VLMs of EditWorld: a pool of judges, a decomposer and an external verifier.

They speak the same protocol as a real VLM and are given the same thing, images and text. Their eyes
are perfect (the evidence in a trace is what the pictures show); their judgment is not: each passes
failed points of declared kinds at declared rates (frozen.py), because GCPO mends judgment, not eyesight.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import numpy as np

from edit_r1.records import FEATURE_PRESERVATION, INSTRUCTION_FOLLOWING
from edit_r1.verifier.traces import write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.world import describe, frozen
from edit_r1.world.checks import (
    TEMPLATES,
    Check,
    checks_for,
    core_checks,
    evidence,
    holds,
    parse_question,
    principle,
)
from edit_r1.world.index import Known, WorldIndex
from edit_r1.world.oracle import utility
from edit_r1.world.scenes import Damage, Scene

_QUESTION = re.compile(r"^\d+ \[(?:Follow|Keep|Quality)\] (.+)$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^Instruction: (.+)$", re.MULTILINE)


def failure_kind(check: Check, source: Scene, edited: Scene) -> str:
    """What sort of failure a failed check is: a key of `frozen.JUDGE_PASSES`."""
    category = TEMPLATES[check.kind][0]
    before = source.find(check.thing) if check.thing else None
    after = edited.at(before.place) if before is not None else None
    if category == INSTRUCTION_FOLLOWING:
        if check.kind == "empty":
            return "shifted" if any(describe.is_shifted(thing, edited.at(thing.place) or thing) for thing in source.things) else "other"  # noqa: E501  # fmt: skip
        if check.kind == "at" and before is not None and after is not None and describe.is_shifted(before, after):
            return "shifted"
        return "weak" if _is_weak(check, edited, after) else "other"
    if category == FEATURE_PRESERVATION:
        if before is not None and after is not None and describe.is_shifted(before, after):
            return "shifted"
        return "background" if check.kind in ("keep background", "keep tone", "keep style", "keep look") else "leaked"
    return "damage"


def _is_weak(check: Check, edited: Scene, after: object) -> bool:
    """True when the requested change was begun and not finished."""
    if check.kind == "background":
        return edited.background_blend is not None
    if check.kind == "tone":
        return edited.tone_strength < describe.STRONG
    if check.kind == "style":
        return edited.style_strength < describe.STRONG
    if any(thing.opacity < describe.FAINT for thing in edited.things):
        return True
    if check.kind == "attribute" and after is not None:
        return any(thing is after and (thing.blend is not None or thing.scale != 1.0) for thing in edited.things)
    return False


def _seed(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _content(request: Request) -> str:
    """A hash of everything a request holds."""
    digest = hashlib.sha256()
    for part in request.parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()


def _instruction(request: Request) -> str:
    found = _INSTRUCTION.search(request.text)
    if found is None:
        raise ValueError("a simulated VLM of EditWorld reads compact prompts only: no line 'Instruction: ...' in it")
    return found.group(1)


class _Simulated:
    """What the three have in common: answers are drawn per (model, request, sampling seed, index)."""

    simulated = True

    def __init__(self, name: str, index: WorldIndex) -> None:
        self.name = f"simulated/{name}"
        self._index = index

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """n answers per request; at temperature 0 they are all the same."""
        return [[self._complete(request, sampling, i) for i in range(n)] for request in requests]

    def _complete(self, request: Request, sampling: Sampling, i: int) -> Completion:
        draw = (sampling.seed, i) if sampling.temperature > 0 else ("greedy", 0)
        rng = _seed(self.name, _content(request), *draw)
        try:
            text = self.answer(request, rng)
        except (KeyError, ValueError) as error:
            return Completion("", 0, "error", f"{self.name} knows EditWorld only: {error}")
        return Completion(text, len(text.split()), "stop")

    def answer(self, request: Request, rng: np.random.Generator) -> str:
        raise NotImplementedError


class SimulatedJudge(_Simulated):
    """A judge of the pool: sees all, forgives by its nature. One of `frozen.JUDGE_PASSES`."""

    def __init__(self, judge: str, index: WorldIndex) -> None:
        """Raises ValueError for a judge that does not exist."""
        if judge not in frozen.JUDGE_PASSES:
            raise ValueError(f"judge={judge!r}: choose one of {', '.join(frozen.JUDGE_PASSES)}")
        super().__init__(judge, index)
        self._judge = judge

    def answer(self, request: Request, rng: np.random.Generator) -> str:
        """A full trace in the compact form."""
        instruction = _instruction(request)
        source_bytes, image = request.images[0], request.images[-1]
        known = self._index.context(source_bytes, instruction)
        edited, damage = self._index.picture(source_bytes, instruction, image)
        checks = _asked(request)
        values = _verdicts(
            checks, known, (edited, damage), rng, frozen.JUDGE_PASSES[self._judge], frozen.JUDGE_FAILS[self._judge]
        )
        lines = [evidence(check, known.scene, edited, damage) for check in checks]
        text = write_trace(lines, values, self._score(checks, values, known, rng), "both", "compact")
        if rng.random() < frozen.JUDGE_UNPARSED[self._judge]:
            return text[: int(rng.integers(len(text) // 3, len(text) - len("</score>")))]
        return text

    def _score(self, checks: list[Check], values: list[int], known: Known, rng: np.random.Generator) -> float:
        """The oracle's rule on the judge's own verdicts, offset by its temper, with noise."""
        cores = [check for check in core_checks(known.scene, known.edit) if check in checks] or checks[:1]
        own = utility(checks, values, cores)
        if own > 0:
            own += frozen.JUDGE_SCORE_OFFSET[self._judge]
        return round(float(np.clip(own + rng.normal(0, frozen.JUDGE_SCORE_NOISE[self._judge]), 0, 10)), 1)


class SimulatedVerifier(_Simulated):
    """The external verifier: better than the judges, not perfect."""

    def __init__(self, index: WorldIndex) -> None:
        super().__init__("verifier", index)

    def answer(self, request: Request, rng: np.random.Generator) -> str:
        """{"gold": [{"question", "gold", "reason"}]}, a row per principle."""
        instruction = _instruction(request)
        source_bytes, image = request.images[0], request.images[-1]
        known = self._index.context(source_bytes, instruction)
        edited, damage = self._index.picture(source_bytes, instruction, image)
        checks = _asked(request)
        values = _verdicts(checks, known, (edited, damage), rng, frozen.VERIFIER_PASSES, frozen.VERIFIER_FAILS)
        rows = [
            {
                "question": principle(check).question,
                "gold": value,
                "reason": evidence(check, known.scene, edited, damage),
            }
            for check, value in zip(checks, values, strict=True)
        ]
        return json.dumps({"gold": rows})


class SimulatedDecomposer(_Simulated):
    """Writes the principles of a context; leaves out or doubles a point now and then."""

    def __init__(self, index: WorldIndex) -> None:
        super().__init__("decomposer", index)

    def answer(self, request: Request, rng: np.random.Generator) -> str:
        """The compact list of principles."""
        known = self._index.context(request.images[0], _instruction(request))
        checks = checks_for(known.scene, known.edit)
        kept = [
            check
            for check in checks
            if TEMPLATES[check.kind][0] == INSTRUCTION_FOLLOWING or rng.random() >= frozen.DECOMPOSER_OMITS
        ]
        if rng.random() < frozen.DECOMPOSER_DOUBLES:
            kept.insert(int(rng.integers(len(kept))), kept[int(rng.integers(len(kept)))])
        return write_principles([principle(check) for check in kept], "compact")


def _asked(request: Request) -> list[Check]:
    """The checks behind the principles of a prompt."""
    checks = []
    for text in _QUESTION.findall(request.text):
        check = parse_question(text)
        if check is None:
            raise ValueError(f"not a principle of EditWorld: {text!r}")
        checks.append(check)
    if not checks:
        raise ValueError("the prompt holds no numbered principles")
    return checks


def _verdicts(
    checks: list[Check],
    known: Known,
    picture: tuple[Scene, Damage],
    rng: np.random.Generator,
    passes: dict[str, float],
    fails: float,
) -> list[int]:
    """Gold verdicts bent by a bias of judgment: `passes` by failure kind, `fails` for fulfilled points."""
    edited, damage = picture
    values = []
    for check in checks:
        gold = holds(check, known.scene, edited, damage)
        chance = fails if gold else passes[failure_kind(check, known.scene, edited)]
        values.append(int(gold) ^ int(rng.random() < chance))
    return values


POOL: tuple[str, ...] = tuple(frozen.JUDGE_PASSES)
"""The names of the judges."""
