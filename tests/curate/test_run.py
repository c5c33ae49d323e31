"""The whole curation on disk: counts that add up, and a killed run that ends as if it had not been killed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import STEPS, ChunkWork, Stopped
from edit_r1.curate.chunk_file import chunk_file
from edit_r1.curate.engine import Local
from edit_r1.curate.failures import OutageError
from edit_r1.curate.findings import FINDINGS
from edit_r1.curate.look import look
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import Curation, at_work, curate, read_failures
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.curate.status import read_status
from edit_r1.curate.tables import DECISIONS
from edit_r1.records import Sample, Trace
from edit_r1.store import QUADRUPLES, StoreError, read_dataset, read_json, write_json
from edit_r1.verifier.traces import write_principles
from edit_r1.vlm.protocol import Completion, Request, Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: what a power cut leaves is the store's test, not this one's."""
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


@pytest.fixture
def stage(kit: Any, samples: list[Sample]) -> CurateStage:
    """Ten samples in four chunks; every step loses something."""
    broken = Sample("row-torn", samples[0].source[:50], "Make it blue.", "")
    return CurateStage(
        samples=GivenSamples((*samples[:4], broken, *samples[4:9])),
        decomposer=kit.decomposer(lost_share=2),
        editors=(kit.Editor("a"), kit.Editor("b", lambda _, seed: "too dark" if seed % 4 == 0 else None)),
        pool=(PoolMember(kit.judge("j1", lost_share=2), 2, WARM), PoolMember(kit.judge("j2", lost_share=3), 1, WARM)),
        verifier=kit.verifier(lost_share=2),
        candidates_per_context=3,
        decompose_sampling=WARM,
        verify_sampling=WARM,
        chunk_size=3,
    )


def contents(part: str | bytes) -> str:
    return hashlib.sha256(part.encode() if isinstance(part, str) else part).hexdigest()


def hash_of(request: Request) -> str:
    return " ".join(contents(part) for part in request.parts)


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = read_json(out / "summary.json")
    return summary


def test_rows_and_failures_add_up(stage: CurateStage, tmp_path: Path) -> None:
    curation = curate(stage, tmp_path)
    summary = summary_of(tmp_path)
    rows = summary["rows"]
    failed = {step: len(read_failures(tmp_path, step)) for step in STEPS}
    assert all(failed[step] > 0 for step in ("samples", "contexts", "candidates", "traces", "gold", "selected"))
    assert summary["given"] == 10 == rows["samples"] + failed["samples"]
    assert rows["samples"] == rows["contexts"] + failed["contexts"]
    assert rows["contexts"] * 3 == rows["candidates"] + failed["candidates"]
    assert rows["candidates"] * 3 == rows["traces"] == rows["decisions"]
    assert rows["candidates"] == rows["gold"] + failed["gold"] == rows["selected"] + failed["selected"]
    assert {step: sum(causes.values()) for step, causes in summary["failed"].items()} == failed
    assert sum(judge["traces"] for judge in summary["judges"].values()) == rows["traces"]
    assert sum(judge["unparsed"] for judge in summary["judges"].values()) == failed["traces"]
    assert sum(judge["selected"] for judge in summary["judges"].values()) == rows["selected"]
    assert sum(summary["decisions"].values()) == rows["traces"]
    assert summary["selectors"]["neutral"]["selected"] == rows["selected"]
    for quadruple in curation.selected:
        assert quadruple.target is not None and quadruple.candidate.sample_id == quadruple.context.sample.id


