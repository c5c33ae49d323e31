"""Curation shows a model the pictures that a judgment shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edit_r1.curate.decompose import decompose
from edit_r1.curate.pictures import shown_pair
from edit_r1.curate.reason import PoolMember, reason
from edit_r1.curate.verify import verify
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Candidate, Context, Principle, Sample
from edit_r1.train.verifier_run import decompose_messages, judge_messages
from edit_r1.vlm.protocol import Completion, Request, Sampling

SAMPLE = Sample("s", encode_png(np.zeros((16, 24, 3), dtype=np.uint8)), "make it red", "")
CANDIDATE = Candidate("c", "s", encode_png(np.full((32, 48, 3), 9, dtype=np.uint8)), "editor", 0)
CONTEXT = Context(SAMPLE, (Principle("Is it red?", "Instruction Following"),), "test")


class Recorder:
    name = "recorder"
    simulated = True

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: list[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        self.asked += requests
        return [[Completion("", 0, "stop")] * n for _ in requests]


def _sizes(request: Request) -> list[tuple[int, ...]]:
    return [decode_rgb(image).shape[:2] for image in request.images]


def test_an_edit_of_another_size_is_shown_at_the_sources_by_every_step() -> None:
    vlm = Recorder()
    sampling = Sampling(8)
    reason({"s": CONTEXT}, [CANDIDATE], [PoolMember(vlm, 1, sampling, "full")])
    verify({"s": CONTEXT}, [CANDIDATE], [], vlm, "full", sampling)
    decompose([SAMPLE], vlm, "full", sampling)
    assert {tuple(_sizes(request)) for request in vlm.asked} == {((16, 24), (16, 24)), ((16, 24),)}
    _, pictures = judge_messages(CONTEXT, CANDIDATE, "both", "full")
    assert [picture.size for picture in pictures] == [(24, 16), (24, 16)]


def test_a_picture_that_cannot_be_read_is_left_to_the_model_to_refuse() -> None:
    assert shown_pair(SAMPLE, b"no picture") == ((SAMPLE.source,), b"no picture")


def test_references_are_shown_by_every_step() -> None:
    sample = replace(SAMPLE, references=(encode_png(np.zeros((8, 8, 3), dtype=np.uint8)),))
    context, vlm, sampling = replace(CONTEXT, sample=sample), Recorder(), Sampling(8)
    reason({"s": context}, [CANDIDATE], [PoolMember(vlm, 1, sampling, "full")])
    verify({"s": context}, [CANDIDATE], [], vlm, "full", sampling)
    decompose([sample], vlm, "full", sampling)
    both = ((16, 24), (8, 8))
    assert {tuple(_sizes(request)) for request in vlm.asked} == {(*both, (16, 24)), both}
    _, pictures = judge_messages(context, CANDIDATE, "both", "full")
    assert [picture.size for picture in pictures] == [(24, 16), (8, 8), (24, 16)]
    _, pictures = decompose_messages(context, "full")
    assert [picture.size for picture in pictures] == [(24, 16), (8, 8)]
