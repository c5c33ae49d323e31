"""What `--plan` has for editors and verifiers alike: flags of a device, memory in words, one timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

GIB = 2**30


@dataclass(frozen=True)
class DeviceOptions:
    """Flags of every `--plan`."""

    device_memory: float | None = None
    """GiB of the device that must suffice; by default this machine's GPU, if any."""
    processes: int = 1
    """That share a step's work."""
    pixels: int | None = None
    """Side of the (square) pictures; by default the largest area that the settings allow, else 1024."""
    tflops: float | None = None
    """Take the seconds for a device that sustains so many TFLOP/s; nothing is timed then."""
    json: bool = False
    """One JSON document."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{field.name}={value}: must be above 0")


def gib(parts: Mapping[str, float]) -> dict[str, float]:
    """Bytes in GiB."""
    return {name: value / GIB for name, value in parts.items()}


def exceeding(phases: Mapping[str, float], held: float, memory: float, remedies: Mapping[str, str]) -> tuple[str, ...]:
    """The phases that need more than `memory` beside what is always held, GiB, each with what to change."""
    return tuple(
        f"{name}, {held + needed:.1f} of {memory:.1f} GiB: {remedies[name]}"
        for name, needed in phases.items()
        if held + needed > memory
    )


def memory_lines(
    resident: Mapping[str, float], phases: Mapping[str, float], host: Mapping[str, float], peak: float,
    device_memory: float | None, misfits: Sequence[str],
) -> list[str]:  # fmt: skip
    """Memory for people."""

    def rows(parts: Mapping[str, float]) -> list[str]:
        return [f"  {name:26}{value:9.2f} GiB" for name, value in parts.items() if value > 0]

    return [
        "held all the time", *rows(resident), "beside it, while it lasts", *rows(phases),
        "in the machine's memory", *rows(host),
        f"peak {peak:.1f} GiB" + ("" if device_memory is None else f" of {device_memory:.1f}"),
        *(f"does not fit: {text}" for text in misfits),
    ]  # fmt: skip


def plan_json(made: Any) -> dict[str, Any]:
    """As `--plan --json` gives it: the fields of a `Plan` or `VerifierPlan`, GiB, seconds, and "fits" (null without a
    known device)."""
    return {**asdict(made), "fits": None if made.device_memory is None else not made.misfits}


def fastest(work: Callable[[], object], device: str, times: int = 3) -> float:
    """Seconds of the fastest of several runs, all that was asked of the device included."""
    taken = []
    for _ in range(times):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