def test_selectors_are_measured_on_the_same_traces(stage: CurateStage, tmp_path: Path) -> None:
    """The summary's line on a rule is what a curation by that rule selects, and lenient is never stricter."""
    measured = []
    for tie_break in ("lenient", "neutral"):
        out = tmp_path / tie_break
        curate(replace(stage, tie_break=tie_break), out)
        row = summary_of(out)["selectors"][tie_break]
        scores = [q.target.score for q in read_dataset(out, "selected", QUADRUPLES) if q.target is not None]
        assert row["mean_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
        measured.append(summary_of(out)["selectors"])
    assert measured[0] == measured[1]
    assert measured[0]["lenient"]["agreement"] == measured[0]["neutral"]["agreement"]
    assert measured[0]["lenient"]["yes"] >= measured[0]["neutral"]["yes"]
    assert measured[0]["no filter"]["agreement"] < measured[0]["neutral"]["agreement"]


def test_the_record_of_decisions_names_the_kept_trace(stage: CurateStage, tmp_path: Path) -> None:
    curation = curate(stage, tmp_path)
    kept = {d.candidate_id: d for d in read_dataset(tmp_path, "decisions", DECISIONS) if d.cause == "kept"}
    traces = {(t.candidate_id, t.index): t.outcome for t in curation.traces}
    quadruples = list(curation.selected)
    assert kept.keys() == {quadruple.candidate.id for quadruple in quadruples}
    for quadruple in quadruples:
        decision = kept[quadruple.candidate.id]
        outcome = traces[decision.candidate_id, decision.index]
        assert isinstance(outcome, Trace) and outcome == quadruple.target


class Killed(Exception):
    pass


def killer(after: int) -> Callable[[str, int, int], None]:
    calls = 0

    def progress(step: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Killed

    return progress


def first(stage: CurateStage, count: int) -> GivenSamples:
    return GivenSamples(tuple(one for one in stage.samples.rows(0, count) if isinstance(one, Sample)))


def test_a_run_killed_after_any_step_ends_with_the_same_data(stage: CurateStage, tmp_path: Path) -> None:
    stage = replace(stage, samples=first(stage, 4), chunk_size=2, candidates_per_context=2)
    curate(stage, tmp_path / "whole")
    expected = summary_of(tmp_path / "whole")
    for after in range(1, 2 * len(STEPS) + 1):
        out = tmp_path / f"killed-{after}"
        with pytest.raises(Killed):
            curate(stage, out, killer(after))
        curate(stage, out)
        assert summary_of(out) == expected, f"killed after {after} steps"


@pytest.mark.parametrize("landed", [False, True], ids=["before the file is there", "after"])
def test_a_run_killed_at_any_write_ends_with_the_same_data(
    stage: CurateStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """Every state that a kill can leave on disk: each file appears whole, so these lie between two renames."""
    stage = replace(stage, samples=first(stage, 2), chunk_size=1, candidates_per_context=2)
    rename, link, writes, die_at = os.replace, os.link, 0, 0

    def counting(make: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def write(source: Any, target: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == die_at and not landed:
                raise KeyboardInterrupt
            make(source, target)
            if writes == die_at:
                raise KeyboardInterrupt

        return write

    monkeypatch.setattr("edit_r1.store.files.os.replace", counting(rename))
    monkeypatch.setattr("edit_r1.store.stages.os.link", counting(link))
    curate(stage, tmp_path / "whole")
    expected, total = summary_of(tmp_path / "whole"), writes
    assert total > 60
    for number in range(1, total + 1):
        out = tmp_path / f"killed-{number}"
        writes, die_at = 0, number
        with pytest.raises(KeyboardInterrupt):
            curate(stage, out)
        die_at = 0
        curate(stage, out)
        assert summary_of(out) == expected, f"killed at write {number}"


def test_what_is_there_is_not_asked_for_again(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    before, after = kit.judge("j1"), kit.judge("j1")
    single = replace(stage, pool=(PoolMember(before, 1, WARM),))
    with pytest.raises(Killed):
        curate(single, tmp_path, killer(2 * len(STEPS) + 4))  # two whole chunks, and the third up to its traces
    curation = curate(replace(single, pool=(PoolMember(after, 1, WARM),)), tmp_path)
    assert before.calls and after.calls
    assert len(before.calls) + len(after.calls) == curation.traces.meta()["rows"]
    asked = len(after.calls)
    curate(replace(single, pool=(PoolMember(after, 1, WARM),)), tmp_path)
    assert len(after.calls) == asked


def test_the_cut_into_chunks_changes_no_row(stage: CurateStage, tmp_path: Path) -> None:
    curate(stage, tmp_path / "a")
    curate(replace(stage, chunk_size=64), tmp_path / "b")
    assert summary_of(tmp_path / "a") == summary_of(tmp_path / "b")


def fresh(kit: Any, stage: CurateStage) -> CurateStage:
    """The same stage with models that have not been asked anything."""
    lost = {"j1": 2, "j2": 3, "j3": 0}
    pool = tuple(replace(one, vlm=kit.judge(one.vlm.name, lost_share=lost[one.vlm.name])) for one in stage.pool)
    return replace(stage, decomposer=kit.decomposer(lost_share=2), verifier=kit.verifier(lost_share=2), pool=pool)


def calls(stage: CurateStage) -> dict[str, int]:
    models: list[Any] = [stage.decomposer, stage.verifier, *(one.vlm for one in stage.pool)]
    return {model.name: len(model.calls) for model in models}


def test_another_rule_costs_nothing(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    curate(stage, tmp_path / "grown")
    other = replace(fresh(kit, stage), tie_break="lenient")
    curate(other, tmp_path / "grown")
    assert set(calls(other).values()) == {0}
    curate(replace(stage, tie_break="lenient"), tmp_path / "whole")
    assert summary_of(tmp_path / "grown") == summary_of(tmp_path / "whole")


def test_a_judge_that_is_added_adds_its_rows_and_gold_is_written_anew(
    stage: CurateStage, kit: Any, tmp_path: Path
) -> None:
    before = summary_of(curate(stage, tmp_path / "grown").out)
    grown = fresh(kit, replace(stage, pool=(*stage.pool, PoolMember(kit.judge("j3"), 1, WARM))))
    curate(grown, tmp_path / "grown")
    rows = before["rows"]["candidates"]
    asked = calls(grown)
    assert (asked["decomposer"], asked["j1"], asked["j2"], asked["j3"]) == (0, 0, 0, rows)
    assert asked["verifier"] >= rows  # it reads one reference more
    curate(fresh(kit, grown), tmp_path / "whole")
    assert summary_of(tmp_path / "grown") == summary_of(tmp_path / "whole")


def test_an_editor_that_is_added_costs_its_own_candidates(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    before = curate(stage, tmp_path / "grown")
    old = {candidate.id for candidate in before.candidates}
    grown = fresh(kit, replace(stage, editors=(*stage.editors, kit.Editor("c")), candidates_per_context=4))
    after = curate(grown, tmp_path / "grown")
    new = {candidate.id for candidate in after.candidates} - old
    asked = calls(grown)
    assert new and asked["decomposer"] == 0 and asked["j1"] == asked["j2"] == len(new)
    curate(fresh(kit, grown), tmp_path / "whole")
    assert summary_of(tmp_path / "grown") == summary_of(tmp_path / "whole")
    # Back again: nothing that was paid for has gone.
    back = fresh(kit, stage)
    assert summary_of(curate(back, tmp_path / "grown").out) == summary_of(curate(stage, tmp_path / "old").out)
    assert set(calls(back).values()) == {0}


def test_a_further_judge_of_one_model_with_another_seed_adds_to_its_traces(
    stage: CurateStage, kit: Any, tmp_path: Path
) -> None:
    before = summary_of(curate(stage, tmp_path).out)["judges"]["j1"]["traces"]
    judge = kit.judge("j1", lost_share=2)
    again = fresh(kit, stage)
    curate(replace(again, pool=(*again.pool, PoolMember(judge, 2, replace(WARM, seed=99)))), tmp_path)
    assert calls(again)["j1"] == calls(again)["j2"] == 0 < len(judge.calls)
    assert summary_of(tmp_path)["judges"]["j1"]["traces"] == 2 * before


def test_samples_that_are_added_or_moved_cost_only_what_is_new(
    stage: CurateStage, kit: Any, samples: list[Sample], tmp_path: Path
) -> None:
    some = replace(stage, samples=GivenSamples(tuple(samples[2:7])))
    curate(some, tmp_path / "grown")
    grown = replace(fresh(kit, some), samples=GivenSamples((samples[9], *samples[2:7])))
    with pytest.raises(Killed):
        curate(grown, tmp_path / "grown", killer(len(STEPS) + 2))
    curate(grown, tmp_path / "grown")
    assert {request.text.split("circle ")[-1][0] for request, _ in grown.decomposer.calls} == {"9"}  # type: ignore[attr-defined]
    curate(replace(fresh(kit, some), samples=grown.samples), tmp_path / "whole")
    assert summary_of(tmp_path / "grown") == summary_of(tmp_path / "whole")


def test_rows_are_found_however_often_samples_come_and_go(
    stage: CurateStage, kit: Any, samples: list[Sample], tmp_path: Path
) -> None:
    """Fewer samples, then all again, in other chunks: none of the rows lies where its sample lay in the run before."""
    curate(stage, tmp_path)
    whole = summary_of(tmp_path)["hashes"]
    curate(replace(stage, samples=GivenSamples(tuple(samples[:2]))), tmp_path)
    given = [one for one in stage.samples.rows(0, 10) if isinstance(one, Sample)]
    for chunk_size, order in ((3, given[::-1]), (4, given), (2, given[::-1])):
        again = replace(fresh(kit, stage), chunk_size=chunk_size, samples=GivenSamples(tuple(order)))
        curate(again, tmp_path)
        assert set(calls(again).values()) == {0}
        assert summary_of(tmp_path)["hashes"] == whole


def test_rows_are_found_of_a_judge_and_an_editor_that_were_away_while_samples_moved(
    stage: CurateStage, kit: Any, samples: list[Sample], tmp_path: Path
) -> None:
    curate(stage, tmp_path)
    moved = GivenSamples((kit.make_sample(20), *samples[:4], *samples[4:9]))
    fewer = replace(stage, samples=moved, pool=stage.pool[:1], editors=stage.editors[:1])
    curate(fewer, tmp_path)
    again = replace(fresh(kit, stage), chunk_size=4)
    curate(again, tmp_path)
    assert set(calls(again).values()) == {0}
    note = tmp_path / ".work" / "run.json"
    note.unlink()
    again = replace(again, chunk_size=2)  # without the note of the run no other cut costs anything either
    curate(again, tmp_path)
    assert set(calls(again).values()) == {0}


def test_what_failed_is_asked_for_again_on_demand(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    curate(stage, tmp_path)
    assert summary_of(tmp_path)["failed"]["contexts"]
    better = replace(
        stage, decomposer=kit.decomposer(), verifier=kit.verifier(), editors=(kit.Editor("a"), kit.Editor("b")),
        pool=(replace(stage.pool[0], vlm=kit.judge("j1")), replace(stage.pool[1], vlm=kit.judge("j2"))),
    )  # fmt: skip
    curate(better, tmp_path)
    assert calls(better)["decomposer"] == 0
    curate(better, tmp_path, retry=True)
    failed = summary_of(tmp_path)["failed"]
    assert {step for step, causes in failed.items() if causes} == {"samples"}
    assert calls(better)["decomposer"] > 0
    curate(better, tmp_path / "whole")
    assert summary_of(tmp_path)["rows"] == summary_of(tmp_path / "whole")["rows"]


def test_a_retry_asks_otherwise_than_before(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    """A model that honours its seed would give the same unreadable answer again, at full price."""

    def asked(stage: CurateStage) -> set[tuple[str, str, Sampling]]:
        models: list[Any] = [stage.decomposer, stage.verifier, *(one.vlm for one in stage.pool)]
        return {(model.name, hash_of(request), sampling) for model in models for request, sampling in model.calls}

    curate(stage, tmp_path)
    failed = [sum(causes.values()) for causes in summary_of(tmp_path)["failed"].values()]
    before = asked(stage)
    for _ in range(6):
        again = fresh(kit, stage)  # models of the same answers to the same questions and seeds
        curate(again, tmp_path, retry=True)
        assert before.isdisjoint(asked(again))
        before |= asked(again)
    mended = [sum(causes.values()) for causes in summary_of(tmp_path)["failed"].values()]
    assert sum(mended) < sum(failed) / 2 and mended[1] == 0 < failed[1]


def test_a_call_that_failed_is_asked_again_as_it_was(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    """So that the data are those of a run in which nothing failed."""
    good = {"decomposer": kit.decomposer(), "verifier": kit.verifier(), "editors": (kit.Editor("a"),)}
    calm = replace(stage, pool=(PoolMember(kit.judge("j1"), 2, WARM),), **good)
    curate(calm, tmp_path / "calm")

    def shaky(request: Request, draw: int) -> str | Completion:
        return Completion("", 0, "error", "502 Bad Gateway") if draw % 3 == 0 else judge._answer(request, draw)

    judge = kit.judge("j1")
    curate(replace(calm, pool=(PoolMember(kit.VLM("j1", shaky), 2, WARM),)), tmp_path / "shaky")
    assert summary_of(tmp_path / "shaky")["failed"]["traces"]
    curate(calm, tmp_path / "shaky", retry=True)
    assert summary_of(tmp_path / "shaky")["hashes"] == summary_of(tmp_path / "calm")["hashes"]


REFUSED = "http://127.0.0.1:9: 400 Bad Request: rejected by the safety system"


@pytest.mark.parametrize("reason", [REFUSED, "http://127.0.0.1:9: ConnectError: refused"])
def test_refusals_of_a_model_that_answers_others_are_of_their_rows(
    stage: CurateStage, kit: Any, samples: list[Sample], tmp_path: Path, reason: str
) -> None:
    """All of what is asked is refused: in a retry, and where a finished data set grows."""
    good = {"decomposer": kit.decomposer(), "verifier": kit.verifier(), "editors": (kit.Editor("a"),)}
    calm = replace(stage, chunk_size=10, pool=(PoolMember(kit.judge("j1"), 2, WARM),), **good)
    refused = {contents(one.source) for one in samples[2:7]}

    def answer(request: Request, draw: int) -> str | Completion:
        if any(contents(part) in refused for part in request.parts if isinstance(part, bytes)):
            return Completion("", 0, "error", reason)
        return judge._answer(request, draw)

    judge = kit.judge("j1")
    some = replace(calm, pool=(PoolMember(kit.VLM("j1", answer), 2, WARM),))
    curate(some, tmp_path)
    before = summary_of(tmp_path)
    lost = sum(before["failed"]["traces"].values())
    assert lost > 8 and before["rows"]["selected"]
    first = replace(some, samples=GivenSamples(tuple(samples[:2])), chunk_size=2)
    grown = replace(first, samples=GivenSamples((*samples[:2], *samples[2:7])))
    curate(first, tmp_path / "grown")
    for stage_, out, retry in ((some, tmp_path, True), (replace(grown, chunk_size=8), tmp_path / "grown", False)):
        if reason == REFUSED:
            curate(stage_, out, retry=retry)
            assert sum(summary_of(out)["failed"]["traces"].values()) > 8
        else:
            with pytest.raises(OutageError, match="j1: no answer to any of"):
                curate(stage_, out, retry=retry)
    down = replace(first, pool=(PoolMember(kit.VLM("j1", lambda *_: Completion("", 0, "error", reason)), 2, WARM),))
    with pytest.raises(OutageError, match="j1: no answer to any of"):  # it never answered: its settings are wrong
        curate(replace(down, samples=GivenSamples(tuple(samples))), tmp_path / "down")


def test_other_checks_are_made_of_finished_chunks_too(
    stage: CurateStage, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(stage, tmp_path)
    made: list[int] = []

    def counted(context: Any) -> list[Any]:
        made.append(1)
        return []

    monkeypatch.setattr("edit_r1.curate.chunk.context_findings", counted)
    again = fresh(kit, stage)
    curate(again, tmp_path)
    assert not made
    monkeypatch.setattr("edit_r1.curate.chunk.CHECKS", 1_000)
    curate(again, tmp_path)
    assert len(made) == summary_of(tmp_path)["rows"]["contexts"] and set(calls(again).values()) == {0}


def test_gold_is_asked_only_where_a_trace_can_be_read(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    curate(stage, tmp_path / "grown")
    causes, before = summary_of(tmp_path / "grown")["failed"], summary_of(tmp_path / "grown")["rows"]["candidates"]
    unread = causes["gold"]["verifier: not asked: no trace could be parsed"]
    assert unread == causes["selected"]["selector: no trace could be parsed"] > 0
    asked = {request.images for request, _ in stage.verifier.calls}  # type: ignore[attr-defined]
    assert len(asked) == summary_of(tmp_path / "grown")["rows"]["candidates"] - unread

    # Once the traces can be read, gold is asked for.
    read = replace(fresh(kit, stage), pool=(PoolMember(kit.judge("j1"), 2, WARM), stage.pool[1]))
    curate(read, tmp_path / "grown", retry=True)
    new = summary_of(tmp_path / "grown")["rows"]["candidates"] - before  # of samples decomposed by the retry
    assert len({request.images for request, _ in read.verifier.calls} - asked) == unread + new  # type: ignore[attr-defined]


def test_candidates_that_are_not_asked_hide_no_outage(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    down = kit.VLM("verifier", lambda request, draw: Completion("", 0, "error", "connection refused"))
    whole = replace(stage, chunk_size=10, verifier=down)
    with pytest.raises(OutageError, match="verifier: no answer to any of"):
        curate(whole, tmp_path)
    silent = replace(whole, pool=(PoolMember(kit.judge("j1", lost_share=1), 2, WARM),))
    curate(silent, tmp_path / "silent")
    rows = summary_of(tmp_path / "silent")["rows"]
    assert rows["candidates"] > 8 and rows["gold"] == rows["selected"] == 0
    assert len(down.calls) == len({request.images for request, _ in down.calls}) * 3  # of the first run alone


def test_a_second_run_of_one_folder_is_refused_while_the_first_is_at_work(stage: CurateStage, tmp_path: Path) -> None:
    refused: list[str] = []

    def again(*_: object) -> None:
        with pytest.raises(StoreError, match="another run is at work here: wait for it") as caught:
            curate(stage, tmp_path)
        refused.append(str(caught.value))

    curate(stage, tmp_path, again)
    assert refused and all("\n" not in told for told in refused)
    assert summary_of(curate(stage, tmp_path).out) == summary_of(curate(stage, tmp_path / "other").out)


def test_what_killed_processes_were_writing_goes_with_the_next_run(stage: CurateStage, tmp_path: Path) -> None:
    work = tmp_path / ".work"
    old = [work / "traces" / "a" / ".000000.parquet.12-345.tmp", work / "picks" / ".000000.parquet.12.tmp"]
    fresh = work / "traces" / "a" / ".000001.parquet.12-345.tmp"  # another machine may be writing it
    others = [work / "kept" / "notes.tmp", work / ".mine.tmp"]
    for path in (*old, fresh, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"cut")
    for path in (*old, *others):
        os.utime(path, (0, time.time() - 4000))
    with at_work(tmp_path):
        assert [path.exists() for path in (*old, fresh, *others)] == [False, False, True, True, True]
    os.utime(fresh, (0, time.time() - 4000))
    curate(stage, tmp_path)
    assert not fresh.exists()


@pytest.mark.parametrize("step", STEPS)
def test_what_a_curation_did_not_make_is_never_replaced(stage: CurateStage, tmp_path: Path, step: str) -> None:
    mine = tmp_path / step / "holiday.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(StoreError, match=f"{step}: stands there and was not made by this curation"):
        curate(stage, tmp_path)
    assert mine.read_bytes() == b"mine" and not (tmp_path / ".work").exists()


def test_a_stopped_chunk_ends_after_its_step_and_goes_on_later(stage: CurateStage, tmp_path: Path) -> None:
    whole = curate(stage, tmp_path / "whole")
    work = ChunkWork(stage, tmp_path / "stopped")
    with pytest.raises(Stopped):
        work.run(0, lambda step, _: work.stop() if step == "candidates" else None)
    told = chunk_file(tmp_path / "stopped", 0).read()
    assert "candidates" in told["steps"] and "traces" not in told["steps"] and not told["done"]
    ChunkWork(stage, tmp_path / "stopped").run(0)
    steps = (chunk_file(whole.out, 0).read()["steps"], chunk_file(tmp_path / "stopped", 0).read()["steps"])
    assert steps[0]["selected"]["shards"] == steps[1]["selected"]["shards"]


def test_an_interrupt_stops_the_chunks_that_other_threads_are_at(
    stage: CurateStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[bool] = []
    monkeypatch.setattr(ChunkWork, "stop", lambda work, at_once=False: stops.append(at_once))

    def interrupt(step: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(stage, tmp_path, interrupt, Local(chunks_at_once=2))
    assert stops == [True]


def test_a_damaged_shard_is_named(stage: CurateStage, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        curate(stage, tmp_path, killer(4))
    [shard] = (tmp_path / ".work/contexts").rglob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{shard.name}.*(not a shard|not a readable)"):
        curate(stage, tmp_path)


@pytest.mark.parametrize("step", STEPS)
def test_a_shard_that_was_removed_is_made_again(stage: CurateStage, kit: Any, tmp_path: Path, step: str) -> None:
    """Of a finished curation too, as the message about a damaged one asks for."""
    before = summary_of(curate(stage, tmp_path).out)
    shard = max((tmp_path / ".work" / step).rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StoreError, match=rf"{shard.name}: not a shard .*: remove it, its rows are made again") as told:
        curate(stage, tmp_path)
    assert str(told.value).count(shard.name) == 1
    shard.unlink()
    again = fresh(kit, stage)
    assert summary_of(curate(again, tmp_path).out) == before
    asked = {name for name, count in calls(again).items() if count}
    made_by = {"contexts": {"decomposer"}, "traces": {"j1", "j2"}, "gold": {"verifier"}}
    assert asked <= made_by.get(step, set()) and bool(asked) == (step in made_by)


def test_a_damaged_note_of_the_run_is_named_and_can_be_removed(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    before = summary_of(curate(stage, tmp_path).out)
    note = tmp_path / ".work" / "run.json"
    note.write_text("{}")
    ways: list[Callable[[], object]] = [
        lambda: curate(stage, tmp_path),
        lambda: read_status(tmp_path),
        lambda: look(tmp_path, None, 1, 0),
    ]
    for way in ways:
        with pytest.raises(StoreError, match="run.json: damaged: remove it and run again"):
            way()
    note.unlink()
    again = fresh(kit, stage)
    assert summary_of(curate(again, tmp_path).out) == before
    assert set(calls(again).values()) == {0} and read_status(tmp_path)["finished"]


def test_an_outage_stops_the_run_and_the_next_run_goes_on(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    whole = replace(stage, chunk_size=10)
    curate(whole, tmp_path / "whole")
    down = kit.VLM("verifier", lambda request, draw: Completion("", 0, "error", "connection refused"))
    with pytest.raises(OutageError, match="verifier: no answer to any of"):
        curate(replace(whole, verifier=down), tmp_path / "out")
    status = {row["step"]: row for row in read_status(tmp_path / "out")["steps"]}
    assert status["traces"]["chunks"] == 1 and status["gold"]["chunks"] == 0
    assert not status["traces"]["finished"]
    curate(whole, tmp_path / "out")
    assert summary_of(tmp_path / "out") == summary_of(tmp_path / "whole")


def test_progress_counts_every_chunk_of_every_step_once(stage: CurateStage, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    for _ in range(2):
        seen.clear()
        curate(stage, tmp_path, lambda *call: seen.append(call))
        assert sorted(seen) == sorted((step, chunk, 4) for step in STEPS for chunk in range(1, 5))


def test_introduced_to_samples_and_candidates_before_models_are_asked(stage: CurateStage, tmp_path: Path) -> None:
    shown: list[str] = []

    def introduce(samples: Any, candidates: Any) -> None:
        shown.extend(one.id for one in (*samples, *candidates))

    curation = curate(replace(stage, introduce=introduce), tmp_path)
    assert sorted(shown) == sorted([*(one.id for one in curation.samples), *(one.id for one in curation.candidates)])


def test_status_of_a_folder(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no curation"):
        read_status(tmp_path)
    with pytest.raises(Killed):
        curate(stage, tmp_path, killer(len(STEPS) + 3))
    status = read_status(tmp_path)
    chunks = {row["step"]: row["chunks"] for row in status["steps"]}
    assert chunks == {step: 2 if step in STEPS[:3] else 1 for step in STEPS}
    assert not status["finished"] and status["seconds_left"] > 0 and not status["at_work"]
    meanwhile: list[bool] = []
    curate(stage, tmp_path, lambda *_: meanwhile.append(read_status(tmp_path)["at_work"]))
    assert meanwhile and all(meanwhile)
    status = read_status(tmp_path)
    rows = status["steps"]
    assert status["finished"] and not status["at_work"] and status["seconds_left"] == 0
    assert [row["step"] for row in rows] == list(STEPS) and all(row["chunks"] == row["of"] == 4 for row in rows)
    assert {row["step"]: row["rows"] for row in rows} == summary_of(tmp_path)["rows"]
    assert {row["step"]: row["failed"] for row in rows} == summary_of(tmp_path)["failed"]
    assert all(row["per_second"] > 0 for row in rows)
    # A stage that has grown has nothing done yet, whatever lies there of the one before.
    grown = replace(stage, pool=(*stage.pool, PoolMember(kit.judge("j3"), 1, WARM)))
    with pytest.raises(Killed):
        curate(grown, tmp_path, killer(2))
    assert {row["step"]: row["chunks"] for row in read_status(tmp_path)["steps"]}["samples"] == 1


def test_bad_stages_are_refused(stage: CurateStage, kit: Any) -> None:
    with pytest.raises(ValueError, match="given twice"):
        GivenSamples((*first(stage, 4).samples, first(stage, 1).samples[0]))
    with pytest.raises(ValueError, match="in the same way"):
        replace(stage, pool=(stage.pool[0], PoolMember(kit.judge("j1"), 1, WARM)))
    with pytest.raises(
        ValueError, match="no editors: a curation needs at least one of each of samples, editors, judges"
    ):
        replace(stage, editors=())
    with pytest.raises(ValueError, match="chunk_size=0"):
        replace(stage, chunk_size=0)


def test_quality_is_counted_over_all_chunks(stage: CurateStage, tmp_path: Path) -> None:
    """What the summary tells of agreement and filters is what the rows themselves give."""
    summary = summary_of(curate(stage, tmp_path).out)
    rows, filters, agreement = summary["rows"], summary["filters"], summary["agreement"]
    assert filters["written"]["traces"] == rows["traces"] and filters["kept"]["traces"] == rows["selected"]
    assert filters["written"]["quadruples"] == rows["candidates"]
    parsed = rows["traces"] - sum(summary["failed"]["traces"].values())
    assert filters["parsed"]["traces"] == parsed
    assert filters["kept"]["mean_score"] == summary["selectors"]["neutral"]["mean_score"]
    assert agreement["gold"].keys() == {"j1", "j2"} and agreement["repeats"].keys() == {"j1"}
    assert agreement["gold"]["j1"]["raw"] == pytest.approx(summary["judges"]["j1"]["agreement"], abs=2e-4)


def test_a_chunk_counted_by_an_older_version_is_counted_anew(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    expected = summary_of(curate(stage, tmp_path).out)
    for path in (tmp_path / ".work/chunks").glob("*.json"):
        chunk = read_json(path)
        chunk["tally"] = {name: chunk["tally"][name] for name in ("judges", "rules", "decisions")}
        write_json(path, chunk)
    again = fresh(kit, stage)
    assert summary_of(curate(again, tmp_path).out) == expected
    assert set(calls(again).values()) == {0}


def test_findings_lie_beside_the_rows_and_are_counted(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    """One principle of each category: three wrong counts a context, and the instruction is covered."""
    summary = summary_of(curate(stage, tmp_path / "a").out)
    contexts = summary["rows"]["contexts"]
    assert summary["findings"]["kinds"]["count"] == {"contexts": contexts, "findings": 3 * contexts}
    assert summary["beside"]["findings"]["rows"] == 3 * contexts and summary["findings"]["faulty"] == 0
    rows = read_dataset(tmp_path / "a", "findings", FINDINGS)
    assert {row.sample_id for row in rows} == {one.sample.id for one in Curation(tmp_path / "a").contexts}
    assert "findings" not in summary["rows"]


def test_a_decomposer_is_asked_again_where_there_are_faults(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    """Every second draw writes a principle twice: of those asked again about half are better, none is worse."""
    doubled = write_principles((*kit.PRINCIPLES, kit.PRINCIPLES[0]), "full")
    good = write_principles(kit.PRINCIPLES, "full")

    def model() -> Any:
        return kit.VLM("decomposer", lambda _, draw: doubled if draw % 2 else good)

    plain = replace(stage, decomposer=model())
    before = summary_of(curate(plain, tmp_path / "out").out)
    again = replace(plain, decomposer=model(), redecompose=True)
    after = summary_of(curate(again, tmp_path / "out").out)
    faulty = before["findings"]["faulty"]
    assert 0 < faulty < before["rows"]["contexts"]
    assert len(again.decomposer.calls) == faulty  # type: ignore[attr-defined]
    assert after["findings"]["faulty"] < faulty and after["rows"]["contexts"] == before["rows"]["contexts"]
    whole = replace(plain, decomposer=model(), redecompose=True)
    assert summary_of(curate(whole, tmp_path / "whole").out) == after
    # Turned off again, what was paid for first is there.
    off = replace(plain, decomposer=model())
    assert summary_of(curate(off, tmp_path / "out").out) == before
    assert off.decomposer.calls == []  # type: ignore[attr-defined]
