"""Rollouts of one iteration: G stochastic edits of every context.

Legend: N edits of the iteration (edit n belongs to context n // G), M edits of one size, K stochastic
steps, L latent tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from edit_r1.editors.flow import E, FlowEditor, Schedule, Trajectory, generator, sample_trajectory
from edit_r1.images import encode_png
from edit_r1.records import Context
from edit_r1.train.data_parallel import ALONE, Team
from edit_r1.train.editor_stage import EditorRLStage, Iteration


@dataclass(frozen=True)
class Rollout(Generic[E]):
    """The edits of one size."""

    edits_M: tuple[int, ...]
    """Which of the iteration's N edits these are."""
    contexts: E
    rows_M: Tensor
    """Row of `contexts` that each edit belongs to."""
    schedule: Schedule
    final_MLC: Tensor
    latents_MKLC: Tensor
    next_MKLC: Tensor
    log_prob_MK: Tensor
    images_M: tuple[bytes, ...]
    """PNG."""

    def micro_batches(self, keep: Sequence[bool], size: int) -> Iterator[Tensor]:
        """Positions in this rollout of the edits to keep (`keep` has one entry per edit of the iteration)."""
        kept = [position for position, edit in enumerate(self.edits_M) if keep[edit]]
        for start in range(0, len(kept), size):
            yield torch.as_tensor(kept[start : start + size], device=self.rows_M.device)


def sample_edits(
    editor: FlowEditor[E],
    stage: EditorRLStage,
    iteration: Iteration,
    contexts_B: Sequence[Context],
    team: Team = ALONE,
    finished: Callable[[Sequence[int], Sequence[bytes]], None] | None = None,
) -> list[Rollout[E]]:
    """G edits of every context that is this process's, one rollout per size; each context is encoded once.

    finished: gets the edits and images of every micro-batch as soon as it is decoded (`reward_queue.Judging.put`).
    """
    group = stage.group_size
    places = team.share(len(contexts_B))
    encoded = [
        ([places[position] * group + index for position in positions for index in range(group)], contexts)
        for positions, contexts in editor.encode([contexts_B[place].sample for place in places])
    ]
    chunks = [
        (size, slice(start, start + stage.sample_batch))
        for size, (edits, _) in enumerate(encoded)
        for start in range(0, len(edits), stage.sample_batch)
    ]
    parts: list[list[Trajectory]] = [[] for _ in encoded]
    images: list[list[bytes]] = [[] for _ in encoded]
    for (size, chunk), counts in team.evened(chunks, chunks[-1], stage.shard and team.size > 1):
        edits, contexts = encoded[size]
        rows = contexts.rows(_rows(edits, group, editor)[chunk])
        run = _sample_chunk(editor, stage, iteration, edits[chunk], rows)
        if counts:
            parts[size].append(run)
            decoded = [encode_png(pixels_HWC) for pixels_HWC in editor.decode(run.final_BLC, rows)]
            images[size] += decoded
            if finished is not None:
                finished(edits[chunk], decoded)
    return [
        Rollout(
            tuple(edits), contexts, _rows(edits, group, editor), editor.schedule(contexts, stage.sampling_steps),
            torch.cat([run.final_BLC for run in parts[size]]),
            torch.cat([run.latents_BKLC for run in parts[size]]),
            torch.cat([run.next_BKLC for run in parts[size]]),
            torch.cat([run.log_prob_BK for run in parts[size]]),
            tuple(images[size]),
        )
        for size, (edits, contexts) in enumerate(encoded)
    ]  # fmt: skip


def _rows(edits: Sequence[int], group: int, editor: FlowEditor[E]) -> Tensor:
    """Row of the encoded contexts that each edit belongs to; edits come a whole group after another."""
    return torch.arange(len(edits) // group, device=editor.device).repeat_interleave(group)


def _sample_chunk(
    editor: FlowEditor[E], stage: EditorRLStage, iteration: Iteration, edits: Sequence[int], contexts: E
) -> Trajectory:
    """Edits of one size in one batch; `contexts` has a row for each."""
    schedule = editor.schedule(contexts, stage.sampling_steps)
    generators = [generator(iteration.seeds_N[edit]) for edit in edits]
    starts = None
    if iteration.starts_N is not None:
        starts = [generator(iteration.starts_N[edit]) for edit in edits]
    return sample_trajectory(
        editor, contexts, generators, schedule, stage.guidance, stage.sde.eta, iteration.window, starts, stage.sde.kind
    )
