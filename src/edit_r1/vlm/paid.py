"""Models whose every answer costs something: asked call by call, and heard as each answer arrives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling
from edit_r1.vlm.usage import Usage


@dataclass(frozen=True)
class Call:
    """What a provider is asked, and paid for, at once."""

    request: Request
    sampling: Sampling
    n: int = 1
    """Answers, at least 1."""


@dataclass(frozen=True)
class Answered:
    """What came of a call."""

    number: int
    """The call's position among those that were given."""
    completions: tuple[Completion, ...]
    """n of them; errors where no answer came."""
    usage: Usage


@runtime_checkable
class PaidVLM(VLM, Protocol):
    """A `VLM` whose answers are worth keeping, because each was paid for."""

    @property
    def settings(self) -> str:
        """What shapes an answer beside the model's name and the call; "" for nothing."""

    @property
    def capacity(self) -> int:
        """Most calls in flight at once."""

    @property
    def limit(self) -> int:
        """Calls that may be in flight at present."""

    @property
    def priced(self) -> bool:
        """True when `Usage.cost` is told."""

    def calls(self, request: Request, sampling: Sampling, n: int) -> list[Call]:
        """The calls that n answers of a request are; one of 1 answer that is copied where all would be equal."""

    def answer_each(self, calls: Iterable[Call]) -> Iterator[Answered]:
        """What came of each call, as it comes.

        A call is taken from `calls` when it can be sent, on another thread. What `calls` raises ends the asking: what
        is under way is still handed over, then it is raised.
        """

    def give_up(self) -> None:
        """Cancels what other threads have asked, which then raise ModelError; what is under way may be paid for."""


@runtime_checkable
class _Settled(Protocol):
    @property
    def settings(self) -> str: ...


def named(vlm: VLM) -> tuple[str, ...]:
    """What tells a model from others of a run: its name and, where it has settings that shape its answers, these."""
    settings = vlm.settings if isinstance(vlm, _Settled) else ""
    return (vlm.name, settings) if settings else (vlm.name,)


def rows_of(answers: Iterable[Sequence[Completion]], n: int) -> list[Completion]:
    """n completions of a request from the answers to its `calls`, in their order."""
    row = [completion for completions in answers for completion in completions]
    return row * n if len(row) == 1 else row
