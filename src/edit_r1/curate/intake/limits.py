"""How many rows of one picture, and of one instruction, are taken: only a row that was taken counts for good.

A row that a filter calls simple, whose category is full, or that is more than needed must not use a limit up. And a
filter should not be asked about rows for which there may be no room. So rows pass as far as there is room beside those
of which it is not known yet; the others wait, and pass in a later turn where these came to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

Mark = tuple[tuple[str, int], ...]
"""What limits count a row by: its picture and its instruction, as far as they have a limit."""

_PATIENT = 4
"""Turns in which no row is judged that may be one too many."""


class Limits:
    """Room of every picture and instruction."""

    def __init__(self, most_per_picture: int, most_per_instruction: int) -> None:
        """As of `IntakeChecks`."""
        self._most = {"picture": most_per_picture, "instruction": most_per_instruction}
        self._taken: Counter[tuple[str, int]] = Counter()
        self._passed: Counter[tuple[str, int]] = Counter()
        self._before: Counter[tuple[str, int]] = Counter()  # in this turn, whether they are judged in it or wait

    def mark(self, picture: int, instruction: int) -> Mark:
        """Of a row, by the number of its picture and the hash of its instruction."""
        given = {"picture": picture, "instruction": instruction}
        return tuple((kind, given[kind]) for kind, most in self._most.items() if most)

    def full(self, mark: Mark) -> str | None:
        """Why a row cannot be taken beside those that are, for a person; None when it can."""
        for kind, value in mark:
            if self._taken[kind, value] >= (most := self._most[kind]):
                if kind == "picture":
                    return f"is of a picture that has {most} rows already"
                return f"has an instruction that {most} rows have already"
        return None

    def closed(self, mark: Mark) -> bool:
        """True when rows that passed and were taken leave no room: there is some again where the former are not
        taken."""
        return any(self._left(key) <= 0 for key in mark)

    def admit(self, mark: Mark, turn: int) -> bool:
        """Whether a row is to be judged in this turn, counted from 0; the rows of a turn come in their order.

        One that waits keeps its place before those after it, so that as many are taken, and the same, as if each had
        been judged before the next was looked at. After `_PATIENT` turns each lets twice as many in as the one before:
        where a filter refused them all it may well refuse the next, and a thousand rows of one instruction would be a
        thousand turns.
        """
        if self.closed(mark):
            return False
        more = max(0, turn - _PATIENT + 1)
        room = all(self._before[key] < self._left(key) << more for key in mark)
        self._before.update(mark)
        return room

    def end_turn(self, passed: Iterable[Mark]) -> None:
        """passed: of the rows that were admitted."""
        self._before.clear()
        for mark in passed:
            self._passed.update(mark)

    def take(self, mark: Mark) -> bool:
        """Whether there is room for a row, which is then taken."""
        if self.full(mark):
            return False
        self.count(mark)
        return True

    def count(self, mark: Mark) -> None:
        """A row is taken."""
        self._taken.update(mark)

    def settle(self) -> None:
        """What passed was taken or was not."""
        self._passed.clear()

    def _left(self, key: tuple[str, int]) -> int:
        return max(0, self._most[key[0]] - self._taken[key] - self._passed[key])
