"""What a report shows; filled by whoever ran the loop, drawn by `page.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One row of a checklist."""

    question: str
    category: str
    verdict: float | None
    """Mean verdict over traces, 0 to 1; None when no trace gave one."""
    evidence: str | None
    gold: int | None = None
    """The oracle's verdict, where there is an oracle."""


@dataclass(frozen=True)
class JudgedImage:
    """A picture with what was said of it."""

    image: bytes
    caption: str
    score: float | None
    """The verifier's, 0 to 10; None when unparsed."""
    oracle: float | None = None
    """0 to 10, where there is an oracle."""
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True)
class TraceView:
    """A judge's trace and what became of it."""

    judge: str
    text: str
    kept: bool
    reason: str
    """Why it was kept or rejected."""


@dataclass(frozen=True)
class ContextView:
    """One context on its way through the curation."""

    source: bytes
    instruction: str
    category: str
    principles: tuple[tuple[str, str], ...]
    """(question, category)."""
    candidates: tuple[JudgedImage, ...]
    verified: tuple[Line, ...]
    """The external verifier's verdicts on the first candidate, with its reasons."""
    traces: tuple[TraceView, ...]
    """Of the first candidate."""


@dataclass(frozen=True)
class PairView:
    """A held-out pair under two verifiers."""

    source: bytes
    instruction: str
    verifiers: tuple[str, ...]
    winner: tuple[JudgedImage, ...]
    """One per verifier."""
    loser: tuple[JudgedImage, ...]


@dataclass(frozen=True)
class EditView:
    """The same context and seed under the editor before and after training."""

    source: bytes
    instruction: str
    category: str
    before: JudgedImage
    after: JudgedImage


@dataclass(frozen=True)
class Curve:
    """One training curve."""

    title: str
    x_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    """Name to (x, y) points."""


@dataclass(frozen=True)
class ReportData:
    """A whole run."""

    title: str
    command: str
    metrics: Mapping[str, Any]
    """metrics.json."""
    counts: Mapping[str, int]
    """Rows per curation step."""
    contexts: tuple[ContextView, ...]
    pairs: tuple[PairView, ...]
    edits: tuple[EditView, ...]
    curves: tuple[Curve, ...]
