"""Simulated editors, judges, decomposer, verifier and annotators: they speak the real protocols, biased as declared."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from edit_r1.images import decode_rgb
from edit_r1.records import Candidate, Context, Principle, Sample, Trace, Unparsed
from edit_r1.verifier.parsing import parse_gold, parse_principles, parse_trace
from edit_r1.verifier.prompts import decompose_request, judge_request, verify_request
from edit_r1.vlm.protocol import Sampling
from edit_r1.world import frozen
from edit_r1.world.annotators import SimulatedAnnotator
from edit_r1.world.checks import checks_for, evidence, holds, principle
from edit_r1.world.export import write_world_samples
from edit_r1.world.flaws import PROFILES
from edit_r1.world.index import WorldIndex
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.world.scenes import from_json
from edit_r1.world.simulated_editors import SimulatedEditor, all_editors
from edit_r1.world.simulated_judges import (
    POOL,
    SimulatedDecomposer,
    SimulatedJudge,
    SimulatedVerifier,
    failure_kind,
)

SAMPLES = make_samples(44, "train", seed=0)
SAMPLED = Sampling(512, temperature=1.0)


def _candidates(samples: list[Sample]) -> list[Candidate]:
    found = []
    for editor in all_editors():
        for sample, edit in zip(samples, editor.edit(samples, [0] * len(samples)), strict=True):
            assert edit.image is not None
            name = f"{sample.id}-{editor.profile}"
            found.append(Candidate(name, sample.id, edit.image, editor.name, 0, edit.hidden))
    return found


CANDIDATES = _candidates(SAMPLES)
INDEX = WorldIndex(SAMPLES, CANDIDATES)
BY_ID = {sample.id: sample for sample in SAMPLES}


def _principles(sample: Sample) -> list[Principle]:
    return [principle(check) for check in checks_for(scene_of(sample), edit_of(sample))]


def test_samples_are_stable_and_balanced() -> None:
    assert make_samples(5, "train", 0) == SAMPLES[:5]
    assert make_samples(3, "train", 0, start=2) == SAMPLES[2:5]
    assert len({sample.id for sample in SAMPLES}) == len(SAMPLES)
    assert {sample.subset for sample in SAMPLES} == {"random", "hard"}
    assert decode_rgb(SAMPLES[0].source).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="split='all'"):
        make_samples(1, "all", 0)


def test_a_real_sample_has_no_scene() -> None:
    with pytest.raises(ValueError, match="not of EditWorld"):
        scene_of(Sample("x", b"", "do", "colour"))


def test_editors_repeat_themselves_and_differ_by_seed() -> None:
    editor = SimulatedEditor("sloppy")
    first = editor.edit(SAMPLES, [1] * len(SAMPLES))
    assert first == editor.edit(SAMPLES, [1] * len(SAMPLES))
    assert first != editor.edit(SAMPLES, [2] * len(SAMPLES))
    assert len(PROFILES) >= 7
    with pytest.raises(ValueError, match="profile"):
        SimulatedEditor("perfect")


def test_the_index_knows_rendered_pictures_and_sources() -> None:
    candidate = CANDIDATES[0]
    sample = BY_ID[candidate.sample_id]
    assert candidate.hidden is not None
    assert INDEX.picture(sample.source, sample.instruction, candidate.image) == from_json(candidate.hidden)
    assert INDEX.picture(sample.source, sample.instruction, sample.source)[0] == scene_of(sample)


def test_unknown_pictures_are_perceived_from_pixels() -> None:
    sample = SAMPLES[0]
    index = WorldIndex([sample])
    candidate = next(c for c in CANDIDATES if c.sample_id == sample.id and c.editor == "world/lazy")
    scene, _ = index.picture(sample.source, sample.instruction, candidate.image)
    assert [thing.name for thing in scene.things] == [thing.name for thing in scene_of(sample).things]


@pytest.mark.parametrize("name", POOL)
def test_judges_write_traces_with_true_evidence_and_declared_bias(name: str) -> None:
    judge = SimulatedJudge(name, INDEX)
    assert judge.simulated
    passed: dict[str, list[int]] = defaultdict(list)
    unparsed = 0
    for candidate in CANDIDATES:
        sample = BY_ID[candidate.sample_id]
        scene, checks = scene_of(sample), checks_for(scene_of(sample), edit_of(sample))
        edited, damage = from_json(candidate.hidden or "")
        request = judge_request(
            [sample.source], candidate.image, sample.instruction, _principles(sample), "both", "compact"
        )
        for completion in judge.generate([request], SAMPLED, n=2)[0]:
            trace = parse_trace(completion.text, len(checks), "both")
            if isinstance(trace, Unparsed):
                unparsed += 1
                continue
            assert trace.verdicts is not None
            for check, verdict in zip(checks, trace.verdicts, strict=True):
                assert verdict.evidence == evidence(check, scene, edited, damage)
                kind = "right" if holds(check, scene, edited, damage) else failure_kind(check, scene, edited)
                passed[kind].append(verdict.value)
    for kind, rate in frozen.JUDGE_PASSES[name].items():
        count = len(passed[kind])
        if count:
            assert abs(np.mean(passed[kind]) - rate) < 4 * np.sqrt(0.25 / count) + 1e-9, (kind, count)
    assert abs(1 - np.mean(passed["right"]) - frozen.JUDGE_FAILS[name]) < 0.02
    assert abs(unparsed / (2 * len(CANDIDATES)) - frozen.JUDGE_UNPARSED[name]) < 0.04


def test_the_same_call_gives_the_same_text_and_traces_differ() -> None:
    judge = SimulatedJudge("hasty", INDEX)
    candidate = next(c for c in CANDIDATES if c.editor == "world/sloppy")
    sample = BY_ID[candidate.sample_id]
    request = judge_request(
        [sample.source], candidate.image, sample.instruction, _principles(sample), "both", "compact"
    )
    first = judge.generate([request], SAMPLED, n=6)
    assert first == judge.generate([request], SAMPLED, n=6)
    assert len({completion.text for completion in first[0]}) > 1
    greedy = judge.generate([request], Sampling(512, temperature=0.0), n=3)[0]
    assert len({completion.text for completion in greedy}) == 1


def test_a_judge_asked_about_something_else_fails_that_request_alone() -> None:
    sample = SAMPLES[0]
    good = judge_request([sample.source], sample.source, sample.instruction, _principles(sample), "both", "compact")
    foreign = judge_request([sample.source], sample.source, "paint a hat", _principles(sample), "both", "compact")
    odd = judge_request(
        [sample.source],
        sample.source,
        sample.instruction,
        [Principle("Is it nice?", "Image Quality")],
        "both",
        "compact",
    )
    answers = SimulatedJudge("fussy", INDEX).generate([good, foreign, odd], SAMPLED)
    assert [answer[0].finish for answer in answers] == ["stop", "error", "error"]


def test_the_decomposer_leaves_out_and_doubles_at_its_rates() -> None:
    decomposer = SimulatedDecomposer(INDEX)
    lengths, doubled = [], 0
    for seed in range(10):
        for sample in SAMPLES:
            request = decompose_request([sample.source], sample.instruction, [], "compact")
            answer = decomposer.generate([request], Sampling(512, temperature=1.0, seed=seed))[0][0]
            written = parse_principles(answer.text)
            assert not isinstance(written, Unparsed)
            full = _principles(sample)
            assert set(written) <= set(full)
            doubled += len(written) != len(set(written))
            lengths.append(len(set(written)) - len(full))
    assert -0.6 < np.mean(lengths) < -0.1
    assert 0 < doubled / len(lengths) < 0.08


def test_the_verifier_is_better_than_every_judge() -> None:
    verifier, right = SimulatedVerifier(INDEX), []
    judges: dict[str, list[bool]] = {name: [] for name in POOL}
    for candidate in CANDIDATES[::3]:
        sample = BY_ID[candidate.sample_id]
        checks, asked = checks_for(scene_of(sample), edit_of(sample)), _principles(sample)
        edited, damage = from_json(candidate.hidden or "")
        gold = [int(holds(check, scene_of(sample), edited, damage)) for check in checks]
        request = judge_request([sample.source], candidate.image, sample.instruction, asked, "both", "compact")
        texts = [SimulatedJudge(name, INDEX).generate([request], SAMPLED)[0][0].text for name in POOL]
        shown = verify_request([sample.source], candidate.image, sample.instruction, asked, texts, "compact")
        verdicts = parse_gold(verifier.generate([shown], SAMPLED)[0][0].text, len(checks))
        assert not isinstance(verdicts, Unparsed)
        right += [verdict.value == value for verdict, value in zip(verdicts, gold, strict=True)]
        for name, text in zip(POOL, texts, strict=True):
            trace = parse_trace(text, len(checks), "both")
            if isinstance(trace, Trace) and trace.verdicts is not None:
                judges[name] += [v.value == value for v, value in zip(trace.verdicts, gold, strict=True)]
    assert 1 > np.mean(right) > max(np.mean(values) for values in judges.values())


def test_annotators_are_symmetric_noisy_and_agree_mostly_with_the_oracle() -> None:
    people = [SimulatedAnnotator(person, INDEX) for person in frozen.ANNOTATOR_WEIGHTS]
    rng = np.random.default_rng(0)
    choices = []
    for sample in SAMPLES:
        context = Context(sample, (), "x")
        mine = [candidate for candidate in CANDIDATES if candidate.sample_id == sample.id]
        for _ in range(4):
            a, b = (mine[int(i)] for i in rng.choice(len(mine), 2, replace=False))
            for person in people:
                choice = person.choose(context, a, b)
                swapped = {"first": "second", "second": "first", "same": "same"}
                assert person.choose(context, b, a) == swapped[choice]
                choices.append((choice, person.utility(context, a) - person.utility(context, b)))
    same = np.mean([choice == "same" for choice, _ in choices])
    assert 0.03 < same < 0.35
    decided = [(choice == "first") == (gap > 0) for choice, gap in choices if choice != "same"]
    assert 0.75 < np.mean(decided) < 0.99
    with pytest.raises(ValueError, match="person"):
        SimulatedAnnotator("zoe", INDEX)


def test_annotators_notice_what_no_principle_asks_about() -> None:
    """A drift below every threshold moves the utility and no verdict."""
    sample = SAMPLES[3]
    scene, edit = scene_of(sample), edit_of(sample)
    from edit_r1.images import encode_png
    from edit_r1.world.render import render_one
    from edit_r1.world.scenes import Damage, to_json

    def candidate(noise: float) -> Candidate:
        damage = Damage(noise=noise, seed=1)
        target = edit.apply(scene)
        image = encode_png(render_one(target, damage))
        return Candidate(f"n{noise}", sample.id, image, "x", 0, to_json(target, damage))

    clean, drifted = candidate(0.0), candidate(0.012)
    index = WorldIndex([sample], [clean, drifted])
    person = SimulatedAnnotator("ada", index)
    context = Context(sample, (), "x")
    assert person.utility(context, clean) > person.utility(context, drifted)
    for check in checks_for(scene, edit):
        assert holds(check, scene, *from_json(clean.hidden or "")) == holds(
            check, scene, *from_json(drifted.hidden or "")
        )


def test_world_samples_on_disk(tmp_path: Path) -> None:
    rows = write_world_samples(tmp_path / "w", 3, seed=1)
    lines = [json.loads(line) for line in (tmp_path / "w/samples.jsonl").read_text().splitlines()]
    assert rows == len(lines) == 12
    for line in lines:
        assert (tmp_path / "w" / line["source"]).exists()
        assert (tmp_path / "w" / line["edited"]).exists()
        assert 0 <= line["utility"] <= 10
        assert line["principles"]
        assert all(set(item) == {"question", "category", "gold"} for item in line["principles"])
    with pytest.raises(ValueError, match="not an empty folder"):
        write_world_samples(tmp_path / "w", 3, seed=1)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
