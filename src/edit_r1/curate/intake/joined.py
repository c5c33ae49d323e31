"""Several parts as the samples of one curation: the paper's Random and Hard subsets, or data of several teams."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from edit_r1.curate.failures import Failure
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.intake.source import TeamSamples, Tell
from edit_r1.curate.shards import unit_key
from edit_r1.records import Sample
from edit_r1.store import write_json
from edit_r1.vlm.budget import Ledger


class JoinedSamples:
    """The samples of one part after the other. What an earlier part holds, by its id or as a copy, is a failure in a
    later one, which draws another row in its place; limits of a later part count the rows of the earlier ones."""

    def __init__(self, parts: Sequence[TeamSamples]) -> None:
        """Raises ValueError without a part."""
        if not parts:
            raise ValueError("no part to join: give at least one")
        self.parts = tuple(parts)
        self._starts: list[int] = []
        self._part_of: dict[str, int] = {}

    @property
    def fingerprint(self) -> str:
        return unit_key([part.fingerprint for part in self.parts])

    @property
    def filters(self) -> list[HardFilter]:
        """As `curate.stage.Prepared`."""
        return [one for part in self.parts for one in part.filters]

    def prepare(self, out: Path, retry: bool = False, tell: Tell | None = None, ledger: Ledger | None = None) -> None:
        """As `TeamSamples.prepare`, part by part."""
        if self._starts:
            return
        for number, part in enumerate(self.parts):
            part.prepare(out, retry, tell, ledger, self.parts[:number])
            self._part_of |= dict.fromkeys(part.ids(), number)
        self._starts = [0, *accumulate(len(part) for part in self.parts)]
        write_json(out / "intake.json", {"parts": [part.counts for part in self.parts]})

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def rows(self, start: int, stop: int) -> Iterator[Sample | Failure]:
        """As `Samples.rows`. Raises ValueError before `prepare`."""
        if not self._starts:
            raise ValueError("these samples are not prepared yet: a curation does it when it begins")
        while start < min(stop, len(self)):
            number = bisect_right(self._starts, start) - 1
            first, end = self._starts[number], min(stop, self._starts[number + 1])
            for row in self.parts[number].rows(start - first, end - first):
                # Parts of one data set fail in the same rows, and each is counted.
                yield replace(row, row=f"{row.row} (part {number + 1})") if number and isinstance(row, Failure) else row
            start = end

    def ready_edits(self, sample: Sample) -> list[bytes]:
        """As `TeamSamples.ready_edits`."""
        if sample.id not in self._part_of:
            raise ValueError(f"sample {sample.id} is none of this data")
        return self.parts[self._part_of[sample.id]].ready_edits(sample)
