"""Edits, principles and the oracle's gold: what is right scores 10, what is not is found."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from edit_r1.records import CATEGORIES as PRINCIPLE_CATEGORIES
from edit_r1.world import edits, flaws, frozen, scenes
from edit_r1.world.checks import (
    TEMPLATES,
    Check,
    checks_for,
    core_checks,
    evidence,
    holds,
    parse_question,
    principle,
    question,
)
from edit_r1.world.edits import CATEGORIES, MULTI_STEP, Edit, Step
from edit_r1.world.oracle import judge, utility
from edit_r1.world.phrases import PHRASES
from edit_r1.world.scenes import Damage, Scene, Thing


def _contexts(count: int, split: str = "train", seed: int = 0) -> list[tuple[Scene, Edit]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[Scene, Edit]] = []
    kinds = [*CATEGORIES, MULTI_STEP]
    while len(found) < count:
        scene = scenes.sample_scene(rng, split)
        edit = edits.sample_edit(rng, scene, kinds[len(found) % len(kinds)], split)
        if edit is not None:
            found.append((scene, edit))
    return found


CONTEXTS = _contexts(360)


def test_every_category_has_five_phrasings_and_the_paper_has_eleven() -> None:
    assert len(CATEGORIES) == 11
    assert set(PHRASES) == set(CATEGORIES)
    assert all(len(set(phrasings)) >= 5 for phrasings in PHRASES.values())


@pytest.mark.parametrize("split", ["train", "test"])
def test_targets_are_valid_and_stay_in_the_split(split: str) -> None:
    for scene, edit in _contexts(120, split, seed=3):
        target = edit.apply(scene)
        assert target != scene
        assert scenes.is_valid(target)
        assert scenes.belongs(target, split)


def test_instructions_name_a_thing_that_is_there_once() -> None:
    for scene, edit in CONTEXTS:
        for step in edit.steps:
            thing = scene.at(step.place) if step.place is not None else None
            if thing is not None:
                assert thing.name in edit.instruction
                assert sum(other.name == thing.name for other in scene.things) == 1
        assert " a orange" not in edit.instruction and " a outlined" not in edit.instruction
        assert edit.instruction[0].isupper() and edit.instruction.endswith(".")


def test_edits_survive_json() -> None:
    for _, edit in CONTEXTS:
        assert edits.from_json(edits.to_json(edit)) == edit


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(ValueError, match="portrait"):
        edits.sample_edit(np.random.default_rng(0), CONTEXTS[0][0], "portrait")


def test_questions_and_checks_are_one_thing_in_two_spellings() -> None:
    seen = set()
    for scene, edit in CONTEXTS:
        for check in checks_for(scene, edit):
            assert parse_question(question(check)) == check
            seen.add(check.kind)
    assert seen == set(TEMPLATES)
    assert parse_question("Is the hat red?") is None


def test_each_context_has_principles_of_all_three_categories() -> None:
    for scene, edit in CONTEXTS:
        principles = [principle(check) for check in checks_for(scene, edit)]
        assert {item.category for item in principles} == set(PRINCIPLE_CATEGORIES)
        assert 6 <= len(principles) <= 14
        assert len({item.question for item in principles}) == len(principles)
        order = [PRINCIPLE_CATEGORIES.index(item.category) for item in principles]
        assert order == sorted(order)


def test_the_exact_target_is_right_in_every_point() -> None:
    for scene, edit in CONTEXTS:
        gold = judge(scene, edit, edit.apply(scene), Damage())
        assert all(gold.values), (edit, [c for c, v in zip(gold.checks, gold.values, strict=True) if not v])
        assert gold.utility == 10.0


def test_an_unedited_picture_is_worth_nothing() -> None:
    for scene, edit in CONTEXTS:
        gold = judge(scene, edit, scene, Damage())
        assert gold.utility == 0.0
        for check, value in zip(gold.checks, gold.values, strict=True):
            if check in core_checks(scene, edit):
                assert value == 0
            elif TEMPLATES[check.kind][0] != PRINCIPLE_CATEGORIES[0]:
                assert value == 1


def test_a_white_border_is_worth_nothing() -> None:
    for scene, edit in CONTEXTS[:40]:
        assert judge(scene, edit, edit.apply(scene), Damage(border=3)).utility == 0.0


def test_a_small_move_does_not_count() -> None:
    rng = np.random.default_rng(0)
    moves = [(scene, edit) for scene, edit in CONTEXTS if edit.category == "motion change"]
    for scene, edit in moves:
        moved, damage = flaws.timid(rng, scene, edit)
        assert moved != scene
        assert judge(scene, edit, moved, damage).utility == 0.0


def test_collateral_costs_more_than_a_missed_side_point() -> None:
    thing = Thing("circle", "red", "large", "solid", 0)
    other = Thing("square", "green", "small", "solid", 1)
    scene = Scene((thing, other), "white")
    new = Thing("star", "blue", "large", "solid", 0)
    edit = Edit("", "subject replacement", (Step("subject replacement", place=0, value="star", new=new),))
    wrong_colour = scene.with_thing(replace(new, colour="purple"))
    leaked = edit.apply(scene).with_thing(replace(other, colour="blue"))
    missed = judge(scene, edit, wrong_colour, Damage()).utility
    collateral = judge(scene, edit, leaked, Damage()).utility
    assert 0 < collateral < missed < 10


def test_the_leak_of_the_paper_is_found() -> None:
    """Make the shirt red, and the hat turns red too: the hat's principle fails, the shirt's holds."""
    shirt, hat = Thing("square", "blue", "large", "solid", 2), Thing("triangle", "green", "small", "solid", 0)
    scene = Scene((hat, shirt), "white")
    edit = Edit("", "colour alteration", (Step("colour alteration", place=2, value="red"),))
    edited = edit.apply(scene).with_thing(replace(hat, colour="red"))
    gold = judge(scene, edit, edited, Damage())
    values = dict(zip(gold.checks, gold.values, strict=True))
    assert values[Check("attribute", "blue square", "red")] == 1
    assert values[Check("keep", "green triangle")] == 0


def test_utility_against_a_brute_force_twin() -> None:
    rng = np.random.default_rng(5)
    for scene, edit in CONTEXTS:
        checks, cores = checks_for(scene, edit), core_checks(scene, edit)
        values = [int(value) for value in rng.random(len(checks)) < 0.7]
        expected = 10.0 * sum(v for c, v in zip(checks, values, strict=True) if c in cores) / len(cores)
        border = values[[c.kind for c in checks].index("border")]
        if expected == 0 or not border:
            expected = 0.0
        else:
            for check, value in zip(checks, values, strict=True):
                if value or check in cores:
                    continue
                expected -= {
                    "Instruction Following": frozen.MISSED_SIDE_POINT,
                    "Feature Preservation": frozen.COLLATERAL_CHANGE,
                    "Image Quality": frozen.QUALITY_COST.get(check.kind, 0),
                }[TEMPLATES[check.kind][0]]
        assert utility(checks, values, cores) == pytest.approx(max(0.0, expected))


def test_profiles_do_what_they_say() -> None:
    rng = np.random.default_rng(1)
    utilities = defaultdict(list)
    for scene, edit in CONTEXTS:
        for name, profile in flaws.PROFILES.items():
            edited, damage = profile(rng, scene, edit)
            gold = judge(scene, edit, edited, damage)
            utilities[name].append(gold.utility)
            if name in ("lazy", "confused"):
                assert gold.utility == 0.0
            if name in ("leaky", "repainter", "inventor", "rough", "sloppy"):
                assert not all(gold.values), (name, edit, edited)
            if name == "rough":
                assert not damage.none
    assert np.mean(utilities["careful"]) > 8
    assert max(utilities["timid"]) == 0.0


def test_drift_never_changes_a_verdict() -> None:
    rng = np.random.default_rng(2)
    drifted = 0
    for scene, edit in CONTEXTS:
        for profile in flaws.PROFILES.values():
            edited, damage = profile(rng, scene, edit)
            after = flaws.drift(rng, scene, edited, damage)
            drifted += after != (edited, damage)
            assert judge(scene, edit, *after) == judge(scene, edit, edited, damage)
    assert drifted > 500


def test_evidence_speaks_of_what_settles_the_check() -> None:
    rng = np.random.default_rng(3)
    for scene, edit in CONTEXTS[:120]:
        edited, damage = flaws.sloppy(rng, scene, edit)
        for check in checks_for(scene, edit):
            line = evidence(check, scene, edited, damage)
            assert line == line.strip() and "\n" not in line and ":" not in line
            if check.kind.startswith("keep ") and check.kind.split()[1] in ("background", "tone", "style", "look"):
                assert line.endswith(", unchanged") == holds(check, scene, edited, damage)
            if check.kind == "keep":
                was, now, change = line.split(", ")
                assert (change == "unchanged") == holds(check, scene, edited, damage)
                same = was.removeprefix("was ") == now.removeprefix("now ")
                assert same or change.startswith(("change of", "gone"))
