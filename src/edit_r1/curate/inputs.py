"""What the rows of a curation are made from, as their keys count it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edit_r1.curate.failures import Failure
from edit_r1.curate.shards import unit_key
from edit_r1.curate.stage import CurateStage
from edit_r1.editors.protocol import Editor, HoldsEdits
from edit_r1.records import Context, Sample
from edit_r1.store import StoreError, read_json

RUN = Path(".work") / "run.json"
"""What is run, in an output's folder."""
LOCK = Path(".work") / "lock"
"""Held by the run that is at work in it."""
Contents = dict[str, dict[str, str]]
"""By editor and sample, the hash of a picture that is ready."""


def identity(sample: Sample) -> list[Any]:
    """What a sample's rows are made from."""
    return [sample.id, list(sample.sources), sample.instruction]


def asked(context: Context) -> list[list[str]]:
    """What a context's candidates are judged by."""
    return [[principle.question, principle.category] for principle in context.principles]


def edition_of(found: Sequence[Sample | Failure]) -> str:
    """Hash of what rows carry of their samples and nothing is made from; "" without any origin and licence."""
    samples = [one for one in found if isinstance(one, Sample)]
    if not any(sample.origin or sample.licence for sample in samples):
        return ""
    return unit_key([[s.id, s.origin, s.licence, s.category, s.subset, s.split] for s in samples])


def contents_of(editors: Sequence[Editor], found: Sequence[Sample | Failure]) -> Contents:
    """What is ready of these samples: a picture that is replaced is another candidate."""
    samples = [one for one in found if isinstance(one, Sample)]
    ready = {editor.name: editor for editor in editors if isinstance(editor, HoldsEdits)}
    read = {name: {one.id: editor.content_of(one) for one in samples} for name, editor in ready.items()}
    return {name: there for name, own in read.items() if (there := {key: value for key, value in own.items() if value})}


def check_ready(stage: CurateStage) -> None:
    """Raises ValueError where all editors give ready edits and no sample has one: principles would be paid for in vain.

    Samples are read up to the first that has one.
    """
    ready = [editor for editor in stage.editors if isinstance(editor, HoldsEdits)]
    if len(ready) < len(stage.editors):
        return
    without: Sample | None = None
    for sample in stage.samples.rows(0, len(stage.samples)):
        if isinstance(sample, Sample):
            if any(editor.content_of(sample) for editor in ready):
                return
            without = without or sample
    if without is not None:
        [first] = stage.editors[0].edit([without], [0])
        raise ValueError(f"no sample has a ready edit; of the first, {without.id}: {first.error}")


def read_run(out: Path) -> dict[str, Any] | None:
    """What is run in an output's folder; None before its first run. Raises StoreError for a damaged file."""
    path = out / RUN
    if not path.exists():
        return None
    run: dict[str, Any] = read_json(path)
    if not isinstance(run, dict) or not {"samples", "chunk_size", "chunks", "run", "at_once", "done"} <= run.keys():
        raise StoreError(f"{path}: damaged: remove it and run again; what was paid for is found")
    return run


def moved_chunks(out: Path) -> frozenset[int]:
    """Chunks that held, when a run that is not finished began, samples which other chunks may hold now.

    Raises StoreError for a damaged file.
    """
    found = (read_run(out) or {}).get("moved_from")
    return frozenset(found if isinstance(found, list) else ())


def with_weights(stage: CurateStage, out: Path) -> CurateStage:
    """The stage, told the weights that the output was begun with; before its first run its own.

    Raises StoreError for a damaged file.
    """
    before = (read_run(out) or {}).get("weights", {})
    return replace(stage, weights_before={**stage.weights(), **before})
