"""How every image editor is called, whatever runs behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edit_r1.records import Sample
from edit_r1.vlm.usage import Usage


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


@runtime_checkable
class PaidEditor(Editor, Protocol):
    """An `Editor` whose edits are worth keeping, because each was paid for."""

    @property
    def settings_key(self) -> str:
        """What shapes an edit beside the editor's name, the sample and the seed; "" for nothing."""

    @property
    def priced(self) -> bool:
        """True when `Usage.cost` is told."""

    @property
    def limit(self) -> int:
        """Requests that may be under way at present."""

    def edit_each(
        self, samples: Sequence[Sample], seeds: Sequence[int], begin: Callable[[], None]
    ) -> Iterator[tuple[dict[int, EditedImage], Usage]]:
        """Edits by their place, request by request as they come, and what each request took.

        begin: called before every request, on another thread. What it raises ends the asking: what is under way is
        still handed over, then it is raised.
        """

    def give_up(self) -> None:
        """Cancels what other threads have asked, which then raise ModelError; what is under way may be paid for."""


@runtime_checkable
class HoldsEdits(Editor, Protocol):
    """An `Editor` of pictures that are there already, known by what they hold."""

    def content_of(self, sample: Sample) -> str:
        """Hash of the picture that it gives of a sample; "" where it has none that can be read."""


@runtime_checkable
class _Settled(Protocol):
    @property
    def settings_key(self) -> str: ...


def shaping_of(editor: Editor) -> tuple[str, ...]:
    """An editor's `settings_key`, where it has settings that shape its edits."""
    key = editor.settings_key if isinstance(editor, _Settled) else ""
    return (key,) if key else ()
