"""Scores of edits by someone who is trusted more than the judge: people, a stronger model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edit_r1.evaluate.editor_runs import EditKey


def read_reference(path: Path) -> dict[EditKey, float]:
    """{(task id, seed): score} from a JSON list, or JSON lines, of {"id", "seed", "score"}; score 0 to 10.

    A row whose score is null is left out. Raises ValueError that names the file, the row and the remedy: when it cannot
    be read, for a malformed row, and for two different scores of one edit.
    """
    rows = json_rows(path)
    scores: dict[EditKey, float] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int) or isinstance(row["id"], bool):
            raise ValueError(f'{path}: row {number}: write {{"id", "seed", "score"}}')
        seed, score = row.get("seed", 0), row.get("score")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"{path}: row {number}: seed {str(seed)[:40]} is no whole number")
        if score is None:
            continue
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 10:
            raise ValueError(f"{path}: row {number}: the score {str(score)[:40]} is no number from 0 to 10")
        key = (str(row["id"]), seed)
        if scores.setdefault(key, float(score)) != score:
            raise ValueError(f"{path}: row {number}: another score of {key[0]!r}, seed {seed}, stands above it")
    if not scores:
        raise ValueError(f'{path}: holds no score: write a list of {{"id", "seed", "score"}}')
    return scores


def json_rows(path: Path) -> list[Any]:
    """The rows of a JSON list, or of a file with a JSON value a line. Raises ValueError for what cannot be read."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text: write JSON lines, or a JSON list") from error
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not valid JSON ({said}): write JSON lines, or a JSON list") from error
