"""The oracle's way in from pixels: analysis by synthesis of any picture, given its source and its edit.

A picture is fitted in three steps, none of which knows how it was made: its background, style and forms
in display colours (`perceive_ground`, `perceive_things`), their names (`perceive_names`), and here the
choice between the best readings by rendering them, and the damage that rendering does not explain. What
comes out is judged exactly as a scene graph is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edit_r1.world.describe import look_words
from edit_r1.world.edits import Edit
from edit_r1.world.oracle import Gold, judge
from edit_r1.world.perceive_damage import (
    FLOOR,
    PAINTED,
    SOFT,
    Picture,
    error_left,
    find_blur,
    find_border,
    mottles,
    painted_noise,
    painter_softness,
    pixel_noise,
    structured_error,
    synthesise,
)
from edit_r1.world.perceive_ground import Ground, corner_count, corner_misfit, fit_flat, fit_photo
from edit_r1.world.perceive_names import Named, Namer, surprise
from edit_r1.world.perceive_things import (
    FAINT_OPACITY,
    Fit,
    Form,
    Window,
    fit_at,
    form_of,
    rank,
    refine,
    window_at,
)
from edit_r1.world.scenes import SIZE, Damage, Scene

SECOND_LOOK = 0.45
"""From this blur on, px, the picture is fitted again with blurred forms."""
LOOKS = 3
"""At most as many times."""
PAINTER_DOUBT = 1.7
"""A reading of a painted picture is credited with its structured error times this: neighbouring pixels err alike."""
PAINTED_TRUST = 6.0
"""For the same reason, how unexpected a reading is counts this much more in a painted picture."""
FILLED = {"star": 120.0, "triangle": 130.0}
"""Small outlines that a painter's softness fills: what their error as an outline exceeds that as solid, nats."""
MAX_FLOOR = 0.08
"""No picture is credited with a larger error than this for each reading, 0 to 1."""
CLIPS = 0.92
"""Where a background is brighter than this, it may have clipped."""
GHOST = 0.15
"""Below this opacity a thing is not there."""
READINGS = 4
"""Readings that are compared by rendering."""


@dataclass(frozen=True)
class _Place:
    window: Window
    fits: tuple[Fit, ...]
    """Best first; empty for an empty place."""


def _expected(picture: Picture, window: Window) -> list[Fit]:
    """Starting points from the source's and the target's thing in a place."""
    starts = []
    before, after = picture.source.at(window.place), picture.target.at(window.place)
    for thing in dict.fromkeys(item for item in (before, after) if item is not None):
        x, y = thing.centre
        x, y = x - window.x0, y - window.y0
        starts.append(fit_at(window, form_of(thing), x, y, 1.0, 1.0)[0])
        if (before is None) != (after is None):
            starts.append(fit_at(window, form_of(thing), x, y, 1.0, FAINT_OPACITY)[0])
        if before is not None and after is not None and before.size != after.size:
            starts.append(fit_at(window, form_of(thing), x, y, 1.17 if thing.size == "small" else 0.89, 1.0)[0])
    return starts


def _real(fit: Fit) -> bool:
    """False for colours that no screen shows, and for stripes or letters in the colour of what they stand on."""
    if float(fit.colours.min()) < -0.2 or float(fit.colours.max()) > 1.3:
        return False
    if fit.form.material != "striped" and fit.form.letter is None:
        return True
    return float(np.abs(fit.colours[1] - fit.colours[0]).max()) > 0.15


def _filled(form: Form) -> float:
    """Nats against a form that a painter makes of its outline by filling the hole."""
    return FILLED.get(form.shape, 0.0) if (form.size, form.material) == ("small", "solid") else 0.0


def _smooth_energy(left: np.ndarray) -> float:
    """Squared sum of a residual (W, W, 3) averaged over 3 x 3 pixels: a ninth of it when it is noise."""
    rows = left[:-2] + left[1:-1] + left[2:]
    return float(((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) ** 2).sum()) / 81


def _search(picture: Picture, window: Window, starts: list[Fit], noise: float) -> list[Fit]:
    """The forms that explain a window best, of all there are; best first."""
    sources = (picture.source.at(window.place), picture.target.at(window.place))
    expected = {form_of(thing) for thing in sources if thing is not None}
    found = [*starts, *rank(window, 1.0)]
    best = min(found, key=lambda fit: fit.error)
    contrast = float(np.abs(best.colours[0] - window.ground[:, int(best.y), int(best.x)]).max())
    if contrast < 0.4 or None in sources:
        found += rank(window, FAINT_OPACITY)

    def cost(fit: Fit) -> float:
        unexpected = 0.0 if fit.form in expected else 6.0
        if picture.painted:
            unexpected = PAINTED_TRUST * unexpected + _filled(fit.form)
        return fit.error / (2 * noise**2) + unexpected

    refined: list[Fit] = []
    for fit in sorted((fit for fit in found if _real(fit)), key=cost)[:12]:
        alike = [other for other in refined if (other.form, other.opacity) == (fit.form, fit.opacity)]
        if any(np.hypot(other.x - fit.x, other.y - fit.y) < 1.0 and other.scale == fit.scale for other in alike):
            continue
        refined.append(refine(window, fit, free_scale=fit.scale != 1.0))
        if (len(refined) >= 2 and min(other.error for other in refined) * 3 < fit.error) or len(refined) == 5:
            break
    return sorted((fit for fit in refined if _real(fit)), key=cost)


