"""A row that a step could not make: kept with its cause, never dropped silently and never invented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One thing that a model did not deliver after every retry."""

    step: str
    """"decompose", "edit", "reason", "verify" or "select"."""
    row: str
    """Id of the sample or candidate that the row would have belonged to."""
    model: str
    reason: str


def causes(failures: Iterable[Failure]) -> dict[str, int]:
    """Failures counted by "model: reason", most frequent first."""
    counted = Counter(f"{failure.model}: {failure.reason}" for failure in failures)
    return dict(counted.most_common())
