"""Step 4a: an external verifier writes gold verdicts, one list per quadruple, with the judges' traces as references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from edit_r1.curate.failures import Failure
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
    texts: dict[str, list[str]] = defaultdict(list)
    for trace in sorted(traces, key=lambda trace: trace.index):
        if isinstance(trace.outcome, Trace):
            texts[trace.candidate_id].append(trace.outcome.text)
    own = [contexts[candidate.sample_id] for candidate in candidates]
    requests = []
    for context, candidate in zip(own, candidates, strict=True):
        sources, edited = shown_pair(context.sample, candidate.image)
        references = texts[candidate.id]
        requests.append(
            verify_request(sources, edited, context.sample.instruction, context.principles, references, variant)
        )

    def parse(place: int, answer: Completion) -> tuple[Verdict, ...] | Unparsed:
        return parse_gold(answer.text, own[place].principles, truncated=answer.finish == "length")

    gold: list[GoldVerdicts] = []
    failures: list[Failure] = []
    for candidate, answer in zip(candidates, ask(vlm, requests, parse, sampling), strict=True):
        if isinstance(answer, Unparsed):
            failures.append(Failure("verify", candidate.id, vlm.name, answer.reason, answer.failed_call))
        else:
            gold.append(GoldVerdicts(candidate.id, answer, vlm.name, vlm.simulated))
    return gold, failures
