"""Ready edits and local weights are known by what they hold: what is replaced is made anew, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edit_r1.curate.chunk import ChunkWork
from edit_r1.curate.reason import PoolMember
from edit_r1.curate.run import curate, read_failures
from edit_r1.curate.stage import CurateStage, GivenSamples
from edit_r1.editors.ready import folder_edits
from edit_r1.records import Sample
from edit_r1.store import read_json, write_json
from edit_r1.vlm.protocol import Sampling

WARM = Sampling(512, temperature=1.0, seed=3)


@pytest.fixture
def folder(kit: Any, samples: list[Sample], tmp_path: Path) -> Path:
    """An edit of each of four samples."""
    (tmp_path / "edits").mkdir()
    for number, sample in enumerate(samples[:4]):
        (tmp_path / "edits" / f"{sample.id}.png").write_bytes(kit.picture(100 + number))
    return tmp_path / "edits"


def stage(kit: Any, samples: list[Sample], folder: Path) -> CurateStage:
    """Models that have not been asked anything; an editor of each kind."""
    return CurateStage(
        samples=GivenSamples(tuple(samples[:4])),
        decomposer=kit.decomposer(),
        editors=(folder_edits(folder), kit.Editor("a")),
        pool=(PoolMember(kit.judge("j"), 1, WARM),),
        verifier=kit.verifier(),
        candidates_per_context=2,
        chunk_size=2,
    )


def asked(stage: CurateStage) -> tuple[int, int, int]:
    """Requests to decomposer, judge and verifier."""
    models: list[Any] = [stage.decomposer, stage.pool[0].vlm, stage.verifier]
    return tuple(len(model.calls) for model in models)  # type: ignore[return-value]


def made(stage: CurateStage, out: Path) -> dict[str, Any]:
    curate(stage, out)
    summary: dict[str, Any] = read_json(out / "summary.json")
    return summary


def test_ready_edits_of_no_sample_are_told_before_anything_is_paid_for(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path
) -> None:
    first, *others = sorted(folder.iterdir())
    for path in others:
        path.unlink()
    kept = first.rename(tmp_path / "elsewhere.png")
    whole = stage(kit, samples, folder)
    ready = replace(whole, editors=whole.editors[:1], candidates_per_context=1)
    with pytest.raises(ValueError, match=r"no sample has a ready edit; of the first, row-0000: no 'row-0000' \(.png"):
        curate(ready, tmp_path / "out")
    assert asked(ready) == (0, 0, 0)
    assert made(whole, tmp_path / "painted")["rows"]["candidates"] == 4  # another editor makes some

    kept.rename(folder / f"{samples[3].id}.png")
    assert made(ready, tmp_path / "out")["rows"]["selected"] == 1


def test_a_picture_that_is_replaced_is_judged_anew(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = made(stage(kit, samples, folder), out)
    assert first["rows"]["candidates"] == 8

    again = stage(kit, samples, folder)
    assert made(again, out) == first and asked(again) == (0, 0, 0)

    path = folder / f"{samples[2].id}.png"
    before = path.read_bytes()
    path.write_bytes(kit.picture(200))
    other = stage(kit, samples, folder)
    changed = made(other, out)
    assert asked(other) == (0, 1, 1)
    images = {row.image for row in curate(stage(kit, samples, folder), out).candidates}
    assert kit.picture(200) in images and before not in images
    assert changed == made(stage(kit, samples, folder), tmp_path / "anew")

    path.unlink()
    gone = stage(kit, samples, folder)
    assert made(gone, out)["rows"]["candidates"] == 7 and asked(gone) == (0, 0, 0)
    assert [one.row for one in read_failures(out, "candidates")] == [samples[2].id]
    path.write_bytes(before)
    back = stage(kit, samples, folder)
    assert made(back, out) == first and asked(back) == (0, 0, 0)  # what was paid for is still there


@pytest.mark.parametrize("changed", ["instruction", "source", "reference"])
def test_another_request_under_an_id_is_judged_anew_though_edits_and_principles_stay(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path, changed: str
) -> None:
    out = tmp_path / "out"
    first = made(stage(kit, samples, folder), out)
    new = {"instruction": "Make it green.", "source": kit.picture(300), "references": (kit.picture(301),)}
    field = {"reference": "references"}.get(changed, changed)
    others = [*samples[:2], replace(samples[2], **{field: new[field]}), *samples[3:]]
    other = stage(kit, others, folder)
    again = made(other, out)
    assert asked(other) == (1, 2, 2)
    assert again["hashes"]["candidates"] == first["hashes"]["candidates"]
    assert again == made(stage(kit, others, folder), tmp_path / "anew")
    selected = {row.context.sample for row in curate(stage(kit, others, folder), out).selected}
    assert selected == set(others[:4])


def test_candidates_of_an_earlier_version_are_not_judged_again_and_lie_there_once(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys did not count what the pictures hold."""
    with monkeypatch.context() as older:
        older.setattr("edit_r1.curate.chunk.contents_of", lambda editors, found: {})
        first = made(stage(kit, samples, folder), tmp_path)
    shards = sorted((tmp_path / ".work" / "candidates").rglob("*.parquet"))
    now = stage(kit, samples, folder)
    assert made(now, tmp_path) == first and asked(now) == (0, 0, 0)
    after = sorted((tmp_path / ".work" / "candidates").rglob("*.parquet"))
    assert len(after) == len(shards) == 4 and len(set(after) & set(shards)) == 2  # those of the other editor stay


