"""Origin and licence go with a sample into every data set that holds it, and cost nothing when they change."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import Curation, curate
from edit_r1.curate.shards import unit_key
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.records import Sample
from edit_r1.store import read_json
from edit_r1.store.parquet import read_key
from edit_r1.train.verifier_card import quadruples_card
from edit_r1.vlm.protocol import Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edit_r1.store.files.os.fsync", lambda descriptor: None)


@pytest.fixture
def stage(kit: Any, samples: list[Sample]) -> CurateStage:
    return CurateStage(
        samples=GivenSamples(tuple(samples[:5])),
        decomposer=kit.decomposer(),
        editors=(kit.Editor("a"),),
        pool=(PoolMember(kit.judge("j"), 2, WARM),),
        verifier=kit.verifier(),
        candidates_per_context=1,
        decompose_sampling=WARM,
        verify_sampling=WARM,
        chunk_size=2,
    )


def licensed(stage: CurateStage, *licences: str, category: str = "") -> CurateStage:
    """The same samples with an origin and a licence each, in turn."""
    given = [one for one in stage.samples.rows(0, 99) if isinstance(one, Sample)]
    told = [
        replace(one, origin=f"rows.jsonl:{n + 1}", licence=licences[n % len(licences)], category=category)
        for n, one in enumerate(given)
    ]
    return replace(stage, samples=GivenSamples(tuple(told)))


def asked(stage: CurateStage) -> int:
    models = (stage.decomposer, stage.verifier, *(member.vlm for member in stage.pool))
    return sum(len(model.calls) for model in models)  # type: ignore[attr-defined]


def licences_of(curation: Curation) -> dict[str, Counter[str]]:
    return {
        "samples": Counter(one.licence for one in curation.samples),
        "contexts": Counter(one.sample.licence for one in curation.contexts),
        "selected": Counter(one.context.sample.licence for one in curation.selected),
    }


def test_a_changed_licence_reaches_every_data_set_and_asks_no_model(stage: CurateStage, tmp_path: Path) -> None:
    plain = curate(stage, tmp_path)
    hashes, before = read_json(tmp_path / "summary.json")["hashes"], asked(stage)
    assert licences_of(plain)["selected"] == {"": 5}

    told = curate(licensed(stage, "CC-BY-4.0", "CC0-1.0"), tmp_path)
    assert asked(stage) == before
    assert all(counts == {"CC-BY-4.0": 3, "CC0-1.0": 2} for counts in licences_of(told).values())
    assert {one.sample.origin for one in told.contexts} == {f"rows.jsonl:{n}" for n in range(1, 6)}
    assert "CC-BY-4.0 3, CC0-1.0 2" in quadruples_card(told.selected)

    changed = curate(licensed(stage, "MIT", category="style transfer"), tmp_path)
    assert asked(stage) == before
    assert all(counts == {"MIT": 5} for counts in licences_of(changed).values())
    assert {one.context.sample.category for one in changed.selected} == {"style transfer"}

    again = curate(stage, tmp_path)
    assert asked(stage) == before
    assert licences_of(again)["contexts"] == {"": 5}
    assert read_json(tmp_path / "summary.json")["hashes"] == hashes
    assert "licence of their" not in quadruples_card(again.selected)


def shards_of(out: Path, *steps: str) -> list[Path]:
    return [path for step in steps for path in sorted((out / ".work" / step).rglob("*.parquet"))]


def test_shards_of_samples_without_provenance_keep_their_names(stage: CurateStage, tmp_path: Path) -> None:
    """A name is the hash of the keys alone, as before there was an origin; what is paid for is always named so."""
    stage = replace(stage, samples=GivenSamples(tuple(stage.samples.rows(0, 2))))  # type: ignore[arg-type]
    curate(stage, tmp_path / "plain")
    curate(licensed(stage, "MIT"), tmp_path / "told")
    for path in (*shards_of(tmp_path / "plain", *STEPS), *shards_of(tmp_path / "told", "candidates", "traces", "gold")):
        keys = [key for key, _ in json.loads(read_key(path))["units"]]
        assert path.stem == unit_key(*keys)
    plain, told = ({path.stem for path in shards_of(tmp_path / name, *STEPS)} for name in ("plain", "told"))
    assert len(plain & told) == 3
