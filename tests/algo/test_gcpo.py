"""GCPO's ratios and advantages against a brute-force twin, and the properties that paper.md names."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edit_r1.algo.gcpo import Contrast, contrast, length_cost

NAN = math.nan


def twin(
    winner: list[float], loser: list[float], dropped_w: list[bool], dropped_l: list[bool]
) -> tuple[list[float], ...]:
    """One pair, one comparison at a time."""
    rollouts_w = [score for score, gone in zip(winner, dropped_w, strict=True) if not gone]
    rollouts_l = [score for score, gone in zip(loser, dropped_l, strict=True) if not gone]
    ratio_w, ratio_l = [], []
    for score, gone in zip(winner, dropped_w, strict=True):
        wins = sum(1 for other in rollouts_l if score > other)
        ratio_w.append(NAN if gone else wins / max(len(rollouts_l), 1))
    for score, gone in zip(loser, dropped_l, strict=True):
        losses = sum(1 for other in rollouts_w if score < other)
        ratio_l.append(NAN if gone else losses / max(len(rollouts_w), 1))
    return ratio_w, ratio_l, centre(ratio_w), centre(ratio_l)


def centre(ratios: list[float]) -> list[float]:
    kept = [ratio for ratio in ratios if not math.isnan(ratio)]
    return [0.0 if math.isnan(ratio) else ratio - sum(kept) / len(kept) for ratio in ratios]


SCORES = st.one_of(st.just(NAN), st.integers(0, 20).map(lambda tenth: tenth / 2))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count, traces = draw(st.integers(1, 4)), draw(st.integers(1, 6))

    def grid(cell: st.SearchStrategy) -> list[list]:
        return draw(st.lists(st.lists(cell, min_size=traces, max_size=traces), min_size=count, max_size=count))

    rare = st.sampled_from([False, False, False, True])
    return (
        torch.tensor(grid(SCORES), dtype=torch.float64),
        torch.tensor(grid(SCORES), dtype=torch.float64),
        torch.tensor(grid(rare)),
        torch.tensor(grid(rare)),
    )


def assert_same(a: Contrast, b: Contrast) -> None:
    for name in ("ratio_w_PN", "ratio_l_PN", "advantage_w_PN", "advantage_l_PN"):
        assert torch.equal(getattr(a, name).nan_to_num(-1), getattr(b, name).nan_to_num(-1)), name


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_equals_the_brute_force_twin(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    winner, loser, dropped_w, dropped_l = case
    result = contrast(winner, loser, dropped_w, dropped_l)
    for p in range(len(winner)):
        expected = twin(*(part[p].tolist() for part in case))
        found = (result.ratio_w_PN, result.ratio_l_PN, result.advantage_w_PN, result.advantage_l_PN)
        for values, tensor in zip(expected, found, strict=True):
            assert tensor[p].tolist() == pytest.approx(values, abs=1e-12, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_counts_equal_the_brute_force_counts(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    winner, loser, dropped_w, dropped_l = (part.tolist() for part in case)
    counts = contrast(*case).counts
    comparisons = ties = unparsed = dropped = all_unparsed = silent = 0
    for p in range(len(winner)):
        rollouts = [
            [score for score, gone in zip(scores[p], flags[p], strict=True) if not gone]
            for scores, flags in ((winner, dropped_w), (loser, dropped_l))
        ]
        scored = [[score for score in side if not math.isnan(score)] for side in rollouts]
        comparisons += len(scored[0]) * len(scored[1])
        ties += sum(a == b for a in scored[0] for b in scored[1])
        unparsed += sum(len(side) - len(good) for side, good in zip(rollouts, scored, strict=True))
        dropped += sum(dropped_w[p]) + sum(dropped_l[p])
        all_unparsed += not scored[0] or not scored[1]
        ratios = twin(winner[p], loser[p], dropped_w[p], dropped_l[p])[:2]
        silent += all(len({ratio for ratio in side if not math.isnan(ratio)}) <= 1 for side in ratios)
    assert (counts.pairs, counts.comparisons, counts.ties, counts.unparsed) == (
        len(winner), comparisons, ties, unparsed
    )  # fmt: skip
    assert (counts.dropped, counts.all_unparsed, counts.silent) == (dropped, all_unparsed, silent)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_both_groups_have_the_same_mean_ratio_and_advantages_sum_to_zero(case: tuple[Tensor, ...]) -> None:
    winner, loser, dropped_w, dropped_l = case
    result = contrast(winner, loser, dropped_w, dropped_l)
    mean_w, mean_l = result.ratio_w_PN.nanmean(1), result.ratio_l_PN.nanmean(1)
    present = ~mean_w.isnan() & ~mean_l.isnan()  # a side of failed calls alone has no mean
    assert torch.allclose(mean_w[present], mean_l[present], atol=1e-12)
    for advantage in (result.advantage_w_PN, result.advantage_l_PN):
        assert torch.allclose(advantage.sum(1), torch.zeros(len(winner), dtype=advantage.dtype), atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_antisymmetry(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Turning the scale upside down turns winner and loser round."""
    winner, loser, dropped_w, dropped_l = case
    result = contrast(winner, loser, dropped_w, dropped_l)
    turned = contrast(-loser, -winner, dropped_l, dropped_w)
    swapped = Contrast(
        turned.ratio_l_PN, turned.ratio_w_PN, turned.advantage_l_PN, turned.advantage_w_PN, turned.counts
    )
    assert_same(result, swapped)
    assert result.counts == turned.counts


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_only_the_order_of_scores_counts(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    winner, loser, dropped_w, dropped_l = case
    result = contrast(winner, loser, dropped_w, dropped_l)
    # Exact on halves up to 10, so that no two scores are rounded to one.
    for raised in (lambda x: 4 * x - 7, lambda x: x**3 + x, lambda x: torch.exp2(x) / 2):
        moved = contrast(raised(winner), raised(loser), dropped_w, dropped_l)
        assert_same(result, moved)
        assert result.counts == moved.counts


def test_a_worked_example() -> None:
    """Winner 8, 5, no score; loser 5, 3, 9: 8 beats 5 and 3, 5 beats 3, 9 is beaten by none."""
    result = contrast(torch.tensor([[8.0, 5.0, NAN]]), torch.tensor([[5.0, 3.0, 9.0]]))
    assert torch.allclose(result.ratio_w_PN, torch.tensor([[2 / 3, 1 / 3, 0.0]]))
    assert torch.allclose(result.ratio_l_PN, torch.tensor([[1 / 3, 2 / 3, 0.0]]))
    assert torch.allclose(result.advantage_w_PN, torch.tensor([[1 / 3, 0.0, -1 / 3]]))
    assert (result.counts.comparisons, result.counts.ties, result.counts.unparsed) == (6, 1, 1)


def test_ties_count_for_neither_side() -> None:
    result = contrast(torch.full((2, 4), 7.0), torch.full((2, 4), 7.0))
    assert not result.ratio_w_PN.any()
    assert not result.ratio_l_PN.any()
    assert (result.counts.ties, result.counts.silent) == (32, 2)


def test_an_unparsed_trace_is_pushed_down_and_a_failed_call_is_not() -> None:
    winner, loser = torch.tensor([[8.0, NAN, 8.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    unparsed = contrast(winner, loser)
    assert unparsed.advantage_w_PN[0, 1] < 0 < unparsed.advantage_w_PN[0, 0]
    assert torch.allclose(unparsed.ratio_l_PN, torch.full((1, 3), 2 / 3))  # the denominator stays N
    failed = contrast(winner, loser, torch.tensor([[False, True, False]]))
    assert not failed.advantage_w_PN.any()
    assert torch.equal(failed.ratio_l_PN, torch.ones(1, 3))  # two rollouts are left to lose to


def test_when_all_opponents_are_unparsed_the_pair_teaches_nothing() -> None:
    result = contrast(torch.tensor([[8.0, 2.0]]), torch.full((1, 2), NAN))
    assert not result.advantage_w_PN.any()
    assert not result.advantage_l_PN.any()
    assert (result.counts.all_unparsed, result.counts.silent) == (1, 1)


def test_one_trace_a_side_has_a_ratio_but_no_advantage() -> None:
    result = contrast(torch.tensor([[8.0], [2.0]]), torch.tensor([[5.0], [5.0]]))
    assert result.ratio_w_PN.tolist() == [[1.0], [0.0]]
    assert result.ratio_l_PN.tolist() == [[1.0], [0.0]]
    assert result.counts.silent == 2


@pytest.mark.parametrize(
    ("winner", "loser", "what"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "as many for the winner"),
        (torch.ones(3), torch.ones(3), "pairs, traces"),
        (torch.ones(2, 0), torch.ones(2, 0), "at least one trace"),
        (torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64), "give floats"),
        (torch.ones(1, 2), torch.tensor([[1.0, torch.inf]]), "infinity"),
    ],
)
def test_bad_input_says_what_to_do(winner: Tensor, loser: Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        contrast(winner, loser)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="dropped mask"):
        contrast(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(2, 1, dtype=torch.bool))


# Labels in doubt and the cost of length


def soft_twin(winner: list[float], loser: list[float], label: float) -> tuple[list[float], list[float]]:
    """Ratios expected under the label, one comparison at a time."""

    def earned(better: float, worse: float) -> float:
        return label * (better > worse) + (1 - label) * (better < worse)

    ratio_w = [sum(earned(score, other) for other in loser) / len(loser) for score in winner]
    return ratio_w, [sum(earned(other, score) for other in winner) / len(winner) for score in loser]


@given(pairs(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
@settings(max_examples=200)
def test_a_label_in_doubt_equals_the_brute_force_twin(
    case: tuple[Tensor, Tensor, Tensor, Tensor], labels: list[float]
) -> None:
    winner, loser, *_ = case
    label_P = torch.tensor(labels[: len(winner)], dtype=torch.float64)
    result = contrast(winner, loser, label_P=label_P)
    for pair, label in enumerate(label_P.tolist()):
        ratio_w, ratio_l = soft_twin(winner[pair].tolist(), loser[pair].tolist(), label)
        assert result.ratio_w_PN[pair].tolist() == pytest.approx(ratio_w)
        assert result.ratio_l_PN[pair].tolist() == pytest.approx(ratio_l)
        assert result.advantage_w_PN[pair].tolist() == pytest.approx(centre(ratio_w), abs=1e-12)
    assert torch.allclose(result.ratio_w_PN.mean(1), result.ratio_l_PN.mean(1))


@given(pairs(), st.floats(0, 1))
def test_its_advantages_mix_those_of_both_labels(case: tuple[Tensor, ...], label: float) -> None:
    winner, loser, gone_w, gone_l = case
    labels = torch.full((len(winner),), label, dtype=torch.float64)
    mixed = contrast(winner, loser, gone_w, gone_l, labels)
    right, wrong = contrast(winner, loser, gone_w, gone_l), contrast(loser, winner, gone_l, gone_w)
    expected_w = label * right.advantage_w_PN + (1 - label) * wrong.advantage_l_PN
    expected_l = label * right.advantage_l_PN + (1 - label) * wrong.advantage_w_PN
    assert torch.allclose(mixed.advantage_w_PN, expected_w)
    assert torch.allclose(mixed.advantage_l_PN, expected_l)


@given(pairs())
def test_a_certain_label_changes_no_bit(case: tuple[Tensor, ...]) -> None:
    certain = torch.ones(len(case[0]), dtype=torch.float64)
    assert_same(contrast(*case), contrast(*case, certain))


@pytest.mark.parametrize("labels", [[0.5], [0.5, 1.1], [0.5, -0.1], [0.5, NAN]])
def test_a_label_is_a_probability(labels: list[float]) -> None:
    with pytest.raises(ValueError, match="the probability, 0 to 1"):
        contrast(torch.zeros(2, 3), torch.ones(2, 3), label_P=torch.tensor(labels))


@given(st.lists(st.integers(0, 400), min_size=1), st.integers(0, 300), st.floats(0, 0.1))
def test_the_cost_of_length(tokens: list[int], limit: int, cost: float) -> None:
    twin_of_it = [cost * (length - limit) if length > limit else 0.0 for length in tokens]
    assert length_cost(torch.tensor(tokens), limit, cost).tolist() == pytest.approx(twin_of_it)
