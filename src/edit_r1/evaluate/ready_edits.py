"""Edits that exist already, as an editor: a folder of pictures in a benchmark's official layout, or named by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edit_r1.editors.protocol import EditedImage
from edit_r1.editors.ready import find_ready
from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.records import Sample


class ReadyEdits:
    """Reads FOLDER/PLACE-sSEED.png (.jpg, .webp) and, for the first seed, FOLDER/PLACE.png, PLACE being `Task.ready`.

    A picture that is not there is an edit that failed; it never stands for another seed's.
    """

    simulated = False

    def __init__(self, folder: Path, tasks: Sequence[Task], first_seed: int, name: str | None = None) -> None:
        """Raises ValueError for a folder that is not there."""
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of edits: check --edits")
        self.folder, self.first_seed = folder, first_seed
        self.name = name or folder.resolve().name
        self._ready = {task.sample.id: task.ready or (task.sample.id,) for task in tasks}

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One picture per (sample, seed), in order."""
        return [self._one(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _one(self, sample: Sample, seed: int) -> EditedImage:
        places = self._ready[sample.id]
        stems = [f"{place}-s{seed}" for place in places] + (list(places) if seed == self.first_seed else [])
        try:
            if (found := find_ready(self.folder, stems)) is not None:
                return EditedImage(found)
        except ValueError as error:
            return EditedImage(None, str(error))
        return EditedImage(None, f"no picture {stems[0]}.png or {stems[-1]}.png in {self.folder}")
