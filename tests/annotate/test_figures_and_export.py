"""Figures of a task whose answers are known, and its answers as preferences."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edit_r1.annotate.answers import Given, record
from edit_r1.annotate.assignment import Plan, hand_out
from edit_r1.annotate.database import Database
from edit_r1.annotate.export import export
from edit_r1.annotate.progress import gsb_of, measure
from edit_r1.preferences.pairs import training_pairs
from edit_r1.records import Verdict
from edit_r1.store import GOLD_VERDICTS, PREFERENCES, StoreError, read_dataset

PLAN = Plan(annotators_per_pair=3, gold_every=3, lease_seconds=600)


def answer_all(database: Database, name: str, choose: Any, marks: Any = lambda identity: None) -> None:
    """choose(id of the pair) -> "first", "second", "same" or "skip"; every pair that is handed out is answered."""
    annotator = database.join(name)
    while pairs := hand_out(database, annotator, [], 4, PLAN, 0).pairs:
        for one in pairs:
            row = database.rows(
                "SELECT p.id, s.turned FROM pairs p JOIN showings s ON s.pair = p.number "
                "WHERE p.number = ? AND s.annotator = ?",
                (one["pair"], annotator),
            )[0]
            choice = choose(row["id"])
            if choice in ("first", "second"):
                choice = "left" if (choice == "first") != bool(row["turned"]) else "right"
            given = Given(f"{name}-{one['pair']:08}", one["pair"], choice, 2.0, marks(row["id"]), None)
            record(database, annotator, [given], 10.0, 60)


@pytest.fixture
def answered(tmp_path: Path, kit: SimpleNamespace):
    """Ann says "first", Bob too but for one pair, Eve always "second" (gold is "first")."""
    database, pictures = kit.open(kit.write_task(tmp_path / "task", 12, gold=6, principles=2), annotators_per_pair=3)
    answer_all(database, "Ann", lambda pair: "skip" if pair == "pair-3" else "first", lambda pair: [1, 0])
    answer_all(database, "Bob", lambda pair: "same" if pair == "pair-1" else "first", lambda pair: [1, None])
    answer_all(database, "Eve", lambda pair: "second")
    yield SimpleNamespace(database=database, pictures=pictures, out=tmp_path / "out" / "human")
    database.close()


def test_figures(answered: SimpleNamespace) -> None:
    figures = measure(answered.database, 20.0)
    assert (figures["pairs"], figures["wanted"], figures["complete"], figures["answers"]) == (12, 3, 11, 35)
    ann, bob, eve = figures["annotators"]
    gold = sum(one["gold"]["asked"] for one in (ann, bob, eve))
    assert figures["open"] == 1 and figures["per_minute"] == pytest.approx(35 + gold + 1)  # one is skipped
    for now, minutes in ((310.0, 5), (609.9, 9.99833), (2000.0, 10)):
        recent = 0 if now > 610 else 36 + gold
        assert measure(answered.database, now)["per_minute"] == pytest.approx(recent / minutes, rel=1e-4)
    assert [one["name"] for one in (ann, bob, eve)] == ["Ann", "Bob", "Eve"]
    assert (ann["answers"], ann["skipped"], bob["same_share"]) == (11, 1, pytest.approx(1 / 12))
    assert ann["others"]["mean"] == pytest.approx(10 / 22) and eve["others"]["mean"] == 0
    assert ann["gold"]["right"] == ann["gold"]["asked"] >= 5 and ann["gold"]["better_than_guessing"]
    assert eve["gold"] | {"asked": 5} == {
        "right": 0, "asked": 5, "guess_probability": 1.0, "better_than_guessing": False,
    }  # fmt: skip
    # 11 pairs with three answers (10 where two agree, pair-1 where none do), and pair-3 with Bob against Eve.
    assert figures["agreement"]["raw"]["mean"] == pytest.approx(10 / 34)
    assert figures["agreement"]["alpha_nominal"]["units"] == 12
    assert (ann["median_seconds"], ann["idle_seconds"]) == (2.0, 10.0)
    json.dumps(figures, allow_nan=False)


def test_a_task_without_answers_has_figures_without_numbers(tmp_path: Path, kit: SimpleNamespace) -> None:
    database, _ = kit.open(kit.write_task(tmp_path, 2))
    database.join("Ann")
    figures = measure(database, 0.0)
    assert figures["agreement"]["raw"] is None and figures["agreement"]["alpha_nominal"]["alpha"] is None
    assert figures["annotators"][0]["gold"]["better_than_guessing"] is None and gsb_of(database) is None
    json.dumps(figures, allow_nan=False)
    database.close()


def test_of_four_gold_answers_nothing_is_told(tmp_path: Path, kit: SimpleNamespace) -> None:
    for gold, wrong in ((4, "pair-9"), (4, "pair-30"), (5, "pair-34"), (5, "pair-99")):
        folder = tmp_path / f"{gold}{wrong}"
        database, _ = kit.open(kit.write_task(folder, 30, gold=gold), annotators_per_pair=1)
        answer_all(database, "Ann", lambda pair, wrong=wrong: "second" if pair == wrong else "first")
        found = measure(database, 20.0)["annotators"][0]["gold"]
        right = gold - (wrong in ("pair-30", "pair-34"))
        assert (found["asked"], found["right"]) == (gold, right)
        assert found["better_than_guessing"] is (None if gold == 4 else right == 5)
        database.close()


def test_export_writes_what_was_seen(answered: SimpleNamespace) -> None:
    document = export(answered.database, answered.pictures, answered.out)
    assert (document["preferences"], document["same"], document["skipped"]) == (35, 1, 1)
    assert document["annotators"] == {"Ann": 11, "Bob": 12, "Eve": 12}
    preferences = read_dataset(answered.out.parent, "human", PREFERENCES)
    assert len(preferences) == 35 and not any(preference.simulated for preference in preferences)
    rows = {
        (row["id"], row["name"]): row
        for row in answered.database.rows(
            "SELECT p.id, p.record, n.name, s.turned FROM showings s JOIN pairs p ON p.number = s.pair "
            "JOIN annotators n ON n.number = s.annotator"
        )
    }
    for preference in preferences:
        number = preference.context.sample.instruction.removeprefix("Make it number ").removesuffix(".")
        row = rows[f"pair-{number}", preference.annotator]
        record = json.loads(row["record"])
        left = record["second_image" if row["turned"] else "first_image"]
        assert preference.first.image == answered.pictures.read(left)  # what stood left comes first
        if preference.annotator == "Eve":
            assert preference.winner is not None
            assert preference.winner.image == answered.pictures.read(record["second_image"])
    assert training_pairs(preferences).same == 1
    checklists = read_dataset(answered.out.parent, "human_verdicts", GOLD_VERDICTS)
    assert document["verdicts"] == len(checklists) == 11 and document["partial_verdicts"] == 12
    assert {one.verifier for one in checklists} == {"Ann"} and checklists[0].gold == (Verdict(1), Verdict(0))


def test_an_export_continues_and_never_mixes(answered: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import edit_r1.annotate.export as module

    monkeypatch.setattr(module, "SHARD", 10)
    whole = export(answered.database, answered.pictures, answered.out)
    assert len(list(answered.out.glob("part-*.parquet"))) == 4
    for path in sorted(answered.out.glob("part-*.parquet"))[2:]:
        path.unlink()
    (answered.out.parent / "human.done.json").unlink()
    assert export(answered.database, answered.pictures, answered.out)["hash"] == whole["hash"]
    with pytest.raises(StoreError, match="made with other settings or inputs"):
        export(answered.database, answered.pictures, answered.out, ["Eve"])
    fewer = export(answered.database, answered.pictures, answered.out.with_name("trusted"), ["Eve"])
    assert fewer["annotators"] == {"Ann": 11, "Bob": 12}
    with pytest.raises(ValueError, match="'Zoe': no such annotator; known are Ann, Bob, Eve"):
        export(answered.database, answered.pictures, answered.out, ["Zoe"])


def write_study(folder: Path, kit: SimpleNamespace, samples: int, sources: int) -> Path:
    """Sample n is of source n % `sources`."""
    for place, editor in enumerate(("new", "old")):
        (folder / editor).mkdir()
        for number in range(samples):
            (folder / editor / f"{number}.png").write_bytes(kit.picture(number, 10 * place, 0))
    for number in range(sources):
        (folder / f"source-{number}.png").write_bytes(kit.picture(0, 0, number))
    rows = [{"id": n, "source": f"source-{n % sources}.png", "instruction": f"Do {n}."} for n in range(samples)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_interval_of_a_study_draws_whole_sources(tmp_path: Path, kit: SimpleNamespace) -> None:
    """Three instructions a source that are answered alike tell no more than one."""
    widths = {}
    for samples in (8, 24):
        folder = tmp_path / str(samples)
        folder.mkdir()
        write_study(folder, kit, samples, 8)
        database, _ = kit.open(folder, study=(folder / "new", folder / "old"))
        answer_all(database, "Ann", lambda pair: "first" if int(pair) % 8 < 5 else "second")
        study = gsb_of(database)
        assert study is not None and study["n"] == samples
        widths[samples] = study["ci95"][1] - study["ci95"][0]
        database.close()
    assert widths[24] > 0.8 * widths[8], "three times as many pairs of as many sources"


def test_parts_of_an_export_are_bounded_by_their_pictures(
    answered: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edit_r1.annotate.export as module

    sizes = [3, 3, 9, 1, 1, 1, 1]
    monkeypatch.setattr(module, "SHARD_BYTES", 7)
    monkeypatch.setattr(module, "SHARD", 3)
    assert [sizes[part] for part in module._parts(sizes)] == [[3, 3], [9], [1, 1, 1], [1]]
    monkeypatch.undo()
    whole = export(answered.database, answered.pictures, answered.out)
    each = sum(path.stat().st_size for path in answered.pictures.folder.rglob("*") if path.is_file()) // 54 * 3
    monkeypatch.setattr(module, "SHARD_BYTES", 10 * each)
    cut = answered.out.with_name("cut")
    assert export(answered.database, answered.pictures, cut)["hash"] == whole["hash"]
    parts = sorted(cut.glob("part-*.parquet"))
    assert len(parts) >= 3
    parts[-1].unlink()
    (cut.parent / "cut.done.json").unlink()
    monkeypatch.setattr(module, "SHARD_BYTES", 20 * each)
    with pytest.raises(StoreError, match="made with other settings or inputs"):
        export(answered.database, answered.pictures, cut)
    monkeypatch.setattr(module, "SHARD_BYTES", 10 * each)
    assert export(answered.database, answered.pictures, cut)["hash"] == whole["hash"]


def test_a_study_ends_with_gsb(tmp_path: Path, kit: SimpleNamespace) -> None:
    write_study(tmp_path, kit, 10, 10)
    database, _ = kit.open(tmp_path, study=(tmp_path / "new", tmp_path / "old"))
    assert gsb_of(database) == {
        "new": "new", "other": "old", "good": 0, "same": 0, "bad": 0, "gsb": None, "ci95": None, "n": 0, "pairs": 0,
    }  # fmt: skip
    for name in ("Ann", "Bob"):
        answer_all(database, name, lambda pair: "first" if int(pair) < 6 else "same" if int(pair) < 8 else "second")
    study = gsb_of(database)
    assert study is not None and (study["good"], study["same"], study["bad"], study["n"]) == (12, 4, 4, 20)
    assert study["gsb"] == pytest.approx(0.4) and study["ci95"][0] < 0.4 < study["ci95"][1]
    answer_all(database, "Eve", lambda pair: "second")
    assert gsb_of(database, ["Eve"]) == study
    with pytest.raises(ValueError, match="--leave-out 'Zoe': no such annotator"):
        gsb_of(database, ["Zoe"])
    database.close()
    again, _ = kit.open(tmp_path)  # the study is remembered
    assert gsb_of(again, ["Eve"]) == study and gsb_of(again)["bad"] == 14
    again.close()
