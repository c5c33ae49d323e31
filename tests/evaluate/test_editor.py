"""Paired comparison of editors by hand-made numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edit_r1.editors.protocol import EditedImage
from edit_r1.evaluate.editor import EditScore, compare_by_category, compare_editors, edit_and_judge, report_editor
from edit_r1.records import Sample


def _scores(values: list[float]) -> list[EditScore]:
    return [EditScore(f"s{n // 2}", "colour" if n < 4 else "style", n % 2, b"", v) for n, v in enumerate(values)]


def test_delta_and_gsb() -> None:
    before, after = _scores([0, 5, 5, 5, 8, 10]), _scores([5, 5.4, 4, 5, 9, 10])
    comparison = compare_editors(after, before)
    assert (comparison.good, comparison.same, comparison.bad) == (2, 3, 1)
    assert comparison.gsb == pytest.approx((2 - 1) / 6)
    assert comparison.mean == pytest.approx((5 + 0.4 - 1 + 0 + 1 + 0) / 6)
    assert comparison.categories["style"] == pytest.approx(0.5)
    assert report_editor(before).oracle == pytest.approx(33 / 6)
    assert report_editor(before).contexts == 3


def test_each_category_is_compared_by_itself() -> None:
    before, after = _scores([2, 4, 6, 8, 5, 5]), _scores([4, 6, 6, 10, 4, 5])
    found = compare_by_category(after, before)
    assert list(found) == ["colour", "style"]
    assert (found["colour"].mean, found["colour"].good, found["colour"].same) == (1.5, 3, 1)
    assert found["colour"].ci95 == [1.0, 2.0]  # of two contexts, with means of 2 and 1
    assert (found["style"].mean, found["style"].bad, found["style"].ci95) == (-0.5, 1, None)


def test_editors_are_compared_on_the_same_work_only() -> None:
    with pytest.raises(ValueError, match="same contexts"):
        compare_editors(_scores([1, 2]), _scores([1, 2, 3, 4]))


class _Copy:
    """An editor that hands back its source, or fails where there is none."""

    name = "copy"
    simulated = False

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        return [EditedImage(sample.source or None, None if sample.source else "empty") for sample in samples]


def test_every_seed_is_judged_and_a_missing_picture_is_no_score() -> None:
    samples = [Sample("a", b"x", "do", "colour"), Sample("b", b"yy", "do", "style")]
    scores = edit_and_judge(_Copy(), lambda samples, images: [float(len(image)) for image in images], samples, [3, 4])
    assert [(s.sample_id, s.seed, s.score) for s in scores] == [("a", 3, 1), ("a", 4, 1), ("b", 3, 2), ("b", 4, 2)]
    with pytest.raises(ValueError, match="made no picture"):
        edit_and_judge(_Copy(), lambda samples, images: [0.0] * len(images), [Sample("c", b"", "do", "colour")], [0])
