"""What an audit must find in data that was made to have it, and must not find in data without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edit_r1.images import encode_png
from edit_r1.preferences.audit import audit, audit_json, example_rows, findings, read_examples
from edit_r1.preferences.biases import FEW_SOURCES, effective_number, share_of
from edit_r1.preferences.facts import MEASURES, PairFacts, read_facts
from edit_r1.records import Candidate, Choice, Context, Preference, Rating, Sample

Make = Callable[..., Preference]
Write = Callable[..., Path]


def pair(
    source: np.ndarray, first: np.ndarray, second: np.ndarray, choice: Choice = "first", name: str = "s"
) -> Preference:
    edits = [Candidate(f"{name}-{n}", name, encode_png(pixels), f"e{n}", 0) for n, pixels in enumerate((first, second))]
    return Preference(Context(Sample(name, encode_png(source), "do", ""), (), ""), *edits, choice, "ann")


def only_facts(preference: Preference) -> PairFacts:
    (found,) = read_facts([preference])
    assert isinstance(found, PairFacts)
    return found


def photo(seed: int = 0, side: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 190, (6, 6, 3), dtype=np.uint8))
    fine = rng.integers(-12, 13, (side, side, 3))
    return np.clip(np.asarray(coarse.resize((side, side)), np.int64) + fine, 0, 255).astype(np.uint8)


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A picture with structure at several scales and, unlike noise, most of it in the coarse ones."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side)), np.float64)
        for n in (4, 8, 16)
    ]
    return np.mean(layers, axis=0).round().astype(np.uint8)


def changed(pixels: np.ndarray, what: str) -> np.ndarray:
    if what == "sharpness":
        noise = np.indices(pixels.shape[:2]).sum(0)[..., None] % 2 * 16
        return np.clip(pixels.astype(np.int64) + noise - 8, 0, 255).astype(np.uint8)
    if what == "brightness":
        return np.clip(pixels.astype(np.int64) + 20, 0, 255).astype(np.uint8)
    if what == "saturation":
        grey = pixels.mean(axis=2, keepdims=True)
        return np.clip(grey + 1.5 * (pixels - grey), 0, 255).astype(np.uint8)
    raise AssertionError(what)


@pytest.mark.parametrize("what", ["sharpness", "saturation", "brightness"])
def test_a_measure_sees_what_was_changed_in_either_place(what: str) -> None:
    plain = photo()
    more = only_facts(pair(plain, changed(plain, what), plain)).more
    less = only_facts(pair(plain, plain, changed(plain, what))).more
    assert (more[MEASURES.index(what)], less[MEASURES.index(what)]) == (1, -1)
    assert more[MEASURES.index("distance from source")] == 1, "the other edit is the source itself"
    assert only_facts(pair(plain, plain, plain)).more == (0,) * len(MEASURES)


def test_size_does_not_count_as_sharpness_and_another_aspect_has_no_distance() -> None:
    large = photo(side=128)
    small = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BICUBIC))
    found = dict(zip(MEASURES, only_facts(pair(large, large, small)).more, strict=True))
    assert found["pixels"] == 1 and found["sharpness"] == 0, "scaled to one size they are the same picture"
    wide = np.asarray(Image.fromarray(large).resize((128, 64)))
    assert dict(zip(MEASURES, only_facts(pair(large, wide, small)).more, strict=True))["distance from source"] is None


def test_file_size_is_of_the_bytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert only_facts(pair(photo(), noise, np.full_like(noise, 100))).more[MEASURES.index("file size")] == 1


def test_the_sharper_edit_that_always_wins_is_flagged_and_sides_are_not(dataset: Write) -> None:
    rows = []
    for number in range(40):
        plain = photo(number, 32)
        best = changed(plain, "sharpness")
        made = pair(plain, best, plain, "first", f"s{number}")
        rows.append(made if number % 2 else made.swap())
    found = audit(dataset(*rows))
    shares = {bias.measure: bias.share for bias in found.measures}
    assert shares["sharpness"].share == 1.0 and shares["sharpness"].flagged
    assert found.position.share == 0.5 and not found.position.flagged
    assert any("sharper" in sentence for sentence in findings(found))
    assert {editor.name: editor.wins.share for editor in found.editors} == {"e0": 1.0, "e1": 0.0}
    assert found.no_choices.unedited_wins == 0


def test_a_side_that_wins_is_flagged_unless_the_import_drew_it(dataset: Write, prefer: Make, tmp_path: Path) -> None:
    rows = [prefer(2 * n, 2 * n + 1, "first", context=1000 + n) for n in range(30)]
    folder = dataset(*rows)
    assert any("favour a side" in sentence for sentence in findings(audit(folder)))
    marker = tmp_path / "pairs.done.json"
    told = json.loads(marker.read_text())
    told["meta"]["order"] = "drawn"
    marker.write_text(json.dumps(told))
    assert not any("favour a side" in sentence for sentence in findings(audit(folder)))


def test_few_sources_flag_nothing() -> None:
    few = share_of([True] * (FEW_SOURCES - 1), [bytes([n]) for n in range(FEW_SOURCES - 1)])
    enough = share_of([True] * FEW_SOURCES, [bytes([n]) for n in range(FEW_SOURCES)])
    assert (few.share, few.flagged, enough.flagged) == (1.0, False, True)
    assert share_of([], []).share is None
    assert share_of([True] * 100, [b"one"] * 100).ci95 is None


def test_contradictions_repeats_and_flips_are_counted(dataset: Write, prefer: Make) -> None:
    folder = dataset(
        prefer(1, 2, "first", "ann"), prefer(1, 2, "second", "bob"),  # both ways
        prefer(3, 4, "first", "ann"), prefer(3, 4, "first", "bob").swap(),  # agreed, shown both ways round
        prefer(5, 6, "first", "ann"), prefer(5, 6, "same", "ann"),  # one annotator twice, undecided
        prefer(7, 8, "first", "ann"),
        prefer(7, 8, "second", "bob", aspect="VQ"),  # another question
    )  # fmt: skip
    found = audit(folder)
    assert (found.repeats.pairs, found.repeats.answered_again) == (5, 3)
    assert (found.repeats.contradictory, found.repeats.undecided, found.repeats.by_one_annotator) == (1, 1, 1)
    assert found.repeats.examples == [[0, 1]]
    assert found.flip_rate is not None and found.flip_rate.pairs == 2 and found.flip_rate.disagreement == 0.5
    people = {one.name: (one.agreement, one.compared) for one in found.annotators}
    assert people == {"ann": (0.5, 2), "bob": (0.5, 2)}
    assert sorted(read_examples(folder, example_rows(found))) == [0, 1]


def test_what_was_pooled_is_no_annotators(dataset: Write, prefer: Make) -> None:
    """Thirty pairs of two answers and thirty of three, all for the first: "2 annotators" is nobody who favours it."""
    rows = [
        prefer(2 * n, 2 * n + 1, "first", f"{votes} annotators", context=1000 + n, soft_label=1.0, votes=votes)
        for n, votes in enumerate([2] * 30 + [3] * 30)
    ]
    found = audit(dataset(*rows, prefer(200, 201, "first", "ann", context=2000)))
    assert [(one.name, one.answers) for one in found.annotators] == [("ann", 1)]
    assert not any("nnotator 2" in sentence for sentence in findings(found))


def test_cycles_are_found_per_context_by_majority(dataset: Write, prefer: Make) -> None:
    folder = dataset(
        prefer(1, 2), prefer(2, 3), prefer(3, 1), prefer(1, 4),  # 1 > 2 > 3 > 1, and 4 beaten
        prefer(1, 2, context=2000), prefer(2, 3, context=2000), prefer(1, 3, context=2000),  # transitive
        prefer(1, 2, context=3000), prefer(2, 3, context=3000),
        prefer(3, 1, "first", "ann", context=3000), prefer(3, 1, "second", "bob", context=3000),
        prefer(3, 1, "second", "cay", context=3000),  # outvoted: no cycle
    )  # fmt: skip
    found = audit(folder).cycles
    assert (found.contexts, found.cyclic, found.components) == (3, 1, 1)
    (cycle,) = found.examples
    assert (cycle.pictures, cycle.component, sorted(cycle.rows)) == (3, 3, [0, 1, 2])


def test_nothing_to_choose_and_copies_of_the_source(dataset: Write) -> None:
    plain, other = photo(0), photo(1)
    folder = dataset(
        pair(plain, other, other, "first"), pair(plain, other, other, "same"), pair(plain, plain, other, "first"),
        pair(plain, plain, other, "second"),
    )  # fmt: skip
    found = audit(folder).no_choices
    assert (found.identical, found.identical_decided, found.unedited_wins) == (2, 1, 1)
    assert found.examples == [[2], [0]]


def test_ratings_against_the_choice(dataset: Write, prefer: Make) -> None:
    rated = [(3.0, 2.0), (2.0, 2.0), (1.0, 2.0)]
    rows = [prefer(2 * n, 2 * n + 1, "first", ratings=(Rating("overall", *two),)) for n, two in enumerate(rated)]
    found = audit(dataset(*rows, prefer(20, 21, "same", ratings=(Rating("overall", 5, 1),))))
    (rating,) = found.ratings
    assert (rating.name, rating.agree, rating.equal, rating.against) == ("overall", 1, 1, 1)
    assert any("against the choice in 1 of 3" in sentence for sentence in findings(found))


def test_overlap_finds_copies_of_sources_and_edits_in_every_container(dataset: Write, tmp_path: Path) -> None:
    rows = [pair(scene(n), scene(n + 10), scene(n + 20), name=f"s{n}") for n in range(3)]
    folder = dataset(*rows)
    pictures = tmp_path / "bench"
    pictures.mkdir()
    (pictures / "same.png").write_bytes(encode_png(scene(0), compress_level=1))
    Image.fromarray(scene(11)).resize((80, 64)).save(pictures / "scaled.jpg", quality=70)
    (pictures / "new.png").write_bytes(encode_png(scene(77)))
    (pictures / "cut.png").write_bytes(encode_png(scene(78))[:100])
    (pictures / "notes.txt").write_text("no picture")
    bench = dataset(pair(scene(50), scene(10), scene(51)), name="benchmark")
    found = audit(folder, [pictures, bench])
    files, pairs = found.overlaps
    assert (files.pictures, files.unreadable, files.exact.sources, files.exact.edits) == (3, 1, 1, 0)
    assert (files.near.sources, files.near.edits, files.near.rows) == (1, 1, 2)
    assert [(one.row, one.role, one.other, one.exact) for one in files.examples] == [
        (0, "source", "same.png", True), (1, "first", "scaled.jpg", False),
    ]  # fmt: skip
    assert (pairs.exact.sources, pairs.exact.edits, pairs.exact.rows) == (0, 1, 1)
    assert pairs.examples[0].other == "part-00000.parquet: row 1, first_image"
    assert audit(folder, [pictures], threshold=0).overlaps[0].near.edits == 0
    (tmp_path / "empty").mkdir()
    for other, said in ((tmp_path / "empty", "holds no picture"), (tmp_path / "gone", "no such file")):
        with pytest.raises(ValueError, match=said):
            audit(folder, [other])


def test_overlap_reads_what_datasets_saves_and_columns_of_bytes(dataset: Write, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = dataset(*(pair(scene(n), scene(n + 10), scene(n + 20), name=f"s{n}") for n in range(2)))
    first, *others = ({"bytes": encode_png(scene(seed)), "path": None} for seed in (1, 60, 61))
    features = datasets.Features(input_image=datasets.Image(), output_images=datasets.List(datasets.Image()))
    rows = [{"input_image": first, "output_images": others}]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    pq.write_table(pa.table({"name": ["x"], "edit": [encode_png(scene(11))]}), tmp_path / "plain.parquet")
    saved, plain = audit(folder, [tmp_path / "saved", tmp_path / "plain.parquet"]).overlaps
    assert (saved.pictures, saved.exact.sources, saved.exact.edits) == (3, 1, 0)
    assert saved.examples[0].other == "data-00000-of-00001.arrow: row 1, input_image"
    assert (plain.pictures, plain.exact.sources, plain.exact.edits) == (1, 0, 1)
    (tmp_path / "cut.arrow").write_bytes(b"no table")
    with pytest.raises(ValueError, match="cut.arrow: cannot be read"):
        audit(folder, [tmp_path / "cut.arrow"])


def test_unreadable_rows_are_counted_and_left_out(dataset: Write, prefer: Make) -> None:
    good = prefer(1, 2)
    bad = Preference(good.context, good.first, Candidate("x", "s", b"no picture", "e", 0), "first", "ann")
    found = audit(dataset(good, bad))
    assert (found.rows, found.unreadable, found.decided) == (2, 1, 1)
    assert found.unreadable_examples[0].row == 1
    json.dumps(audit_json(found), allow_nan=False)
    with pytest.raises(ValueError, match="no pair that can be read"):
        audit(dataset(bad, name="bad"))
    with pytest.raises(ValueError, match="no pair that can be read"):
        audit(dataset(name="empty"))


def test_effective_number() -> None:
    assert effective_number([5, 5, 5]) == pytest.approx(3)
    assert effective_number([10, 0, 0]) == 1 and effective_number([]) is None
