"""What `edit-r1`, a group of its commands and `train` tell of themselves."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping

TRAININGS = {
    "sft": "Teach a vision-language model to judge edits, on curated traces (cold start).",
    "gcpo": "Align a verifier with preference pairs by GCPO.",
    "head": "Train a discriminative head on preference pairs, to compare verifiers with.",
    "editor": "Train an editor by reinforcement, with a verifier's judgment as its reward.",
}
PLANNED = ("sft", "gcpo", "editor")
"""Kinds of training that `--plan` knows."""


def usage(commands: Mapping[tuple[str, ...], Callable[..., int]], group: str | None = None) -> str:
    """Every command with its first line, wrapped to the terminal; of one group ("curate", "train") its own alone."""
    from edit_r1 import __version__

    told = {words: (function.__doc__ or "").splitlines()[0] for words, function in commands.items()}
    told |= {("train", kind): line for kind, line in TRAININGS.items()}
    rows = {" ".join(words): line for words, line in told.items() if group in (None, words[0])}
    width = max(map(len, rows))
    columns = max(60, shutil.get_terminal_size().columns)
    head = f"edit-r1 {__version__}: teach a vision-language model to verify image edits, and editors with it"
    lines = [] if group else [*textwrap.wrap(head, columns), ""]
    for words, line in rows.items():
        lines += textwrap.wrap(line, columns, initial_indent=f"  edit-r1 {words:{width}}  ",
                               subsequent_indent=" " * (width + 12))  # fmt: skip
    return "\n".join(
        [*lines, "", f"edit-r1 {group or 'COMMAND'}{' COMMAND' if group else ''} --help tells its options."]
    )


def is_group(commands: Mapping[tuple[str, ...], Callable[..., int]], word: str) -> bool:
    """Whether commands of two words begin with this one, and none is the word itself."""
    return word == "train" or ((word,) not in commands and any(words[0] == word for words in commands))


def train_usage(kind: str) -> str:
    """How a training is started, and by which built-in recipes."""
    from edit_r1.recipes.load import known_recipes

    rows = [
        ("[--out DIR] [--resume] [--FIELD VALUE ...]", "trains; --resume continues a stopped run"),
        ("--help", "tells the recipe's fields, which are flags"),
    ]
    if kind in PLANNED:
        rows.insert(1, ("--plan [--device-memory GIB] ...", "tells what a run would need, and starts nothing"))
    lines = [f"  edit-r1 train {kind} RECIPE {flags:42}  {line}" for flags, line in rows]
    recipes = textwrap.wrap(f"RECIPE: {known_recipes(kind)}", max(60, shutil.get_terminal_size().columns))
    return "\n".join([TRAININGS[kind], "", *lines, "", *recipes])
