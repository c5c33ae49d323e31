"""Step 2: candidates from several editors."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from edit_r1.curate.draws import rng_for
from edit_r1.curate.failures import Failure
from edit_r1.editors.protocol import Editor
from edit_r1.records import Candidate, Context


def candidate_id(sample_id: str, editor: str, seed: int, image: bytes) -> str:
    """Unique and stable: the same picture for the same request gives the same id."""
    digest = hashlib.sha256(f"{sample_id}|{editor}|{seed}|".encode() + image)
    return digest.hexdigest()[:16]


def edit(
    contexts: Sequence[Context], editors: Sequence[Editor], per_context: int, seed: int
) -> tuple[list[Candidate], list[Failure]]:
    """`per_context` candidates for each context, by as many editors drawn for it.

    Which editors a context gets depends on its own id and `seed` alone, so a run in pieces makes what a
    run in one makes. With `per_context` above the number of editors every editor is used again with other seeds.

    Raises:
        ValueError: without editors, or for `per_context` below 1.
    """
    if not editors or per_context < 1:
        raise ValueError(f"{len(editors)} editors, per_context={per_context}: both must be at least 1")
    jobs: dict[int, list[tuple[int, int, int]]] = defaultdict(list)  # by editor: place, turn, seed
    for place, context in enumerate(contexts):
        rng = rng_for(context.sample.id, seed)
        turns = [
            int(number) for _ in range(-(-per_context // len(editors))) for number in rng.permutation(len(editors))
        ]
        for turn, number in enumerate(turns[:per_context]):
            jobs[number].append((place, turn, int(rng.integers(2**31))))
    made: dict[tuple[int, int], Candidate] = {}
    failures: list[Failure] = []
    for number, work in sorted(jobs.items()):
        editor = editors[number]
        images = editor.edit([contexts[place].sample for place, _, _ in work], [own for _, _, own in work])
        for (place, turn, own), image in zip(work, images, strict=True):
            sample_id = contexts[place].sample.id
            if image.image is None:
                failures.append(Failure("edit", sample_id, editor.name, image.error or "no picture"))
                continue
            name = candidate_id(sample_id, editor.name, own, image.image)
            made[place, turn] = Candidate(name, sample_id, image.image, editor.name, own, image.hidden)
    return [made[key] for key in sorted(made)], failures
