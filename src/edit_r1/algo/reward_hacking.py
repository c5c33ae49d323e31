"""When a reward is being gamed: it rises while what it stands for falls. Pure functions of logged numbers (ours).

Legend: E evaluations of the same C contexts, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

Row = Sequence[float | None]
"""One evaluation: a value per context, None where the judgment failed."""


@dataclass(frozen=True)
class Divergence:
    """The newest evaluation against the one where the held-out reward stood highest."""

    best: int
    """That evaluation's place."""
    rise: float
    """Mean change of the trained reward since then, over the contexts judged both times."""
    fall: float
    """Mean change of the held-out reward since then; negative when it fell."""
    error: float
    """Standard error of `fall`, paired by context."""

    def alarming(self, least_rise: float, least_fall: float, errors: float) -> bool:
        """The trained reward rose by more than `least_rise`, the held-out one fell by at least `least_fall` and by at
        least `errors` standard errors."""
        return self.rise > least_rise and self.fall <= -max(least_fall, errors * self.error)


def divergence(trained_EC: Sequence[Row], heldout_EC: Sequence[Row]) -> Divergence | None:
    """Paired by context; None with fewer than two evaluations, or fewer than two contexts judged both times.

    Raises ValueError for different numbers of evaluations or contexts.
    """
    if len(trained_EC) != len(heldout_EC):
        raise ValueError(
            f"{len(trained_EC)} evaluations of one reward and {len(heldout_EC)} of the other: give as many"
        )
    counts = {len(row) for row in (*trained_EC, *heldout_EC)}
    if len(counts) > 1:
        raise ValueError(f"evaluations of {sorted(counts)} contexts: they must all be of the same ones")
    means = {place: mean for place, row in enumerate(heldout_EC[:-1]) if (mean := _mean(row)) is not None}
    if not means:
        return None
    best = max(means, key=lambda place: (means[place], -place))  # the first of equals
    falls, rises = _changes(heldout_EC[best], heldout_EC[-1]), _changes(trained_EC[best], trained_EC[-1])
    if len(falls) < 2 or not rises:
        return None
    fall = fsum(falls) / len(falls)
    error = sqrt(fsum((value - fall) ** 2 for value in falls) / (len(falls) - 1) / len(falls))
    return Divergence(best, fsum(rises) / len(rises), fall, error)


def change_since_start(series: Sequence[float | None], window: int) -> float | None:
    """Mean of the last `window` values less the mean of the first; None before there are two windows of values.

    A missing value (None) does not count. Raises ValueError for a window below 1.
    """
    if window < 1:
        raise ValueError(f"window={window}: at least 1")
    known = [value for value in series if value is not None]
    if len(known) < 2 * window:
        return None
    return (fsum(known[-window:]) - fsum(known[:window])) / window


def _mean(row: Row) -> float | None:
    known = [value for value in row if value is not None]
    return fsum(known) / len(known) if known else None


def _changes(before: Row, after: Row) -> list[float]:
    return [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
