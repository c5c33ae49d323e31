"""Step 1: source and instruction become principles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edit_r1.curate.draws import number_of
from edit_r1.curate.failures import Failure
from edit_r1.records import Context, Principle, Sample, Unparsed
from edit_r1.verifier.examples import draw_examples
from edit_r1.verifier.parsing import parse_principles
from edit_r1.verifier.prompts import Variant, decompose_request
from edit_r1.vlm.protocol import VLM, Completion, Sampling

TRIES = 3
"""An answer that does not parse is asked for again, each time with another seed."""


def decompose(
    samples: Sequence[Sample], vlm: VLM, variant: Variant, sampling: Sampling
) -> tuple[list[Context], list[Failure]]:
    """A context per sample that could be decomposed, in order; the others as failures with their last reason.

    Four of the pool's examples are drawn for each query, by its own id.
    """
    found: dict[str, Context] = {}
    reasons: dict[str, str] = {}
    open_samples = list(samples)
    for attempt in range(TRIES):
        if not open_samples:
            break
        requests = [
            decompose_request([s.source], s.instruction, draw_examples(number_of(s.id)), variant) for s in open_samples
        ]
        answers = vlm.generate(requests, retry_sampling(sampling, attempt))
        for sample, (answer,) in zip(open_samples, answers, strict=True):
            principles = _principles(answer)
            if isinstance(principles, Unparsed):
                reasons[sample.id] = principles.reason
            else:
                found[sample.id] = Context(sample, principles, vlm.name, vlm.simulated)
        open_samples = [sample for sample in open_samples if sample.id not in found]
    contexts = [found[sample.id] for sample in samples if sample.id in found]
    failures = [Failure("decompose", sample.id, vlm.name, reasons[sample.id]) for sample in open_samples]
    return contexts, failures


def retry_sampling(sampling: Sampling, attempt: int) -> Sampling:
    """The same parameters with another seed; greedy answers would only repeat themselves, so a retry samples."""
    temperature = sampling.temperature if attempt == 0 else max(sampling.temperature, 0.7)
    return replace(sampling, temperature=temperature, seed=sampling.seed + 1_000_003 * attempt)


def _principles(answer: Completion) -> tuple[Principle, ...] | Unparsed:
    if answer.finish == "error":
        return Unparsed("", f"no answer: {answer.error}", failed_call=True)
    return parse_principles(answer.text, truncated=answer.finish == "length")
