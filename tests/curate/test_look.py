"""Which quadruples are looked at: against measures made of the whole data sets, and what is read for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edit_r1.curate.ensemble import Ensemble
from edit_r1.curate.look import Looked, look
from edit_r1.curate.run import Curation, curate
from edit_r1.curate.tables import DECISIONS
from edit_r1.records import Principle, Trace
from edit_r1.store import StoreError, read_dataset
from edit_r1.verifier.traces import write_principles
from edit_r1.vlm.protocol import Completion


@pytest.fixture(scope="module")
def out(scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen samples in four chunks; one answer in nine cannot be parsed, and some candidates get no gold."""
    folder, module = tmp_path_factory.mktemp("look"), scripted

    class Moody(module.Model):  # type: ignore[misc, name-defined]
        def _answer(self, request: Any, sampling: Any, i: int) -> Completion:
            mute = request.images[-1][-30] % 5 == 0  # by the candidate's picture, at every try
            return Completion("no idea", 2, "stop") if mute else super()._answer(request, sampling, i)

    curate(replace(module.build(14), verifier=Moody("verifier")), folder)
    return folder


def everything(out: Path) -> dict[str, Looked]:
    """All quadruples of the data sets, put together without the chunks."""
    curation = Curation(out)
    contexts = {one.sample.id: one for one in curation.contexts}
    gold = {one.candidate_id: one for one in curation.gold}
    traces, decisions = defaultdict(list), defaultdict(list)
    for trace in curation.traces:
        traces[trace.candidate_id].append(trace)
    for decision in read_dataset(out, "decisions", DECISIONS):
        decisions[decision.candidate_id].append(decision)
    return {
        one.id: Looked(
            contexts[one.sample_id], one, tuple(sorted(traces[one.id], key=lambda t: t.index)), gold.get(one.id), (),
            tuple(sorted(decisions[one.id], key=lambda d: d.index)), (),
        )
        for one in curation.candidates
    }  # fmt: skip


def differ(one: Looked) -> float:
    """Of the judges' first parsed traces, straight from the words."""
    firsts: dict[str, list[int]] = {}
    for trace in one.traces:
        if isinstance(trace.outcome, Trace) and trace.outcome.verdicts:
            firsts.setdefault(trace.judge, [verdict.value for verdict in trace.outcome.verdicts])
    pairs = [a != b for x, y in combinations(firsts.values(), 2) for a, b in zip(x, y, strict=True)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def plain(rows: list[Looked]) -> list[Looked]:
    return [replace(row, findings=()) for row in rows]


def test_the_worst_come_first_by_every_filter(out: Path) -> None:
    whole = everything(out)
    known = {name: one.agreement for name, one in whole.items() if one.agreement is not None}
    rows = look(out, "low-agreement", 10, 0)
    assert plain(rows) == [whole[row.candidate.id] for row in rows]
    assert [row.agreement for row in rows] == sorted(known.values())[:10]
    rows = look(out, "disagreement", 10, 0)
    assert [row.disagreement for row in rows] == sorted((differ(one) for one in whole.values()), reverse=True)[:10]
    unparsed = {name: sum(d.cause == "unparsed" for d in one.decisions) for name, one in whole.items()}
    rows = look(out, "unparsed", 100, 0)
    assert {row.candidate.id for row in rows} == {name for name, count in unparsed.items() if count}
    assert [unparsed[row.candidate.id] for row in rows] == sorted(filter(None, unparsed.values()), reverse=True)
    rows = look(out, "failed", 100, 0)
    kept = {name for name, one in whole.items() if any(d.cause == "kept" for d in one.decisions)}
    assert {row.candidate.id for row in rows} == whole.keys() - kept and rows

    def gap(one: Looked) -> float:
        compared = [d.agreement for d in one.decisions if d.agreement is not None]
        return max(compared) - min(compared) if compared else 0.0

    rejected = {name for name, one in whole.items() if any(d.cause == "less accurate" for d in one.decisions)}
    rows = look(out, "rejected", 100, 0)
    assert {row.candidate.id for row in rows} == rejected
    assert [gap(row) for row in rows] == sorted((gap(whole[name]) for name in rejected), reverse=True)


def test_without_a_filter_a_seeded_draw(out: Path) -> None:
    first = [row.candidate.id for row in look(out, None, 5, 0)]
    assert first == [row.candidate.id for row in look(out, None, 5, 0)]
    assert first != [row.candidate.id for row in look(out, None, 5, 1)]
    assert len(look(out, None, 1000, 0)) == len(everything(out))


def test_only_chunks_with_a_chosen_row_are_read_in_full(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edit_r1.curate import look as module

    read: list[Any] = []
    real = module.iterate_rows

    def noting(path: Path, columns: Any = None) -> Any:
        read.append((path, columns))
        return real(path, columns)

    monkeypatch.setattr(module, "iterate_rows", noting)
    [row] = look(out, "low-agreement", 1, 0)
    full = [path for path, columns in read if columns is None]
    assert len({path.parent.name.rsplit("-", 1)[1] for path in full}) == 1  # of one chunk
    assert all("image" not in columns and "source" not in columns and "text" not in columns
               for _, columns in read if columns is not None)  # fmt: skip
    assert row.context.sample.source.startswith(b"\x89PNG")


def test_faults_of_principles_and_votes_are_shown(scripted: ModuleType, tmp_path: Path) -> None:
    module = scripted
    twice = (*module.PRINCIPLES, module.PRINCIPLES[0], Principle("Is this an image?", "Image Quality"))

    class Faulty(module.Model):  # type: ignore[misc, name-defined]
        def _answer(self, *_: Any) -> Completion:
            return Completion(write_principles(twice, "full"), 5, "stop")

    curate(replace(module.build(3), decomposer=Faulty("decomposer")), tmp_path)
    rows = look(tmp_path, "findings", 10, 0)
    assert len(rows) == 3 == len({row.context.sample.id for row in rows})  # one candidate of each context
    assert {one.kind for one in rows[0].findings} >= {"duplicate", "unfailable"}
    curate(replace(module.build(3), ensemble=Ensemble(pool=True)), tmp_path / "votes")
    shown = look(tmp_path / "votes", None, 10, 0)
    assert {vote.verifier for row in shown for vote in row.votes} >= {"j1", "j2"}


def test_what_cannot_be_looked_at_is_said(scripted: ModuleType, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no curation"):
        look(tmp_path, None, 5, 0)
    with pytest.raises(ValueError, match="count=0"):
        look(out, None, 0, 0)

    class StopError(Exception):
        pass

    def stop(*_: Any) -> None:
        raise StopError

    with pytest.raises(StopError):
        curate(scripted.build(3), tmp_path, stop)
    with pytest.raises(ValueError, match="no chunk is finished yet"):
        look(tmp_path, None, 5, 0)
    curate(scripted.build(3), tmp_path)
    shard = next((tmp_path / ".work/decisions").rglob("*.parquet"))
    shard.write_bytes(b"torn")
    with pytest.raises(StoreError, match="not a readable Parquet file"):
        look(tmp_path, None, 5, 0)
