"""Step 0: which instructions to curate.

Random is a uniform draw; Hard is what a VLM's filter keeps (paper section 2).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edit_r1.curate.failures import Failure
from edit_r1.records import Sample
from edit_r1.vlm.protocol import VLM, Request, Sampling

FILTER_PROMPT = """\
Instruction: {instruction}

Decide whether this instruction for editing the image above is hard. It is hard when at least one holds: it asks \
for several steps; it depends on fine detail; its meaning is implicit and must be inferred; it needs precise \
control of positions or other spatial relations. A simple instruction of a single step is not hard.
Give your reason in one sentence, then on a line of its own HARD or SIMPLE."""

_ANSWER = re.compile(r"^\W*(HARD|SIMPLE)\W*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class HardVerdict:
    """The filter's word on one sample."""

    sample_id: str
    hard: bool
    reason: str
    """The filter's own sentence."""
    model: str


def pick_random(samples: Sequence[Sample], count: int, seed: int, balanced: bool = False) -> list[Sample]:
    """`count` samples drawn uniformly without replacement, in a seeded order.

    Args:
        balanced: draw from the categories in turn, as far as each has samples.

    Raises:
        ValueError: when fewer than `count` samples are there.
    """
    if not 0 <= count <= len(samples):
        raise ValueError(f"count={count}: {len(samples)} samples are there to draw from")
    order = [samples[int(place)] for place in np.random.default_rng(seed).permutation(len(samples))]
    if not balanced:
        return order[:count]
    queues: dict[str, list[Sample]] = defaultdict(list)
    for sample in order:
        queues[sample.category].append(sample)
    turns = [queue[turn] for turn in range(len(order)) for queue in queues.values() if turn < len(queue)]
    return turns[:count]


def pick_hard(samples: Sequence[Sample], vlm: VLM, seed: int) -> tuple[list[Sample], list[HardVerdict], list[Failure]]:
    """The samples that the filter calls hard, marked as subset "hard"; its reasons; and answers that say neither."""
    requests = [Request((s.source, "\n" + FILTER_PROMPT.format(instruction=s.instruction))) for s in samples]
    answers = vlm.generate(requests, Sampling(256, temperature=0.0, seed=seed))
    kept: list[Sample] = []
    verdicts: list[HardVerdict] = []
    failures: list[Failure] = []
    for sample, (answer,) in zip(samples, answers, strict=True):
        said = {word.upper() for word in _ANSWER.findall(answer.text)}
        if answer.finish == "error" or len(said) != 1:
            reason = answer.error or "the answer says neither HARD nor SIMPLE"
            failures.append(Failure("pick", sample.id, vlm.name, reason))
            continue
        reason = _ANSWER.sub("", answer.text).strip()
        verdicts.append(HardVerdict(sample.id, said == {"HARD"}, reason, vlm.name))
        if said == {"HARD"}:
            kept.append(replace(sample, subset="hard"))
    return kept, verdicts, failures
