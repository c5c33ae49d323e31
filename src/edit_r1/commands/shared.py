"""What commands share: exit codes, the chosen model opened, one line of complaint, JSON."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from edit_r1.records import Trace, Unparsed
from edit_r1.report.text import plain
from edit_r1.verifier.choice import ModelChoice
from edit_r1.verifier.parsing import CUT

if TYPE_CHECKING:
    from edit_r1.verifier.scoring import Verifier

OTHERS_WAIT_S = 30.0
FAILED, USAGE, UNPARSED, BELOW = 1, 2, 3, 4

Instruction = Annotated[str, tyro.conf.arg(aliases=["-i"], help="What the edit should do.")]
Json = Annotated[bool, tyro.conf.arg(help="One JSON document on stdout and nothing else.")]
Models = Annotated[ModelChoice, tyro.conf.arg(name="")]
PACKAGED = ModelChoice()
"""The default: the packaged tiny verifier."""


def open_verifier(
    models: ModelChoice, sources: Sequence[bytes], instruction: str, principles_only: bool = False
) -> Verifier:
    """The chosen model; without one the packaged verifier, for questions about EditWorld alone.

    Raises ValueError for another question without a model, `ModelError` for a model that cannot be opened.
    """
    from edit_r1.zoo.packaged import NEEDS_MODEL, is_editworld, open_chosen

    models.check()
    if principles_only and models.principles_model is not None:
        return models.principles_verifier()
    if models.model is None and not is_editworld(sources, instruction):
        raise ValueError(NEEDS_MODEL)
    return open_chosen(models)


EXTRAS = {
    **dict.fromkeys(
        (
            "torch",
            "torchvision",
            "transformers",
            "diffusers",
            "accelerate",
            "peft",
            "safetensors",
            "tokenizers",
            "huggingface_hub",
        ),
        "local",
    ),
    **dict.fromkeys(("trl", "datasets", "matplotlib", "skimage"), "train"),
    **dict.fromkeys(("fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client", "swagger_ui"), "serve"),
    "ray": "ray",
}
"""Module to the extra of this package that installs it; pyproject.toml has the whole lists."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install for a module that is missing; None for one that no extra brings."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    served = ", or name a served model with --endpoint, which needs none" if EXTRAS[name] == "local" else ""
    return f"this needs {name}, which is not installed: pip install 'edit-r1[{EXTRAS[name]}]'{served}"


def check_traces(traces: int) -> None:
    """ValueError for a number of traces out of range, before a model is opened."""
    from edit_r1.verifier.scoring import MAX_TRACES

    if not 1 <= traces <= MAX_TRACES:
        raise ValueError(f"--traces {traces}: ask for 1 to {MAX_TRACES}")


def check_file(path: Path) -> None:
    """ValueError for a file that cannot be written, before a model is asked: what was paid for is not to be lost."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ValueError(f"{path}: cannot be written: name a file in a folder of yours")


def check_answered(outcomes: Sequence[Trace | Unparsed]) -> None:
    """Raises ValueError when no call was answered at all: nothing was judged, which is not an unparsed answer."""
    if outcomes and all(isinstance(outcome, Unparsed) and outcome.failed_call for outcome in outcomes):
        reason = next(outcome.reason for outcome in outcomes if isinstance(outcome, Unparsed))
        raise ValueError(reason)


def unparsed(outcomes: Sequence[Trace | Unparsed]) -> int:
    """Says why no trace could be parsed: the first reason stands for all. Returns the exit code."""
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Unparsed)]
    reason = reasons[0] if reasons else "no answer"
    remedy = ": raise --max-new-tokens" if reason.endswith(CUT) else ""
    complain(f"no trace could be parsed: {reason}{remedy}")
    return UNPARSED


def complain(message: object) -> None:
    """One line on stderr, whatever the message holds.

    A further process of a training waits first: what the first process complains of too is told once, because the
    launcher ends the others then.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(OTHERS_WAIT_S)
    print(f"edit-r1{'' if rank == '0' else f' (process {rank})'}: {plain(message)}", file=sys.stderr)


def print_json(document: Any) -> None:
    """The one document on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2))


def reader_is_gone() -> bool:
    """Whether whoever read stdout, such as head, has ended; from then on what is written there goes nowhere."""
    if not hasattr(select, "poll"):  # Windows
        return False
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)  # a closed reader is told unasked
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
