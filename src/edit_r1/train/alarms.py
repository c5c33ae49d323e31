"""What goes wrong in GCPO without the loss telling: traces that no longer parse, ties, pairs that teach nothing, lost
variety, a checklist that fails ever more points, drifting length.

Each generation's numbers are held against limits; what exceeds one is an entry of `alarms` in curves.jsonl and a line
on the terminal, and so many generations in a row end the run if asked to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AlarmSettings:
    """Limits; chosen, not measured. A resumed run may have others."""

    alarm_unparsed: float = 0.5
    """Share of a generation's traces without a score above which it is told; 1 never."""
    alarm_ties: float = 0.8
    """Share of comparisons with equal scores above which it is told; 1 never."""
    alarm_silent: float = 0.9
    """Share of a generation's pairs above which it is told that they teach nothing: all traces of each candidate won
    equally often; 1 never."""
    alarm_entropy: float = 0.2
    """Entropy of the tokens of traces that teach, as a share of the first generation's, below which it is told; 0
    never. A candidate's traces that all came out alike teach nothing: they count for `alarm_silent` and not here."""
    alarm_passed: float = 0.8
    """Share of verdicts that are 1, as a share of the first generation's, below which it is told: a verifier that fails
    what is true in both candidates of a pair orders them as before; 0 never."""
    alarm_length: float = 2.0
    """Factor by which the mean length of traces may leave the first generation's, up or down; 0 never tells."""
    alarm_stop: int = 0
    """Generations in a row with an alarm that end the run without a result; 0 never ends it."""

    def __post_init__(self) -> None:
        for name in ("alarm_unparsed", "alarm_ties", "alarm_silent", "alarm_entropy", "alarm_passed"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a share, 0 to 1")
        if self.alarm_length != 0 and not self.alarm_length > 1:
            raise ValueError(f"alarm_length={self.alarm_length}: a factor above 1, or 0 for none")
        if self.alarm_stop < 0:
            raise ValueError(f"alarm_stop={self.alarm_stop}: must be 0 or more")


class Alarms:
    """Holds each logged generation against the limits and the first one."""

    def __init__(self, settings: AlarmSettings) -> None:
        self.settings = settings
        self.streak = 0
        """Generations in a row with an alarm."""
        self._first: dict[str, float] = {}

    def start(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Takes up a run whose curves have these lines; none for a new one."""
        self.streak, self._first = 0, {}
        for line in lines:
            self.check(line)

    def check(self, logged: Mapping[str, Any]) -> list[str]:
        """What is to be told of a generation; empty when all is well."""
        limits = self.settings
        told = []
        unparsed, ties, silent = (logged.get(name) for name in ("unparsed", "tie_share", "pairs_silent"))
        if unparsed is not None and unparsed > limits.alarm_unparsed:
            told.append(f"{unparsed:.0%} of the traces have no score (limit {limits.alarm_unparsed:.0%})")
        if ties is not None and ties > limits.alarm_ties:
            told.append(f"{ties:.0%} of the comparisons are ties (limit {limits.alarm_ties:.0%})")
        if silent is not None and silent > limits.alarm_silent:
            told.append(f"{silent:.0%} of the pairs teach nothing (limit {limits.alarm_silent:.0%})")
        entropy = self._of_first("entropy", logged)
        if entropy is not None and entropy < limits.alarm_entropy:
            told.append(f"entropy is {entropy:.0%} of the first generation's (limit {limits.alarm_entropy:.0%})")
        passed = self._of_first("passed", logged)
        if passed is not None and passed < limits.alarm_passed:
            told.append(
                f"points are passed {passed:.0%} as often as in the first generation (limit {limits.alarm_passed:.0%})"
            )
        length = self._of_first("trace_tokens", logged)
        if length is not None and limits.alarm_length and not 1 / limits.alarm_length <= length <= limits.alarm_length:
            told.append(f"traces are {length:.2f} times as long as in the first generation ({limits.alarm_length:g})")
        self.streak = self.streak + 1 if told else 0
        return told

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return 0 < self.settings.alarm_stop <= self.streak

    def _of_first(self, name: str, logged: Mapping[str, Any]) -> float | None:
        """A number over that of the first generation; None where there is none."""
        value = logged.get(name)
        if value is None:
            return None
        first = self._first.setdefault(name, float(value))
        return float(value) / first if first > 0 else None
