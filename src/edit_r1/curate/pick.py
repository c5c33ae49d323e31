"""Step 0: which samples to curate. Random is a uniform draw; Hard is what a VLM's filter keeps (paper section 2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edit_r1.curate.failures import Failure
from edit_r1.curate.pictures import shown_sources
from edit_r1.curate.retry import ask
from edit_r1.images import ImageError, decode_rgb
from edit_r1.records import Sample, Unparsed
from edit_r1.verifier.hard_filter import hard_request, parse_hard
from edit_r1.verifier.prompts import check_instruction
from edit_r1.vlm.protocol import VLM, Sampling

FILTER_SAMPLING = Sampling(256, temperature=0.0)
"""Greedy: the filter decides, it does not explore."""


@dataclass(frozen=True)
class HardVerdict:
    """The filter's word on one sample."""

    sample_id: str
    hard: bool
    reason: str
    """The filter's own sentence."""
    model: str
    category: str = ""
    """Kind of edit by the filter's word (`verifier.hard_filter.KINDS`)."""
    simulated: bool = False


def usable(samples: Sequence[Sample]) -> tuple[list[Sample], list[Failure]]:
    """The samples that can be worked on, in order, and those with a broken image or an unusable instruction."""
    kept: list[Sample] = []
    failures: list[Failure] = []
    for sample in samples:
        try:
            check_instruction(sample.instruction)
            decode_rgb(sample.source)
        except ImageError as error:
            failures.append(Failure("samples", sample.id, "source image", str(error)))
        except ValueError as error:
            failures.append(Failure("samples", sample.id, "instruction", str(error)))
        else:
            kept.append(sample)
    return kept, failures


def seeded_queues(categories: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """The places of each category in a uniformly drawn order, int64; categories by their first place in that order.

    One category for all gives a permutation of everything. The beginning of a queue is a uniform draw of any length.
    """
    order_N = np.random.default_rng(seed).permutation(len(categories))
    queues: dict[str, list[int]] = defaultdict(list)
    for place in order_N.tolist():
        queues[categories[place]].append(place)
    return {category: np.array(places, np.int64) for category, places in queues.items()}


def judge_hard(
    samples: Sequence[Sample], vlm: VLM, sampling: Sampling = FILTER_SAMPLING
) -> list[HardVerdict | Failure]:
    """The filter's word on each sample, in order; or why there is none, as an answer without a decision is none.

    Raises ValueError for an empty or over-long instruction (`usable` sorts these out).
    """
    requests = [hard_request(shown_sources(sample), sample.instruction) for sample in samples]
    answers = ask(vlm, requests, lambda _, answer: parse_hard(answer.text, answer.finish == "length"), sampling)
    return [
        Failure("pick", sample.id, vlm.name, answer.reason, answer.failed_call)
        if isinstance(answer, Unparsed)
        else HardVerdict(sample.id, answer.hard, answer.reason, vlm.name, answer.category, vlm.simulated)
        for sample, answer in zip(samples, answers, strict=True)
    ]
