"""What simulated models know: which picture shows which scene, found again by the picture's own bytes.

A simulated VLM is given what a real one is given, images and text. It recognises pictures that
EditWorld rendered by their hash; any other picture (a neural editor's) is perceived from its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from edit_r1.images import decode_rgb
from edit_r1.processes import spread
from edit_r1.records import Candidate, Sample
from edit_r1.world.edits import Edit
from edit_r1.world.perceive import perceive
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.world.scenes import Damage, Scene, from_json


@dataclass(frozen=True)
class Known:
    """A context as its maker knows it."""

    scene: Scene
    edit: Edit


def _key(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


class WorldIndex:
    """Hidden states by image hash. Grows as pictures are made; `perceive` fills the rest and is remembered."""

    def __init__(self, samples: Iterable[Sample] = (), candidates: Iterable[Candidate] = ()) -> None:
        self._contexts: dict[tuple[str, str], Known] = {}
        self._samples: dict[str, Sample] = {}
        self._rendered: dict[str, tuple[Scene, Damage]] = {}
        self._perceived: dict[tuple[str, str, str], tuple[Scene, Damage]] = {}
        self.add(samples, candidates)

    def add(self, samples: Iterable[Sample] = (), candidates: Iterable[Candidate] = ()) -> None:
        """Remember contexts and rendered pictures; pictures without a hidden state are left to perception."""
        for sample in samples:
            self._contexts[_key(sample.source), sample.instruction] = Known(scene_of(sample), edit_of(sample))
            self._samples[sample.id] = sample
        for candidate in candidates:
            if candidate.hidden is not None:
                self._rendered[_key(candidate.image)] = from_json(candidate.hidden)

    def introduce(self, samples: Iterable[Sample], candidates: Iterable[Candidate]) -> None:
        """`add` and `look`, as a curation shows them (`CurateStage.introduce`)."""
        self.add(samples)
        self.look(candidates)

    def look(self, candidates: Iterable[Candidate], processes: int | None = None) -> None:
        """`add`, and perceive now what has to be perceived, on every core; what is seen does not depend on that.

        processes: None takes as many as there are cores. Above 1, a script that calls this needs the usual
        `if __name__ == "__main__"`. Raises KeyError for a candidate of a sample never added.
        """
        candidates = list(candidates)
        self.add(candidates=candidates)
        work: dict[tuple[str, str, str], tuple[bytes, Scene, Edit]] = {}
        for candidate in candidates:
            sample = self._samples[candidate.sample_id]
            key = (_key(sample.source), sample.instruction, _key(candidate.image))
            if key[2] not in self._rendered and key not in self._perceived and candidate.image != sample.source:
                known = self.context(sample.source, sample.instruction)
                work[key] = (candidate.image, known.scene, known.edit)
        self._perceived.update(zip(work, spread(_perceive, work.values(), processes), strict=True))

    def context(self, source: bytes, instruction: str) -> Known:
        """The scene and the edit behind (source, instruction); KeyError when they were never added."""
        return self._contexts[_key(source), instruction]

    def picture(self, source: bytes, instruction: str, image: bytes) -> tuple[Scene, Damage]:
        """What an edited picture shows: as rendered when it was, perceived from pixels otherwise."""
        rendered = self._rendered.get(_key(image))
        if rendered is not None:
            return rendered
        known = self.context(source, instruction)
        if image == source:
            return known.scene, Damage()
        key = (_key(source), instruction, _key(image))
        if key not in self._perceived:
            self._perceived[key] = _perceive((image, known.scene, known.edit))
        return self._perceived[key]


def _perceive(work: tuple[bytes, Scene, Edit]) -> tuple[Scene, Damage]:
    image, scene, edit = work
    return perceive(decode_rgb(image), scene, edit)
