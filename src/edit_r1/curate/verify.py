"""Step 4a: an external verifier writes gold verdicts, one list per quadruple, with the judges' traces as references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from edit_r1.curate.decompose import TRIES, retry_sampling
from edit_r1.curate.failures import Failure
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Unparsed, Verdict
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
    """Gold verdicts per candidate, in order; lists of a wrong length are asked for again, then failures."""
    texts: dict[str, list[str]] = defaultdict(list)
    for trace in traces:
        if trace.outcome.text:
            texts[trace.candidate_id].append(trace.outcome.text)
    found: dict[str, GoldVerdicts] = {}
    reasons: dict[str, str] = {}
    open_candidates = list(candidates)
    for attempt in range(TRIES):
        if not open_candidates:
            break
        requests = []
        for candidate in open_candidates:
            context = contexts[candidate.sample_id]
            sample = context.sample
            requests.append(
                verify_request(
                    [sample.source],
                    candidate.image,
                    sample.instruction,
                    context.principles,
                    texts[candidate.id],
                    variant,
                )
            )
        answers = vlm.generate(requests, retry_sampling(sampling, attempt))
        for candidate, (answer,) in zip(open_candidates, answers, strict=True):
            gold = _gold(answer, len(contexts[candidate.sample_id].principles))
            if isinstance(gold, Unparsed):
                reasons[candidate.id] = gold.reason
            else:
                found[candidate.id] = GoldVerdicts(candidate.id, gold, vlm.name, vlm.simulated)
        open_candidates = [candidate for candidate in open_candidates if candidate.id not in found]
    gold_lists = [found[candidate.id] for candidate in candidates if candidate.id in found]
    failures = [Failure("verify", candidate.id, vlm.name, reasons[candidate.id]) for candidate in open_candidates]
    return gold_lists, failures


def _gold(answer: Completion, count: int) -> tuple[Verdict, ...] | Unparsed:
    if answer.finish == "error":
        return Unparsed("", f"no answer: {answer.error}", failed_call=True)
    return parse_gold(answer.text, count, truncated=answer.finish == "length")
