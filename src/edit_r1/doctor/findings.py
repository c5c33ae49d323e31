"""What an examination found: one frozen record per check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Status = Literal["ok", "warn", "fail", "skipped"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """One check."""

    name: str
    status: Status
    """warn: it works, with a disadvantage; fail: do not rely on it; skipped: it could not be looked at."""
    measured: str
    """What was seen, for a person."""
    remedy: str | None = None
    """What to change; None when nothing is to be."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind `measured`, as JSON holds them."""


def finding_json(finding: Finding) -> dict[str, Any]:
    """As `doctor --json` gives it."""
    return {
        "name": finding.name,
        "status": finding.status,
        "measured": finding.measured,
        "remedy": finding.remedy,
        "values": dict(finding.values),
    }


def attempt(work: Callable[[], Result]) -> Result | str:
    """What `work` returns, or in one line why it could not be done.

    The one place that catches everything: a doctor that dies of what it examines is of no use.
    """
    try:
        return work()
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}: {text}" if text else type(error).__name__


def skipped(names: Sequence[str], why: str) -> list[Finding]:
    """One skipped finding per name."""
    return [Finding(name, "skipped", why) for name in names]
