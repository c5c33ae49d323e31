"""The Random subset: a uniform draw by seed of rows that pass the checks, over all or in equal shares by category.

Which rows pass is known only when they were looked at, and looking costs. So rows are looked at in the drawn order, as
many as are still needed, wave after wave; within a wave in the order of the data, because a Parquet file is read
forwards. A wave that holds more good rows than needed keeps those that were drawn first: what is kept is the beginning
of a uniform order of the rows that pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from edit_r1.curate.pick import seeded_queues

_LEAST_RATE = 0.02
"""Lowest share of rows that a wave reckons with: it holds at most 50 times what is needed."""


@dataclass(frozen=True)
class Draw:
    """How many rows, and which."""

    count: int = 0
    """Samples wanted; 0 takes all rows in their order. When fewer can be had, all of those are taken."""
    seed: int = 0
    equal_shares: bool = False
    """Draw as many of every category of the data as of every other, as far as each has rows that pass."""
    most_per_category: int = 0
    """Most samples of one category, the data's or, where a filter is asked, the filter's; 0 is no limit."""

    def __post_init__(self) -> None:
        if min(self.count, self.most_per_category) < 0:
            raise ValueError(
                f"count={self.count}, most_per_category={self.most_per_category}: give 0 (no limit) or more samples"
            )
        if self.equal_shares and not self.count:
            raise ValueError("equal_shares without a count: say how many samples are wanted in all")


class Waves:
    """Which rows to look at next."""

    def __init__(self, rows: int, draw: Draw, category: Callable[[int], str]) -> None:
        """rows: in the data. category: of a row, asked for equal shares alone."""
        self.draw = draw
        self._rows = rows
        self._all = draw.count == 0
        names = (
            [category(number) for number in range(rows)] if draw.equal_shares else [""] * (rows if draw.count else 0)
        )
        self._queues = seeded_queues(names, draw.seed)
        self._taken = dict.fromkeys(self._queues, 0)

    def next(self, kept: Mapping[str, int], rate: float, most: int = 0) -> Wave:
        """The next wave, empty at the end.

        kept: samples by queue so far. rate: share of the rows looked at that became samples so far; 1 to begin with.
        most: rows of the wave, where some are drawn; 0 is no limit. A wave that was cut later, in the order of the
        data, would not be uniform.
        """
        if self._all:
            self._all = False
            return Wave(np.arange(self._rows), None, {})
        left = {name: len(queue) - self._taken[name] for name, queue in self._queues.items()}
        targets = shares({name: kept.get(name, 0) + left[name] for name in self._queues}, self.draw.count)
        need = {name: max(0, targets[name] - kept.get(name, 0)) for name in self._queues}
        sizes = {name: min(left[name], math.ceil(need[name] / max(rate, _LEAST_RATE))) for name in need}
        if most:
            sizes = shares(sizes, most)
        parts, queues = [], {}
        for name, size in sizes.items():
            part = self._queues[name][self._taken[name] : self._taken[name] + size]
            queues.update(dict.fromkeys(part.tolist(), name))
            parts.append(part)
            self._taken[name] += size
        drawn = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return Wave(np.sort(drawn), {int(number): rank for rank, number in enumerate(drawn)}, queues, need)


@dataclass(frozen=True)
class Wave:
    """Rows to look at."""

    numbers: np.ndarray
    """Ascending, int64."""
    ranks: Mapping[int, int] | None
    """By number, its place in the drawn order; None for the order of the data."""
    queues: Mapping[int, str]
    """By number, the queue that it was drawn from; without one it is ""."""
    need: Mapping[str, int] | None = None
    """By queue, how many samples are wanted; None for all."""

    def after(self, numbers: Iterable[int]) -> Wave:
        """The wave once these of its rows were taken."""
        if self.need is None:
            return self
        got = Counter(self.queues.get(number, "") for number in numbers)
        return replace(self, need={name: count - got[name] for name, count in self.need.items()})

    def wants(self, number: int) -> bool:
        """Whether a row is still needed."""
        return self.need is None or self.need[self.queues.get(number, "")] > 0


def shares(available: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` dealt out in turns, to each at most what it has: two that both have some left differ by at most one."""
    dealt = dict.fromkeys(available, 0)
    left = min(count, sum(available.values()))
    while left:
        open_names = [name for name in available if dealt[name] < available[name]]
        level = min(left // len(open_names), min(available[name] - dealt[name] for name in open_names))
        turn = open_names if level else open_names[:left]
        for name in turn:
            dealt[name] += max(level, 1)
        left -= max(level, 1) * len(turn)
    return dealt


class Taken(NamedTuple):
    """What became of rows that passed; of those that are named nowhere here there are more than needed."""

    places: list[int]
    """Of those that become samples, ascending."""
    full: int
    """How many their category's limit refused."""
    crowded: list[int]
    """Places of those for which there is no `room`."""


def take(
    passed: Sequence[tuple[int, str]],
    wave: Wave,
    kept: Counter[str],
    by_category: Counter[str],
    most_per_category: int,
    room: Callable[[int], bool] = lambda place: True,
) -> Taken:
    """Which of `passed` (number, category) become samples. What is kept is added to both counters.

    Args:
        kept: by queue.
        by_category: by the category of `passed`.
        room: asked of a place when all else lets it be taken; when it says so, it is.
    """
    order = range(len(passed))
    if wave.ranks is not None:
        ranks = wave.ranks
        order = sorted(order, key=lambda place: ranks[passed[place][0]])  # type: ignore[assignment]
    taken, crowded, full = [], [], 0
    left = None if wave.need is None else Counter(wave.need)
    for place in order:
        number, category = passed[place]
        queue = wave.queues.get(number, "")
        if left is not None and left[queue] <= 0:
            continue
        if most_per_category and by_category[category] >= most_per_category:
            full += 1
            continue
        if not room(place):
            crowded.append(place)
            continue
        if left is not None:
            left[queue] -= 1
        kept[queue] += 1
        by_category[category] += 1
        taken.append(place)
    return Taken(sorted(taken), full, crowded)
