"""GCPO's reward and advantage: the verifier learns from who beats whom, never from the scores themselves.

Edit-R1 (arXiv 2604.27505), for one preference pair with N traces of the winner and N of the loser:

    r_w[j] = (1/N) #{k : tau_w[j] > tau_l[k]}        A_w[j] = r_w[j] - mean(r_w)
    r_l[j] = (1/N) #{k : tau_l[j] < tau_w[k]}        A_l[j] = r_l[j] - mean(r_l)

Strict inequalities: a tie counts for neither side. No division by the standard deviation.

Where the paper is silent, we decided:
- A trace without a score (unparsed; its score is NaN here) wins and loses no comparison, on either side.
  It stays in N and in its group's mean with ratio 0: answering in the format is part of what is learned.
- A failed call (`dropped`) is not a rollout: it is in no comparison, no mean and no N. The denominator
  of r_w is then the number of the loser's rollouts, unparsed ones included, and of r_l the winner's. Its
  ratio is NaN and its advantage 0. With no opponent left every ratio of the other side is 0.
- Hence mean(r_w) == mean(r_l) always: both are (comparisons won) / (winner's rollouts * loser's rollouts).
- A label may be in doubt (ours): with p the probability that the "winner" is better, a ratio is its expectation,
  p times the one above plus 1 - p times the one with the two candidates exchanged (a winner trace then wins by
  scoring below). Centring is linear, so the advantages are the same mixture. p = 1 is the paper's; at p = 1/2 only
  parsing and not tying earn anything. The means stay equal.

Legend: P pairs, N traces a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """What happened in a batch of pairs; every figure is a whole number."""

    pairs: int
    comparisons: int
    """(j, k) with a score on both sides."""
    ties: int
    """Comparisons with equal scores."""
    unparsed: int
    """Rollouts without a score."""
    dropped: int
    """Failed calls."""
    all_unparsed: int
    """Pairs in which at least one side has no score at all, so that every ratio is 0."""
    silent: int
    """Pairs in which every advantage is 0: they teach nothing."""


@dataclass(frozen=True)
class Contrast:
    """Rewards and advantages of P pairs; all (P, N), in the dtype of the scores."""

    ratio_w_PN: Tensor
    """r_w, in [0, 1]; NaN for a failed call."""
    ratio_l_PN: Tensor
    """r_l, in [0, 1]; NaN for a failed call."""
    advantage_w_PN: Tensor
    """A_w, in (-1, 1); 0 for a failed call."""
    advantage_l_PN: Tensor
    """A_l, in (-1, 1); 0 for a failed call."""
    counts: Counts


def contrast(
    scores_w_PN: Tensor, scores_l_PN: Tensor, dropped_w_PN: Tensor | None = None, dropped_l_PN: Tensor | None = None,
    label_P: Tensor | None = None,
) -> Contrast:  # fmt: skip
    """Compare every winner trace with every loser trace of its pair.

    Scores are floats, NaN for an unparsed trace; `dropped` marks failed calls (their scores are ignored). `label` is
    the probability that a pair's winner is the better one; None is 1 for all.

    Raises:
        ValueError: for shapes that are not two equal (P, N), no trace, integer scores, an infinite score, or a label
            outside [0, 1].
    """
    _check(scores_w_PN, scores_l_PN, dropped_w_PN, dropped_l_PN)
    kept_w_PN = _kept(scores_w_PN, dropped_w_PN)
    kept_l_PN = _kept(scores_l_PN, dropped_l_PN)
    scored_w_PN = kept_w_PN & ~scores_w_PN.isnan()
    scored_l_PN = kept_l_PN & ~scores_l_PN.isnan()
    both_PNN = scored_w_PN.unsqueeze(2) & scored_l_PN.unsqueeze(1)
    won_PNN = both_PNN & (scores_w_PN.unsqueeze(2) > scores_l_PN.unsqueeze(1))
    tied_PNN = both_PNN & (scores_w_PN.unsqueeze(2) == scores_l_PN.unsqueeze(1))

    earned_PNN = won_PNN.to(scores_w_PN.dtype)
    if label_P is not None:
        label_P11 = _label(label_P, scores_w_PN).view(-1, 1, 1)
        lost_PNN = both_PNN & (scores_w_PN.unsqueeze(2) < scores_l_PN.unsqueeze(1))
        earned_PNN = label_P11 * won_PNN + (1 - label_P11) * lost_PNN
    ratio_w_PN = earned_PNN.sum(2) / kept_l_PN.sum(1, keepdim=True).clamp(min=1)
    ratio_l_PN = earned_PNN.sum(1) / kept_w_PN.sum(1, keepdim=True).clamp(min=1)
    ratio_w_PN = ratio_w_PN.masked_fill(~kept_w_PN, torch.nan)
    ratio_l_PN = ratio_l_PN.masked_fill(~kept_l_PN, torch.nan)
    spread_P = _spread(ratio_w_PN) | _spread(ratio_l_PN)
    return Contrast(
        ratio_w_PN,
        ratio_l_PN,
        _centred(ratio_w_PN),
        _centred(ratio_l_PN),
        Counts(
            pairs=len(scores_w_PN),
            comparisons=int(both_PNN.sum()),
            ties=int(tied_PNN.sum()),
            unparsed=int((kept_w_PN & ~scored_w_PN).sum() + (kept_l_PN & ~scored_l_PN).sum()),
            dropped=int((~kept_w_PN).sum() + (~kept_l_PN).sum()),
            all_unparsed=int((~scored_w_PN.any(1) | ~scored_l_PN.any(1)).sum()),
            silent=int((~spread_P).sum()),
        ),
    )


def length_cost(tokens_B: Tensor, limit: int, cost: float) -> Tensor:
    """What a trace's ratio loses for its length (ours): `cost` for every token above `limit`; (B,), float64, >= 0."""
    return cost * (tokens_B - limit).clamp(min=0).double()


