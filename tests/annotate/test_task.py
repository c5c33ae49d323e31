"""Every form that a task may have, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edit_r1.annotate.assignment import Plan, hand_out
from edit_r1.annotate.pictures import Pictures
from edit_r1.annotate.progress import gsb_of
from edit_r1.annotate.settings import AnnotateSettings, Begun
from edit_r1.annotate.task import BrokenRow, TaskPair, find_data, read_pairs
from edit_r1.images import decode_rgb
from edit_r1.records import Candidate, Context, Preference, Principle, Sample
from edit_r1.store import CANDIDATES, CONTEXTS, PREFERENCES, StoreError, write_dataset


def read(folder: Path, **flags: object) -> list[TaskPair | BrokenRow]:
    settings = AnnotateSettings(**flags)  # type: ignore[arg-type]
    return list(read_pairs(find_data(folder, settings), Pictures(folder / "pictures"), settings.begun(Begun())))


def test_rows_of_jsonl_and_of_parquet_are_the_same_pairs(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path / "a", 3, principles=2)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {side: (folder / row[side]).read_bytes() for side in ("source", "first", "second")}
        row["principles"] = json.dumps(row["principles"])
    other = tmp_path / "b"
    other.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), other / "pairs.parquet")
    assert read(folder) == read(other)
    pair = read(folder)[1]
    assert isinstance(pair, TaskPair) and pair.id == "pair-1"
    assert [item.question for item in pair.pair.context.principles] == ["Is point 0 right?", "Is point 1 right?"]
    kept = Pictures(folder / "pictures").read(pair.pair.first.image.decode())
    assert kept == (folder / "images/1-first.png").read_bytes()


def test_ids_are_made_of_the_content(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path, 2)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        del row["id"]
    turned = {**rows[0], "first": rows[0]["second"], "second": rows[0]["first"]}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, turned]))
    ids = [one.id for one in read(folder) if isinstance(one, TaskPair)]
    assert len(ids) == 3 and ids[0] == ids[2] != ids[1]
    database, _ = kit.open(folder)  # a pair that is written twice is one pair, whichever edit stands first
    assert len(database.rows("SELECT * FROM pairs")) == 2
    database.close()


def test_data_sets_of_ours(tmp_path: Path, kit: SimpleNamespace) -> None:
    contexts, candidates, preferences = [], [], []
    for number in range(3):
        sample = Sample(f"s{number}", kit.picture(number, 0, 0), f"Do {number}.", "colour alteration", split="test")
        context = Context(sample, (Principle("Done?", "Image Quality"),), "judge")
        edits = [Candidate(f"s{number}-{n}", sample.id, kit.picture(number, n + 1, 0), f"e{n}", n) for n in range(3)]
        contexts.append(context)
        candidates += edits
        preferences += [
            Preference(context, edits[0], edits[1], "first", "ann"),
            Preference(context, edits[1], edits[0], "same", "bob"),
            Preference(context, edits[1], edits[2], "second", "bob"),
        ]
    write_dataset(tmp_path, "pairs", preferences, PREFERENCES)
    given_pairs = read(tmp_path)
    assert [one.id for one in given_pairs if isinstance(one, TaskPair)][:3] == ["s0-0 s0-1", "s0-1 s0-2", "s1-0 s1-1"]
    assert len(given_pairs) == 6
    elsewhere = tmp_path / "curated"
    write_dataset(elsewhere, "contexts", contexts, CONTEXTS)
    write_dataset(elsewhere, "candidates", candidates, CANDIDATES)
    drawn = read(elsewhere, pairs_per_context=2)
    assert len(drawn) == 6 and drawn == read(elsewhere, pairs_per_context=2)
    one = drawn[0]
    assert isinstance(one, TaskPair) and one.pair.context.sample.split == "test"
    assert read(elsewhere, pairs=tmp_path / "pairs") != drawn


def write_study(folder: Path, kit: SimpleNamespace) -> Path:
    """Two samples, edited by "new" and "old"."""
    for editor, level in (("new", 10), ("old", 20)):
        (folder / editor).mkdir()
        for number in range(2):
            (folder / editor / f"{number}.png").write_bytes(kit.picture(number, level, 0))
    (folder / "source.png").write_bytes(kit.picture(0, 0, 0))
    rows = [{"id": n, "source": "source.png", "instruction": f"Do {n}."} for n in range(2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_study_of_two_editors(tmp_path: Path, kit: SimpleNamespace) -> None:
    write_study(tmp_path, kit)
    pairs = read(tmp_path, study=(tmp_path / "new", tmp_path / "old"))
    assert [one.id for one in pairs if isinstance(one, TaskPair)] == ["0", "1"]
    one = pairs[0]
    assert isinstance(one, TaskPair) and (one.pair.first.editor, one.pair.second.editor) == ("new", "old")
    (tmp_path / "old/1.png").unlink()
    broken = read(tmp_path, study=(tmp_path / "new", tmp_path / "old"))[1]
    assert isinstance(broken, BrokenRow) and "holds no edit 1.png" in broken.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"first": None}, "has no first"),
        ({"first": "../secret.png"}, "outside the data's folder"),
        ({"first": "https://example.org/a.png"}, "no such file"),
        ({"first": 7}, "type int"),
        ({"instruction": "  "}, "instruction is empty"),
        ({"instruction": ["x"]}, "write a text"),
        ({"instruction": "\ud800"}, "half a character"),
        ({"gold": "left"}, "write first, second or same"),
        ({"principles": [{"question": "?"}]}, "principle 1 is malformed"),
        ({"id": "x" * 300}, "300 characters"),
        ({"id": ["x"]}, "write a text"),
        ({"second": "pairs.jsonl"}, "not an image"),
    ],
)
def test_a_bad_row_says_why_and_stops_the_start(
    tmp_path: Path, kit: SimpleNamespace, change: dict, reason: str
) -> None:
    folder = kit.write_task(tmp_path / "task", 2)
    (tmp_path / "secret.png").write_bytes(kit.picture(1, 2, 3))
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | change)]) + "\n")
    good, bad = read(folder)
    assert isinstance(good, TaskPair) and isinstance(bad, BrokenRow)
    assert bad.place == "pairs.jsonl row 2" and reason in bad.reason
    with pytest.raises(ValueError, match=r"row 2: .*1 of 2 pairs cannot be used"):
        kit.open(folder)
    assert not (folder / "answers.sqlite").exists()
    database, _ = kit.open(folder, broken="skip")
    assert len(database.rows("SELECT * FROM pairs")) == 1
    database.close()


@given(line=st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.just(b'{"source": 1}')))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_line_is_a_row_or_a_reason(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(line.replace(b"\n", b" ") + b"\n[]\n")
    assert all(isinstance(one, BrokenRow) and one.reason for one in read(tmp_path))


def test_what_holds_nothing_says_what_to_write(tmp_path: Path, kit: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"holds nothing to compare: write pairs\.jsonl"):
        kit.open(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        kit.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither a file nor a finished data set"):
        kit.open(tmp_path, pairs=tmp_path / "nothing")
    with pytest.raises(ValueError, match="needs two folders"):
        kit.open(tmp_path, study=(tmp_path / "a", tmp_path / "b"))
    (tmp_path / "answers.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
    kit.write_task(tmp_path, 1)
    with pytest.raises(StoreError, match="no file of answers"):
        kit.open(tmp_path)


def test_metadata_that_names_an_editor_is_not_shown(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (16, 24), (200, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    exif[0x0131] = "SecretEditor 3"
    picture.save(buffer, "JPEG", exif=exif)
    pictures = Pictures(tmp_path)
    kept = pictures.read(pictures.keep(buffer.getvalue()))
    assert b"SecretEditor" in buffer.getvalue() and b"SecretEditor" not in kept
    assert (decode_rgb(kept) == decode_rgb(buffer.getvalue())).all() and decode_rgb(kept).shape == (16, 24, 3)


def test_a_picture_is_decoded_once_however_often_its_task_is_read(
    tmp_path: Path, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edit_r1.annotate.pictures as module

    folder = kit.write_task(tmp_path, 2)
    database, _ = kit.open(folder)
    database.close()
    kit.write_task(folder, 3)
    decoded: list[bytes] = []
    plain = module.plain_picture
    monkeypatch.setattr(module, "plain_picture", lambda data: decoded.append(data) or plain(data))
    database, pictures = kit.open(folder)
    assert len(database.rows("SELECT * FROM pairs")) == 3 and len(decoded) == 3, "those of the new pair"
    database.close()
    assert pictures.keep(decoded[0]) == pictures.keep(decoded[0]) and len(decoded) == 3


def test_only_ids_name_pictures(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    for name in ("../answers.sqlite", "a" * 63, "A" * 64, "", "a" * 64 + "/x"):
        with pytest.raises(ValueError, match="is not the id"):
            pictures.path(name)
    with pytest.raises(StoreError, match="put the file back"):
        pictures.read("a" * 64)


def test_a_changed_picture_is_noticed(tmp_path: Path, kit: SimpleNamespace) -> None:
    pictures = Pictures(tmp_path)
    name = pictures.keep(kit.picture(1, 2, 3))
    pictures.path(name).write_bytes(kit.picture(3, 2, 1))
    with pytest.raises(StoreError, match="is not the picture that was kept"):
        pictures.read(name)


def test_data_may_grow_but_a_pair_may_not_become_another(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path, 2)
    database, _ = kit.open(folder)
    task = database.task
    database.close()
    kit.write_task(folder, 3)
    database, _ = kit.open(folder)
    assert database.task == task
    assert [row["active"] for row in database.rows("SELECT active FROM pairs ORDER BY number")] == [1, 1, 1]
    database.close()
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join(lines[1:]) + "\n")
    database, _ = kit.open(folder)
    assert [row["active"] for row in database.rows("SELECT active FROM pairs ORDER BY number")] == [0, 1, 1]
    database.close()


def test_a_pair_may_be_mended_until_somebody_was_shown_it(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path, 2)
    database, _ = kit.open(folder)
    ann = database.join("Ann")
    (shown,) = hand_out(database, ann, [], 1, Plan(), 0).pairs
    database.close()
    text = (folder / "pairs.jsonl").read_text()
    ours, free = ("0", "1") if shown["instruction"] == "Make it number 0." else ("1", "0")
    mended = text.replace(f"number {free}.", f"number {free}, please.")
    (folder / "pairs.jsonl").write_text(mended)
    database, _ = kit.open(folder)
    (other,) = hand_out(database, ann, [shown["pair"]], 1, Plan(), 0).pairs
    assert other["instruction"] == f"Make it number {free}, please."
    database.close()
    (folder / "pairs.jsonl").write_text(mended.replace(f"number {ours}.", f"number {ours}, please."))
    with pytest.raises(StoreError, match=f"pair 'pair-{ours}' is another one"):
        kit.open(folder)


def test_a_study_named_the_other_way_round_is_another_study(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = write_study(tmp_path, kit)
    for new, other in (("new", "old"), ("old", "new")):  # begun by mistake, and mended before anybody was asked
        database, _ = kit.open(folder, study=(folder / new, folder / other))
        study = gsb_of(database)
        assert study is not None and (study["new"], study["other"]) == (new, other)
        database.close()


def test_a_damaged_picture_in_a_data_set_is_a_row_that_can_be_skipped(tmp_path: Path, kit: SimpleNamespace) -> None:
    sample = Sample("s", kit.picture(1, 0, 0), "Make it blue.", "")
    context = Context(sample, (Principle("Done?", "Image Quality"),), "judge")
    edits = [Candidate(f"c{n}", "s", kit.picture(n, 0, 0), "e", n) for n in range(3)]
    cut = Candidate("cut", "s", kit.picture(9, 0, 0)[:60], "e", 9)
    pairs = [Preference(context, edits[0], edits[1], "same", ""), Preference(context, edits[1], cut, "same", "")]
    write_dataset(tmp_path, "pairs", pairs, PREFERENCES)
    write_dataset(tmp_path / "drawn", "contexts", [context], CONTEXTS)
    write_dataset(tmp_path / "drawn", "candidates", [*edits, cut], CANDIDATES)
    for folder, place, left in ((tmp_path, "sample s: ", 1), (tmp_path / "drawn", "candidate cut: ", 3)):
        with pytest.raises(ValueError, match=f"{place}.*damaged.*--broken skip"):
            kit.open(folder)
        database, _ = kit.open(folder, broken="skip", pairs_per_context=9)
        assert len(database.rows("SELECT * FROM pairs")) == left
        database.close()


def test_of_a_disk_that_refuses_no_row_is_to_blame(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path, 2)
    (folder / "pictures").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        kit.open(folder, broken="skip")
    assert not (folder / "answers.sqlite").exists()


def test_what_a_task_was_begun_with_need_not_be_said_again(tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = kit.write_task(tmp_path, 1)
    for flags, wanted in (
        ({"annotators_per_pair": 3, "gold_every": 0, "seed": 7}, Begun(3, 0, 2, 7)),
        ({}, Begun(3, 0, 2, 7)),
        ({"annotators_per_pair": 5}, Begun(5, 0, 2, 7)),
    ):
        database, _ = kit.open(folder, **flags)
        assert database.begun() == wanted
        database.close()


def test_samples_with_further_sources_are_not_shown_without_them(tmp_path: Path, kit: SimpleNamespace) -> None:
    one, two, three = (kit.picture(level, 0, 0) for level in (1, 2, 3))
    sample = Sample("s", one, "Put the hat of picture 2 on.", "", references=(two,))
    context = Context(sample, (Principle("Done?", "Image Quality"),), "judge")
    edits = [Candidate("a", "s", two, "e", 0), Candidate("b", "s", three, "e", 1)]
    write_dataset(tmp_path, "pairs", [Preference(context, edits[0], edits[1], "same", "")], PREFERENCES)
    with pytest.raises(ValueError, match="sample s: has further source images"):
        kit.open(tmp_path)
    (tmp_path / "pairs.done.json").unlink()
    write_dataset(tmp_path, "contexts", [context], CONTEXTS)
    write_dataset(tmp_path, "candidates", edits, CANDIDATES)
    with pytest.raises(ValueError, match="sample s: has further source images"):
        kit.open(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70000}, "--port 70000"),
        ({"annotators_per_pair": 0}, "--annotators-per-pair 0"),
        ({"gold_every": 1}, "every pair would be a gold pair"),
        ({"lease_minutes": 0.0}, "--lease-minutes 0"),
        ({"pairs": Path("a"), "study": (Path("b"), Path("c"))}, "give one of them"),
    ],
)
def test_settings_out_of_range(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnotateSettings(**flags)
