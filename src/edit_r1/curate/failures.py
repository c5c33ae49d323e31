"""A row that a step could not make: kept with its cause, never dropped silently and never invented."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

from edit_r1.vlm.openai_failures import tells_refusal

OUTAGE = 8
"""So many calls without one answer are an outage of the model and not the fault of single rows."""


@dataclass(frozen=True)
class Failure:
    """One thing that a model did not deliver after every retry."""

    step: str
    """"pick", "samples", "decompose", "edit", "reason", "verify" or "select"."""
    row: str
    """Id of the sample or candidate that the row would have belonged to."""
    model: str
    reason: str
    failed_call: bool = False
    """True when no answer came at all, as opposed to one that could not be used."""


class OutageError(ValueError):
    """A model answered nothing at all; the message says which one and what to do."""


def causes(failures: Iterable[Failure]) -> dict[str, int]:
    """Failures counted by "model: reason", most frequent first, equally frequent ones by name."""
    counted = Counter(f"{failure.model}: {failure.reason}" for failure in failures)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


_OF_ONE_ROW = re.compile(r"""(?<!\w)'[^']*'|(?<!\w)"[^"]*"|\b(?=\w*\d)\w+""")
"""What stands in a reason of one row alone: a name in quotes, and words with digits in them."""


def by_cause(failed: Mapping[str, int]) -> dict[str, int]:
    """Counts as `causes` gives them, of any number of rows, with reasons that differ in names and numbers alone taken
    together: 2,000 files that are not there are one cause and not 2,000.

    Told of each is its most frequent reason, of equals the first by name, and how many others there are.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for cause in sorted(failed, key=lambda cause: (-failed[cause], cause)):
        model, _, reason = cause.partition(": ")
        alike.setdefault((model, _OF_ONE_ROW.sub("", reason)), []).append(cause)
    told = {
        own[0] + (f" (and {len(own) - 1:,} like it)" if len(own) > 1 else ""): sum(failed[cause] for cause in own)
        for own in alike.values()
    }
    return dict(sorted(told.items(), key=lambda item: (-item[1], item[0])))


def check_outage(failures: Iterable[Failure], answered: Set[str], before: Callable[[], bool] = lambda: False) -> None:
    """Stop a run before it writes an outage down as failures of rows, which no later run would mend.

    Args:
        failures: of one shard of one step.
        answered: names of the models that answered at least once in it.
        before: whether the model has answered other rows in this output. A server that then calls every request
            malformed (400, 422; hosted models do so for what they will not judge) is there, and refuses these rows.

    Raises:
        OutageError: when a model left `OUTAGE` calls or more unanswered and answered none.
    """
    silent: dict[str, list[Failure]] = {}
    for failure in failures:
        if failure.model not in answered:
            silent.setdefault(failure.model, []).append(failure)
    for model, mine in silent.items():
        if len(mine) >= OUTAGE and all(failure.failed_call for failure in mine):
            if all(tells_refusal(failure.reason) for failure in mine) and before():
                continue
            raise OutageError(
                f"{model}: no answer to any of {len(mine)} calls ({mine[0].reason}): check that it is running and "
                "reachable, then run again; what is finished is kept"
            )


def told_of_nothing(rows: Mapping[str, int], failed: Mapping[str, Mapping[str, int]]) -> str:
    """ "STEP: COUNT x CAUSE" of the first step that left nothing, with its most frequent cause; "" without failures.

    For a run that selected nothing: earlier steps may have failures of their own, such as copies among the samples.

    Args:
        rows: by step, in the order of the steps; a trace that could not be read is a row too.
        failed: by step, how many by cause, the most frequent first.
    """
    for step, count in rows.items():
        causes = failed[step]
        if causes and (not count or (step == "traces" and sum(causes.values()) == count)):
            cause, times = next(iter(causes.items()))
            return f"{step}: {times:,} x {cause}"
    return ""
