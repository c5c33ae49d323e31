"""What simulated models know: rendered pictures by their bytes, others by perception, in however many processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from edit_r1.curate.edit import edit
from edit_r1.images import decode_rgb, encode_png
from edit_r1.processes import spread
from edit_r1.records import Candidate, Context
from edit_r1.world import index
from edit_r1.world.index import WorldIndex
from edit_r1.world.perceive import perceive
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.scenes import from_json
from edit_r1.world.simulated_editors import all_editors


@pytest.fixture(scope="module")
def candidates() -> tuple[list[Context], list[Candidate]]:
    contexts = [Context(sample, (), "EditWorld", simulated=True) for sample in make_samples(3, "train", seed=4)]
    return contexts, edit(contexts, all_editors(), 2, seed=0)[0]


def test_looking_ahead_sees_what_looking_does(
    candidates: tuple[list[Context], list[Candidate]], monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts, rendered = candidates
    monkeypatch.setattr(index, "spread", partial(spread, few=2))
    # The same pictures without their hidden state, and not to be recognised by their bytes either.
    painted = [replace(c, hidden=None, image=encode_png(255 - (255 - decode_rgb(c.image)) // 2)) for c in rendered]
    known = WorldIndex(context.sample for context in contexts)
    known.look([*rendered, *painted], processes=2)
    monkeypatch.setattr(index, "_perceive", None)  # nothing is left to perceive
    for before, after in zip(rendered, painted, strict=True):
        sample = next(context.sample for context in contexts if context.sample.id == before.sample_id)
        assert before.hidden is not None
        assert known.picture(sample.source, sample.instruction, before.image) == from_json(before.hidden)
        seen = known.picture(sample.source, sample.instruction, after.image)
        assert seen == perceive(decode_rgb(after.image), scene_of(sample), edit_of(sample))


def test_a_stranger_is_an_error(candidates: tuple[list[Context], list[Candidate]]) -> None:
    with pytest.raises(KeyError):
        WorldIndex().look(candidates[1])