def _fit_place(picture: Picture, ground: Ground, place: int) -> _Place:
    """The forms that explain a place best, or none."""
    window = window_at(place, picture.image, ground, picture.sigma, picture.border, picture.soft)
    left = window.empty_residual()
    empty_error = float((left**2).sum())
    noise = max(picture.floor, ground.noise)
    pixels = 3 * float(window.judged.sum())
    if empty_error < 0.9 * pixels * ground.noise**2 + 0.25 or _smooth_energy(left) < 0.2 * pixels * ground.noise**2:
        return _Place(window, ())
    starts = _expected(picture, window)
    if noise < 0.025 and starts:
        # Most places hold what the source or the target has there: look no further when that explains all.
        sure = refine(window, min(starts, key=lambda fit: fit.error), free_scale=False)
        if sure.error < 1.1 * pixels * ground.noise**2 + 0.008 * empty_error and sure.scale == 1.0 and _real(sure):
            return _Place(window, (sure,))
    refined = _search(picture, window, starts, noise)
    if not refined:
        return _Place(window, ())
    loose = refine(window, refined[0], free_scale=True, steps=3)
    if abs(loose.scale - 1) > 0.04 and loose.error < 0.9 * refined[0].error:
        refined.insert(0, loose)
    if (empty_error - refined[0].error) / (2 * noise**2) < 40.0:
        return _Place(window, ())
    return _Place(window, tuple(refined[:3]))


def _error(picture: Picture, scene: Scene, saturation: float) -> float:
    return error_left(picture, synthesise(scene, saturation, picture.sigma, picture.soft))


def _grounds(picture: Picture) -> list[Ground]:
    """Flat backgrounds with the styles that may be, or the source's photograph where that explains the corners."""
    likely = tuple({picture.source.style, picture.target.style})
    flat = fit_flat(picture.image, picture.border, picture.sigma, likely)
    if picture.source.photo is None:
        return flat
    photo = fit_photo(picture.image, picture.source.photo, picture.border, picture.sigma)
    errors = [corner_misfit(item, picture.image, picture.border, picture.sigma) for item in (flat[0], photo)]
    gain = 0.5 * corner_count(picture.border) * float(np.log((errors[0] + 1e-5) / (errors[1] + 1e-5)))
    if gain > 40.0:
        return [photo]
    return [photo, *flat] if gain > -40.0 else flat


def _cost(picture: Picture, scene: Scene, saturation: float, noise: float) -> float:
    """Nats of a reading: what it misses and how unexpected it is."""
    unexpected = surprise(scene, saturation, picture.source, picture.target)
    if picture.painted:
        unexpected = PAINTED_TRUST * unexpected + sum(_filled(form_of(thing)) for thing in scene.things)
    return unexpected + _error(picture, scene, saturation) / (2 * noise**2)


def _read_on(picture: Picture, ground: Ground) -> Named:
    """The likeliest reading at the picture's blur, on one ground."""
    namer = Namer(ground, picture.source, picture.target)
    if ground.photo is None and float(ground.field.max()) > CLIPS:
        # A gradient that clips is not linear: take its exact course from the likeliest name.
        empty = namer.readings([], 1)[0]
        behind = replace(empty.scene, style="natural")
        field = synthesise(behind, empty.saturation, 0.0)
        if behind.gradient and float(np.abs(field - ground.field).mean()) < 0.03:
            ground = replace(ground, field=field)
    places = [_fit_place(picture, ground, place) for place in range(4)]
    chosen = [(place.window, place.fits[0]) for place in places if place.fits]
    noise = max(picture.floor, ground.noise)

    def costed(fits: list[tuple[Window, Fit]], count: int) -> Named:
        readings = namer.readings(fits, count)
        rendered = [replace(item, cost=_cost(picture, item.scene, item.saturation, noise)) for item in readings]
        return min(rendered, key=lambda item: item.cost)

    best = costed(chosen, READINGS)
    for slot, place in enumerate([place for place in places if place.fits]):
        for fit in place.fits[1:]:
            if fit.error > 1.5 * place.fits[0].error + 1.0:
                continue
            swapped = [*chosen[:slot], (place.window, fit), *chosen[slot + 1 :]]
            trial = costed(swapped, 1)
            if trial.cost < best.cost:
                best, chosen = trial, swapped
    things = tuple(thing for thing in best.scene.things if thing.opacity >= GHOST)
    return replace(best, scene=replace(best.scene, things=things))


