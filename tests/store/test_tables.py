from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.images import encode_png
from edit_r1.records import (
    CATEGORIES,
    Candidate,
    Context,
    GoldVerdicts,
    PoolTrace,
    Preference,
    Principle,
    Quadruple,
    Rating,
    Sample,
    Trace,
    Unparsed,
    Verdict,
)
from edit_r1.store import (
    CANDIDATES,
    CONTEXTS,
    GOLD_VERDICTS,
    POOL_TRACES,
    PREFERENCES,
    QUADRUPLES,
    SAMPLES,
    RowHashes,
    Table,
    read_dataset,
    read_rows,
    row_hash,
    write_dataset,
)

text = st.text(st.characters(codec="utf-8"), max_size=12)
image = st.binary(min_size=1, max_size=20)
maybe_text = st.none() | text
seed = st.integers(-(2**63), 2**63 - 1)
samples = st.builds(
    Sample, text, image, text, text, st.sampled_from(["random", "hard"]), st.sampled_from(["train", "test"]),
    maybe_text, st.lists(image, max_size=2).map(tuple), text, text,
)  # fmt: skip
principles = st.builds(Principle, text, st.sampled_from(CATEGORIES))
contexts = st.builds(Context, samples, st.lists(principles, max_size=3).map(tuple), text, st.booleans())
candidates = st.builds(Candidate, text, text, image, text, seed, maybe_text)
verdicts = st.lists(st.builds(Verdict, st.sampled_from([0, 1]), maybe_text), max_size=3).map(tuple)
traces = st.builds(
    Trace, text, st.floats(0, 10), st.none() | verdicts, st.none() | st.floats(0, 1), st.integers(0, 999)
)
outcomes = traces | st.builds(Unparsed, text, text, st.integers(0, 999), st.booleans())
choices = st.sampled_from(["first", "second", "same"])
number = st.floats(allow_nan=False, allow_infinity=False)
ratings = st.lists(st.builds(Rating, text, number, number), max_size=2).map(tuple)
shares = st.none() | st.floats(0, 1)
preferences = st.builds(
    Preference, contexts, candidates, candidates, choices, text, st.booleans(), text, shares,
    st.none() | st.integers(1, 99), ratings, text,
)  # fmt: skip

CASES: list[tuple[Table[Any], st.SearchStrategy[Any]]] = [
    (SAMPLES, samples),
    (CONTEXTS, contexts),
    (CANDIDATES, candidates),
    (POOL_TRACES, st.builds(PoolTrace, text, text, st.integers(0, 99), outcomes, st.booleans())),
    (GOLD_VERDICTS, st.builds(GoldVerdicts, text, verdicts, text, st.booleans())),
    (QUADRUPLES, st.builds(Quadruple, contexts, candidates, st.none() | traces)),
    (PREFERENCES, preferences),
]


@pytest.mark.parametrize(("table", "records"), CASES, ids=lambda case: "")
def test_every_record_survives_the_disk(
    table: Table[Any], records: st.SearchStrategy[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=12)
    @given(st.lists(records, max_size=3))
    def check(items: list[Any]) -> None:
        folder = tmp_path_factory.mktemp("store")
        digest = write_dataset(folder, "things", items, table)
        assert read_dataset(folder, "things", table) == items
        assert digest == RowHashes(row_hash(table.to_row(item)) for item in items).digest()
        assert digest == RowHashes(row_hash(table.to_row(item)) for item in reversed(items)).digest()

    check()


def test_an_unparsed_trace_has_no_score_on_disk(tmp_path: Path) -> None:
    record = PoolTrace("c", "judge", 0, Unparsed("mumble", "no score"))
    write_dataset(tmp_path, "traces", [record], POOL_TRACES)
    (row,) = read_rows(tmp_path / "traces" / "part-00000.parquet")
    assert row["score"] is None
    assert row["unparsed"] == "no score"


def test_values_outside_the_vocabulary_are_refused() -> None:
    sample = Sample("a", b"x", "do it", "", "random")
    row = SAMPLES.to_row(sample) | {"subset": "easy"}
    with pytest.raises(ValueError, match="subset holds 'easy'"):
        SAMPLES.from_row(row)
    gold = GOLD_VERDICTS.to_row(GoldVerdicts("c", (Verdict(1),), "v"))
    gold["gold"][0]["value"] = 2
    with pytest.raises(ValueError, match="value holds 2"):
        GOLD_VERDICTS.from_row(gold)


def test_numpy_values_of_a_record_become_plain_ones() -> None:
    trace = Trace("t", np.float32(4.5), (Verdict(np.int64(1)),), np.float64(1.0), np.int32(7))  # type: ignore[arg-type]
    plain = Trace("t", 4.5, (Verdict(1),), 1.0, 7)
    rows = [QUADRUPLES.to_row(Quadruple(_context(), _candidate("a"), item)) for item in (trace, plain)]
    assert json.dumps(rows[0], default=str) == json.dumps(rows[1], default=str)


def _context() -> Context:
    source = encode_png(np.full((8, 8, 3), 200, np.uint8))
    return Context(Sample("s", source, "make it red", "colour alteration"), (Principle("red?", CATEGORIES[0]),), "d")


def _candidate(name: str) -> Candidate:
    return Candidate(name, "s", encode_png(np.full((8, 8, 3), [255, 0, 0], np.uint8)), "editor", 0)


def test_datasets_shows_images_and_nested_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    record = Preference(_context(), _candidate("a"), _candidate("b"), "first", "ann", True)
    write_dataset(tmp_path, "pairs", [record, record.swap()], PREFERENCES)
    for loaded in (
        datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "pairs" / "*.parquet"), cache_dir=str(tmp_path / "c1")
        ),
        datasets.load_dataset(str(tmp_path / "pairs"), cache_dir=str(tmp_path / "c2")),
    ):
        rows = loaded["train"]
        assert isinstance(rows.features["context_source"], datasets.Image)
        assert rows.features["context_principles"] == datasets.List(
            {"question": datasets.Value("string"), "category": datasets.Value("string")}
        )
        assert rows[0]["first_image"].size == (8, 8)
        assert rows[0]["first_image"].getpixel((0, 0)) == (255, 0, 0)
        assert rows[0]["context_principles"] == [{"question": "red?", "category": CATEGORIES[0]}]
        assert rows["choice"][:] == ["first", "second"]


