"""An `Editor` whose edits are stored as they come, and looked up when they are asked for again.

As `vlm.kept` does it with answers: pictures lie as files under their own hash, and a journal says which edit is which.
A failure is never kept. A paid editor's edits are stored request by request; another one's in pieces of a fixed size,
of which one that is not whole is made again as a whole.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from edit_r1.editors.protocol import EditedImage, Editor, HoldsEdits, PaidEditor
from edit_r1.records import Sample
from edit_r1.store import write_bytes
from edit_r1.store.journal import Journal, read_journal
from edit_r1.vlm.budget import Ledger
from edit_r1.vlm.usage import Usage

PIECE = 16
"""Edits that an editor which is not paid by the request is asked for at once."""


def edit_key(editor: str, settings: str, sample: Sample, seed: int, content: str = "") -> str:
    """32 hexadecimal digits, of everything that shapes an edit; simulated editors know hidden things too.

    content: of a ready edit (`HoldsEdits`).
    """
    pictures = [hashlib.sha256(source).hexdigest() for source in sample.sources]
    told = [editor, settings, sample.id, sample.hidden, sample.instruction, pictures, seed]
    text = json.dumps([*told, content] if content else told)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class KeptEditor:
    """An `Editor` in front of another one; calls run one after the other."""

    def __init__(self, editor: Editor, folder: Path, ledger: Ledger | None = None, older: Iterable[Path] = ()) -> None:
        """folder: of the edits; made with the first one. ledger: where paid edits are booked. older: further folders
        where edits may lie."""
        self.editor, self.folder, self.ledger, self.older = editor, folder, ledger, tuple(older)
        self.used = Usage()
        """What all edits took that were given by this object, those found included."""
        self._journal = Journal(folder)
        self._kept: dict[str, tuple[EditedImage, Usage]] | None = None

    @property
    def name(self) -> str:
        return self.editor.name

    @property
    def simulated(self) -> bool:
        return self.editor.simulated

    def close(self) -> None:
        """Forces what was stored to the disk. The editor itself stays open."""
        self._journal.close()

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """See `Editor.edit`.

        Raises:
            BudgetError: when the budget is spent; what was made by then is stored.
            StoreError: when the disk refuses an edit, or one that is there cannot be read.
        """
        if self._kept is None:
            self._kept = self._read()
        paid = self.editor if isinstance(self.editor, PaidEditor) else None
        settings = "" if paid is None else paid.settings_key
        ready = self.editor.content_of if isinstance(self.editor, HoldsEdits) else lambda sample: ""
        keys = [
            edit_key(self.name, settings, sample, seed, ready(sample))
            for sample, seed in zip(samples, seeds, strict=True)
        ]
        if paid is None:
            return self._pieces(samples, seeds, keys)
        return self._paid(paid, samples, seeds, keys)

    def _paid(
        self, editor: PaidEditor, samples: Sequence[Sample], seeds: Sequence[int], keys: Sequence[str]
    ) -> list[EditedImage]:
        assert self._kept is not None
        missing = [place for place, key in enumerate(keys) if key not in self._kept]
        self.used = sum((self._kept[key][1] for key in keys if key in self._kept), self.used)
        lost: dict[str, EditedImage] = {}
        begun = ended = 0
        counting = threading.Lock()

        def begin() -> None:
            nonlocal begun
            if self.ledger is not None:
                self.ledger.begin()
            with counting:
                begun += 1

        try:
            own = [samples[place] for place in missing], [seeds[place] for place in missing]
            for edits, usage in editor.edit_each(*own, begin):
                share = _share(usage, sum(edited.image is not None for edited in edits.values()))
                for number, edited in edits.items():
                    key = keys[missing[number]]
                    if edited.image is None:
                        lost[key] = edited
                    else:
                        self._store(key, edited, share)
                self.used += usage
                ended += 1
                if self.ledger is not None:
                    self.ledger.end(editor.name, usage, editor.limit)
        finally:
            if self.ledger is not None:
                self.ledger.give_up(begun - ended)
        return [self._kept[key][0] if key in self._kept else lost[key] for key in keys]

    def _pieces(self, samples: Sequence[Sample], seeds: Sequence[int], keys: Sequence[str]) -> list[EditedImage]:
        assert self._kept is not None
        edits: list[EditedImage] = []
        for start in range(0, len(keys), PIECE):
            piece = slice(start, start + PIECE)
            if all(key in self._kept for key in keys[piece]):
                edits += [self._kept[key][0] for key in keys[piece]]
                continue
            made = self.editor.edit(samples[piece], seeds[piece])
            for key, edited in zip(keys[piece], made, strict=True):
                if edited.image is not None:
                    self._store(key, edited, Usage())
            edits += made
        return edits

    def _store(self, key: str, edited: EditedImage, usage: Usage) -> None:
        assert self._kept is not None and edited.image is not None
        name = hashlib.sha256(edited.image).hexdigest()
        write_bytes(self.folder / "pictures" / name, edited.image)  # first: the journal names what is there
        self._journal.append({"key": key, "picture": name, "hidden": edited.hidden, "cost": usage.cost})
        self._kept[key] = edited, usage

    def _read(self) -> dict[str, tuple[EditedImage, Usage]]:
        """What is there, without pictures that are missing or damaged."""
        found: dict[str, tuple[EditedImage, Usage]] = {}
        for folder in (*self.older, self.folder):
            for line in read_journal(folder):
                path = folder / "pictures" / line["picture"]
                image = path.read_bytes() if path.is_file() else b""
                if hashlib.sha256(image).hexdigest() == line["picture"]:
                    found[line["key"]] = EditedImage(image, None, line["hidden"]), Usage(cost=line["cost"])
        return found


def _share(usage: Usage, pictures: int) -> Usage:
    """Of one of the pictures that a request gave."""
    return Usage(cost=None if usage.cost is None or not pictures else usage.cost / pictures)
