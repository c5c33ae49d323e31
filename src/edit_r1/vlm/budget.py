"""What a run of many processes has spent on paid models, and how much it may spend.

Processes share a folder and nothing else: each keeps its own sums there (`store.journal`), every line all of them, and
reads the others' last lines. Nothing is asked once the budget is spent; before, the mean cost of the requests in flight
in this process counts as spent. So a run in one process ends at its budget, give or take how much its last requests
differ from the mean; with several, what the others had in flight, or spent within `REFRESH_S`, may come on top.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edit_r1.store.journal import Journal, last_values
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.usage import Usage

REFRESH_S = 1.0
"""How old what is known of other processes may be."""
LONGEST = 1 << 20
"""Bytes of a journal that is begun anew: its last line says all."""
PRESENT_S = 60.0
"""A process that wrote nothing for so long does not count as asking at present."""


@dataclass(frozen=True)
class Budget:
    """What a whole run may spend, over all its models and processes and all its starts; None is no bound."""

    money: float | None = None
    """In the currency of the models' prices, at least 0."""
    requests: int | None = None
    """At least 0."""
    tokens: int | None = None
    """Of prompts and answers, at least 0."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"budget: {name}={value}: give an amount of 0 or more, or none for no bound")

    @property
    def bounded(self) -> bool:
        return any(value is not None for value in asdict(self).values())


UNBOUNDED = Budget()


FLAGS = {"money": "--budget", "requests": "--budget-requests", "tokens": "--budget-tokens"}


class BudgetError(ValueError):
    """The budget is spent; the message says what was spent, and how to go on."""

    def __init__(self, name: str, bound: float, spent: Usage) -> None:
        """name: of the bound that was reached, a field of `Budget`."""
        super().__init__(name, bound, spent)  # what a process needs to hand it on
        self.name, self.bound, self.spent = name, bound, spent

    def __str__(self) -> str:
        bound = f"{self.bound:,}" if self.name == "requests" else f"{self.bound:,.6g}"
        reached = {"money": self.spent.cost or 0.0, "requests": self.spent.requests, "tokens": self.spent.tokens}
        left = "" if reached[self.name] >= self.bound else " (what is left may not be enough for a further request)"
        return (
            f"the budget of {bound} ({self.name}) is spent: {self.spent.told} so far{left}; everything is stored: run "
            f"again with a higher {FLAGS[self.name]} to go on"
        )


@dataclass(frozen=True)
class Spending:
    """What one model took so far."""

    usage: Usage
    limit: int | None
    """Requests that may be in flight at present, over all processes; None when none is asking."""


class Ledger:
    """One process's sums. Threads may share it."""

    def __init__(self, folder: Path, budget: Budget = UNBOUNDED) -> None:
        """folder: of the whole run. It is not made before something was spent."""
        self.folder, self.budget = folder, budget
        self._journal = Journal(folder)
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # another one: who begins a request must not wait for the disk
        self._own: dict[str, Usage] = {}
        self._limits: dict[str, int | None] = {}
        self._in_flight = 0
        self._stopped = False
        self._others = Usage()
        self._read_at = float("-inf")

    def begin(self) -> None:
        """Before a request. Raises BudgetError when the budget does not allow it, ModelError after `stop`."""
        with self._lock:
            if self._stopped:
                raise ModelError("the run was stopped")
            if self.budget.bounded:
                self._check()
            self._in_flight += 1

    def end(self, model: str, usage: Usage, limit: int | None = None) -> None:
        """After a request that had begun. limit: as `Spending.limit`, of this process. Raises StoreError."""
        with self._writing:
            with self._lock:
                self._in_flight -= 1
                self._own[model] = self._own.get(model, Usage()) + usage
                self._limits[model] = limit
                models = {name: asdict(own) | {"limit": self._limits[name]} for name, own in self._own.items()}
            line = {"at": time.time(), "models": models}
            if self._journal.size > LONGEST:
                self._journal.restart(line)
            else:
                self._journal.append(line)

    def stop(self) -> None:
        """Nothing is begun any more. Called from any thread."""
        self._stopped = True

    def give_up(self, requests: int) -> None:
        """So many that had begun ended without being heard of."""
        with self._lock:
            self._in_flight -= requests

    def close(self) -> None:
        self._journal.close()

    def _check(self) -> None:
        if time.monotonic() - self._read_at > REFRESH_S:
            values = last_values(self.folder)
            self._others = _sum(own for name, line in values.items() if name != self._journal.path.name
                                for own in _usages(line).values())  # fmt: skip
            self._read_at = time.monotonic()
        spent = self._others + _sum(self._own.values())
        ahead = (self._in_flight + 1) / spent.requests if spent.requests else 0.0
        """What this request and those in flight will take, in what all others took."""
        for name, now, bound in (
            ("money", spent.cost or 0.0, self.budget.money),
            ("tokens", spent.tokens, self.budget.tokens),
        ):
            if bound is not None and (now >= bound or now * (1 + ahead) > bound):
                raise BudgetError(name, bound, spent)
        bound = self.budget.requests
        if bound is not None and spent.requests + self._in_flight >= bound:
            raise BudgetError("requests", bound, spent)


def read_spent(folder: Path, now: float | None = None) -> dict[str, Spending]:
    """By model, what all processes of a run took. now: seconds since 1970, for tests. Raises StoreError."""
    now = time.time() if now is None else now
    found: dict[str, Spending] = {}
    for line in last_values(folder).values():
        usages = _usages(line)
        for name, usage in usages.items():
            limit = line["models"][name]["limit"] if now - line["at"] < PRESENT_S else None
            before = found.get(name, Spending(Usage(), None))
            known = [one for one in (before.limit, limit) if one is not None]
            found[name] = Spending(before.usage + usage, sum(known) if known else None)
    return dict(sorted(found.items()))


def _usages(line: dict[str, Any]) -> dict[str, Usage]:
    return {
        name: Usage(**{one.name: own[one.name] for one in fields(Usage) if one.name in own})
        for name, own in line["models"].items()
    }


def _sum(usages: Iterable[Usage]) -> Usage:
    return sum(usages, Usage())
