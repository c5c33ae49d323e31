"""Step 4a: an external verifier writes gold verdicts, one list per quadruple, with the judges' traces as references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from edit_r1.curate.failures import Failure, check_outage
from edit_r1.curate.pictures import shown_pair
from edit_r1.curate.retry import ask
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Trace, Unparsed, Verdict
from edit_r1.verifier.parsing import parse_gold
from edit_r1.verifier.prompts import Variant, verify_request
from edit_r1.vlm.protocol import VLM, Completion, Sampling


def verify(
    contexts: Mapping[str, Context],
    candidates: Sequence[Candidate],
    traces: Sequence[PoolTrace],
    vlm: VLM,
    variant: Variant,
    sampling: Sampling,
) -> tuple[list[GoldVerdicts], list[Failure]]:
    """Gold verdicts per candidate, in order; lists of a wrong length are asked for again, then failures.

    All parsed traces of a candidate are shown as references. Unparsed ones are not: a text cut at the
    token limit or run wild is no judgment, and may be longer than all others together.

    Args:
        contexts: by sample id.
        traces: of these candidates, in any order.
    """
    texts: dict[str, list[PoolTrace]] = defaultdict(list)
    for trace in traces:
        texts[trace.candidate_id].append(trace)
    items = [(contexts[candidate.sample_id], candidate, texts[candidate.id]) for candidate in candidates]
    found = verify_each(items, vlm, variant, sampling)
    return [one for one in found if isinstance(one, GoldVerdicts)], [one for one in found if isinstance(one, Failure)]


def references_of(traces: Sequence[PoolTrace]) -> list[str]:
    """The texts that the verifier is shown of a candidate's traces, in the order of their numbers."""
    ordered = sorted(traces, key=lambda trace: trace.index)
    return [trace.outcome.text for trace in ordered if isinstance(trace.outcome, Trace)]


def verify_each(
    items: Sequence[tuple[Context, Candidate, Sequence[PoolTrace]]], vlm: VLM, variant: Variant, sampling: Sampling
) -> list[GoldVerdicts | Failure]:
    """Gold for each (context, candidate, its traces), in order, or the last reason why there is none."""
    requests = []
    for context, candidate, traces in items:
        sources, edited = shown_pair(context.sample, candidate.image)
        references = references_of(traces)
        requests.append(
            verify_request(sources, edited, context.sample.instruction, context.principles, references, variant)
        )

    def parse(place: int, answer: Completion) -> tuple[Verdict, ...] | Unparsed:
        return parse_gold(answer.text, items[place][0].principles, truncated=answer.finish == "length")

    return [
        Failure("verify", candidate.id, vlm.name, answer.reason, answer.failed_call)
        if isinstance(answer, Unparsed)
        else GoldVerdicts(candidate.id, answer, vlm.name, vlm.simulated)
        for (_, candidate, _), answer in zip(items, ask(vlm, requests, parse, sampling), strict=True)
    ]


NOT_ASKED = "not asked: no trace could be parsed"


def verify_read(
    items: Sequence[tuple[Context, Candidate, Sequence[PoolTrace]]],
    vlm: VLM,
    variant: Variant,
    sampling: Sampling,
    before: Callable[[], bool] = lambda: False,
) -> list[GoldVerdicts | Failure]:
    """As `verify_each`, but a candidate without any parsed trace is not asked about: gold could select nothing there.

    Raises OutageError when the model answered nothing at all (`failures.check_outage`, which says what `before` is).
    """
    asked = [item for item in items if references_of(item[2])]
    made = verify_each(asked, vlm, variant, sampling)
    answered = {one.verifier for one in made if isinstance(one, GoldVerdicts)}
    check_outage([one for one in made if isinstance(one, Failure)], answered, before)
    found = iter(made)
    return [
        next(found) if references_of(traces) else Failure("verify", candidate.id, vlm.name, NOT_ASKED)
        for _, candidate, traces in items
    ]
