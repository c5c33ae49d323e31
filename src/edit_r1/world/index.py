"""What simulated models know: which picture shows which scene, found again by the picture's own bytes.

A simulated VLM is given what a real one is given, images and text. It recognises pictures that
EditWorld rendered by their hash; any other picture (a neural editor's) is perceived from its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from edit_r1.images import decode_rgb
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
        self._rendered: dict[str, tuple[Scene, Damage]] = {}
        self._perceived: dict[tuple[str, str, str], tuple[Scene, Damage]] = {}
        self.add(samples, candidates)

    def add(self, samples: Iterable[Sample] = (), candidates: Iterable[Candidate] = ()) -> None:
        """Remember contexts and rendered pictures; pictures without a hidden state are left to perception."""
        for sample in samples:
            self._contexts[_key(sample.source), sample.instruction] = Known(scene_of(sample), edit_of(sample))
        for candidate in candidates:
            if candidate.hidden is not None:
                self._rendered[_key(candidate.image)] = from_json(candidate.hidden)

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
            self._perceived[key] = perceive(decode_rgb(image), known.scene, known.edit)
        return self._perceived[key]
