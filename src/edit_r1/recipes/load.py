"""From a recipe's name on the command line to its config."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from edit_r1.curate.stage import CurateStage
from edit_r1.report.terminal import quiet_if_loaded, quiet_libraries
from edit_r1.vlm.budget import Budget


def load_recipe(name: str, kind: str | None = None) -> Any:
    """The config that a recipe returns: a built-in one by its name, or a file's ("path/file.py:function").

    Args:
        kind: what the recipe is wanted for, as in `recipes.names`: an error names the built-in ones of that kind.

    Raises:
        ValueError: when there is no such recipe, or when the code in the user's file fails.
    """
    if ":" not in name:
        from edit_r1 import recipes

        if name not in recipes.__all__:
            raise ValueError(f"recipe {name!r}: not there; {known_recipes(kind)}")
        quiet_libraries()  # before they are imported: all of these need them
        return getattr(recipes, name)()
    path, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("edit_r1_recipe", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ValueError(f"recipe {name}: there is no Python file {path}; {known_recipes(kind)}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if callable(found):
            quiet_if_loaded()
            return found()
    except Exception as error:  # a boundary: the file is the user's code, and may raise anything
        raise ValueError(f"recipe {name}: {type(error).__name__}: {error}{_line_of(spec.origin, error)}") from error
    raise ValueError(f"recipe {name}: {path} has no function {function!r}")


def load_curation(
    name: str, money: float | None = None, requests: int | None = None, tokens: int | None = None
) -> CurateStage:
    """As `load_recipe`, for a recipe that returns a `CurateStage`, with what is given in place of its own budget's
    bounds (`vlm.budget.Budget`). ValueError for another kind, and for a bound below 0."""
    stage = load_recipe(name, "curate")
    if not isinstance(stage, CurateStage):
        raise ValueError(f"curate takes a recipe that returns CurateStage, {name} returns {type(stage).__name__}")
    own = stage.budget
    budget = Budget(
        own.money if money is None else money,
        own.requests if requests is None else requests,
        own.tokens if tokens is None else tokens,
    )
    return replace(stage, budget=budget)


def _line_of(file: str | None, error: BaseException) -> str:
    """Where in the file it happened; a syntax error says so itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" (line {lines[-1]})" if lines else ""


def known_recipes(kind: str | None = None) -> str:
    """What `load_recipe` takes, in words."""
    from edit_r1 import recipes

    known = recipes.names(kind)
    return f"built in {'is' if len(known) == 1 else 'are'} {', '.join(known)}, or give path/file.py:function"
