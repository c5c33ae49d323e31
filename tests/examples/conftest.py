"""The plug-ins as files, and the pictures, models and servers of the server's tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(**vars(_load(ROOT / "tests" / "serve" / "conftest.py", "serving_kit")))


@pytest.fixture
def example() -> Callable[[str], ModuleType]:
    """example(name): examples/name.py, loaded anew."""
    return lambda name: _load(ROOT / "examples" / f"{name}.py", f"example_{name}")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """stand_in("a.b", name=value): a module of a trainer that is not installed here, for the import alone."""

    def make(name: str, **content: object) -> None:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            dotted = ".".join(parts[:end])
            if dotted not in sys.modules:
                monkeypatch.setitem(sys.modules, dotted, ModuleType(dotted))
        for key, value in content.items():
            setattr(sys.modules[name], key, value)

    return make


@pytest.fixture
def loaded(kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, dict]]:
    """`Verifier.load` gives a verifier with the fake model, and each call of it is noted here."""
    from edit_r1.verifier.scoring import Verifier

    calls: list[tuple[object, dict]] = []

    def load(path: object, **options: object) -> Verifier:
        calls.append((path, options))
        return Verifier(kit.FakeVLM(), variant="compact")

    monkeypatch.setattr(Verifier, "load", load)
    return calls
