"""EditWorld's contexts as records: what the pipeline would read from a public edit set."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.world import edits, scenes
from edit_r1.world.edits import CATEGORIES, MULTI_STEP, Edit
from edit_r1.world.frozen import VERSION
from edit_r1.world.render import render_one
from edit_r1.world.scenes import SPLITS, Scene

MULTI_STEP_SHARE = 0.2
"""Share of two-step instructions, the Hard subset."""


def make_samples(count: int, split: str, seed: int, start: int = 0) -> list[Sample]:
    """`count` contexts of a split, categories in turn; sample i depends on (split, seed, i) alone.

    Args:
        start: index of the first one, so that a set can grow without changing.

    Raises:
        ValueError: for an unknown split or a negative count.
    """
    if count < 0 or start < 0:
        raise ValueError(f"count={count}, start={start}: both must be 0 or more")
    return [make_sample(split, seed, index) for index in range(start, start + count)]


def make_sample(split: str, seed: int, index: int) -> Sample:
    """One context."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed, index, VERSION])
    category = MULTI_STEP if rng.random() < MULTI_STEP_SHARE else CATEGORIES[index % len(CATEGORIES)]
    while True:
        scene = scenes.sample_scene(rng, split)
        edit = edits.sample_edit(rng, scene, category, split)
        if edit is not None:
            return as_sample(scene, edit, split)


def as_sample(scene: Scene, edit: Edit, split: str) -> Sample:
    """A scene and an edit as a record; the id is the hash of what a model is given and of what it means."""
    source = encode_png(render_one(scene))
    hidden = json.dumps(
        {"world": VERSION, "source": scenes.to_json(scene), "edit": edits.to_json(edit)}, sort_keys=True
    )
    digest = hashlib.sha256(source + edit.instruction.encode() + hidden.encode()).hexdigest()
    return Sample(
        id=digest[:16],
        source=source,
        instruction=edit.instruction,
        category=edit.category,
        subset="hard" if edit.category == MULTI_STEP else "random",
        split=split,
        hidden=hidden,
    )


def _hidden(sample: Sample) -> dict[str, str]:
    if sample.hidden is None:
        raise ValueError(f"sample {sample.id} is not of EditWorld: it has no hidden scene")
    state: dict[str, str] = json.loads(sample.hidden)
    return state


def scene_of(sample: Sample) -> Scene:
    """The source scene of an EditWorld sample; ValueError for any other sample."""
    return scenes.from_json(_hidden(sample)["source"])[0]


def edit_of(sample: Sample) -> Edit:
    """What an EditWorld sample's instruction means; ValueError for any other sample."""
    return edits.from_json(_hidden(sample)["edit"])
