"""How every image editor is called, whatever runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edit_r1.records import Sample


@dataclass(frozen=True)
class EditedImage:
    """An editor's output: the image, or why there is none."""

    image: bytes | None
    """Encoded; None when the editor failed."""
    error: str | None = None
    hidden: str | None = None
    """What only a simulated editor knows about its output (JSON); None otherwise."""
    absent: bool = False
    """True when there is no such edit and asking again cannot help: no sign that the editor is out of order."""


class Editor(Protocol):
    """An image editor. Real editors read `sample.source` and `sample.instruction` and nothing else."""

    @property
    def name(self) -> str:
        """What candidates record as their editor."""

    @property
    def simulated(self) -> bool:
        """True for a simulation."""

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One edit per (sample, seed), in order. A failure of one item never raises."""
