"""The imperfect editors as real ones are called: samples and seeds in, encoded pictures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edit_r1.editors.protocol import EditedImage
from edit_r1.images import encode_png
from edit_r1.records import Sample
from edit_r1.world.flaws import PROFILES, drift
from edit_r1.world.render import render_one
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.world.scenes import to_json


class SimulatedEditor:
    """One failure profile of `flaws.PROFILES`, drifting below every threshold now and then."""

    simulated = True

    def __init__(self, profile: str) -> None:
        """Raises ValueError for a profile that does not exist."""
        if profile not in PROFILES:
            raise ValueError(f"profile={profile!r}: choose one of {', '.join(PROFILES)}")
        self.profile = profile
        self.name = f"world/{profile}"

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """One picture per (sample, seed); the same pair always gives the same picture."""
        return [self._edit_one(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]

    def _edit_one(self, sample: Sample, seed: int) -> EditedImage:
        rng = np.random.default_rng([int(sample.id, 16), seed, list(PROFILES).index(self.profile)])
        scene, edit = scene_of(sample), edit_of(sample)
        edited, damage = drift(rng, scene, *PROFILES[self.profile](rng, scene, edit))
        return EditedImage(encode_png(render_one(edited, damage)), hidden=to_json(edited, damage))


def all_editors() -> list[SimulatedEditor]:
    """Every profile, the usually right one first."""
    return [SimulatedEditor(profile) for profile in PROFILES]
