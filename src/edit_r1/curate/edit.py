"""Step 2: candidates from several editors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from edit_r1.curate.draws import number_of
from edit_r1.curate.failures import Failure, check_outage
from edit_r1.curate.shards import Made, failures_among, made_of
from edit_r1.editors.protocol import EditedImage, Editor
from edit_r1.images import ImageError, decode_rgb
from edit_r1.records import Candidate, Context, Sample

SEEDS = 2**31
"""Editors' seeds are drawn below this: the range that torch generators and served editors both take."""


def candidate_id(sample_id: str, editor: str, seed: int, image: bytes) -> str:
    """Unique and stable: the same picture for the same request gives the same id."""
    digest = hashlib.sha256(f"{sample_id}|{editor}|{seed}|".encode() + image)
    return digest.hexdigest()[:16]


def draw_jobs(sample_id: str, editors: Sequence[str], per_context: int, seed: int) -> list[tuple[int, int]]:
    """(editor's number, seed) of each of one context's candidates.

    Every editor draws a rank for a context, and those of the lowest ranks paint it; above their number, all are used
    again with other seeds. Rank and seed are hashes of the sample's id, the editor's name, the round and `seed`: a run
    in pieces makes what a run in one makes, and an editor that is added takes its place in some contexts and changes
    nothing else.
    """
    jobs: list[tuple[int, int]] = []
    for turn in range(-(-per_context // len(editors))):
        ranks = [number_of(json.dumps([seed, sample_id, name, turn, "rank"])) for name in editors]
        order = sorted(range(len(editors)), key=ranks.__getitem__)
        jobs += [(n, number_of(json.dumps([seed, sample_id, editors[n], turn, "seed"])) % SEEDS) for n in order]
    return jobs[:per_context]


def edit(
    contexts: Sequence[Context], editors: Sequence[Editor], per_context: int, seed: int
) -> tuple[list[Candidate], list[Failure]]:
    """`per_context` candidates for each context by editors drawn for it (`draw_jobs`), in the contexts' order.

    An editor that gives no picture, or bytes that are none, is a failure of its (context, seed).

    Raises:
        ValueError: without editors, for editors of one name, or for `per_context` below 1.
    """
    names = check_editors(editors, per_context)
    drawn = [
        (place, job)
        for place, context in enumerate(contexts)
        for job in draw_jobs(context.sample.id, names, per_context, seed)
    ]
    ordered: list[Candidate | Failure | None] = [None] * len(drawn)
    for number, editor in enumerate(editors):
        places = [turn for turn, (_, (own, _)) in enumerate(drawn) if own == number]
        painted = paint(editor, [(contexts[drawn[turn][0]].sample, drawn[turn][1][1]) for turn in places])
        for turn, one in zip(places, painted, strict=True):
            ordered[turn] = one
    return (
        [item for item in ordered if isinstance(item, Candidate)],
        [item for item in ordered if isinstance(item, Failure)],
    )


def check_editors(editors: Sequence[Editor], per_context: int) -> list[str]:
    """Their names. Raises ValueError as `edit`."""
    names = [editor.name for editor in editors]
    if not editors or per_context < 1:
        raise ValueError(f"{len(editors)} editors, per_context={per_context}: both must be at least 1")
    if len(set(names)) < len(names):
        raise ValueError(f"editors {names}: give each a name of its own, or their candidates cannot be told apart")
    return names


def paint(editor: Editor, jobs: Sequence[tuple[Sample, int]]) -> list[Candidate | Failure]:
    """One editor's candidates for (sample, seed), in order; where there is no picture, or bytes that are none, why."""
    if not jobs:
        return []
    images = editor.edit([sample for sample, _ in jobs], [seed for _, seed in jobs])
    return [_candidate(sample.id, editor.name, own, image) for (sample, own), image in zip(jobs, images, strict=True)]


def paint_units(
    jobs: Sequence[tuple[Sample, int]], _: int, editor: Editor, before: Callable[[], bool]
) -> list[Made[Candidate]]:
    """`paint` of units whose seed is theirs in every turn. before: see `failures.check_outage`. Raises OutageError."""
    made = paint(editor, jobs)
    check_outage(failures_among(made), {one.editor for one in made if isinstance(one, Candidate)}, before)
    return [made_of(one) for one in made]


def _candidate(sample_id: str, editor: str, seed: int, edited: EditedImage) -> Candidate | Failure:
    if edited.image is None:
        reason = edited.error or "no picture and no reason"
        return Failure("edit", sample_id, editor, reason, failed_call=not edited.absent)
    try:
        decode_rgb(edited.image)
    except ImageError as error:
        return Failure("edit", sample_id, editor, str(error))
    name = candidate_id(sample_id, editor, seed, edited.image)
    return Candidate(name, sample_id, edited.image, editor, seed, edited.hidden)
