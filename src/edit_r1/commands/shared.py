"""What commands share: a model opened as `--model` says, principles from a file, one line of complaint, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_r1.records import CATEGORIES, Principle

if TYPE_CHECKING:
    from edit_r1.verifier.scoring import Verifier

FAILED, USAGE, UNPARSED = 1, 2, 3


def open_verifier(
    model: str | None, sources: Sequence[bytes], instruction: str, device: str = "cpu", dtype: str = "float32"
) -> Verifier:
    """The model at `model`; without one the packaged verifier, for questions about EditWorld alone.

    Raises ValueError for another question without a model, `ModelError` for a model that cannot be opened.
    """
    from edit_r1.report.terminal import quiet_libraries

    if model is None:
        from edit_r1.zoo.packaged import is_editworld, packaged_verifier

        if not is_editworld(sources, instruction):
            raise ValueError(
                "without --model only the packaged tiny verifier is at hand, and it knows EditWorld's pictures and "
                "instructions alone: name a vision-language model with --model PATH"
            )
        quiet_libraries()
        return packaged_verifier()
    from edit_r1.verifier.scoring import Verifier

    quiet_libraries()
    return Verifier.load(model, device, dtype)


def read_principles(path: Path) -> tuple[Principle, ...]:
    """Principles from a JSON file: a list, or the document that `edit-r1 principles --json` writes.

    Raises ValueError that names the file.
    """
    from edit_r1.verifier.prompts import check_principles

    remedy = f'write a JSON list of {{"question": ..., "category": one of {", ".join(CATEGORIES)}}}'
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}): {remedy}") from error
    if isinstance(rows, dict):
        rows = rows.get("principles")
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds no list of principles: {remedy}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "category")):
            raise ValueError(f"{path}: principle {number} is malformed: {remedy}")
    try:
        return check_principles([Principle(row["question"], row["category"]) for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_traces(traces: int) -> None:
    """ValueError for a number of traces out of range, before a model is opened."""
    from edit_r1.verifier.scoring import MAX_TRACES

    if not 1 <= traces <= MAX_TRACES:
        raise ValueError(f"--traces {traces}: ask for 1 to {MAX_TRACES}")


def complain(message: object) -> None:
    """One line on stderr, whatever the message holds."""
    print(f"edit-r1: {' '.join(str(message).split())}", file=sys.stderr)


def print_json(document: Any) -> None:
    """The one document on stdout."""
    print(json.dumps(document, ensure_ascii=False, indent=2))
