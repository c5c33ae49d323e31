"""Differences between judges on the same held-out pairs, by their definitions."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HELD_OUT = runpy.run_path(str(Path(__file__).parents[2] / "bench/held_out.py"))


def result(rng: np.random.Generator, sources: int, parsed: float) -> dict[str, Any]:
    """Of one seed: verdicts [source, gold, given], and pairs with their scores."""
    verdicts = [
        (f"s{source}", int(rng.integers(2)), int(rng.integers(2)))
        for source in range(sources) for _ in range(4) if rng.random() < parsed
    ]  # fmt: skip
    score = [None if rng.random() > parsed else float(rng.integers(11)) for _ in range(2 * sources)]
    pairs = [
        {"sample_id": f"s{place}", "winner": score[2 * place], "loser": score[2 * place + 1]}
        for place in range(sources)
    ]
    return {"verdicts": verdicts, "pairs": pairs}


@pytest.mark.parametrize("truth", [0, 1])
def test_the_gain_in_a_share_is_the_difference_of_two_shares(truth: int) -> None:
    rng = np.random.default_rng(truth)
    new, old = ({seed: result(rng, 30, parsed) for seed in range(3)} for parsed in (0.9, 0.6))

    def share(of: dict[int, Any]) -> float:
        given = [int(word) for one in of.values() for _, gold, word in one["verdicts"] if gold == truth]
        return given.count(truth) / len(given)

    found = HELD_OUT["share_gain"](new, old, truth, 200)
    assert found["mean"] == pytest.approx(share(new) - share(old))
    low, high = found["ci95"]
    assert low < found["mean"] < high and 0.02 < high - low < 0.6
    same = HELD_OUT["share_gain"](new, new, truth, 200)
    assert same == {"mean": 0.0, "ci95": (0.0, 0.0)}, "both are drawn together"


def test_without_verdicts_there_is_no_gain() -> None:
    rng = np.random.default_rng(0)
    new = {0: result(rng, 3, 1.0)}
    assert HELD_OUT["share_gain"](new, {0: {"verdicts": [], "pairs": new[0]["pairs"]}}, 1, 5) is None


def test_scores_are_compared_where_both_gave_one() -> None:
    rng = np.random.default_rng(1)
    new, old = ({seed: result(rng, 40, 0.8) for seed in range(2)} for _ in range(2))
    known = [
        a[side] - b[side]
        for seed in new
        for a, b in zip(new[seed]["pairs"], old[seed]["pairs"], strict=True)
        for side in ("winner", "loser")
        if a[side] is not None and b[side] is not None
    ]
    found = HELD_OUT["score_gain"](new, old, 200)
    assert len(known) < 160 and found["mean"] == pytest.approx(sum(known) / len(known))
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]
