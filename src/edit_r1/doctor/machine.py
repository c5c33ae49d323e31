"""The machine and what is installed on it: versions, device, and which number formats really compute."""

from __future__ import annotations

import os
import platform
import time
from functools import partial
from importlib import metadata
from typing import Any

from edit_r1.doctor.findings import Finding, attempt

PACKAGES = (
    "edit-r1",
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "accelerate",
    "peft",
    "trl",
    "vllm",
    "numpy",
)
"""Whose versions are told; those of the extras may be missing."""
NEEDED = ("torch", "torchvision", "transformers")
"""Without these no model runs on this machine; a served one needs none of them."""
SIDE = 512
"""Rows of the measured square matrix product."""
REPEATS = 5
"""Products timed; the fastest counts."""
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest error relative to the product in float64 (Frobenius norm): a few times each format's rounding; a GPU may
round float32 to TF32."""


def versions(needed: tuple[str, ...] = NEEDED) -> Finding:
    """Versions of Python and of the packages that matter; a needed one that is missing fails."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    told = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    absent = [name for name in needed if found[name] is None]
    if absent:
        return Finding(
            "versions", "fail", f"{told}; not installed: {', '.join(absent)}", "pip install 'edit-r1[local]'", found
        )
    old = _too_old(found)
    if old:
        return Finding("versions", "warn", f"{told}; {'; '.join(old)}", "pip install --upgrade 'edit-r1[local]'", found)
    return Finding("versions", "ok", told, None, found)


def _too_old(found: dict[str, str | None]) -> list[str]:
    """Installed packages that do not meet what this package declares; [] where that cannot be read."""
    try:
        from packaging.requirements import Requirement

        declared = [Requirement(text) for text in metadata.requires("edit-r1") or ()]
    except (ImportError, metadata.PackageNotFoundError):
        return []
    wanted = {requirement.name: requirement.specifier for requirement in declared}
    return [
        f"{name} {version} is not {wanted[name]}"
        for name, version in found.items()
        if version is not None and name in wanted and not wanted[name].contains(version, prereleases=True)
    ]


def device(wanted: str) -> Finding:
    """Where models will run: the processor, or a GPU with its free memory. A GPU left idle is a warning."""
    import torch

    torch.device(wanted)  # raises for what is none
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.startswith("cuda"):
        if not gpus:
            return Finding(
                "device", "fail", f"{wanted} is asked for, and torch {torch.__version__} sees no GPU",
                "leave --device out, or install the driver and a torch built for it", {"gpus": 0},
            )  # fmt: skip
        free, total = torch.cuda.mem_get_info(wanted)
        name = torch.cuda.get_device_name(wanted)
        values = {"gpus": gpus, "free_gib": free / 2**30, "total_gib": total / 2**30}
        return Finding("device", "ok", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free", None, values)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = f"{wanted}, {cores} cores, torch computes on {torch.get_num_threads()} threads"
    values = {"gpus": gpus, "cores": cores, "threads": torch.get_num_threads()}
    if gpus:
        return Finding("device", "warn", f"{told}; {gpus} GPU idle", "--device cuda --dtype bfloat16", values)
    return Finding("device", "ok", told, None, values)


def device_or_why(wanted: str) -> Finding:
    """`device`, also where torch raises: for cuda:9 on a machine with one GPU, or a name that is none."""
    found = attempt(lambda: device(wanted))
    if isinstance(found, Finding):
        return found
    return Finding("device", "fail", f"{wanted}: {found}", "give cpu, cuda or, of several, cuda:1")


def dtypes(on: str) -> Finding:
    """A small matrix product in each number format: does it run, how exact is it, how long does it take here."""
    rows = {name: attempt(partial(_product, on, name)) for name in TOLERANCE}
    told: list[str] = []
    wrong: list[str] = []
    values: dict[str, Any] = {}
    for name, row in rows.items():
        if isinstance(row, str):
            told.append(f"{name} does not run")
            values[name] = None
            continue
        seconds, error = row
        values[name] = {"ms": 1000 * seconds, "error": error}
        told.append(f"{name} {1000 * seconds:.2f} ms, error {error:.0e}")
        if not error <= TOLERANCE[name]:  # NaN is wrong too
            wrong.append(name)
    text = f"{SIDE} x {SIDE} product: {'; '.join(told)}"
    plain, half = values["float32"], values["bfloat16"]
    if plain is None or wrong:
        name = wrong[0] if wrong else "float32"
        return Finding(
            "dtypes", "fail", text, f"{name} computes wrongly here: reinstall torch or change device", values
        )
    if half is None:
        return Finding("dtypes", "warn", text, "load models with --dtype float32 on this machine", values)
    if half["ms"] > plain["ms"]:
        return Finding("dtypes", "warn", text, "bfloat16 saves memory here and no time: prefer --dtype float32", values)
    return Finding("dtypes", "ok", text, None, values)


def _product(on: str, name: str) -> tuple[float, float]:
    """(seconds, relative error) of A @ B with A, B standard normal."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    dtype: torch.dtype = getattr(torch, name)
    a_on, b_on = a.to(on, dtype), b.to(on, dtype)
    # Against the product of the rounded matrices: what is measured is the computing, not the storing.
    exact = a_on.cpu().double() @ b_on.cpu().double()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product = a_on @ b_on
        if on.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    error = float((product.cpu().double() - exact).norm() / exact.norm())
    return min(seconds), error


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is here; nothing is imported."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
