"""The counts of a plan against loops that do nothing but count."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.algo.step_cost import grown, nf4_bytes, step_work

SMALL = st.integers(1, 4)


@settings(max_examples=40, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL, SMALL, st.integers(0, 4), st.booleans(), SMALL)
def test_step_work_is_what_a_loop_counts(contexts, group, steps, trained, inner, references, guided, processes) -> None:
    if processes > contexts:
        return
    told = step_work(contexts, group, steps, trained, inner, 3, references, guided, processes)
    sampled = judged = compared = learned = 0
    for _context in range(0, contexts, processes):  # those of the first process
        for _edit in range(group):
            judged += 3
            for _pass in range(2 if guided else 1):
                sampled += steps
                for _step in range(trained):
                    compared += references
                    learned += inner
    assert (told.sampling_forwards, told.reference_forwards, told.trained_forwards) == (sampled, compared, learned)
    assert told.judgments == judged


def test_a_process_without_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="contexts_per_step=2 on 3 processes"):
        step_work(2, 4, 6, 2, processes=3)


@given(st.integers(1, 70_000))
def test_nf4_counts_each_block_and_superblock(weights: int) -> None:
    half_bytes = scales = outer = 0
    for start in range(0, weights, 64 * 256):
        outer += 1
        inside = min(64 * 256, weights - start)
        half_bytes += inside
        scales += len(range(0, inside, 64))
    assert nf4_bytes(weights) == (half_bytes + 1) // 2 + scales + 4 * outer


@given(SMALL, SMALL)
def test_grown_follows_a_plane(doubles: int, singles: int) -> None:
    def cost(a: int, b: int) -> int:
        return 7 + 3 * a + 11 * b

    assert grown(cost(1, 1), (cost(2, 1), cost(1, 2)), (doubles, singles)) == cost(doubles, singles)
