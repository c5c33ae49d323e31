"""Gold by one verifier, by a majority, and by weighted votes: how often it is right, on EditWorld where truth is known.

    python bench/ensemble_gold.py --out runs/ensemble_gold.json

Candidates come from every failure profile of the imperfect editors; the truth of each principle is the oracle's.
Members are simulated: each passes failed points at rates by the kind of failure, and fails fulfilled ones at a rate,
drawn anew for every point. Within a kind of failure errors of different members are independent, which those of real
models are less; a rate that several share ("shifted" things, say) is the only blind spot that they have in common.
Weights, of one side (the balanced accuracy's log-odds) and of two (of yes and no apart), are those of `curate.weigh`
from a gold set of other sources. Every share is over all seeds, its interval draws seeds, then sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from edit_r1.curate.ensemble import combine
from edit_r1.curate.weigh import Reliability, Sides, reliabilities, weights_of
from edit_r1.records import GoldVerdicts, Verdict
from edit_r1.stats import nested_ci
from edit_r1.store import write_json
from edit_r1.world.checks import checks_for, holds
from edit_r1.world.flaws import PROFILES
from edit_r1.world.frozen import JUDGE_FAILS, JUDGE_PASSES, VERIFIER_FAILS, VERIFIER_PASSES
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.simulated_judges import failure_kind

CANDIDATES = 4
SIDES: tuple[Sides, Sides] = ("one", "two")


@dataclass(frozen=True)
class Errors:
    """A simulated member."""

    passes: Mapping[str, float]
    """Chance that a failed point is passed, by the kind of failure."""
    fails: float
    """Chance that a fulfilled point is failed."""


KINDS = tuple(VERIFIER_PASSES)
FROZEN = Errors(VERIFIER_PASSES, VERIFIER_FAILS)
"""EditWorld's simulated verifier."""
EVEN = Errors(dict.fromkeys(KINDS, 0.3), 0.03)
"""As often wrong on every kind of failure."""
OTHER = Errors(dict(zip(KINDS, (0.15, 0.2, 0.25, 0.6, 0.5, 0.15), strict=True)), 0.03)
"""Blind to other kinds: weak edits and backgrounds."""
YES = Errors(dict.fromkeys(KINDS, 0.95), 0.02)
"""Says yes to nearly everything."""
COIN = Errors(dict.fromkeys(KINDS, 0.5), 0.5)
JUDGES = {name: Errors(JUDGE_PASSES[name], JUDGE_FAILS[name]) for name in JUDGE_PASSES}

SETTINGS: dict[str, tuple[Errors, ...]] = {
    "three alike": (FROZEN, FROZEN, FROZEN),
    "three different": (FROZEN, EVEN, OTHER),
    "four, half say yes to nearly all": (FROZEN, EVEN, YES, YES),
    "four, half guess": (FROZEN, EVEN, COIN, COIN),
    "five, three guess": (FROZEN, EVEN, COIN, COIN, COIN),
    "the verifier and the three judges": (FROZEN, *JUDGES.values()),
}
"""The first member is the single verifier that the others are compared with."""


@dataclass(frozen=True)
class Candidate:
    """The points of one candidate."""

    name: str
    source: str
    truth: tuple[int, ...]
    kinds: tuple[str, ...]
    """Kind of failure where truth is 0, "" elsewhere."""


def candidates(count: int, seed: int, split: str) -> list[Candidate]:
    """`CANDIDATES` of each of `count` sources, the failure profiles in turn."""
    rng = np.random.default_rng([seed, count])
    made = []
    names = sorted(PROFILES)
    for number, sample in enumerate(make_samples(count, split, seed)):
        scene, edit = scene_of(sample), edit_of(sample)
        checks = checks_for(scene, edit)
        for turn in range(CANDIDATES):
            edited, damage = PROFILES[names[(CANDIDATES * number + turn) % len(names)]](rng, scene, edit)
            truth = tuple(int(holds(check, scene, edited, damage)) for check in checks)
            kinds = tuple(
                "" if value else failure_kind(check, scene, edited) for check, value in zip(checks, truth, strict=True)
            )
            made.append(Candidate(f"{sample.id}-{turn}", sample.id, truth, kinds))
    return made


