"""Versions, device and number formats are measured, and what is missing is told with a remedy."""

from __future__ import annotations

import math

import pytest
import torch

from edit_r1.doctor import machine
from edit_r1.doctor.findings import attempt


def test_versions_name_what_is_installed() -> None:
    found = machine.versions()
    assert found.status == "ok", found
    assert f"torch {machine.metadata.version('torch')}" in found.measured and found.values["vllm"] is None


def test_a_missing_package_fails_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", (*machine.PACKAGES, "no-such-package"))
    found = machine.versions((*machine.NEEDED, "no-such-package"))
    assert found.status == "fail"
    assert "not installed: no-such-package" in found.measured and found.remedy == "pip install 'edit-r1[local]'"
    assert not machine.is_installed("no-such-package") and machine.is_installed("torch")


def test_an_old_package_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.metadata, "requires", lambda name: ["torch>=999", "numpy", "absent>=2"])
    found = machine.versions()
    assert found.status == "warn"
    assert "is not >=999" in found.measured and "numpy" in found.measured


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_what_is_no_device_is_a_finding(name: str) -> None:
    found = machine.device_or_why(name)
    assert found.status == "fail" and name in found.measured and found.remedy


def test_dtypes_are_computed_not_guessed() -> None:
    found = machine.dtypes("cpu")
    assert found.status in ("ok", "warn")  # warn where bfloat16 is emulated
    plain, half = found.values["float32"], found.values["bfloat16"]
    assert 0 < plain["error"] < 1e-5 < half["error"] < 2e-2
    assert plain["ms"] > 0 and half["ms"] > 0


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ({"float32": (1e-3, 1e-7), "bfloat16": (5e-4, 2e-3), "float16": "unsupported"}, "ok", "float16 does not run"),
        ({"float32": (1e-3, 1e-7), "bfloat16": (5e-3, 2e-3), "float16": (1e-3, 1e-3)}, "warn", "saves memory"),
        ({"float32": (1e-3, 1e-7), "bfloat16": "no kernel", "float16": (1e-3, 1e-3)}, "warn", "--dtype float32"),
        ({"float32": (1e-3, 0.5), "bfloat16": (5e-4, 2e-3), "float16": (1e-3, 1e-3)}, "fail", "computes wrongly"),
        ({"float32": (1e-3, 1e-7), "bfloat16": (5e-4, math.nan), "float16": (1e-3, 1e-3)}, "fail", "bfloat16"),
    ],
)
def test_each_outcome_of_the_products(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, tuple[float, float] | str], status: str, said: str
) -> None:
    def product(on: str, name: str) -> tuple[float, float]:
        row = rows[name]
        if isinstance(row, str):
            raise RuntimeError(row)
        return row

    monkeypatch.setattr(machine, "_product", product)
    found = machine.dtypes("cpu")
    assert found.status == status
    assert said in f"{found.measured} {found.remedy}"


def test_the_device_is_looked_at() -> None:
    found = machine.device("cpu")
    assert found.values["cores"] >= 1
    assert found.status == ("warn" if torch.cuda.is_available() else "ok")
    if not torch.cuda.is_available():
        missing = machine.device("cuda")
        assert missing.status == "fail" and missing.remedy is not None


def test_an_attempt_never_raises() -> None:
    def broken() -> int:
        raise RuntimeError("two\nlines")

    assert attempt(broken) == "RuntimeError: two lines"
    assert attempt(lambda: 3) == 3
