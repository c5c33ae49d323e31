"""Edits of mixed sizes in full batches: equal sizes together, and what is left over padded and masked.

A layout is the size in pixels (height, width) of the edit and of each source as the editor encodes it: edits of one
layout need no padding. Training needs the first half alone: a context is sampled G times, so that no bucket of a
training step is smaller than a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from edit_r1.editors.flow import E, FlowEditor, FlowRows, generator, sample_trajectory
from edit_r1.editors.protocol import EditedImage
from edit_r1.images import ImageError, encode_png
from edit_r1.records import Sample

Layout = tuple[tuple[int, int], ...]


class BatchedEditor(FlowEditor[E], Protocol[E]):
    """What `edit_in_batches` needs."""

    def layout(self, sample: Sample) -> Layout:
        """Sizes of the edit, then of the sources. Raises ImageError for a sample that this editor cannot edit."""


def check_batching(batch_size: int, padding: float) -> None:
    """Raise ValueError for settings out of range."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one edit is sampled at a time")
    if not 0 <= padding < 1:
        raise ValueError(f"padding={padding}: a share of a batch's tokens, 0 (equal sizes only) to below 1")


def buckets(layouts: Mapping[int, Layout]) -> list[list[int]]:
    """Keys grouped by layout, in order of first appearance."""
    found: dict[Layout, list[int]] = defaultdict(list)
    for key, layout in layouts.items():
        found[layout].append(key)
    return list(found.values())


def padding_share(layouts: Sequence[Layout]) -> float:
    """Share of a batch's image tokens that is padding, in [0, 1): edits are padded to the largest, and so are all
    sources of an edit together."""
    edits = [layout[0][0] * layout[0][1] for layout in layouts]
    sources = [sum(height * width for height, width in layout[1:]) for layout in layouts]
    return 1 - (sum(edits) + sum(sources)) / (len(layouts) * (max(edits) + max(sources)))


def batches(layouts: Mapping[int, Layout], batch_size: int, padding: float) -> list[list[int]]:
    """Every key once, in batches of at most `batch_size`.

    Full batches of one layout come first; what is left of all layouts is joined, largest first, as long as at most
    `padding` of a batch's tokens are padding. With padding 0 every batch is of one layout.
    """
    full, left = [], []
    for bucket in buckets(layouts):
        whole = len(bucket) // batch_size * batch_size
        full += [bucket[start : start + batch_size] for start in range(0, whole, batch_size)]
        left += [bucket[whole:]] if bucket[whole:] else []
    left.sort(key=lambda bucket: -sum(height * width for height, width in layouts[bucket[0]]))
    joined: list[list[int]] = []
    for key in (key for bucket in left for key in bucket):
        last = joined[-1] if joined else []
        if last and len(last) < batch_size and _fits([layouts[other] for other in [*last, key]], padding):
            last.append(key)
        else:
            joined.append([key])
    return full + joined


def _fits(layouts: Sequence[Layout], padding: float) -> bool:
    return len(set(layouts)) == 1 or (padding > 0 and padding_share(layouts) <= padding)


@torch.no_grad()
def denoise(
    editor: FlowEditor[E], parts: Sequence[tuple[E, Sequence[torch.Generator]]], steps: int, guidance: float
) -> list[Tensor]:
    """Finished latents [B, L, C] of each part by the deterministic sampler; all parts share every forward.

    A part is the contexts of one layout with a generator for each row.
    """
    schedules = [editor.schedule(contexts, steps) for contexts, _ in parts]
    if len(parts) == 1:
        (contexts, generators), schedule = parts[0], schedules[0]
        return [sample_trajectory(editor, contexts, generators, schedule, guidance).final_BLC]
    latents = [editor.noise(contexts, generators) for contexts, generators in parts]
    for step in range(steps):
        rows = [
            FlowRows(latents_BLC, schedule.timesteps[step].expand(len(latents_BLC)), contexts)
            for latents_BLC, schedule, (contexts, _) in zip(latents, schedules, parts, strict=True)
        ]
        latents = [
            row.latents_BLC + velocity_BLC * (schedule.sigmas[step + 1] - schedule.sigmas[step])
            for row, velocity_BLC, schedule in zip(rows, editor.velocities(rows, guidance), schedules, strict=True)
        ]
    return latents


def edit_in_batches(
    editor: BatchedEditor[E],
    samples: Sequence[Sample],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    batch_size: int,
    padding: float,
) -> list[EditedImage]:
    """One edit per (sample, seed), in order; a sample that cannot be edited gives an `EditedImage` with an error.

    Raises ValueError when there is not one seed per sample.
    """
    if len(samples) != len(seeds):
        raise ValueError(f"{len(samples)} samples and {len(seeds)} seeds: give one seed per sample")
    edits: dict[int, EditedImage] = {}
    layouts: dict[int, Layout] = {}
    for index, sample in enumerate(samples):
        try:
            layouts[index] = editor.layout(sample)
        except ImageError as error:
            edits[index] = EditedImage(None, error=f"sample {sample.id}: {error}")
    for batch in batches(layouts, batch_size, padding):
        encoded = editor.encode([samples[index] for index in batch])
        places = [[batch[position] for position in positions] for positions, _ in encoded]
        parts = [
            (contexts, [generator(seeds[index]) for index in indices])
            for indices, (_, contexts) in zip(places, encoded, strict=True)
        ]
        finals = denoise(editor, parts, steps, guidance)
        for indices, (contexts, _), final_BLC in zip(places, parts, finals, strict=True):
            pictures = [EditedImage(encode_png(pixels_HWC)) for pixels_HWC in editor.decode(final_BLC, contexts)]
            edits.update(zip(indices, pictures, strict=True))
    return [edits[index] for index in range(len(samples))]