def votes(members: Sequence[Errors], given: Sequence[Candidate], seed: int) -> list[list[GoldVerdicts]]:
    """By candidate, each member's."""
    rng = np.random.default_rng([seed, 77])
    found = []
    for candidate in given:
        own = []
        for number, member in enumerate(members):
            chances = [
                member.fails if value else member.passes[kind]
                for value, kind in zip(candidate.truth, candidate.kinds, strict=True)
            ]
            wrong = rng.random(len(chances)) < chances
            values = [value ^ int(flip) for value, flip in zip(candidate.truth, wrong, strict=True)]
            own.append(GoldVerdicts(candidate.name, tuple(Verdict(1 if v else 0) for v in values), f"m{number}"))
        found.append(own)
    return found


@dataclass
class Right:
    """Whether each verdict of one way was right, with what it belongs to."""

    flags: list[bool]
    failed: list[bool]
    """Whether truth is 0."""
    seeds: list[int]
    sources: list[str]

    def add(self, candidate: Candidate, gold: GoldVerdicts, seed: int) -> None:
        for truth, verdict in zip(candidate.truth, gold.gold, strict=True):
            self.flags.append(verdict.value == truth)
            self.failed.append(truth == 0)
            self.seeds.append(seed)
            self.sources.append(candidate.source)

    def shares(self, single: Right) -> dict[str, Any]:
        """Share that is right, and what it is more than the single verifier's on the same points."""
        found: dict[str, Any] = {}
        for name, wanted in (("all", None), ("failed", True), ("fulfilled", False)):
            places = [place for place, failed in enumerate(self.failed) if wanted is None or failed == wanted]
            own = [float(self.flags[place]) for place in places]
            more = [value - single.flags[place] for value, place in zip(own, places, strict=True)]
            runs, sources = [self.seeds[place] for place in places], [self.sources[place] for place in places]
            share, gain = (nested_ci(values, runs, sources, resamples=400) for values in (own, more))
            found[name] = {
                "mean": share.mean, "ci95": share.ci95, "gain": gain.mean, "gain_ci95": gain.ci95, "n": share.n,
            }  # fmt: skip
        return found


def measure(members: Sequence[Errors], sources: int, gold_sources: int, seeds: int) -> Iterator[dict[str, Any]]:
    ways = {name: Right([], [], [], []) for name in ("single", "majority", "one-sided", "two-sided")}
    found: list[list[Reliability]] = []
    for seed in range(seeds):
        known = candidates(gold_sources, seed, "train")
        cast = [vote for own in votes(members, known, seed) for vote in own]
        found.append(reliabilities(cast, {one.name: one.truth for one in known}))
        one_sided, two_sided = ({name: (yes, no) for name, yes, no in weights_of(found[-1], sides)} for sides in SIDES)
        given = candidates(sources, seed, "test")
        for candidate, own in zip(given, votes(members, given, 1000 + seed), strict=True):
            ways["single"].add(candidate, own[0], seed)
            ways["majority"].add(candidate, combine(own), seed)
            ways["one-sided"].add(candidate, combine(own, one_sided), seed)
            ways["two-sided"].add(candidate, combine(own, two_sided), seed)
    weights = [[[one.weight, one.yes_weight, one.no_weight] for one in own] for own in found]
    for name, right in ways.items():
        yield {"way": name, **right.shares(ways["single"]), "mean_weights": np.mean(weights, axis=0).tolist()}


def main(out: Path, sources: int = 200, gold_sources: int = 25, seeds: int = 5) -> None:
    """sources: of each seed, `CANDIDATES` candidates each. gold_sources: of the gold set."""
    rows = []
    print(f"{'setting':34} {'way':9} {'all points':>22} {'failed points':>22} {'fulfilled points':>22}")
    for setting, members in SETTINGS.items():
        for row in measure(members, sources, gold_sources, seeds):
            rows.append({"setting": setting, "members": len(members), **row})
            shares = " ".join(f"{told(row[name]):>22}" for name in ("all", "failed", "fulfilled"))
            print(f"{setting:34} {row['way']:9} {shares}", flush=True)
    write_json(out, {"sources": sources, "gold_sources": gold_sources, "seeds": seeds, "rows": rows})


def told(share: dict[str, Any]) -> str:
    low, high = share["ci95"]
    return f"{share['mean']:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    tyro.cli(main)
