"""Principles for imported pairs: public data carries none, and GCPO and the evaluation of a verifier need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edit_r1.records import Preference, Principle, Unparsed
from edit_r1.store import PREFERENCES, Dataset, stream_dataset
from edit_r1.verifier.items import context_key
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.errors import ModelError

CHUNK = 64
"""Rows whose contexts a model is asked about at once."""

Sources = tuple[tuple[bytes, ...], str]


@dataclass(frozen=True)
class PrinciplesSummary:
    """What was read, asked and written."""

    out: str
    rows: int
    """Preferences read."""
    written: int
    """Those that have principles now."""
    contexts: int
    """Contexts that a model was asked about."""
    failed: int
    """Of these, those it wrote no usable principles for; their pairs are left out."""
    reason: str | None
    """Of the first failure."""
    hash: str


class _Writer:
    """A context's principles; a failure is remembered, so that its further pairs do not ask again."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.asked: set[str] = set()
        self.failures: dict[str, str] = {}

    def of(self, pairs: list[Preference]) -> list[tuple[Principle, ...] | None]:
        """One entry for each pair, None where there are none. Raises ModelError when no call was answered."""
        contexts = [_context(pair) for pair in pairs]
        keys = [context_key(*context) for context in contexts]
        open_ones = {
            key: context
            for key, context, pair in zip(keys, contexts, pairs, strict=True)
            if not pair.context.principles and key not in self.failures
        }
        answers = dict(zip(open_ones, self.verifier.principles_many(list(open_ones.values())), strict=True))
        failed = {key: answer for key, answer in answers.items() if isinstance(answer, Unparsed)}
        if failed and len(failed) == len(answers) and all(answer.failed_call for answer in failed.values()):
            reason = next(iter(failed.values())).reason
            raise ModelError(f"no principles: {reason}; the same command goes on with what was written so far")
        self.asked |= answers.keys()
        self.failures |= {key: answer.reason for key, answer in failed.items()}
        found: list[tuple[Principle, ...] | None] = []
        for key, pair in zip(keys, pairs, strict=True):
            answer = answers.get(key)
            written = None if answer is None or isinstance(answer, Unparsed) else answer
            found.append(pair.context.principles or written)
        return found


def write_principles(
    folder: Path, out: Path, verifier: Verifier, progress: Callable[[int, int], None] | None = None
) -> PrinciplesSummary:
    """The pairs of `folder` with principles for every context, as the data set `out`; given ones are kept.

    What a model wrote stays in the verifier's cache, so a run that was stopped does not ask for it again.

    Raises:
        StoreError: (a ValueError) for a data set that cannot be read, or `out` that exists or cannot be written.
        ModelError: (one too) when no call of a chunk was answered.
        ValueError: when no pair has principles in the end.
    """
    dataset = Dataset(folder.parent, folder.name, PREFERENCES)
    before = dataset.meta()
    writer = _Writer(verifier)
    rows = 0

    def pairs() -> Iterator[Preference]:
        nonlocal rows
        kept = 0
        remaining = iter(dataset)
        while chunk := list(islice(remaining, CHUNK)):
            for pair, principles in zip(chunk, writer.of(chunk), strict=True):
                rows += 1
                if principles is not None:
                    kept += 1
                    yield _with(pair, principles, verifier)
            if progress is not None:
                progress(rows, int(before["rows"]))
        if kept == 0:
            reason = next(iter(writer.failures.values()), "it is empty")
            raise ValueError(f"{folder}: no pair got principles: {reason}")

    def meta() -> dict[str, Any]:
        told = {"kind": "principles", "source_rows": rows, "failed": len(writer.failures)}
        return told | {"order": before.get("order", "kept")}

    done = stream_dataset(out, pairs(), PREFERENCES, meta)
    reason = next(iter(writer.failures.values()), None)
    return PrinciplesSummary(
        str(out), rows, done["rows"], len(writer.asked), len(writer.failures), reason, done["hash"]
    )


def _context(pair: Preference) -> Sources:
    sample = pair.context.sample
    return (sample.source, *sample.references), sample.instruction


def _with(pair: Preference, principles: tuple[Principle, ...], verifier: Verifier) -> Preference:
    if pair.context.principles:
        return pair
    model = verifier.principles_vlm
    return replace(
        pair,
        context=replace(pair.context, principles=principles, decomposer=model.name, simulated=model.simulated),
    )
