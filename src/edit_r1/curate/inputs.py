"""What the rows of a curation are made from, as their keys count it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edit_r1.curate.failures import Failure
from edit_r1.curate.shards import unit_key
from edit_r1.records import Context, Sample


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
