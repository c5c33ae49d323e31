"""The checks of a verifier, on models whose faults are known: text is scripted, everything else is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edit_r1.doctor import verifier as checks
from edit_r1.doctor.examples import EDITWORLD, Example, examples_for, photograph_examples, world_examples
from edit_r1.images import decode_rgb
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.scoring import Verifier
from edit_r1.verifier.traces import write_principles, write_trace
from edit_r1.vlm.protocol import Completion, Request, Sampling
from edit_r1.world.perceive import judge_pixels
from edit_r1.world.samples import edit_of, make_samples, scene_of

EXAMPLES = world_examples(3)
TRUE = {(example.edited, example.instruction) for example in EXAMPLES}


class Scripted:
    name = "scripted"
    simulated = True

    def __init__(self, answer: Callable[[Request, int], str | Completion]) -> None:
        self.answer = answer

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        return [[self._completion(request, copy) for copy in range(n)] for request in requests]

    def _completion(self, request: Request, copy: int) -> Completion:
        answer = self.answer(request, copy)
        return answer if isinstance(answer, Completion) else Completion(answer, 20, "stop")


def instruction_of(request: Request) -> str:
    return next(line for line in request.text.splitlines() if line.startswith("Instruction: ")).split(": ", 1)[1]


def trace(request: Request, score: float) -> str:
    count = sum(line.split(" ", 1)[0].isdigit() for line in request.text.splitlines())
    return write_trace(["seen"] * count, [1] * count, score, "both", "compact", [])


def perfect(request: Request, copy: int) -> str:
    if "List the principles." in request.text:
        return write_principles(EXAMPLES[0].principles, "compact")
    good = (request.images[-1], instruction_of(request)) in TRUE
    return trace(request, (9.5 if good else 0.5) + 0.1 * copy)


def examined(answer: Callable[[Request, int], str | Completion], examples: Sequence[Example] = EXAMPLES) -> dict:
    found = checks.examine_verifier(Verifier(Scripted(answer), variant="compact"), examples)
    assert tuple(finding.name for finding in found) == checks.AFTER_LOADING
    return {finding.name: finding for finding in found}


def test_a_perfect_verifier_passes_everything() -> None:
    found = examined(perfect)
    assert {finding.status for finding in found.values()} == {"ok"}
    assert all(finding.remedy is None for finding in found.values())
    assert "below the true edit on 3 of 3" in found["black image"].measured
    assert found["throughput"].values["edits"] == 12
    assert "estimate" in found["throughput"].measured
    assert found["format"].values["tokens_median"] == 20


def test_one_that_gives_every_picture_the_same_score_fails_every_contrast() -> None:
    found = examined(lambda request, copy: trace(request, 7.0))
    assert [found[name].status for name in checks.CONTRASTS] == ["fail"] * 3
    assert all("7.0 against 7.0" in found[name].measured and found[name].remedy for name in checks.CONTRASTS)
    assert found["traces differ"].status == "fail"
    assert "1 different texts of 4" in found["traces differ"].measured


def test_one_that_is_blind_to_the_instruction_is_found() -> None:
    edited = {example.edited for example in EXAMPLES}
    found = examined(lambda request, copy: trace(request, 9.0 if request.images[-1] in edited else 1.0))
    assert [found[name].status for name in checks.CONTRASTS] == ["ok", "ok", "fail"]
    assert "instruction" in (found["swapped instruction"].remedy or "")


def test_a_contrast_that_is_lower_but_praised_is_a_warning() -> None:
    def answer(request: Request, copy: int) -> str:
        black = not decode_rgb(request.images[-1]).any()
        return trace(request, 6.0) if black else perfect(request, copy)

    finding = examined(answer)["black image"]
    assert finding.status == "warn"
    assert "3 of 3 at 5 or above" in finding.measured


def test_a_contrast_that_holds_on_most_examples_is_a_warning() -> None:
    odd = EXAMPLES[0].source
    finding = examined(
        lambda request, copy: trace(request, 9.9) if request.images[-1] == odd else perfect(request, copy)
    )["unedited copy"]
    assert finding.status == "warn" and "below the true edit on 2 of 3" in finding.measured


def test_answers_that_are_cut_or_unparsed_are_counted() -> None:
    found = examined(lambda request, copy: Completion("1 yes\n2", 512, "length"))
    assert found["judgment"].status == "warn"
    assert [found[name].status for name in checks.CONTRASTS] == ["skipped"] * 3
    assert found["format"].status == "fail" and found["format"].values["cut"] == 12
    assert found["principles"].status == "warn"
    chat = examined(lambda request, copy: f"What a nice picture! {copy}")
    assert chat["format"].status == "fail" and "0 of 12 answers parsed" in chat["format"].measured
    assert "trained" in (chat["format"].remedy or "")


def test_a_call_that_fails_skips_the_rest() -> None:
    found = examined(lambda request, copy: Completion("", 0, "error", "out of memory"))
    assert found["judgment"].status == "fail" and "out of memory" in found["judgment"].measured
    assert {found[name].status for name in checks.AFTER_LOADING[1:]} == {"skipped"}


def test_a_backend_that_raises_is_a_finding() -> None:
    def answer(request: Request, copy: int) -> str:
        raise RuntimeError("CUDA error")

    assert "CUDA error" in examined(answer)["judgment"].measured


@pytest.mark.parametrize("model", ["/no/such/folder", "."])
def test_a_model_that_cannot_be_opened_is_a_finding(model: str) -> None:
    finding, verifier = checks.load(ModelChoice(model))
    assert verifier is None and finding.status == "fail" and finding.remedy
    assert "\n" not in finding.measured


def test_the_examples_of_editworld_are_what_they_say() -> None:
    for example, sample in zip(world_examples(6), make_samples(6, "validation", 0), strict=True):
        gold = judge_pixels(scene_of(sample), edit_of(sample), decode_rgb(example.edited))
        assert gold.utility == 10, example.name
        assert judge_pixels(scene_of(sample), edit_of(sample), decode_rgb(example.source)).utility == 0
        assert example.other_instruction != example.instruction and example.other_principles != example.principles
        assert not decode_rgb(example.black).any()
    assert examples_for(EDITWORLD) == world_examples(6)


def test_photographs_change_where_the_mask_is_and_nowhere_else() -> None:
    pytest.importorskip("skimage")
    coffee, rocket = photograph_examples()
    for example in (coffee, rocket):
        source, edited = decode_rgb(example.source).astype(int), decode_rgb(example.edited).astype(int)
        changed = np.abs(source - edited).max(axis=-1) > 8
        assert 0.15 < changed.mean() < 0.9, example.name
        # Inside, green is the strongest channel, as the instructions ask.
        inside = edited[changed].mean(axis=0)
        assert inside[1] > inside[0] and inside[1] > inside[2], example.name
    table = np.abs(decode_rgb(coffee.source).astype(int) - decode_rgb(coffee.edited).astype(int))[:, 520:]
    assert table.max() == 0
    assert examples_for(None) == (coffee, rocket)


def test_without_scikit_image_pictures_of_editworld_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    found = examples_for(None)
    assert len(found) == 2
    assert decode_rgb(found[0].edited).shape == (512, 512, 3)
