"""Edits that exist already, as an editor: pictures in a folder, or those that a data set has of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import ImageError, read_image_file
from edit_r1.records import Sample

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
AHEAD_BYTES = 64 * 2**20
"""Of pictures that were read and not asked for yet, at most."""


class ReadyEdits:
    """Gives one ready edit of each sample, whatever the seed. A sample that has none is an edit that is absent.

    In a call that asks for several edits of one sample, those after the first fail: copies of one picture would be
    judged as several. For a second ready edit there is a second editor (`number`), so let a curation ask for as many
    candidates of a context as it has editors.
    """

    simulated = False

    def __init__(self, edits: Callable[[Sample], Sequence[bytes]], name: str = "ready", number: int = 1) -> None:
        """
        Args:
            edits: all ready edits of a sample, encoded; it may raise ValueError, which is then the reason.
            name: of the editor that made them, such as "imgedit".
            number: which of them, from 1; the name of a later one ends with it.

        Raises ValueError for a number below 1.
        """
        if number < 1:
            raise ValueError(f"number={number}: ready edits are counted from 1")
        self._edits, self._number = edits, number
        self._ahead: dict[str, bytes] = {}
        """By sample, what `content_of` read."""
        self._ahead_bytes = 0
        self.name = name if number == 1 else f"{name}-{number}"

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One edit per (sample, seed), in order."""
        asked: set[str] = set()
        made = []
        for sample, _ in zip(samples, seeds, strict=True):
            made.append(self._one(sample, again=sample.id in asked))
            asked.add(sample.id)
        return made

    def content_of(self, sample: Sample) -> str:
        """See `HoldsEdits`. The picture is what `edit` gives next, so that it is read once."""
        picture = self._found(sample).image
        self._read_ahead(sample)
        if picture is None:
            return ""
        if self._ahead_bytes + len(picture) > AHEAD_BYTES:  # of samples whose edits were not asked for
            self._ahead.clear()
            self._ahead_bytes = 0
        self._ahead[sample.id] = picture
        self._ahead_bytes += len(picture)
        return hashlib.sha256(picture).hexdigest()[:32]

    def _one(self, sample: Sample, again: bool) -> EditedImage:
        if again:
            return EditedImage(None, "a ready edit is given once: ask for fewer candidates", absent=True)
        ahead = self._read_ahead(sample)
        return self._found(sample) if ahead is None else EditedImage(ahead)

    def _read_ahead(self, sample: Sample) -> bytes | None:
        """What `content_of` read, which is then no longer held."""
        picture = self._ahead.pop(sample.id, None)
        self._ahead_bytes -= len(picture or b"")
        return picture

    def _found(self, sample: Sample) -> EditedImage:
        try:
            found = self._edits(sample)
        except ValueError as error:
            return EditedImage(None, str(error), absent=True)
        if len(found) < self._number:
            return EditedImage(None, f"{len(found)} ready edits, number {self._number} is not there", absent=True)
        return EditedImage(found[self._number - 1])


def folder_edits(folder: Path, name: str | None = None, number: int = 1) -> ReadyEdits:
    """The edits in FOLDER/ID.png, or for number N in FOLDER/ID-N.png (.jpg, .jpeg, .webp), ID being the sample's.

    name: of the editor that made them; None takes the folder's. Raises ValueError for a folder that is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of edits: check the path")

    def edits(sample: Sample) -> list[bytes]:
        found: list[bytes] = []
        name = sample.id
        while len(found) < number:
            if (picture := find_ready(folder, [name])) is None:
                raise ValueError(f"no {name!r} (.png, .jpg, .jpeg or .webp) in {folder}: edits are named after row ids")
            found.append(picture)
            name = f"{sample.id}-{len(found) + 1}"
        return found

    return ReadyEdits(edits, name or folder.resolve().name, number)


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
