"""The demo's data: contexts, candidates, judged traces, and pairs compared by simulated annotators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edit_r1.curate.chunk import STEPS
from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import edit
from edit_r1.curate.run import curate
from edit_r1.demo.stages import Tick
from edit_r1.preferences.pairs import collect, distinct_candidates
from edit_r1.recipes.tiny import TinySizes, candidate_editors, role_samples, tiny_curation
from edit_r1.records import Candidate, Preference
from edit_r1.store import CANDIDATES, CONTEXTS, PREFERENCES, write_dataset, write_json
from edit_r1.vlm.protocol import Sampling
from edit_r1.world.annotators import SimulatedAnnotator
from edit_r1.world.checks import holds, parse_question
from edit_r1.world.frozen import ANNOTATOR_WEIGHTS
from edit_r1.world.index import WorldIndex
from edit_r1.world.oracle import judge
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.world.simulated_judges import SimulatedDecomposer


def make_cold_start(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Steps 1 to 4 of the curation, to `out/data/cold`."""
    samples = role_samples("cold", sizes.cold_contexts, seed)
    index = WorldIndex(samples)
    finished = 0

    def progress(step: str, done: int, total: int) -> None:
        nonlocal finished
        finished += 1
        tick(finished, len(STEPS) * total)

    curation = curate(tiny_curation(samples, index, sizes, seed), out / "data/cold", progress)
    return {"hashes": {name: curation.dataset(name).meta()["hash"] for name in STEPS if name != "decisions"}}


EDITED_AT_ONCE = 80
"""Contexts between two reports of progress."""


def make_preferences(out: Path, sizes: TinySizes, seed: int, tick: Tick) -> dict[str, Any]:
    """Pairs compared by simulated annotators, for training, test and stress; contexts for RL with their principles."""
    roles = {
        "pairs": sizes.pair_contexts, "test": sizes.test_contexts,
        "stress": sizes.stress_contexts, "rl": sizes.rl_contexts,
    }  # fmt: skip
    editors = candidate_editors()
    hashes, done, total = {}, 0, sum(roles.values()) - sizes.rl_contexts
    for role, count in roles.items():
        samples = role_samples(role, count, seed)
        index = WorldIndex(samples)
        contexts, lost = decompose(samples, SimulatedDecomposer(index), "compact", Sampling(512, 1.0, seed=seed))
        if lost:
            raise ValueError(f"{len(lost)} contexts could not be decomposed: {lost[0].reason}")
        hashes[f"{role}_contexts"] = write_dataset(out / "data", f"{role}_contexts", contexts, CONTEXTS)
        if role == "rl":
            continue
        candidates: list[Candidate] = []
        for start in range(0, len(contexts), EDITED_AT_ONCE):
            chunk = contexts[start : start + EDITED_AT_ONCE]
            made, failed = edit(chunk, editors, sizes.candidates, seed)
            if failed:
                raise ValueError(f"{len(failed)} candidates could not be made: {failed[0].reason}")
            index.look(made)
            candidates += made
            tick(done + len(candidates) // sizes.candidates, total)
        done += count
        annotators = [SimulatedAnnotator(person, index) for person in ANNOTATOR_WEIGHTS]
        preferences = collect(contexts, candidates, annotators, sizes.pairs_per_context, seed)
        hashes[role] = write_dataset(out / "data", role, preferences, PREFERENCES)
        write_dataset(out / "data", f"{role}_candidates", candidates, CANDIDATES)
        if role in ("test", "stress"):
            gold = {name: _gold_of(*pair, index) for name, pair in distinct_candidates(preferences).items()}
            write_json(out / "data" / f"{role}_gold.json", gold)
    return {"hashes": hashes}


def _gold_of(preference: Preference, candidate: Candidate, index: WorldIndex) -> tuple[list[int], float]:
    """Gold verdicts of a candidate, in the order of its context's principles, and its oracle utility."""
    sample = preference.context.sample
    source, wanted = scene_of(sample), edit_of(sample)
    edited, damage = index.picture(sample.source, sample.instruction, candidate.image)
    values = []
    for principle in preference.context.principles:
        check = parse_question(principle.question)
        assert check is not None, "a simulated decomposer writes EditWorld's own questions"
        values.append(int(holds(check, source, edited, damage)))
    return values, judge(source, wanted, edited, damage).utility
