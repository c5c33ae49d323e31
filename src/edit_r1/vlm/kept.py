"""A `VLM` whose answers are stored as they come, and looked up when they are asked for again.

An answer is kept under a hash of everything that shapes it: model, settings, texts and pictures, sampling with its
seed, and the number of answers that came together. A call that failed is never kept.

Of a `PaidVLM` every single answer is stored as it arrives. Another model's answers may depend on what is decoded beside
them, so its requests are asked in pieces of a fixed size, and a piece of which anything is missing is asked again as a
whole: a run that was killed then ends with the answers of one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from edit_r1.store.journal import Journal, read_journal
from edit_r1.vlm.budget import Ledger
from edit_r1.vlm.paid import Call, PaidVLM, rows_of
from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling, TokenChoices, check_sampling
from edit_r1.vlm.usage import Usage

PIECE = 64
"""Requests that a model which is not paid by the call is asked at once."""


def request_digest(request: Request) -> str:
    """Of texts and pictures; different for requests that differ in anything."""
    digest = hashlib.sha256()
    for part in (request.system, *request.parts):
        kind = b"-" if part is None else b"t" if isinstance(part, str) else b"i"
        data = b"" if part is None else part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%b%d:" % (kind, len(data)))
        digest.update(data)
    return digest.hexdigest()


def call_key(model: str, settings: str, digest: str, call: Call) -> str:
    """32 hexadecimal digits. digest: of the call's request, which is long and has several draws."""
    text = json.dumps([model, settings, digest, asdict(call.sampling), call.n])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class KeptVLM:
    """A `VLM` in front of another one; calls run one after the other."""

    def __init__(self, vlm: VLM, folder: Path, ledger: Ledger | None = None, older: Iterable[Path] = ()) -> None:
        """folder: of the answers; made with the first one. ledger: where paid answers are booked. older: folders where
        answers may lie too."""
        self.vlm, self.folder, self.ledger, self.older = vlm, folder, ledger, tuple(older)
        self.used = Usage()
        """What all answers took that were given by this object, those found included."""
        self._journal = Journal(folder)
        self._kept: dict[str, tuple[tuple[Completion, ...], Usage]] | None = None

    @property
    def name(self) -> str:
        return self.vlm.name

    @property
    def simulated(self) -> bool:
        return self.vlm.simulated

    @property
    def settings(self) -> str:
        """As `PaidVLM.settings`; "" for another model."""
        return self.vlm.settings if isinstance(self.vlm, PaidVLM) else ""

    def close(self) -> None:
        """Forces what was stored to the disk. The model itself stays open."""
        self._journal.close()

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """See `VLM.generate`.

        Raises:
            ValueError: for sampling parameters out of range.
            BudgetError: when the budget is spent; what was answered by then is stored.
            StoreError: when the disk refuses an answer, or one that is there cannot be read.
        """
        check_sampling(sampling, n)
        if self._kept is None:
            lines = chain.from_iterable(map(read_journal, (*self.older, self.folder)))
            self._kept = {key: (rows, usage) for key, rows, usage in map(_read, lines)}
        paid = self.vlm if isinstance(self.vlm, PaidVLM) else None
        each = [
            [Call(request, sampling, n)] if paid is None else paid.calls(request, sampling, n) for request in requests
        ]
        calls = [call for own in each for call in own]
        digests = [request_digest(request) for request in requests]
        keys = [
            call_key(self.vlm.name, self.settings, digest, call)
            for digest, own in zip(digests, each, strict=True)
            for call in own
        ]
        answers = self._pieces(calls, keys) if paid is None else self._paid(paid, calls, keys)
        ordered = iter(answers)
        return [rows_of([next(ordered) for _ in own], n) for own in each]

    def _paid(self, vlm: PaidVLM, calls: Sequence[Call], keys: Sequence[str]) -> list[tuple[Completion, ...]]:
        assert self._kept is not None
        missing: dict[str, Call] = {}
        for place, key in enumerate(keys):
            if key not in self._kept:
                missing.setdefault(key, calls[place])  # equal calls are paid for once
        asked = list(missing)
        lost: dict[str, tuple[Completion, ...]] = {}
        begun = ended = 0

        def begin() -> Iterator[Call]:
            """Taken from when a call can be sent."""
            nonlocal begun
            for call in missing.values():
                if self.ledger is not None:
                    self.ledger.begin()
                begun += 1
                yield call

        try:
            for one in vlm.answer_each(begin()):
                key = asked[one.number]
                if any(row.finish == "error" for row in one.completions):
                    lost[key] = one.completions
                    self.used += one.usage
                else:
                    self._store(key, one.completions, one.usage)
                ended += 1
                if self.ledger is not None:
                    self.ledger.end(vlm.name, one.usage, vlm.limit)
        finally:
            if self.ledger is not None:
                self.ledger.give_up(begun - ended)
        self.used = sum((self._kept[key][1] for key in dict.fromkeys(keys) if key in self._kept), self.used)
        return [self._kept[key][0] if key in self._kept else lost[key] for key in keys]

    def _pieces(self, calls: Sequence[Call], keys: Sequence[str]) -> list[tuple[Completion, ...]]:
        assert self._kept is not None
        answers: list[tuple[Completion, ...]] = []
        for start in range(0, len(calls), PIECE):
            piece = range(start, min(start + PIECE, len(calls)))
            if not all(keys[place] in self._kept for place in piece):
                call = calls[start]
                rows = self.vlm.generate([calls[place].request for place in piece], call.sampling, call.n)
                for place, row in zip(piece, rows, strict=True):
                    answers.append(tuple(row))
                    if all(one.finish != "error" for one in row):
                        self._store(keys[place], tuple(row), Usage())
            else:
                answers += [self._kept[keys[place]][0] for place in piece]
        return answers

    def _store(self, key: str, rows: tuple[Completion, ...], usage: Usage) -> None:
        assert self._kept is not None
        self._journal.append({"key": key, "rows": [asdict(row) for row in rows], "usage": asdict(usage)})
        self._kept[key] = rows, usage


def _read(line: Mapping[str, Any]) -> tuple[str, tuple[Completion, ...], Usage]:
    rows = []
    for row in line["rows"]:
        choices = row["choices"]
        if choices is not None:
            choices = tuple(
                TokenChoices(one["token"], tuple((token, value) for token, value in one["alternatives"]))
                for one in choices
            )
        rows.append(Completion(**{**row, "choices": choices}))
    return line["key"], tuple(rows), Usage(**line["usage"])