def _alternatives(picture: Picture, named: Named) -> list[Named]:
    """Readings with a part of the source or of the target put back where something else was seen."""
    scene = named.scene
    answer = []
    for usual in dict.fromkeys((picture.source, picture.target)):
        for place in range(4):
            seen, thing = scene.at(place), usual.at(place)
            if thing is None or (seen is not None and look_words(seen) == look_words(thing) and seen.blend is None):
                continue
            answer.append(replace(named, scene=scene.with_thing(thing)))
            if seen is not None:
                answer.append(replace(named, scene=scene.with_thing(replace(thing, dx=seen.dx, dy=seen.dy))))
        whole = replace(
            usual, things=scene.things, photo=scene.photo, tone=usual.tone, tone_strength=1.0, style_strength=1.0
        )
        if whole != scene or named.saturation != 1.0:
            answer.append(replace(named, scene=whole, saturation=1.0))
            answer.append(replace(named, scene=whole))
            answer.append(replace(named, scene=replace(scene, style=usual.style, style_strength=1.0)))
            style = scene.style_strength if scene.style == usual.style else 1.0
            answer.append(replace(named, scene=replace(scene, style=usual.style, style_strength=style)))
    return answer


def _polish(picture: Picture, named: Named, noise: float) -> Named:
    """The reading, or the source's or the target's state of a part of it where that fits better."""
    for _ in range(3):
        trials = [
            replace(item, cost=_cost(picture, item.scene, item.saturation, noise))
            for item in _alternatives(picture, named)
        ]
        best = min(trials, key=lambda item: item.cost, default=named)
        if best.cost >= named.cost:
            break
        named = best
    return named


def _read(picture: Picture) -> Named:
    """The likeliest reading at the picture's blur."""
    grounds = _grounds(picture)
    noise = max(picture.floor, min(ground.noise for ground in grounds))
    readings = [_read_on(picture, ground) for ground in grounds]
    readings = [replace(item, cost=_cost(picture, item.scene, item.saturation, noise)) for item in readings]
    return _polish(picture, min(readings, key=lambda item: item.cost), noise)


def perceive(image: np.ndarray, source: Scene, edit: Edit | None = None) -> tuple[Scene, Damage]:
    """What a picture shows, as the scene and damage that would have rendered it.

    Args:
        image: uint8 (64, 64, 3), any picture.
        source: the scene that was edited; its things, positions and photograph are hypotheses.
        edit: what was asked for; its target is one more.

    Raises:
        ValueError: for a picture of another size or type.
    """
    if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}: perceive takes uint8 ({SIZE}, {SIZE}, 3)")
    pixels = image.astype(np.float32) / 255
    target = edit.apply(source) if edit is not None else source
    picture = Picture(pixels, source, target, find_border(pixels))
    named = _read(picture)
    sigma = find_blur(picture, named.scene, named.saturation)
    for _ in range(LOOKS):
        shown = synthesise(named.scene, named.saturation, sigma)
        noise = pixel_noise(picture, shown)
        error = structured_error(picture, shown, noise)
        floor = float(np.clip(PAINTER_DOUBT * error, FLOOR, MAX_FLOOR))
        settled = sigma < SECOND_LOOK or abs(sigma - picture.sigma) < 0.1
        painted = error > PAINTED
        soft = SOFT if painted and sigma < SECOND_LOOK else 0.0
        if (
            settled
            and painted == picture.painted
            and soft == picture.soft
            and floor < 1.4 * picture.floor
            and picture.floor < 2.0 * floor
        ):
            break
        picture = replace(
            picture, sigma=sigma if sigma >= SECOND_LOOK else 0.0, soft=soft, floor=floor, painted=painted
        )
        named = _read(picture)
        sigma = find_blur(picture, named.scene, named.saturation)
    shown = synthesise(named.scene, named.saturation, sigma)
    noise = pixel_noise(picture, shown)
    error = structured_error(picture, shown, noise)
    if error > PAINTED:
        # A painter's errors at edges look like pixel noise, so the background tells; where none is free, nothing does.
        noise = painted_noise(named.scene, named.saturation, mottles(picture, named.scene, shown))
        sigma = max(0.0, sigma - painter_softness(named.scene, named.saturation, sigma, error))
    return named.scene, Damage(round(noise, 4), round(sigma, 3), picture.border, named.saturation)


def judge_pixels(source: Scene, edit: Edit, image: np.ndarray) -> Gold:
    """Gold verdicts and utility of any picture, uint8 (64, 64, 3)."""
    return judge(source, edit, *perceive(image, source, edit))


def judge_many(contexts: Sequence[tuple[Scene, Edit]], images: np.ndarray) -> list[Gold]:
    """Gold verdicts and utilities of pictures (B, 64, 64, 3), one context each.

    Raises:
        ValueError: when there are not as many contexts as pictures.
    """
    if len(contexts) != len(images):
        raise ValueError(f"{len(contexts)} contexts for {len(images)} pictures: give one each")
    return [judge_pixels(source, edit, image) for (source, edit), image in zip(contexts, images, strict=True)]
