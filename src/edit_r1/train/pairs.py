"""Preference pairs in training: which pair is seen when, and how its traces find each other across processes.

Row 2p of the training set is pair p's winner, row 2p + 1 its loser. A generation batch is, in order,
N times the winner and N times the loser of one pair, then the next pair. It is cut into equal slices
by process, so that gathering the slices in the order of the processes restores it.

Legend: P pairs of a generation, N traces a side, B = 2PN rollouts of a generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import gather
from torch import Tensor
from torch.utils.data import Sampler

from edit_r1.algo.gcpo import Contrast, contrast, length_cost
from edit_r1.preferences.pairs import training_pairs
from edit_r1.preferences.votes import pooled_rows
from edit_r1.records import Candidate, Context, Preference


@dataclass(frozen=True)
class Pair:
    """x_w and x_l for one context."""

    context: Context
    winner: Candidate
    loser: Candidate
    label: float = 1.0
    """Probability that the winner is the better one, as the annotators' votes have it."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells the pair from others in a run's record."""
        doubt = () if self.label == 1 else (repr(self.label),)
        return (self.winner.id, self.loser.id, *doubt)


def pairs_of(preferences: Sequence[Preference], pairs_from: Literal["judgments", "votes"] = "judgments") -> list[Pair]:
    """The preferences in order; "same" is left out, as the paper has it. With "votes" all judgments of two candidates
    are one pair, in which "same" is half a vote for each.

    Raises:
        ValueError: when nothing is left to train on, or for held-out data (`preferences.pairs.training_pairs`).
    """
    rows: Sequence[Preference] = training_pairs(preferences).pairs
    if pairs_from == "votes":
        rows = pooled_rows(preferences)
    pairs = [
        Pair(row.context, row.winner, row.loser, _label(row) if pairs_from == "votes" else 1.0)
        for row in rows
        if row.winner is not None and row.loser is not None
    ]
    if not pairs:
        raise ValueError(f'{len(preferences)} preferences without a winner: "same" teaches nothing; give decided pairs')
    return pairs


def check_enough(pairs: int, pairs_per_step: int) -> None:
    """Raises ValueError for fewer pairs than a generation takes."""
    if pairs < pairs_per_step:
        raise ValueError(f"{pairs} pairs, pairs_per_step={pairs_per_step}: give more pairs or lower pairs_per_step")


def check_judgeable(preferences: Sequence[Preference], aspects: Literal["whole", "any"] = "whole") -> None:
    """Raises ValueError for pairs without principles, and, unless `aspects` is "any", for pairs of one aspect alone."""
    bare = sum(not preference.context.principles for preference in preferences)
    if bare:
        raise ValueError(
            f"{bare} of {len(preferences)} preferences have no principles, which is what the verifier judges by: "
            "edit-r1 preferences principles writes them"
        )
    partial = sorted({preference.aspect for preference in preferences if preference.aspect})
    if partial and aspects == "whole":
        raise ValueError(
            f"preferences compared by {', '.join(partial)} alone, and the score that is trained is of the whole edit: "
            "leave them out (edit-r1 preferences import --aspect overall), or set aspects='any'"
        )


def check_one_aspect(preferences: Sequence[Preference]) -> None:
    """Raises ValueError for pairs that were compared by different things: one number cannot order by all of them."""
    aspects = sorted({preference.aspect or "the whole edit" for preference in preferences})
    if len(aspects) > 1:
        raise ValueError(
            f"preferences compared by {', '.join(aspects)}: one score is trained, so keep those of one (edit-r1 "
            "preferences import --aspect NAME)"
        )


def _label(row: Preference) -> float:
    """Probability that the winner is the better one, by its votes; 1 where there is one vote."""
    if row.soft_label is None:
        return 1.0
    return row.soft_label if row.choice == "first" else 1 - row.soft_label


class PairSampler(Sampler[int]):
    """Rows of a whole run, generation after generation, each repeated for every forward pass that uses it.

    Pairs come in a new order every time round, so that none is seen twice before all are seen once. The
    order is a function of the seed alone: nothing has to be remembered to resume.
    """

    def __init__(self, pairs: int, pairs_per_step: int, traces: int, repeats: int, steps: int, seed: int) -> None:
        check_enough(pairs, pairs_per_step)
        self.pairs = pairs
        self.pairs_per_step = pairs_per_step
        self.traces = traces
        self.repeats = repeats
        self.steps = steps
        self.seed = seed

    def __len__(self) -> int:
        return self.steps * self.repeats * self.pairs_per_step * 2 * self.traces

    def __iter__(self) -> Iterator[int]:
        for step in range(self.steps):
            rows = [2 * pair + side for pair in self.pairs_of_step(step) for side in (0, 1)]
            for _ in range(self.repeats):
                for row in rows:
                    yield from (row for _ in range(self.traces))

    def pairs_of_step(self, step: int) -> list[int]:
        """The pairs of generation `step`, from 0."""
        first = step * self.pairs_per_step
        chosen: list[int] = []
        while len(chosen) < self.pairs_per_step:
            round_, place = divmod(first + len(chosen), self.pairs)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + round_)
            order = torch.randperm(self.pairs, generator=generator).tolist()
            chosen += order[place : place + self.pairs_per_step - len(chosen)]
        return chosen


@dataclass(frozen=True)
class Rollouts:
    """One process's share of a generation, or all of it; all (B,)."""

    rows_B: Tensor
    """Row of the training set, int64."""
    scores_B: Tensor
    """tau, float64; NaN for an unparsed trace."""
    tokens_B: Tensor
    """L, trace length in tokens, int64."""
    truncated_B: Tensor
    """Whether the trace was cut at the limit."""
    passed_B: Tensor
    """Share of the trace's verdicts that are 1, float64; NaN for a trace without verdicts."""

    def gathered(self) -> Rollouts:
        """The rollouts of all processes, in the order of the generation batch.

        One call in float64: exact for every score and for integers below 2**53.
        """
        columns = (self.rows_B, self.scores_B, self.tokens_B, self.truncated_B, self.passed_B)
        rows, scores, tokens, truncated, passed = gather(torch.stack([c.double() for c in columns], dim=1)).unbind(1)
        return Rollouts(rows.long(), scores, tokens.long(), truncated.bool(), passed)


