"""EditReward-Bench of TIGER-Lab: groups of 2, 3 or 4 edits of one request, flattened into pairs.

Official: a pair counts when the judge's order is its label, a group of 3 or 4 only when all its 3 or 6 pairs do, and
the overall number is the share of groups. The public script (eval_bench.py of TIGER-AI-Lab/EditReward) knows a tie
among 2 edits by a threshold that it tunes on these very labels: that is `official_script`, and `untuned` is the same
without the threshold, so that only equal scores are a tie.

The script prints two further numbers. Its "strict ranking accuracy" is of groups: the threshold serves labels of "tie"
alone, and equal scores fall to the later edit (`script_strict_ranking`). In its "pairwise accuracy" every pair counts
by itself, those of 3 and 4 edits without a threshold, all together by one that is tuned on all (`script_pairwise`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from edit_r1.evaluate.benchmarks.opening import RawRow
from edit_r1.evaluate.benchmarks.pair import Answer, Benchmark, BenchPair, Label, Official, make_pair, text_of
from edit_r1.verifier.tiger_labels import SUFFIX, choice_of, letters_of

_SIZES = (2, 3, 4)
_SIGNS: dict[Label, int] = {"first": 1, "tie": 0, "second": -1}


def read(row: RawRow) -> BenchPair:
    """A comparison from a row; ValueError for a malformed one."""
    values = row.values
    name = text_of(values, "id")
    size = _size(values.get("num_candidates"), values.get("dataset"), name)
    names = _names(text_of(values, "comparison_type", empty=True), name, size)
    choice = choice_of(text_of(values, "ranking"), names)
    return make_pair(
        row, name, values["source_image"], text_of(values, "instruction"), values["candidate_1"],
        values["candidate_2"], "tie" if choice == "same" else choice, task=f"K={size}",
        group=SUFFIX.sub("", name), names=names, candidates=size,
    )  # fmt: skip


def _size(count: object, dataset: object, name: str) -> int:
    """Edits in the group, by the column `num_candidates`, else by `dataset` ("3pair")."""
    told = re.match(r"\d", str(dataset or ""))
    size = int(told[0]) if told else 0
    if isinstance(count, int | float) and not math.isnan(count):  # NaN stands for a missing number in some tables
        size = int(count) if count in _SIZES else 0
    if size not in _SIZES:
        raise ValueError(f"num_candidates of {name!r} is {count!r}: expected 2, 3 or 4")
    return size


def _names(comparison: str, name: str, size: int) -> tuple[str, str]:
    """Letters of the two edits, by `comparison_type` or the id's suffix; A and B where a pair needs neither."""
    found = letters_of(comparison, name)
    letters = found or ("A", "B")
    if (not found and size > 2) or letters[0] == letters[1] or max(letters) > "ABCD"[size - 1]:
        raise ValueError(f"comparison_type {comparison!r} of {name!r}: expected two of the letters {'ABCD'[:size]}")
    return letters


