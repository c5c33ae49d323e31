"""Step 3: a pool of judges writes traces for each quadruple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edit_r1.curate.failures import Failure
from edit_r1.curate.pictures import shown_pair
from edit_r1.records import Candidate, Context, PoolTrace, Unparsed
from edit_r1.verifier.parsing import parse_completion
from edit_r1.verifier.prompts import Variant, judge_request
from edit_r1.vlm.protocol import VLM, Request, Sampling


@dataclass(frozen=True)
class PoolMember:
    """One way of asking one VLM; diversity comes from models, system texts and temperatures.

    Traces are always asked for in mode "both": the selector needs the verdicts, and SFT rewrites the
    selected trace in the other modes (`verifier.traces.project`), which no other mode allows.
    """

    vlm: VLM
    traces: int
    """Traces per quadruple, at least 1."""
    sampling: Sampling
    """Its temperature and seed; greedy decoding gives one trace only."""
    variant: Variant = "full"
    system: str | None = None
    """A system text of its own."""

    def __post_init__(self) -> None:
        if self.traces < 1:
            raise ValueError(f"{self.vlm.name}: traces={self.traces}; a judge of the pool writes at least 1")
        if self.traces > 1 and self.sampling.temperature <= 0:
            raise ValueError(
                f"{self.vlm.name}: {self.traces} traces at temperature 0 are copies of one: raise the temperature "
                "or ask for 1"
            )


def reason(
    contexts: Mapping[str, Context], candidates: Sequence[Candidate], pool: Sequence[PoolMember]
) -> list[PoolTrace]:
    """Every member's traces for every candidate; a failed call or an unparsed text stays in as `Unparsed`.

    Args:
        contexts: by sample id.

    Raises:
        ValueError: for a candidate without its context.
    """
    missing = {candidate.sample_id for candidate in candidates} - contexts.keys()
    if missing:
        raise ValueError(f"no context for sample {min(missing)}: give every candidate's context, or decompose it first")
    pairs = [(contexts[candidate.sample_id], candidate) for candidate in candidates]
    traces: list[PoolTrace] = []
    first = 0
    for member in pool:
        traces += [trace for own in reason_each(pairs, member, first) for trace in own]
        first += member.traces
    return traces


def reason_each(
    pairs: Sequence[tuple[Context, Candidate]], member: PoolMember, first: int = 0
) -> list[tuple[PoolTrace, ...]]:
    """One member's traces of each (context, candidate), numbered from `first`."""
    if not pairs:
        return []
    requests = [_request(context, candidate, member) for context, candidate in pairs]
    answers = member.vlm.generate(requests, member.sampling, member.traces)
    traces: list[tuple[PoolTrace, ...]] = []
    for (context, candidate), completions in zip(pairs, answers, strict=True):
        assert len(completions) == member.traces, f"{member.vlm.name} gave {len(completions)} of {member.traces}"
        outcomes = [parse_completion(completion, context.principles, "both") for completion in completions]
        own = (
            PoolTrace(candidate.id, member.vlm.name, first + number, outcome, member.vlm.simulated)
            for number, outcome in enumerate(outcomes)
        )
        traces.append(tuple(own))
    return traces


def lost(traces: Sequence[PoolTrace]) -> list[Failure]:
    """The traces without a score, as failures."""
    return [
        Failure("reason", trace.candidate_id, trace.judge, trace.outcome.reason, trace.outcome.failed_call)
        for trace in traces
        if isinstance(trace.outcome, Unparsed)
    ]


def _request(context: Context, candidate: Candidate, member: PoolMember) -> Request:
    sources, edited = shown_pair(context.sample, candidate.image)
    asked = judge_request(sources, edited, context.sample.instruction, context.principles, "both", member.variant)
    return Request(asked.parts, member.system)
