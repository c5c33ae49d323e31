"""How well the oracle from pixels agrees with the oracle from the scene graph, on rendered candidates.

    python bench/oracle_agreement.py --count 3000 --out runs/oracle_agreement.json
    python bench/oracle_agreement.py --count 1000 --vae src/edit_r1/zoo/weights/editor

Candidates come from every failure profile in turn, with drift, over every category of edit and the train
and test splits; the stress split (photographs) is counted apart. With `--vae`, every picture goes through
the editor's autoencoder before it is perceived.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from edit_r1.world.edits import CATEGORIES, MULTI_STEP, Edit, sample_edit
from edit_r1.world.flaws import PROFILES, drift
from edit_r1.world.oracle import judge
from edit_r1.world.perceive import perceive
from edit_r1.world.render import render_one
from edit_r1.world.scenes import Damage, Scene, sample_scene

BATCH = 64


@dataclass(frozen=True)
class Case:
    """One rendered candidate with what it shows."""

    split: str
    profile: str
    source: Scene
    edit: Edit
    scene: Scene
    damage: Damage
    image: np.ndarray
    """uint8 (64, 64, 3)."""


@dataclass
class Tally:
    """Verdicts counted over candidates."""

    candidates: int = 0
    verdicts: int = 0
    agreed: int = 0
    failed: int = 0
    """Verdicts that are 0 by the scene graph."""
    failed_agreed: int = 0
    utility_difference: float = 0.0
    """Summed absolute difference, 0 to 10 each."""
    kinds: dict[str, list[int]] = field(default_factory=dict)
    """Per kind of check: [verdicts, agreed, failed, failed and agreed]."""

    def add(self, kind: str, gold: int, seen: int) -> None:
        """One verdict."""
        counts = self.kinds.setdefault(kind, [0, 0, 0, 0])
        for slot, hit in enumerate((True, gold == seen, gold == 0, gold == 0 and seen == 0)):
            counts[slot] += hit
        self.verdicts += 1
        self.agreed += gold == seen
        self.failed += gold == 0
        self.failed_agreed += gold == 0 and seen == 0

    def row(self) -> dict[str, float | None]:
        """Counts and shares."""
        return {
            "candidates": self.candidates,
            "verdicts": self.verdicts,
            "agreement": share(self.agreed, self.verdicts),
            "failed": self.failed,
            "failed_agreement": share(self.failed_agreed, self.failed),
            "utility_difference": share(self.utility_difference, self.candidates),
        }


def share(part: float, whole: int) -> float | None:
    """None of nothing: a check that never failed was not shown to be seen when it fails."""
    return part / whole if whole else None


def cases(count: int, seed: int, splits: tuple[str, ...]) -> Iterator[Case]:
    """`count` candidates: splits, categories and profiles in turn."""
    names, categories = list(PROFILES), (*CATEGORIES, MULTI_STEP)
    index = 0
    rng = np.random.default_rng(seed)
    while index < count:
        split = splits[index % len(splits)]
        source = sample_scene(rng, split)
        edit = sample_edit(rng, source, categories[index % len(categories)], split)
        if edit is None:
            continue
        profile = names[(index // len(categories) + index) % len(names)]
        scene, damage = drift(rng, source, *PROFILES[profile](rng, source, edit))
        index += 1
        yield Case(split, profile, source, edit, scene, damage, render_one(scene, damage))


def round_trip(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 (B, 64, 64, 3) to the same after the autoencoder in `path`, or in its folder `vae`."""
    from diffusers import AutoencoderKL

    from edit_r1.zoo.vae import decode, encode

    folder = path / "vae" if (path / "vae").exists() else path
    vae = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    return lambda pictures: decode(vae, encode(vae, pictures))


def compare(
    count: int, seed: int, splits: tuple[str, ...], through: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[dict[str, Tally], float]:
    """Tallies per profile, and the mean seconds of CPU per picture."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    seconds, pending = 0.0, list(cases(count, seed, splits))
    for begin in range(0, len(pending), BATCH):
        batch = pending[begin : begin + BATCH]
        images = np.stack([case.image for case in batch])
        images = through(images) if through is not None else images
        for case, image in zip(batch, images, strict=True):
            start = time.process_time()
            seen = judge(case.source, case.edit, *perceive(image, case.source, case.edit))
            seconds += time.process_time() - start
            gold = judge(case.source, case.edit, case.scene, case.damage)
            tally = tallies[case.profile]
            tally.candidates += 1
            tally.utility_difference += abs(gold.utility - seen.utility)
            for check, first, second in zip(gold.checks, gold.values, seen.values, strict=True):
                tally.add(check.kind, first, second)
    return dict(tallies), seconds / max(1, len(pending))


def merged(tallies: list[Tally]) -> Tally:
    """Their sum."""
    total = Tally()
    for tally in tallies:
        total.candidates += tally.candidates
        total.verdicts += tally.verdicts
        total.agreed += tally.agreed
        total.failed += tally.failed
        total.failed_agreed += tally.failed_agreed
        total.utility_difference += tally.utility_difference
        for kind, counts in tally.kinds.items():
            old = total.kinds.get(kind, [0, 0, 0, 0])
            total.kinds[kind] = [a + b for a, b in zip(old, counts, strict=True)]
    return total


def report(title: str, tallies: dict[str, Tally], seconds: float) -> dict[str, object]:
    """Print a table and return it as JSON."""
    total = merged(list(tallies.values()))
    by_kind = {
        kind: {"verdicts": n, "agreement": share(a, n), "failed": f, "failed_agreement": share(fa, f)}
        for kind, (n, a, f, fa) in sorted(total.kinds.items())
    }
    by_profile = {name: tally.row() for name, tally in tallies.items()}
    print(f"\n{title}: {total.candidates} candidates, {1000 * seconds:.1f} ms of CPU a picture")
    print(f"{'':22}{'verdicts':>9}{'agree':>9}{'failed':>8}{'agree':>9}{'utility':>9}")
    for name, row in [*by_profile.items(), ("all", total.row()), *by_kind.items()]:
        all_of, failed = (told(row[one], 4) for one in ("agreement", "failed_agreement"))
        difference = told(row["utility_difference"], 3) if "utility_difference" in row else ""
        print(f"{name:22}{row['verdicts']:9.0f}{all_of}{row['failed']:8.0f}{failed}{difference}")
    return {"all": total.row(), "profiles": by_profile, "kinds": by_kind, "seconds_per_picture": seconds}


def told(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:9.{digits}f}"


def main(count: int = 3000, stress: int = 600, seed: int = 0, vae: Path | None = None, out: Path | None = None) -> None:
    """Compare both ways into the oracle.

    Args:
        count: candidates of the train and test splits.
        stress: candidates of the stress split.
        seed: of the candidates.
        vae: folder of an editor or of its autoencoder; pictures take a round trip through it.
        out: where the numbers go, JSON.
    """
    through = round_trip(vae) if vae is not None else None
    result: dict[str, object] = {"count": count, "stress_count": stress, "seed": seed, "vae": vae is not None}
    for title, number, splits in (("train and test", count, ("train", "test")), ("stress", stress, ("stress",))):
        if number > 0:
            result[title] = report(title, *compare(number, seed, splits, through))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(out.name + ".part")
        part.write_text(json.dumps(result, indent=1))
        part.replace(out)


if __name__ == "__main__":
    tyro.cli(main)
