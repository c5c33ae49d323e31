"""Parts of a step that do not wait for each other: several judges, editors or verifiers of one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(parts: Sequence[tuple[bool, Callable[[], T]]], give_up: Callable[[], None]) -> list[T]:
    """What the parts return, in their order.

    Raises what the first of them raised, when all have ended: what others have paid for meanwhile is then stored.

    Args:
        parts: (whether it waits for another machine, what to call). Those that do run at one time, each in a thread;
            the others run here, one after the other, for they share this machine.
        give_up: called when this thread is interrupted, so that the others end soon.
    """
    if sum(waits for waits, _ in parts) + any(not waits for waits, _ in parts) < 2:
        return [part() for _, part in parts]
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    with ThreadPoolExecutor(len(parts)) as threads:
        try:
            apart = {place: threads.submit(part) for place, (waits, part) in enumerate(parts) if waits}
            for place, (waits, part) in enumerate(parts):
                if not waits and not errors:
                    try:
                        results[place] = part()
                    except Exception as error:
                        errors[place] = error
            for place, future in apart.items():
                if (problem := future.exception()) is None:
                    results[place] = future.result()
                elif isinstance(problem, Exception):
                    errors[place] = problem
        except BaseException:  # Ctrl-C
            give_up()
            raise
    if errors:
        raise errors[min(errors)]
    return [results[place] for place in range(len(parts))]