def test_what_is_kept_of_an_unfinished_chunk_is_known_by_its_content_too(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path
) -> None:
    def killed(step: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    judge = kit.VLM("j", lambda request, draw: killed("", 0, 0))
    kept = replace(stage(kit, samples, folder), keep_all=True, chunk_size=4)
    with pytest.raises(KeyboardInterrupt):
        curate(replace(kept, pool=(PoolMember(judge, 1, WARM),)), tmp_path)
    (folder / f"{samples[1].id}.png").write_bytes(kit.picture(300))
    images = {row.image for row in curate(kept, tmp_path).candidates}
    assert kit.picture(300) in images and kit.picture(101) not in images


def loaded(model: Any, key: str) -> Any:
    """As a model that was read from files."""
    model.weights_key = key
    return model


def test_weights_that_are_replaced_under_their_name_are_others(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path
) -> None:
    """An output keeps to the weights that it was begun with; those of an earlier version are today's."""
    out = tmp_path / "out"

    def with_judge(key: str) -> CurateStage:
        plain = stage(kit, samples, folder)
        return replace(plain, pool=(PoolMember(loaded(kit.judge("j"), key), 1, WARM),))

    first = made(with_judge(""), out)  # an earlier version knew nothing of weights
    run = read_json(out / ".work" / "run.json")
    write_json(out / ".work" / "run.json", {name: value for name, value in run.items() if name != "weights"})
    for key, expected in (("one", (0, 0, 0)), ("two", (0, 8, 0)), ("two", (0, 0, 0)), ("one", (0, 0, 0))):
        now = with_judge(key)
        assert made(now, out) == first and asked(now) == expected  # its traces say the same, so that gold is found
    assert read_json(out / ".work" / "run.json")["weights"] == {"model j": "one"}


@pytest.mark.parametrize("role", ["decomposer", "editor", "verifier"])
def test_every_model_of_a_run_is_known_by_its_weights(
    kit: Any, samples: list[Sample], folder: Path, tmp_path: Path, role: str
) -> None:
    def with_role(key: str) -> CurateStage:
        plain = stage(kit, samples, folder)
        if role == "editor":
            return replace(plain, editors=(plain.editors[0], loaded(kit.Editor("a"), key)))
        return replace(plain, **{role: loaded(getattr(kit, role)(), key)})

    actors = {key: curate_actors(with_role(key), tmp_path) for key in ("one", "two", "three")}
    step = {"decomposer": "contexts", "editor": "candidates", "verifier": "gold"}[role]
    assert actors["three"][step] != actors["one"][step] != actors["two"][step]
    assert curate_actors(with_role("one"), tmp_path) == actors["one"]
    others = [name for name in actors["one"] if name != step]
    assert all(actors["one"][name] == actors["two"][name] for name in others)
    assert actors["one"] == stage(kit, samples, folder).actors()  # what is of its first weights is named as before


def curate_actors(stage: CurateStage, out: Path) -> dict[str, list[str]]:
    if not (out / ".work").exists():
        curate(stage, out)
    return ChunkWork(stage, out).actors
