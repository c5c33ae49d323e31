"""The steps as functions from records to records, one after the other: what the engine makes, without anything kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import edit
from edit_r1.curate.reason import PoolMember, reason
from edit_r1.curate.run import curate, read_failures
from edit_r1.curate.select import select
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.curate.verify import verify
from edit_r1.records import Sample, Trace
from edit_r1.vlm.protocol import Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


def test_the_steps_in_a_row_make_what_the_engine_makes(
    kit: Any, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)
    stage = CurateStage(
        samples=GivenSamples(tuple(samples)), decomposer=kit.decomposer(2), editors=(kit.Editor("a"), kit.Editor("b")),
        pool=(PoolMember(kit.judge("j1", 3), 2, WARM), PoolMember(kit.judge("j2", 3), 1, WARM)),
        verifier=kit.verifier(2), candidates_per_context=2, decompose_sampling=WARM, verify_sampling=WARM, chunk_size=3,
    )  # fmt: skip
    contexts, undone = decompose(samples, stage.decomposer, stage.variant, WARM)
    candidates, _ = edit(contexts, stage.editors, stage.candidates_per_context, stage.seed)
    by_sample = {context.sample.id: context for context in contexts}
    traces = reason(by_sample, candidates, stage.pool)
    own = {one.id: [trace for trace in traces if trace.candidate_id == one.id] for one in candidates}
    read = [one for one in candidates if any(isinstance(trace.outcome, Trace) for trace in own[one.id])]
    gold, _ = verify(by_sample, read, traces, stage.verifier, stage.variant, WARM)
    selected = {}
    for one in gold:
        chosen = select(own[one.candidate_id], one, stage.tie_break, stage.filter_on, stage.seed).selected
        assert chosen is not None
        selected[one.candidate_id] = chosen.outcome

    made = curate(stage, tmp_path)
    assert list(made.contexts) == contexts
    assert {one.id: one for one in made.candidates} == {one.id: one for one in candidates}  # on the disk by editor
    assert {one.candidate_id: one for one in made.gold} == {one.candidate_id: one for one in gold}
    assert {row.candidate.id: row.target for row in made.selected} == selected
    assert read_failures(made.out, "contexts") == undone != []
    assert {(one.candidate_id, one.index): one for one in made.traces} == {
        (one.candidate_id, one.index): one for one in traces
    }
