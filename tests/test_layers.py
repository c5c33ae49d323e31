"""The plan of the house, enforced: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "edit_r1"
MAX_LINES = 450

LAYERS: list[set[str]] = [
    {"records"},
    {"images", "store", "stats", "processes"},
    {"algo", "vlm", "web"},
    {"verifier", "editors"},
    {"world", "curate", "preferences", "evaluate"},
    {"train", "serve", "report", "annotate"},
    {"zoo"},
    {"recipes"},  # recipes name the zoo's weights, so they stand above it
    {"demo", "doctor"},  # doctor examines everything below: models, editors, EditWorld's exact edits
    {"commands"},  # bodies of commands; cli names them
    {"cli"},
    {"__main__"},  # `python -m edit_r1`
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
MAY_IMPORT_WORLD = {"world", "zoo", "recipes", "demo", "doctor", "cli"}

FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(module: str) -> str | None:
    """The room of a dotted module name of this package; None for other packages and for `edit_r1` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "edit_r1" and len(parts) > 1 else None


def imported_modules(path: Path, source: str) -> set[str]:
    """Every module that a file imports from this package, anywhere in it: in functions and for types too."""
    package = ["edit_r1", *path.relative_to(SOURCE).with_suffix("").parts][:-1]
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from edit_r1 import store` names a room; `from edit_r1.store import StoreError` names it already.
            modules |= {f"{module}.{alias.name}" for alias in node.names} if module == "edit_r1" else {module}
    return {module for module in modules if module.split(".")[0] == "edit_r1"}


def violations(path: Path, source: str) -> list[str]:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    found = []
    for module in sorted(imported_modules(path, source)):
        other = room_of(module)
        if other == "__version__" or other == room:
            continue
        if other not in LEVEL:
            found.append(f"{module}: import the room itself, not the package's lazy exports")
        elif LEVEL[other] >= LEVEL[room]:
            found.append(f"{module}: {room} stands in layer {LEVEL[room]}, {other} in layer {LEVEL[other]}")
        elif other == "world" and room not in MAY_IMPORT_WORLD:
            found.append(f"{module}: only {', '.join(sorted(MAY_IMPORT_WORLD))} may know EditWorld")
    return found


def test_every_room_is_on_the_plan() -> None:
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms <= LEVEL.keys(), f"not on the plan: {sorted(rooms - LEVEL.keys())}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: the design asks for a new room"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("store/files.py", "from edit_r1 import images"),
        ("store/files.py", "from edit_r1.stats import gsb"),
        ("algo/gcpo.py", "def f():\n    import edit_r1.verifier.scoring"),
        (
            "train/gcpo.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edit_r1.world.scenes import Scene",
        ),
        ("train/gcpo.py", "from ..world import scenes"),
        ("verifier/scoring.py", "from edit_r1.editors.protocol import Editor"),
        ("records.py", "from .images import ImageError"),
        ("cli.py", "from edit_r1 import Verifier"),
    ],
)
def test_the_check_sees_what_is_forbidden(file: str, source: str) -> None:
    assert len(violations(SOURCE / file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("store/stages.py", "from edit_r1.store.files import StoreError\nfrom .files import StoreError"),
        ("zoo/pretrain.py", "from edit_r1.world.scenes import Scene\nimport numpy"),
        ("cli.py", "from edit_r1 import __version__\nfrom edit_r1 import demo"),
    ],
)
def test_the_check_passes_what_is_allowed(file: str, source: str) -> None:
    assert violations(SOURCE / file, source) == []
