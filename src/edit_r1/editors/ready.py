"""Edits that exist already, as an editor: pictures in a folder, or those that a data set has of its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import ImageError, read_image_file
from edit_r1.records import Sample

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class ReadyEdits:
    """Gives each ready edit of a sample once: a call for more than there are fails, and is never given another's.

    Within one call for several edits of one sample they come in their order. A curation asks for a chunk in one call;
    so let it ask for as many candidates as there are, one for each editor and ready edit.
    """

    simulated = False

    def __init__(self, edits: Callable[[Sample], Sequence[bytes]], name: str = "ready") -> None:
        """edits: all of a sample, encoded; it may raise ValueError, which is then the reason. name: of the editor that
        made them, such as "imgedit"."""
        self._edits, self.name = edits, name

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One edit per (sample, seed), in order; the seeds number them."""
        turns: Counter[str] = Counter()
        made = []
        for sample, _ in zip(samples, seeds, strict=True):
            made.append(self._one(sample, turns[sample.id]))
            turns[sample.id] += 1
        return made

    def _one(self, sample: Sample, turn: int) -> EditedImage:
        try:
            found = self._edits(sample)
        except ValueError as error:
            return EditedImage(None, str(error))
        if turn < len(found):
            return EditedImage(found[turn])
        return EditedImage(None, f"{len(found)} ready edits of this sample, number {turn + 1} is asked for")


def folder_edits(folder: Path, name: str | None = None) -> ReadyEdits:
    """The edits in FOLDER/ID.png and FOLDER/ID-2.png, FOLDER/ID-3.png ... (.jpg, .jpeg, .webp), ID being the sample's.

    name: of the editor that made them; None takes the folder's. Raises ValueError for a folder that is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of edits: check the path")

    def edits(sample: Sample) -> list[bytes]:
        found: list[bytes] = []
        while (
            picture := find_ready(folder, [sample.id if not found else f"{sample.id}-{len(found) + 1}"])
        ) is not None:
            found.append(picture)
        return found

    return ReadyEdits(edits, name or folder.resolve().name)


def find_ready(folder: Path, stems: Sequence[str]) -> bytes | None:
    """The first picture STEM.png (.jpg, .jpeg, .webp) that lies in `folder`; None when there is none.

    Stems come from data: none leads out of the folder. Raises ValueError for a picture that cannot be read.
    """
    root = folder.resolve()
    for stem in stems:
        for ending in ENDINGS:
            path = folder / f"{stem}{ending}"
            try:
                if path.is_file() and path.resolve().is_relative_to(root):
                    return read_image_file(path)
            except OSError as error:
                raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return None