@dataclass(frozen=True)
class Comparison:
    """A whole generation compared."""

    contrast: Contrast
    ratios_B: Tensor
    """r of each rollout, in the order of the generation batch."""
    rewards_B: Tensor
    """r less what the trace's length costs."""
    advantages_B: Tensor
    """Of the rewards."""
    weighted_advantage: float
    """Mean over all rollouts of A_i / L_i: negative when the longer traces are the ones that won."""
    score_winner: float
    """Mean parsed score; NaN when none was parsed."""
    score_loser: float


def compare(
    rollouts: Rollouts, traces: int, labels: Sequence[float] = (), limit: int = 0, cost: float = 0.0
) -> Comparison:
    """Winners against losers. `rollouts` is a whole generation (`gathered`), `traces` is N.

    labels: by pair of the training set, the probability that its winner is the better one; without any it is 1.
    limit, cost: of `algo.gcpo.length_cost`.
    """
    rows_P2N = rollouts.rows_B.view(-1, 2, traces)
    winners_P = rows_P2N[:, 0, 0]
    expected_P2N = torch.stack([winners_P, winners_P + 1], dim=1).unsqueeze(2)
    assert (winners_P % 2 == 0).all(), "a pair begins with its loser"
    assert (rows_P2N == expected_P2N).all(), "winner and loser of a pair were torn apart"
    scores_P2N = rollouts.scores_B.view(-1, 2, traces)
    label_P = torch.tensor([labels[row // 2] for row in winners_P.tolist()]).to(scores_P2N) if labels else None
    result = contrast(scores_P2N[:, 0], scores_P2N[:, 1], label_P=label_P)
    ratios_B = torch.stack([result.ratio_w_PN, result.ratio_l_PN], dim=1).flatten()
    advantages_B = torch.stack([result.advantage_w_PN, result.advantage_l_PN], dim=1).flatten()
    rewards_B = ratios_B
    if cost > 0:
        rewards_B = ratios_B - length_cost(rollouts.tokens_B, limit, cost)
        advantages_B = (rewards_B.view(-1, traces) - rewards_B.view(-1, traces).mean(1, keepdim=True)).flatten()
    return Comparison(
        result,
        ratios_B,
        rewards_B,
        advantages_B,
        weighted_advantage=float((advantages_B / rollouts.tokens_B.clamp(min=1)).mean()),
        score_winner=float(scores_P2N[:, 0].nanmean()),
        score_loser=float(scores_P2N[:, 1].nanmean()),
    )
