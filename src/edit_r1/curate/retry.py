"""Asking again: an answer that does not parse is sampled anew, and after the last try it stays unparsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from edit_r1.records import Unparsed
from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling

T = TypeVar("T")

TRIES = 3
"""An answer that does not parse is asked for so many times in all, each time with another seed."""

RETRY_TEMPERATURE = 0.7
"""Lowest temperature of a retry: greedy decoding would only repeat the answer that did not parse."""


def ask(
    vlm: VLM,
    requests: Sequence[Request],
    parse: Callable[[int, Completion], T | Unparsed],
    sampling: Sampling,
    tries: int = TRIES,
) -> list[T | Unparsed]:
    """One parsed answer per request, in order; `Unparsed` with the last reason where every try failed.

    Args:
        parse: reads the answer to the request at a position; is never given a call that failed.

    Raises:
        ValueError: for `tries` below 1.
    """
    if tries < 1:
        raise ValueError(f"tries={tries}: a model has to be asked at least once")
    results: dict[int, T | Unparsed] = {}
    pending = list(range(len(requests)))
    for attempt in range(tries):
        if not pending:
            break
        answers = vlm.generate([requests[place] for place in pending], retry_sampling(sampling, attempt))
        for place, (answer,) in zip(pending, answers, strict=True):
            if answer.finish == "error":
                results[place] = Unparsed(answer.text, f"no answer came: {answer.error}", answer.tokens, True)
            else:
                results[place] = parse(place, answer)
        pending = [place for place in pending if isinstance(results[place], Unparsed)]
    return [results[place] for place in range(len(requests))]


TURN = 10
"""Attempts in a turn of `turned`: those of `ask`, and of a second asking beside them (`decompose.SECOND`)."""


def turned(sampling: Sampling, turn: int) -> Sampling:
    """The sampling of a question that was asked in `turn` turns before, none of whose answers could be used."""
    return retry_sampling(sampling, TURN * turn)


def retry_sampling(sampling: Sampling, attempt: int) -> Sampling:
    """The same parameters with another seed, and no longer greedy; attempt 0 is the first one."""
    temperature = sampling.temperature if attempt == 0 else max(sampling.temperature, RETRY_TEMPERATURE)
    return replace(sampling, temperature=temperature, seed=sampling.seed + 1_000_003 * attempt)