def test_references_are_images_and_their_absence_changes_no_hash(tmp_path: Path) -> None:
    """Data sets written before samples had references are read as they were and keep their hash."""
    sample = Sample("s", b"x", "do it", "", references=(b"hat", b"scarf"))
    write_dataset(tmp_path, "samples", [sample], SAMPLES)
    assert read_dataset(tmp_path, "samples", SAMPLES) == [sample]
    datasets = pytest.importorskip("datasets")
    files = str(tmp_path / "samples" / "*.parquet")
    features = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "c")).data["train"]
    assert features.column("references").to_pylist()[0][0]["image"]["bytes"] == b"hat"

    row = SAMPLES.to_row(Sample("s", b"x", "do it", ""))
    old = {name: value for name, value in row.items() if name != "references"}
    assert row_hash(row) == row_hash(old) != row_hash(SAMPLES.to_row(sample))
    features = {name: kind for name, kind in SAMPLES.features.items() if name != "references"}
    older = Table(features, lambda one: {name: SAMPLES.to_row(one)[name] for name in features}, SAMPLES.from_row)
    digest = write_dataset(tmp_path, "older", [Sample("s", b"x", "do it", "")], older)
    assert read_dataset(tmp_path, "older", SAMPLES) == [Sample("s", b"x", "do it", "")]
    assert write_dataset(tmp_path, "newer", [Sample("s", b"x", "do it", "")], SAMPLES) == digest


def test_origin_and_licence_are_later_columns_whose_absence_changes_no_hash(tmp_path: Path) -> None:
    sample = Sample("s", b"x", "do it", "", origin="rows.jsonl:3", licence="CC-BY-4.0")
    context = Context(sample, (Principle("red?", CATEGORIES[0]),), "d")
    write_dataset(tmp_path, "contexts", [context], CONTEXTS)
    assert read_dataset(tmp_path, "contexts", CONTEXTS) == [context]
    row = SAMPLES.to_row(Sample("s", b"x", "do it", ""))
    old = {name: value for name, value in row.items() if name not in ("origin", "licence")}
    assert row_hash(row) == row_hash(old) != row_hash(SAMPLES.to_row(sample))
    quadruple = QUADRUPLES.to_row(Quadruple(Context(Sample("s", b"x", "do it", ""), (), "d"), _candidate("a")))
    later = ("context_origin", "context_licence")
    assert all(quadruple[name] is None for name in later)
    assert row_hash(quadruple) == row_hash({name: value for name, value in quadruple.items() if name not in later})


def test_votes_and_ratings_are_later_columns_whose_absence_changes_no_hash(tmp_path: Path) -> None:
    plain = Preference(_context(), _candidate("a"), _candidate("b"), "first", "ann", True)
    rich = Preference(
        _context(), _candidate("a"), _candidate("b"), "first", "ann", True, "VQ", 0.75, 4, (Rating("all", 3, 2),), "id"
    )
    later = ("aspect", "soft_label", "votes", "ratings", "origin")
    row = PREFERENCES.to_row(plain)
    assert all(row[name] is None for name in later)
    old = {name: value for name, value in row.items() if name not in later}
    assert row_hash(row) == row_hash(old) != row_hash(PREFERENCES.to_row(rich))
    features = {name: kind for name, kind in PREFERENCES.features.items() if name not in later}
    older = Table(features, lambda one: {name: PREFERENCES.to_row(one)[name] for name in features}, lambda one: one)
    digest = write_dataset(tmp_path, "older", [plain], older)
    assert read_dataset(tmp_path, "older", PREFERENCES) == [plain]
    assert write_dataset(tmp_path, "newer", [plain], PREFERENCES) == digest
