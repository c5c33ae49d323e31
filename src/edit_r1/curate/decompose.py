"""Step 1: source and instruction become principles."""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.curate.draws import number_of
from edit_r1.curate.failures import Failure
from edit_r1.curate.findings import faults
from edit_r1.curate.pictures import shown_sources
from edit_r1.curate.retry import ask, retry_sampling
from edit_r1.records import Context, Sample, Unparsed
from edit_r1.verifier.examples import draw_examples
from edit_r1.verifier.parsing import parse_principles
from edit_r1.verifier.prompts import Variant, decompose_request
from edit_r1.vlm.protocol import VLM, Sampling

SECOND = 7
"""Number of the attempt by which a second decomposition is drawn: beyond those of `retry.ask`."""


def decompose(
    samples: Sequence[Sample], vlm: VLM, variant: Variant, sampling: Sampling
) -> tuple[list[Context], list[Failure]]:
    """A context per sample that could be decomposed, in order; the others as failures with their last reason.

    Raises:
        ValueError: for an empty or over-long instruction (`pick.usable` sorts these out).
    """
    found = decompose_each(samples, vlm, variant, sampling)
    return [one for one in found if isinstance(one, Context)], [one for one in found if isinstance(one, Failure)]


def decompose_each(
    samples: Sequence[Sample], vlm: VLM, variant: Variant, sampling: Sampling
) -> list[Context | Failure]:
    """The context of each sample, in order, or the last reason why there is none.

    Four of the pool's examples are drawn for each query, by the sample's id alone, so that a run in
    pieces asks what a run in one asks. Raises as `decompose`.
    """
    requests = [
        decompose_request(shown_sources(sample), sample.instruction, draw_examples(number_of(sample.id)), variant)
        for sample in samples
    ]
    answers = ask(vlm, requests, lambda _, answer: parse_principles(answer.text, answer.finish == "length"), sampling)
    return [
        Failure("decompose", sample.id, vlm.name, answer.reason, answer.failed_call)
        if isinstance(answer, Unparsed)
        else Context(sample, answer, vlm.name, vlm.simulated)
        for sample, answer in zip(samples, answers, strict=True)
    ]


def decompose_again(contexts: Sequence[Context], vlm: VLM, variant: Variant, sampling: Sampling) -> list[Context]:
    """Each context, or where the checks found faults in it what the decomposer writes at a second asking, if that has
    fewer; in order.

    The second asking has another seed and is not greedy. An answer that cannot be used leaves the first one.
    """
    found = [len(faults(context)) for context in contexts]
    places = [place for place, number in enumerate(found) if number]
    other = retry_sampling(sampling, SECOND)
    answers = decompose_each([contexts[place].sample for place in places], vlm, variant, other) if places else []
    result = list(contexts)
    for place, answer in zip(places, answers, strict=True):
        if isinstance(answer, Context) and len(faults(answer)) < found[place]:
            result[place] = answer
    return result
