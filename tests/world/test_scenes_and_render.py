"""The world's pictures: valid, split by content, drawn the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from edit_r1.world import scenes
from edit_r1.world.render import render, render_one, signed_distance
from edit_r1.world.scenes import Damage, Scene, Thing


def _scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [scenes.sample_scene(rng, split) for _ in range(count)]


def test_splits_share_no_combination() -> None:
    keys = {split: {scenes.content_key(s) for s in _scenes(split, 600)} for split in ("train", "validation", "test")}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


def test_the_stress_split_stands_on_photographs_and_on_test_combinations() -> None:
    for scene in _scenes("stress", 10):
        assert scene.photo is not None
        assert scenes.split_of(scene) == "test"


def test_every_attribute_occurs() -> None:
    drawn = _scenes("train", 400)
    things = [thing for scene in drawn for thing in scene.things]
    assert {thing.shape for thing in things} == set(scenes.SHAPES)
    assert {thing.colour for thing in things} == set(scenes.COLOURS)
    assert {thing.size for thing in things} == set(scenes.SIZES)
    assert {thing.material for thing in things} == set(scenes.MATERIALS)
    assert {thing.letter for thing in things} == {None, *scenes.LETTERS}
    assert {len(scene.things) for scene in drawn} == {1, 2, 3, 4}
    assert {scene.tone for scene in drawn} == set(scenes.TONES)
    assert {scene.style for scene in drawn} == set(scenes.STYLES)
    assert all(scenes.is_valid(scene) for scene in drawn)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='dev'"):
        scenes.sample_scene(np.random.default_rng(0), "dev")


def test_hidden_state_survives_json() -> None:
    thing = Thing("star", "red", "large", "solid", 2, 0.5, -1.25, "A", 0.35, ("blue", 0.3), 1.17)
    scene = Scene((thing,), "navy", True, "warm", "mosaic", ("mint", 0.3), 0.3, 0.3, None)
    damage = Damage(0.07, 1.5, 3, 2.0, 11)
    assert scenes.from_json(scenes.to_json(scene, damage)) == (scene, damage)


def test_rendering_is_deterministic_and_batches_agree() -> None:
    drawn = _scenes("train", 8)
    assert np.array_equal(render(drawn), render(drawn))
    assert np.array_equal(render(drawn)[3], render_one(drawn[3]))
    assert render(drawn).shape == (8, scenes.SIZE, scenes.SIZE, 3)


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_things_stay_inside_their_place(shape: str) -> None:
    """Even the largest thing at the largest jitter leaves its neighbour's place alone."""
    for dx in (-scenes.JITTER, scenes.JITTER):
        thing = Thing(shape, "red", "large", "solid", 0, dx, scenes.JITTER)
        with_thing = render_one(Scene((thing,), "white")).astype(int)
        without = render_one(Scene((), "white")).astype(int)
        changed = np.abs(with_thing - without).sum(axis=-1) > 90
        assert changed.any()
        assert not changed[:, scenes.CELL + 1 :].any()
        assert not changed[scenes.CELL + 1 :].any()


def test_signed_distance_has_the_right_sign() -> None:
    for shape in scenes.SHAPES:
        assert signed_distance(shape, np.zeros(1), np.zeros(1), 10.0)[0] < 0
        assert signed_distance(shape, np.full(1, 30.0), np.zeros(1), 10.0)[0] > 0
    # The circle has a brute-force twin: the distance to the nearest of many points of its outline.
    points = np.random.default_rng(0).uniform(-15, 15, (50, 2))
    angle = np.linspace(0, 2 * np.pi, 20_000)
    outline = 9.4 * np.stack([np.cos(angle), np.sin(angle)], -1)
    for x, y in points:
        nearest = np.hypot(*(outline - (x, y)).T).min()
        value = signed_distance("circle", np.array([x]), np.array([y]), 10.0)[0]
        assert abs(abs(value) - nearest) < 1e-3
        assert (value < 0) == (np.hypot(x, y) < 9.4)


@pytest.mark.parametrize(
    "damage", [Damage(noise=0.06, seed=1), Damage(blur=1.5), Damage(border=4), Damage(saturation=2.0)]
)
def test_damage_is_visible(damage: Damage) -> None:
    scene = Scene((Thing("circle", "green", "large", "solid", 1),), "sky")
    assert np.abs(render_one(scene, damage).astype(int) - render_one(scene).astype(int)).max() > 20


def test_a_border_is_white() -> None:
    picture = render_one(Scene((), "navy"), Damage(border=3))
    assert (picture[:3] == 255).all() and (picture[:, -3:] == 255).all()
    assert not (picture[3:-3, 3:-3] == 255).all()
