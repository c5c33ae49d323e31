"""Step 0: which samples to curate. Random is a uniform draw; Hard is what a VLM's filter keeps (paper section 2)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edit_r1.curate.failures import Failure
from edit_r1.curate.retry import ask
from edit_r1.images import ImageError, decode_rgb
from edit_r1.records import Sample, Unparsed
from edit_r1.verifier.prompts import check_instruction
from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling

FILTER_PROMPT = """\
Instruction: {instruction}

Decide whether this instruction for editing the image above is hard. It is hard when at least one holds: it asks \
for several steps; it depends on fine detail; its meaning is implicit and must be inferred; it needs precise \
control of positions or other spatial relations. A simple instruction of a single step is not hard.
Give your reason in one sentence, then on a line of its own HARD or SIMPLE."""

FILTER_SAMPLING = Sampling(256, temperature=0.0)
"""Greedy: the filter decides, it does not explore."""

_ANSWER = re.compile(r"^\W*(?:(?:answer|verdict)\W+)?(HARD|SIMPLE)\W*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class HardVerdict:
    """The filter's word on one sample."""

    sample_id: str
    hard: bool
    reason: str
    """The filter's own sentence."""
    model: str


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


def pick_random(samples: Sequence[Sample], count: int, seed: int, balanced: bool = False) -> list[Sample]:
    """`count` samples drawn uniformly without replacement, in a seeded order.

    Args:
        balanced: draw from the categories in turn, as far as each has samples: two categories that both
            have samples left differ by at most one.

    Raises:
        ValueError: when fewer than `count` samples are there, or for a negative `count`.
    """
    if not 0 <= count <= len(samples):
        raise ValueError(f"count={count}: {len(samples)} samples are there to draw from")
    order = [samples[int(place)] for place in np.random.default_rng(seed).permutation(len(samples))]
    if not balanced:
        return order[:count]
    queues: dict[str, list[Sample]] = defaultdict(list)
    for sample in order:
        queues[sample.category].append(sample)
    longest = max(map(len, queues.values()), default=0)
    turns = [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]
    return turns[:count]


def pick_hard(
    samples: Sequence[Sample], vlm: VLM, sampling: Sampling = FILTER_SAMPLING
) -> tuple[list[Sample], list[HardVerdict], list[Failure]]:
    """The samples that the filter calls hard, marked as subset "hard"; its reasons; and samples it gave no word on.

    Raises:
        ValueError: for an empty or over-long instruction (`usable` sorts these out).
    """
    requests = [
        Request((*sample.sources, "\n" + FILTER_PROMPT.format(instruction=check_instruction(sample.instruction))))
        for sample in samples
    ]
    answers = ask(vlm, requests, lambda place, answer: _verdict(answer, samples[place], vlm.name), sampling)
    kept: list[Sample] = []
    verdicts: list[HardVerdict] = []
    failures: list[Failure] = []
    for sample, answer in zip(samples, answers, strict=True):
        if isinstance(answer, Unparsed):
            failures.append(Failure("pick", sample.id, vlm.name, answer.reason, answer.failed_call))
            continue
        verdicts.append(answer)
        if answer.hard:
            kept.append(replace(sample, subset="hard"))
    return kept, verdicts, failures


def _verdict(answer: Completion, sample: Sample, model: str) -> HardVerdict | Unparsed:
    if answer.finish == "length":
        return Unparsed(answer.text, "cut at the token limit", answer.tokens)
    said = {word.upper() for word in _ANSWER.findall(answer.text)}
    if len(said) != 1:
        reason = "says both HARD and SIMPLE" if said else "says neither HARD nor SIMPLE on a line of its own"
        return Unparsed(answer.text, reason, answer.tokens)
    return HardVerdict(sample.id, said == {"HARD"}, _ANSWER.sub("", answer.text).strip(), model)
