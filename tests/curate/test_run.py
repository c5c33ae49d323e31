"""The whole curation on disk: counts that add up, and a killed run that ends as if it had not been killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.failures import OutageError
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import STEPS, CurateStage, curate, read_failures, read_status
from edit_r1.curate.tables import DECISIONS
from edit_r1.records import Sample, Trace
from edit_r1.store import QUADRUPLES, StoreError, read_dataset, read_json
from edit_r1.vlm.protocol import Completion, Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: what a power cut leaves is the store's test, not this one's."""
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


@pytest.fixture
def stage(kit: Any, samples: list[Sample]) -> CurateStage:
    """Ten samples in four shards; every step loses something."""
    broken = Sample("row-torn", samples[0].source[:50], "Make it blue.", "")
    return CurateStage(
        samples=(*samples[:4], broken, *samples[4:9]),
        decomposer=kit.decomposer(lost_share=2),
        editors=(kit.Editor("a"), kit.Editor("b", lambda _, seed: "too dark" if seed % 4 == 0 else None)),
        pool=(PoolMember(kit.judge("j1", lost_share=2), 2, WARM), PoolMember(kit.judge("j2", lost_share=3), 1, WARM)),
        verifier=kit.verifier(lost_share=2),
        candidates_per_context=3,
        decompose_sampling=WARM,
        verify_sampling=WARM,
        shard_size=3,
    )


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


def test_a_run_killed_after_any_shard_ends_with_the_same_data(stage: CurateStage, tmp_path: Path) -> None:
    stage = replace(stage, samples=stage.samples[:4], shard_size=2, candidates_per_context=2)
    curate(stage, tmp_path / "whole")
    expected = summary_of(tmp_path / "whole")
    for after in range(1, 13):  # 6 steps of 2 shards that report
        out = tmp_path / f"killed-{after}"
        with pytest.raises(Killed):
            curate(stage, out, killer(after))
        curate(stage, out)
        assert summary_of(out) == expected, f"killed after {after} shards"


@pytest.mark.parametrize("landed", [False, True], ids=["before the file is there", "after"])
def test_a_run_killed_at_any_write_ends_with_the_same_data(
    stage: CurateStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """Every state that a kill can leave on disk: each file appears whole, so these lie between two renames."""
    stage = replace(stage, samples=stage.samples[:4], shard_size=2, candidates_per_context=2)
    rename, writes, die_at = os.replace, 0, 0

    def counting(source: str, target: str) -> None:
        nonlocal writes
        writes += 1
        if writes == die_at and not landed:
            raise KeyboardInterrupt
        rename(source, target)
        if writes == die_at:
            raise KeyboardInterrupt

    monkeypatch.setattr("edit_r1.store.files.os.replace", counting)
    curate(stage, tmp_path / "whole")
    expected, total = summary_of(tmp_path / "whole"), writes
    assert total == len(STEPS) * (2 * 2 + 1) + 1  # a step: two shards with their failures, and its marker
    for number in range(1, total + 1):
        out = tmp_path / f"killed-{number}"
        writes, die_at = 0, number
        with pytest.raises(KeyboardInterrupt):
            curate(stage, out)
        die_at = 0
        curate(stage, out)
        assert summary_of(out) == expected, f"killed at write {number}"


def test_finished_shards_are_not_asked_for_again(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    first, second = kit.judge("j1"), kit.judge("j1")
    single = replace(stage, pool=(PoolMember(first, 1, WARM),), tie_break="neutral")
    with pytest.raises(Killed):
        curate(single, tmp_path, killer(4 * 3 + 2))  # three whole steps, then two shards of traces
    curation = curate(replace(single, pool=(PoolMember(second, 1, WARM),)), tmp_path)
    assert first.calls and second.calls
    assert len(first.calls) + len(second.calls) == curation.traces.meta()["rows"]
    before = len(second.calls)
    curate(replace(single, pool=(PoolMember(second, 1, WARM),)), tmp_path)
    assert len(second.calls) == before


def test_the_cut_into_shards_changes_no_row(stage: CurateStage, tmp_path: Path) -> None:
    curate(stage, tmp_path / "a")
    curate(replace(stage, shard_size=64), tmp_path / "b")
    assert summary_of(tmp_path / "a") == summary_of(tmp_path / "b")


def test_other_settings_are_refused(stage: CurateStage, tmp_path: Path) -> None:
    curate(stage, tmp_path)
    with pytest.raises(StoreError, match="made with other settings"):
        curate(replace(stage, tie_break="lenient"), tmp_path)


def test_an_outage_stops_the_run_and_the_next_run_goes_on(stage: CurateStage, kit: Any, tmp_path: Path) -> None:
    whole = replace(stage, shard_size=5)
    curate(whole, tmp_path / "whole")
    down = kit.VLM("verifier", lambda request, draw: Completion("", 0, "error", "connection refused"))
    with pytest.raises(OutageError, match="verifier: no answer to any of"):
        curate(replace(whole, verifier=down), tmp_path / "out")
    status = {row["step"]: row for row in read_status(tmp_path / "out")}
    assert status["traces"]["finished"] and not status["gold"]["finished"] and status["gold"]["shards"] == 0
    curate(whole, tmp_path / "out")
    assert summary_of(tmp_path / "out") == summary_of(tmp_path / "whole")


def test_progress_counts_every_shard_once(stage: CurateStage, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    curate(stage, tmp_path, lambda *call: seen.append(call))
    steps = [step for step in STEPS if step != "decisions"]
    assert seen == [(step, shard, 4) for step in steps for shard in range(1, 5)]
    seen.clear()
    curate(stage, tmp_path, lambda *call: seen.append(call))
    assert seen == [(step, 4, 4) for step in steps]


def test_introduced_to_candidates_before_judges_and_verifier(stage: CurateStage, tmp_path: Path) -> None:
    shown: list[str] = []
    curation = curate(replace(stage, introduce=lambda found: shown.extend(c.id for c in found)), tmp_path)
    ids = [candidate.id for candidate in curation.candidates]
    assert sorted(shown) == sorted(ids * 2)


def test_status_of_a_folder(stage: CurateStage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no curation"):
        read_status(tmp_path)
    curate(stage, tmp_path)
    rows = read_status(tmp_path)
    assert [row["step"] for row in rows] == list(STEPS) and all(row["finished"] for row in rows)
    assert {row["step"]: row["rows"] for row in rows} == summary_of(tmp_path)["rows"]


def test_bad_stages_are_refused(stage: CurateStage, kit: Any) -> None:
    with pytest.raises(ValueError, match="given twice"):
        replace(stage, samples=(*stage.samples, stage.samples[0]))
    with pytest.raises(ValueError, match="in the same way"):
        replace(stage, pool=(stage.pool[0], PoolMember(kit.judge("j1"), 1, WARM)))
    with pytest.raises(ValueError, match="at least one of each"):
        replace(stage, editors=())
    with pytest.raises(ValueError, match="shard_size=0"):
        replace(stage, shard_size=0)
