"""The oracle from pixels: gold cases, agreement with the scene graph, and pictures that show nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edit_r1.world.edits import CATEGORIES, MULTI_STEP, Edit, Step, sample_edit
from edit_r1.world.flaws import PROFILES, drift
from edit_r1.world.oracle import judge
from edit_r1.world.perceive import judge_many, judge_pixels, perceive
from edit_r1.world.perceive_damage import find_border
from edit_r1.world.perceive_ground import blurred, fit_flat
from edit_r1.world.perceive_names import saturate, surprise
from edit_r1.world.perceive_things import FORMS, fit_at, form_of, layers, rank, refine, window_at
from edit_r1.world.render import apply_damage, paint_scene, render_one
from edit_r1.world.scenes import Damage, Scene, Thing, sample_scene

RED = Thing("circle", "red", "large", "solid", 0, 0.7, -0.4)
GREEN = Thing("square", "green", "large", "striped", 3, -1.2, 0.3)
LETTER = Thing("triangle", "purple", "large", "solid", 1, 0.2, 1.1, "A")
SCENE = Scene((RED, LETTER, GREEN), background="sky")
RECOLOUR = Edit("Make the circle blue", "colour alteration", (Step("colour alteration", 0, "blue"),))
MOVE = Edit("Move the circle", "motion change", (Step("motion change", 0, to=2),))


def seen(edit: Edit, scene: Scene, damage: Damage | None = None) -> tuple[dict[str, int], float]:
    gold = judge_pixels(SCENE, edit, render_one(scene, damage))
    values: dict[str, int] = {}
    for check, value in zip(gold.checks, gold.values, strict=True):
        values[check.kind] = min(value, values.get(check.kind, 1))
    return values, gold.utility


@pytest.mark.parametrize("edit", [RECOLOUR, MOVE])
def test_exact_target_is_perfect_and_unedited_is_worth_nothing(edit: Edit) -> None:
    values, utility = seen(edit, edit.apply(SCENE))
    assert set(values.values()) == {1} and utility == 10.0
    assert seen(edit, SCENE)[1] == 0.0


def test_white_border_is_worth_nothing() -> None:
    values, utility = seen(RECOLOUR, RECOLOUR.apply(SCENE), Damage(border=4))
    assert values["border"] == 0 and utility == 0.0
    assert min(value for kind, value in values.items() if kind != "border") == 1


def test_white_background_is_no_border() -> None:
    for gradient in (False, True):
        for tone in ("neutral", "warm", "cold"):
            picture = render_one(replace(SCENE, background="white", gradient=gradient, tone=tone))
            assert find_border(picture.astype(np.float32) / 255) == 0


def test_small_move_does_not_count() -> None:
    values, utility = seen(MOVE, SCENE.with_thing(replace(RED, dx=RED.dx + 3.0, dy=RED.dy + 3.0)))
    assert values["at"] == 0 and values["empty"] == 0 and utility == 0.0


def test_leak_is_found() -> None:
    target = RECOLOUR.apply(SCENE)
    values, utility = seen(RECOLOUR, target.with_thing(replace(GREEN, colour="blue")))
    assert values["attribute"] == 1 and values["keep"] == 0 and utility == 7.5


@pytest.mark.parametrize("letter", ["H", "T", "X", None])
def test_another_letter_is_found(letter: str | None) -> None:
    values, _ = seen(RECOLOUR, RECOLOUR.apply(SCENE).with_thing(replace(LETTER, letter=letter)))
    assert values["keep"] == 0


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (Damage(blur=1.3), "sharp"),
        (Damage(blur=2.0), "sharp"),
        (Damage(noise=0.05, seed=1), "sharp"),
        (Damage(saturation=1.9), "colours"),
        (Damage(saturation=2.5), "colours"),
    ],
)
def test_damage_is_named_and_nothing_else(damage: Damage, kind: str) -> None:
    values, _ = seen(RECOLOUR, RECOLOUR.apply(SCENE), damage)
    assert [name for name, value in values.items() if value == 0] == [kind]


@pytest.mark.parametrize(
    "flawed",
    [
        SCENE.with_thing(replace(RED, blend=("blue", 0.3))),
        replace(SCENE, tone="warm", tone_strength=0.2),
        replace(SCENE, background_blend=("mint", 0.15)),
    ],
)
def test_weak_edits_and_drift_leave_the_source_as_it_was(flawed: Scene) -> None:
    values, utility = seen(RECOLOUR, flawed)
    assert utility == 0.0 and [kind for kind, value in values.items() if not value] == ["attribute"]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_uniform_pictures_are_worth_nothing(level: int) -> None:
    for edit in (RECOLOUR, MOVE):
        assert judge_pixels(SCENE, edit, np.full((64, 64, 3), level, np.uint8)).utility == 0.0


def test_random_pictures_do_not_break_perception() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    golds = judge_many([(SCENE, RECOLOUR)] * 3, pictures)
    assert all(gold.utility == 0.0 for gold in golds)
    with pytest.raises(ValueError, match="give one each"):
        judge_many([(SCENE, RECOLOUR)], pictures)


def test_a_picture_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="perceive takes"):
        perceive(np.zeros((32, 32, 3), np.uint8), SCENE)
    with pytest.raises(ValueError, match="perceive takes"):
        perceive(np.zeros((64, 64, 3), np.float32), SCENE)


def test_perceiving_twice_gives_the_same() -> None:
    picture = render_one(RECOLOUR.apply(SCENE), Damage(noise=0.07, seed=3))
    assert perceive(picture, SCENE, RECOLOUR) == perceive(picture, SCENE, RECOLOUR)


def test_layers_paint_what_render_paints() -> None:
    y, x = np.mgrid[0:64, 0:64].astype(np.float32) + 0.5
    behind = paint_scene(replace(SCENE, things=()))
    for form in FORMS:
        thing = Thing(form.shape, "red", form.size, form.material, 0, 1.3, -0.6, form.letter)
        cover, shade, colour, white, letter = layers(form, x - thing.centre[0], y - thing.centre[1])
        paint = np.array([214, 44, 44], np.float32) / 255
        under = behind * ((1 - 0.22 * shade) * (1 - cover))[..., None] + white[..., None]
        shown = (under + colour[..., None] * paint) * (1 - letter[..., None]) + 0.98 * letter[..., None]
        assert np.abs(shown - paint_scene(replace(SCENE, things=(thing,)))).max() < 0.01


def test_forms_are_ranked_and_refined_to_their_true_centre() -> None:
    image = paint_scene(SCENE)
    (ground,) = fit_flat(image, 0, 0.0)
    for thing in SCENE.things:
        window = window_at(thing.place, image, ground, 0.0, 0)
        fits = [refine(window, fit) for fit in rank(window, 1.0)[:3]]
        best = min(fits, key=lambda fit: fit.error)
        assert best.form == form_of(thing)
        assert np.hypot(best.x - window.centre[0] - thing.dx, best.y - window.centre[1] - thing.dy) < 0.1
        assert best.error <= fit_at(window, best.form, best.x + 0.5, best.y, 1.0, 1.0)[0].error


def test_blur_and_saturation_are_those_of_render() -> None:
    picture = paint_scene(SCENE)
    for sigma in (0.8, 1.5):
        assert np.abs(blurred(picture, sigma) - apply_damage(picture, Damage(blur=sigma))).max() < 1e-5
    assert np.abs(saturate(picture, 2.1) - apply_damage(picture, Damage(saturation=2.1))).max() < 1e-5


def test_surprise_prefers_the_source_and_the_target() -> None:
    target = RECOLOUR.apply(SCENE)
    assert surprise(SCENE, 1.0, SCENE, target) == surprise(target, 1.0, SCENE, target) == 0.0
    odd = replace(target, tone="dark", background="navy")
    assert surprise(odd, 2.0, SCENE, target) > surprise(odd, 1.0, SCENE, target) > 4.0


def agreement(count: int, splits: tuple[str, ...]) -> tuple[float, float, float]:
    """(verdicts that agree, failed verdicts that agree, mean difference of utility)."""
    rng = np.random.default_rng(7)
    names, categories = list(PROFILES), (*CATEGORIES, MULTI_STEP)
    pairs: list[tuple[int, int]] = []
    differences: list[float] = []
    while len(differences) < count:
        index = len(differences)
        split = splits[index % len(splits)]
        source = sample_scene(rng, split)
        edit = sample_edit(rng, source, categories[index % len(categories)], split)
        if edit is None:
            continue
        profile = PROFILES[names[(index // len(categories) + index) % len(names)]]
        scene, damage = drift(rng, source, *profile(rng, source, edit))
        gold = judge(source, edit, scene, damage)
        mine = judge_pixels(source, edit, render_one(scene, damage))
        pairs += zip(gold.values, mine.values, strict=True)
        differences.append(abs(gold.utility - mine.utility))
    failed = [second == 0 for first, second in pairs if first == 0]
    return float(np.mean([a == b for a, b in pairs])), float(np.mean(failed)), float(np.mean(differences))


def test_pixels_agree_with_the_scene_graph() -> None:
    verdicts, failed, utility = agreement(144, ("train", "test"))
    assert verdicts >= 0.985 and failed >= 0.96 and utility < 0.15


def test_pixels_agree_on_photographs() -> None:
    verdicts, failed, utility = agreement(36, ("stress",))
    assert verdicts >= 0.98 and failed >= 0.95 and utility < 0.2
