"""What an iteration of an editor's training has to compute and keep, in numbers of forwards and bytes. Pure counting.

Legend: P processes, G edits of a group, S sampling steps, K trained ones (DiffusionNFT: noise levels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NF4_BLOCK, NF4_SUPERBLOCK = 64, 256
"""Weights that share a scale, and scales that share a scale of theirs (Dettmers et al., "QLoRA", 2023, section 3)."""


@dataclass(frozen=True)
class StepWork:
    """One iteration of the process that has most to do; a forward is of one row and one instruction."""

    contexts: int
    edits: int
    judgments: int
    """Traces that the judge writes for them."""
    sampling_forwards: int
    reference_forwards: int
    """Of the reference policy, and of DiffusionNFT's old one."""
    trained_forwards: int
    """Each with its backward pass."""


def step_work(
    contexts: int,
    group: int,
    sampling_steps: int,
    trained_steps: int,
    inner_updates: int = 1,
    traces: int = 1,
    references: int = 1,
    guided: bool = False,
    processes: int = 1,
) -> StepWork:
    """Upper counts: every edit has an advantage.

    Args:
        contexts: of the whole iteration.
        references: forwards of other policies for each trained step of an edit, over all inner updates.
        guided: two forwards a velocity.

    Raises ValueError when a process would have no context.
    """
    if not 0 < processes <= contexts:
        raise ValueError(
            f"contexts_per_step={contexts} on {processes} processes: give each at least one context, and one process "
            "at least"
        )
    own = -(-contexts // processes)
    edits = own * group
    passes = 2 if guided else 1
    trained = edits * trained_steps * passes
    return StepWork(
        own, edits, edits * traces, edits * sampling_steps * passes, trained * references,
        trained * inner_updates,
    )  # fmt: skip


def nf4_bytes(weights: int) -> int:
    """Of a matrix in 4 bits, a byte of scale per block, and 4 bytes of scale per superblock of those."""
    blocks = -(-weights // NF4_BLOCK)
    return -(-weights // 2) + blocks + 4 * -(-blocks // NF4_SUPERBLOCK)


def grown(base: float, one_more: Sequence[float], blocks: Sequence[int]) -> float:
    """A quantity that is linear in the numbers of blocks, from its value with one of each kind and, for each kind,
    with one more of it. blocks: how many of each kind there are, at least 1."""
    return base + sum((count - 1) * (more - base) for count, more in zip(blocks, one_more, strict=True))