def groups_of(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The answers by group, in the order of their first pairs. ValueError for a group that is not whole."""
    found: dict[str, list[Answer]] = {}
    for number, answer in enumerate(answers):
        # Pairs of 2 stand alone, even where the data gives one id to several.
        found.setdefault(f"pair {number}" if answer.candidates == 2 else f"group {answer.group}", []).append(answer)
    for name, members in found.items():
        size = members[0].candidates
        there = {frozenset(answer.names) for answer in members}
        needed = {frozenset(two) for two in combinations("ABCD"[:size], 2)}
        if size > 2 and (there != needed or len(members) != len(needed)):
            raise ValueError(
                f"{name} of {size} edits has {len(members)} pairs instead of {len(needed)}, each once: the data is not "
                "whole, download it again"
            )
    return list(found.values())


def tuned_threshold(pairs: Sequence[Answer]) -> float:
    """The smallest threshold of a tie that gets most of the pairs right: 0 or one of the differences themselves.

    As the script has it: chosen on the labels that are then counted.
    """
    both = [(pair.difference, pair.label) for pair in pairs if pair.difference is not None]
    gaps_M = np.array([gap for gap, _ in both])
    labels_M = np.array([_SIGNS[label] for _, label in both])
    candidates = sorted({0.0, *np.abs(gaps_M).tolist()})
    right = [int((np.where(np.abs(gaps_M) <= one, 0, np.sign(gaps_M)) == labels_M).sum()) for one in candidates]
    return float(candidates[right.index(max(right))])


def official(answers: Sequence[Answer]) -> Official:
    """The script's number, and those beside it; an answer without both scores is wrong, and so is its group.

    The interval is that of the script's number at its tuned threshold; `untuned` has one of its own. Raises ValueError
    for torn groups.
    """
    groups = groups_of(answers)
    threshold = tuned_threshold([group[0] for group in groups if group[0].candidates == 2])
    tuned = [_all_match(group, threshold if group[0].candidates == 2 else 0.0) for group in groups]
    untuned = [_all_match(group, 0.0) for group in groups]
    ranked = [strict_ranking(group, threshold) for group in groups]
    by_size: dict[str, dict[str, Any]] = {
        f"K={size}": {
            "groups": len(places),
            "official_script": float(np.mean([tuned[place] for place in places])),
            "untuned": float(np.mean([untuned[place] for place in places])),
            "script_strict_ranking": float(np.mean([ranked[place] for place in places])),
            "script_pairwise": script_pairwise([pair for place in places for pair in groups[place]], size == 2),
        }
        for size in _SIZES
        if (places := [place for place, group in enumerate(groups) if group[0].candidates == size])
    }
    details = {
        "official_script": float(np.mean(tuned)),
        "untuned": float(np.mean(untuned)),
        "script_strict_ranking": float(np.mean(ranked)),
        "script_pairwise": script_pairwise([pair for group in groups for pair in group], tuned=True),
        "script_threshold": threshold,
        "groups": len(groups),
        "by_size": by_size,
    }
    tasks = {name: float(numbers["official_script"]) for name, numbers in by_size.items()}
    sources = tuple(group[0].source for group in groups)
    return Official(tuple(tuned), ("",) * len(groups), sources, tasks, details, {"untuned": tuple(untuned)})


def script_pairwise(pairs: Sequence[Answer], tuned: bool) -> float | None:
    """The script's "pairwise accuracy": the share of pairs that are right, each by itself.

    tuned: with ties, by a threshold that is tuned on these pairs; else of the pairs with a winner, equal scores being
    wrong, None without one. A pair without both scores is wrong.
    """
    counted = pairs if tuned else [pair for pair in pairs if pair.label != "tie"]
    threshold = tuned_threshold(counted) if tuned else 0.0
    return float(np.mean([pair.matches(threshold) for pair in counted])) if counted else None


def _all_match(group: Sequence[Answer], threshold: float) -> float:
    return float(all(answer.matches(threshold) for answer in group))


def strict_ranking(group: Sequence[Answer], threshold: float) -> float:
    """1 when the script's "strict ranking accuracy" counts the group: its order of the scores is that of the labels.

    The script sorts by `numpy.argsort` and turns the result round, so that of equal scores the later edit stands first
    (in a stable sort; numpy promises none). A label of "tie" between 2 edits is met by a difference up to `threshold`.
    """
    scores: dict[str, float | None] = {}
    wins: dict[str, int] = {}
    for answer in group:
        scores |= dict(zip(answer.names, (answer.first, answer.second), strict=True))
        for name in answer.names:
            wins.setdefault(name, 0)
        if answer.label != "tie":
            wins[answer.names[answer.label == "second"]] += 1
    values = [score for _, score in sorted(scores.items()) if score is not None]
    if len(values) < len(scores):
        return 0.0
    if any(answer.label == "tie" for answer in group):
        return float(len(values) == 2 and abs(values[0] - values[1]) <= threshold)
    names = sorted(scores)
    order = [names[place] for place in np.argsort(values, kind="stable")[::-1]]
    labelled = sorted(names, key=lambda name: -wins[name])
    return float(sorted(wins.values()) == list(range(len(names))) and order == labelled)


TIGER = Benchmark(
    name="tiger",
    columns=("id", "instruction", "source_image", "candidate_1", "candidate_2", "ranking"),
    optional=("dataset", "comparison_type", "num_candidates"),
    read=read,
    official=official,
)
