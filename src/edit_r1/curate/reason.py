"""Step 3: a pool of judges writes traces for each quadruple."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edit_r1.curate.failures import Failure, check_outage
from edit_r1.curate.pictures import shown_pair
from edit_r1.curate.retry import turned
from edit_r1.curate.shards import Made
from edit_r1.records import Candidate, Context, PoolTrace, Trace, Unparsed
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


Asked = tuple[Context, Candidate, Sequence[PoolTrace]]
"""Of what traces are wanted, and those that were read of it before."""


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
    items: list[Asked] = [(contexts[candidate.sample_id], candidate, ()) for candidate in candidates]
    traces: list[PoolTrace] = []
    first = 0
    for member in pool:
        traces += [trace for own in reason_each(items, member, first) for trace in own]
        first += member.traces
    return traces


def reason_each(
    items: Sequence[Asked], member: PoolMember, first: int = 0, turn: int = 0
) -> list[tuple[PoolTrace, ...]]:
    """One member's traces of each item, numbered from `first`; those that are given are not asked for.

    turn: see `retry.turned`.

    Where some are given each of the others is asked for alone, by a seed of its own, the sampling's plus its number. A
    paid model draws n answers so anyway (`vlm.paid.PaidVLM.calls`), but where its server takes n; a local one draws all
    of a request by one seed, and is given none.
    """
    found = [{trace.index: trace for trace in given} for _, _, given in items]
    whole = turned(member.sampling, turn)

    def ask(places: Sequence[int], sampling: Sampling, numbers: range) -> None:
        requests = [_request(*items[place][:2], member) for place in places]
        answers = member.vlm.generate(requests, sampling, len(numbers)) if places else []
        for place, completions in zip(places, answers, strict=True):
            context, candidate, _ = items[place]
            assert len(completions) == len(numbers), f"{member.vlm.name} gave {len(completions)} of {len(numbers)}"
            for number, completion in zip(numbers, completions, strict=True):
                outcome = parse_completion(completion, context.principles, "both")
                index = first + number
                found[place][index] = PoolTrace(candidate.id, member.vlm.name, index, outcome, member.vlm.simulated)

    ask([place for place, own in enumerate(found) if not own], whole, range(member.traces))
    for number in range(member.traces):
        missing = [place for place, own in enumerate(found) if first + number not in own]
        ask(missing, replace(whole, seed=whole.seed + number), range(number, number + 1))
    return [tuple(own[index] for index in sorted(own)) for own in found]


def reason_units(
    items: Sequence[Asked], turn: int, member: PoolMember, first: int, before: Callable[[], bool]
) -> list[Made[PoolTrace]]:
    """`reason_each` with what was lost. before: see `failures.check_outage`. Raises OutageError."""
    made = [Made(own, tuple(lost(own))) for own in reason_each(items, member, first, turn)]
    new = [trace for (*_, read), one in zip(items, made, strict=True) for trace in one.rows if trace not in read]
    check_outage([f for one in made for f in one.failures], {trace.judge for trace in readable(new)}, before)
    return made


def readable(traces: Sequence[PoolTrace]) -> tuple[PoolTrace, ...]:
    """Those with a score."""
    return tuple(trace for trace in traces if isinstance(trace.outcome, Trace))


def but_readable(asked: Asked, made: Made[PoolTrace]) -> Asked:
    """The same, with the traces that were read: a retry pays for none of them."""
    return *asked[:2], readable(made.rows)


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
