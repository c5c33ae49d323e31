"""Principles that the data lacks are asked for once, kept with the run, and counted where none came."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from edit_r1.images import encode_png
from edit_r1.records import CATEGORIES, Context, Principle, Sample
from edit_r1.store import write_json
from edit_r1.train.judges import JudgeSettings, VerifierJudge
from edit_r1.train.written_principles import complete_principles, reasons
from edit_r1.verifier.principles_cache import PrinciplesCache
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.protocol import Completion

GIVEN = (Principle("Given?", CATEGORIES[0]),)
PICTURE = encode_png(np.zeros((8, 8, 3), np.uint8))
SETTINGS = JudgeSettings("a/judge")


class Writer:
    """Writes one principle a category, but none about "cats"; remembers what it was asked."""

    name, simulated = "writer", True

    def __init__(self, silent: bool = False) -> None:
        self.asked, self.silent = 0, silent

    def generate(self, requests, sampling, n=1):
        self.asked += len(requests)
        if self.silent:
            return [[Completion("", 0, "error", error="refused")] for _ in requests]
        return [[Completion(self._text(request), 5, "stop")] for request in requests]

    def _text(self, request) -> str:
        asked = "".join(part for part in request.parts if isinstance(part, str))
        if "cats" in asked:
            return "I would rather not."
        rows = [f'{{"question": "Is it {c}?", "category": "{c}"}}' for c in CATEGORIES]
        return f"[{', '.join(rows)}]"


def _contexts() -> list[Context]:
    words = ["given", "dogs", "cats", "birds"]
    return [
        Context(Sample(word, PICTURE, f"draw {word}", ""), GIVEN if word == "given" else (), "data") for word in words
    ]


def _opener(writer: Writer, cache: Path | None = None):
    kept = None if cache is None else PrinciplesCache(cache)
    return lambda settings: VerifierJudge(Verifier(writer, cache=kept), settings)


def test_only_what_is_missing_is_written_and_failures_are_counted(tmp_path):
    writer, record = Writer(), tmp_path / "p.json"
    done = complete_principles(_contexts(), SETTINGS, record, opener=_opener(writer))
    assert [one.sample.id for one in done.contexts] == ["given", "dogs", "birds"]
    assert done.contexts[0].principles == GIVEN and done.contexts[0].decomposer == "data"
    assert len(done.contexts[1].principles) == 3 and done.contexts[1].decomposer == "writer"
    assert done.written == 2 and list(done.failed) == ["cats"] and reasons(done.failed).startswith("1 x ")
    assert writer.asked == 4  # what cannot be read is drawn once more


def test_a_resumed_run_asks_nothing_and_a_new_one_asks_again_what_failed(tmp_path):
    contexts, record = _contexts(), tmp_path / "p.json"
    first = complete_principles(contexts, SETTINGS, record, opener=_opener(Writer()))
    writer = Writer()
    assert complete_principles(contexts, SETTINGS, record, resumed=True, opener=_opener(writer)) == first
    assert writer.asked == 0
    assert complete_principles(contexts, SETTINGS, record, opener=_opener(writer)) == first
    assert writer.asked == 2


def test_answers_are_cached_across_runs(tmp_path):
    contexts = _contexts()
    complete_principles(contexts, SETTINGS, tmp_path / "1.json", opener=_opener(Writer(), tmp_path / "cache"))
    writer = Writer()
    complete_principles(contexts, SETTINGS, tmp_path / "2.json", opener=_opener(writer, tmp_path / "cache"))
    assert writer.asked == 2  # what failed is never cached


def test_no_model_is_opened_when_nothing_is_missing(tmp_path):
    contexts = _contexts()[:1]
    assert complete_principles(contexts, SETTINGS, tmp_path / "p.json", opener=None).contexts == contexts
    assert not (tmp_path / "p.json").exists()


def test_what_cannot_write_is_refused(tmp_path):
    contexts, record = _contexts(), tmp_path / "p.json"
    with pytest.raises(ValueError, match=r"a/judge: wrote no principles \(.*refused\)"):
        complete_principles(contexts, SETTINGS, record, opener=_opener(Writer(silent=True)))
    assert not record.exists()

    class OnlyJudges:
        def close(self):
            pass

    with pytest.raises(ValueError, match="3 contexts have no principles, and a/judge only judges.*--principles-model"):
        complete_principles(contexts, SETTINGS, record, opener=lambda _: OnlyJudges())
    write_json(record, [])
    with pytest.raises(ValueError, match="not a run's record"):
        complete_principles(contexts, SETTINGS, record, opener=_opener(Writer()))


class Pair:
    """Two threads in place of two processes."""

    size = 2

    def __init__(self, rank: int, held: dict, barrier: Barrier) -> None:
        self.rank, self.first, self._held, self.wait = rank, rank == 0, held, barrier.wait

    def gathered(self, own):
        self._held.update(own)
        self.wait()
        return dict(self._held)


def test_two_processes_ask_for_a_share_each(tmp_path):
    held, barrier, writers = {}, Barrier(2, timeout=30), [Writer(), Writer()]

    def share(rank: int):
        team = Pair(rank, held, barrier)
        return complete_principles(_contexts(), SETTINGS, tmp_path / "p.json", team, opener=_opener(writers[rank]))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(share, range(2))
    assert first == second and [one.sample.id for one in first.contexts] == ["given", "dogs", "birds"]
    assert [writer.asked for writer in writers] == [2, 2] and list(first.failed) == ["cats"]