def _label(label_P: Tensor, scores_PN: Tensor) -> Tensor:
    """In the scores' dtype and device. Raises ValueError."""
    if tuple(label_P.shape) != tuple(scores_PN.shape[:1]) or not bool(((label_P >= 0) & (label_P <= 1)).all()):
        raise ValueError(
            f"labels {label_P.tolist()} of {len(scores_PN)} pairs: give each the probability, 0 to 1, that its winner "
            "is the better one"
        )
    return label_P.to(scores_PN)


def _centred(ratio_PN: Tensor) -> Tensor:
    return (ratio_PN - ratio_PN.nanmean(1, keepdim=True)).nan_to_num(0.0)


def _spread(ratio_PN: Tensor) -> Tensor:
    """(P,) whether a group's ratios differ; of the ratios, because their mean is rounded."""
    return ratio_PN.nan_to_num(-torch.inf).amax(1) > ratio_PN.nan_to_num(torch.inf).amin(1)


def _kept(scores_PN: Tensor, dropped_PN: Tensor | None) -> Tensor:
    return torch.ones_like(scores_PN, dtype=torch.bool) if dropped_PN is None else ~dropped_PN


def _check(scores_w_PN: Tensor, scores_l_PN: Tensor, dropped_w_PN: Tensor | None, dropped_l_PN: Tensor | None) -> None:
    shape = tuple(scores_w_PN.shape)
    if len(shape) != 2 or shape[1] == 0 or shape != tuple(scores_l_PN.shape):
        raise ValueError(
            f"scores of shapes {shape} and {tuple(scores_l_PN.shape)}: give (pairs, traces) for both sides, "
            "with at least one trace and as many for the winner as for the loser"
        )
    for name, scores_PN in (("winner", scores_w_PN), ("loser", scores_l_PN)):
        if not scores_PN.is_floating_point():
            raise ValueError(f"{name} scores of {scores_PN.dtype}: give floats, NaN for a trace without a score")
        if scores_PN.isinf().any():
            raise ValueError(f"{name} scores hold infinity: a trace without a score is NaN")
    for name, dropped_PN in (("winner", dropped_w_PN), ("loser", dropped_l_PN)):
        if dropped_PN is not None and (tuple(dropped_PN.shape) != shape or dropped_PN.dtype != torch.bool):
            raise ValueError(
                f"{name} dropped mask of {dropped_PN.dtype} {tuple(dropped_PN.shape)}: give booleans of shape {shape}"
            )
