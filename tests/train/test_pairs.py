"""Which pairs a generation holds, and that two processes compare as one does."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.records import Preference
from edit_r1.train.pairs import PairSampler, Rollouts, check_judgeable, compare, pairs_of

NAN = math.nan


def test_only_decided_pairs_are_trained_on_and_the_winner_is_the_winner(preferences: list[Preference]) -> None:
    pairs = pairs_of(preferences)
    assert len(pairs) == sum(preference.choice != "same" for preference in preferences)
    assert all(pair.winner.id.endswith("-5") and pair.loser.id.endswith("-0") for pair in pairs)
    with pytest.raises(ValueError, match="without a winner"):
        pairs_of([replace(preferences[0], choice="same")])
    context = preferences[0].context
    held_out = replace(context, sample=replace(context.sample, split="test"))
    with pytest.raises(ValueError, match="held-out pairs would be trained on"):
        pairs_of([replace(preferences[0], context=held_out)])


def test_pairs_that_the_score_cannot_be_trained_on_are_refused(preferences: list[Preference]) -> None:
    check_judgeable(preferences)
    bare = replace(preferences[0], context=replace(preferences[0].context, principles=()))
    with pytest.raises(ValueError, match="1 of .* have no principles.*edit-r1 preferences principles"):
        check_judgeable([*preferences, bare])
    partial = replace(preferences[0], aspect="consistency")
    with pytest.raises(ValueError, match="compared by consistency alone"):
        check_judgeable([*preferences, partial])
    check_judgeable([*preferences, partial], "any")


@given(
    pairs=st.integers(1, 9), per_step=st.integers(1, 5), traces=st.integers(2, 4), repeats=st.integers(1, 3),
    steps=st.integers(1, 6), seed=st.integers(0, 5),
)  # fmt: skip
def test_the_sampler_keeps_pairs_together(
    pairs: int, per_step: int, traces: int, repeats: int, steps: int, seed: int
) -> None:
    if pairs < per_step:
        with pytest.raises(ValueError, match="pairs_per_step"):
            PairSampler(pairs, per_step, traces, repeats, steps, seed)
        return
    sampler = PairSampler(pairs, per_step, traces, repeats, steps, seed)
    rows = list(sampler)
    assert len(rows) == len(sampler) == steps * repeats * per_step * 2 * traces
    assert rows == list(sampler)  # nothing is remembered
    generations = torch.tensor(rows).view(steps, repeats, per_step, 2, traces)
    assert (generations == generations[:, :1]).all()
    assert (generations[..., 1, :] == generations[..., :1, 0] + 1).all()
    assert (generations[..., 0, :] % 2 == 0).all()
    seen = (generations[:, 0, :, 0, 0] // 2).flatten().tolist()
    for start in range(0, len(seen) - pairs + 1, pairs):
        assert sorted(seen[start : start + pairs]) == list(range(pairs))  # all are seen before one is seen again


def _rollouts(rows: list[int]) -> Rollouts:
    """Scores that depend on the row and the place in the generation, some of them missing."""
    generator = torch.Generator().manual_seed(5)
    count = len(rows)
    scores = torch.randint(0, 5, (count,), generator=generator).double() / 2
    scores[torch.rand(count, generator=generator) < 0.2] = NAN
    tokens = torch.randint(5, 50, (count,), generator=generator)
    truncated = torch.rand(count, generator=generator) < 0.1
    return Rollouts(torch.tensor(rows), scores, tokens, truncated, scores / 2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _two_processes(rank: int, sampler: PairSampler, port: int, folder: str) -> None:
    """What each process of a run does: its share of the generation batch, the gathering, the comparison."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    loader = torch.utils.data.DataLoader(range(1000), batch_size=12, sampler=sampler, collate_fn=list)
    mine = [int(row) for batch in accelerator.prepare(loader) for row in batch]
    whole = _rollouts(list(sampler))
    share = slice(rank * 12, rank * 12 + 12)
    assert mine == whole.rows_B[share].tolist()
    local = Rollouts(*(getattr(whole, field.name)[share] for field in fields(whole)))
    compared = compare(local.gathered(), traces=4)
    torch.save((compared.ratios_B, compared.advantages_B), f"{folder}/{rank}.pt")
    accelerator.end_training()


def test_two_processes_give_the_same_advantages_as_one(tmp_path: Path) -> None:
    # 3 pairs x 2 x 4 traces on 2 processes: the second pair is torn between them.
    sampler = PairSampler(5, 3, 4, repeats=1, steps=1, seed=0)
    alone = compare(_rollouts(list(sampler)), traces=4)
    mp.spawn(_two_processes, args=(sampler, _free_port(), str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        ratios, advantages = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(ratios, alone.ratios_B)
        assert torch.equal(advantages, alone.advantages_B)
    assert alone.advantages_B.any()
