from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edit_r1.algo.edit_change import measure_change
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.protocol import EditedImage
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Context, Principle, Sample
from edit_r1.train.data_parallel import Team
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.editor_state import newest_state
from edit_r1.train.guards import Guard, GuardSettings
from edit_r1.train.reward_queue import Judging
from edit_r1.train.rewards import EditReward

STAGE = changed(EditorRLStage(),
    steps=16, contexts_per_step=2, group_size=6, sampling_steps=4, trained_steps=2, lora_rank=0, learning_rate=3e-3,
    train_batch=32, sample_batch=32, save_every=1, kl_beta=0.0,
)  # fmt: skip


def _picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)


def _contexts(count: int, category: str = "") -> list[Context]:
    principles = (Principle("Is it red?", CATEGORIES[0]),)
    return [
        Context(Sample(f"s{index}", encode_png(_picture(index)), "make it red", category), principles, "test")
        for index in range(count)
    ]


def _pays_for_brightness(contexts, images):
    """The planted hack: 0 (black) to 10 (white), whatever was asked."""
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def _true_quality(contexts, images):
    """What the planted judge should have paid for: 10 less the distance from mid grey."""
    return [10 - abs(float(decode_rgb(image).mean()) - 128) / 12.8 for image in images]


class Painter:
    """An editor that returns given pictures."""

    def __init__(self, pictures):
        self.pictures = pictures

    def edit(self, samples, seeds):
        return [EditedImage(None if picture is None else encode_png(picture)) for picture in self.pictures]


def _judging(contexts, pictures, group):
    judging = Judging(lambda c, i: [1.0] * len(i), contexts, group)
    judging.put(range(len(pictures)), [encode_png(picture) for picture in pictures])
    return judging


def _step(guard, step, judging, rewards=None, failed=0):
    rewards = [1.0] * len(judging.edits) if rewards is None else rewards
    line = {"kind": "step", "step": step, "failed_judgments": failed, "edits": len(rewards)}
    return guard.after_step({**line, "guard": guard.measure(judging, rewards)})


# --- training edits -------------------------------------------------------------------------------------------------


def test_measures_are_means_over_the_first_edits_of_every_group():
    contexts = _contexts(2)
    pictures = [np.clip(_picture(edit // 3).astype(int) + 10 * edit, 0, 255).astype(np.uint8) for edit in range(6)]
    guard = Guard(GuardSettings(measured=2), _true_quality, [])
    measured = guard.measure(_judging(contexts, pictures, 3), [1.0] * 6)
    changes = [measure_change(_picture(edit // 3), pictures[edit]) for edit in (0, 1, 3, 4)]
    assert measured["brightness"] == pytest.approx(np.mean([change.brightness for change in changes]))
    assert measured["copies"] == 0.25  # edit 0 alone is its source
    assert measured["outside"] is None
    assert Guard(GuardSettings(measured=0), _true_quality, []).measure(_judging(contexts, pictures, 3), [1.0] * 6) == {
        **dict.fromkeys(measured)
    }


def test_a_rise_of_unedited_copies_is_an_alert_and_copies_from_the_start_are_none():
    contexts, edited = _contexts(2), [255 - _picture(edit // 2) for edit in range(4)]
    copies = [_picture(edit // 2) for edit in range(4)]
    guard = Guard(GuardSettings(window=2), _true_quality, [])
    lines = [
        _step(guard, step, _judging(contexts, pictures, 2)) for step, pictures in enumerate([edited] * 3 + [copies])
    ]
    assert [[alert["name"] for alert in line["alerts"]] for line in lines[:3]] == [[], [], []]
    [alert] = lines[3]["alerts"]
    assert alert["name"] == "copies" and alert["value"] == 0.5 and "unedited copies" in alert["message"]
    always = Guard(GuardSettings(window=1), _true_quality, [])
    assert all(not _step(always, step, _judging(contexts, copies, 2))["alerts"] for step in range(3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", lambda p: np.clip(p.astype(int) + 40, 0, 255)),
        ("saturation", lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2)),
        (
            "sharpness",
            lambda p: (p.astype(int) + np.roll(p, 1, 0) + np.roll(p, 1, 1) + np.roll(p, (1, 1), (0, 1))) // 4,
        ),
    ],
)
def test_drift_of_the_look_is_an_alert(name, change):
    contexts = _contexts(2)
    plain = [_picture(edit // 2 + 20) for edit in range(4)]
    drifted = [np.asarray(change(picture)).astype(np.uint8) for picture in plain]
    guard = Guard(GuardSettings(window=1, max_outside=1.0), _true_quality, [])
    assert not _step(guard, 0, _judging(contexts, plain, 2))["alerts"]
    assert name in [alert["name"] for alert in _step(guard, 1, _judging(contexts, drifted, 2))["alerts"]]


def test_changes_outside_come_from_data_or_evidence_and_not_from_global_edits():
    source = _picture(0)
    edited = source.copy()
    edited[:8] = 255 - edited[:8]
    box = ((0.0, 8.0, 16.0, 16.0),)  # the lower half

    def outside(category="", reward=1.0, regions=None):
        guard = Guard(GuardSettings(), _true_quality, [], regions=regions)
        return guard.measure(_judging(_contexts(1, category), [edited], 1), [reward])["outside"]

    changed = measure_change(source, edited, np.arange(16)[:, None].repeat(16, 1) >= 8).outside
    assert outside() is None
    assert outside(regions={"s0": np.arange(16)[:, None].repeat(16, 1) >= 8}) == pytest.approx(changed)
    widened = outside(regions={"s0": box})  # by 5 % of the sides
    assert widened == outside(reward=EditReward(1.0, (), box)) and widened > 0.8
    for name in ("style transfer", "Style Transfer", "style_change", "background"):
        assert outside(name, regions={"s0": box}) is None
    half = np.zeros((32, 32), bool)  # a mask of another size
    half[16:] = True
    assert outside(regions={"s0": half}) == pytest.approx(changed)


def test_failed_judgments_are_an_alert():
    guard = Guard(GuardSettings(window=2), _true_quality, [])
    judging = _judging(_contexts(1), [_picture(3)] * 4, 4)
    names = [[alert["name"] for alert in _step(guard, step, judging, failed=failed)["alerts"]]
             for step, failed in enumerate((0, 3, 3))]  # fmt: skip
    assert names == [[], [], ["failures"]]


def test_a_lost_update_is_an_alert():
    guard = Guard(GuardSettings(), _true_quality, [])
    line = {"kind": "step", "step": 0, "failed_judgments": 0, "edits": 1, "lost_updates": 2, "guard": guard._means([])}
    [alert] = guard.after_step(line)["alerts"]
    assert alert["name"] == "lost updates" and alert["message"].startswith(
        "2 updates had a gradient that is not finite"
    )


# --- validation -----------------------------------------------------------------------------------------------------


def test_validations_are_kept_as_pictures_and_missing_edits_are_no_score(tmp_path):
    contexts = _contexts(3)
    guard = Guard(GuardSettings(contexts=2), _pays_for_brightness, contexts, _true_quality, [contexts[0], None, None])
    line = guard.validate(5, Painter([np.full((16, 16, 3), 255, np.uint8), None]), tmp_path)
    assert line["reward"] == [10.0, None] and line["heldout"] == [pytest.approx(10 - 127 / 12.8), None]
    grid = decode_rgb((tmp_path / "validation" / "step-000005.png").read_bytes())
    assert grid.shape == (16 + 4 + 16, 16 + 4 + 16, 3)
    assert (grid[:16, :16] == _picture(0)).all() and (grid[:16, 20:] == 255).all() and (grid[20:, 20:] == 127).all()
    assert json.loads(json.dumps(line)) == line
    with pytest.raises(ValueError, match="1 held-out contexts for 2"):
        Guard(GuardSettings(), _true_quality, contexts[:2], _true_quality, [None])


def _validated(levels, tmp_path, heldout=_true_quality, **changes):
    settings = GuardSettings(contexts=4, max_brightness=1e9, **changes)
    guard = Guard(settings, _pays_for_brightness, _contexts(4), heldout)
    for step, level in enumerate(levels):
        rows = [np.full((16, 16, 3), level + place, np.uint8) for place in range(4)]
        guard.validate(step, Painter(rows), tmp_path)
    return guard


def test_a_reward_that_rises_while_the_held_out_one_falls_stops_the_run(tmp_path):
    guard = _validated([110, 128, 150, 180], tmp_path)
    assert [line["diverges"] for line in guard.validations] == [False, False, True, True]
    assert [line["stop"] for line in guard.validations] == [False, False, False, True]
    assert guard.stopped
    assert guard.validations[2]["alerts"][0]["name"] == "divergence"
    assert "since step 1" in guard.validations[2]["alerts"][0]["message"]
    assert not _validated([110, 128, 150, 180], tmp_path, stop=False).stopped
    assert not _validated([110, 128, 150, 180], tmp_path, patience=3).stopped
    assert not _validated([128, 110, 90, 70], tmp_path).stopped  # both fall
    assert not _validated([128, 150, 180], tmp_path, heldout=None).stopped
    again = Guard(guard.settings, _pays_for_brightness, _contexts(4), _true_quality)
    again.restore([json.loads(json.dumps(line)) for line in guard.validations])
    assert again.stopped and again.validations == guard.validations
    again.restore([{"kind": "step", "step": 0}])  # an iteration before there was a guard
    assert not again.steps and not again.stopped
    with pytest.raises(ValueError, match=r"validated on \[4\] contexts and the guard has 2"):
        Guard(guard.settings, _pays_for_brightness, _contexts(2)).restore(guard.validations)


def test_best_is_the_highest_held_out_reward(tmp_path):
    seen = []
    guard = Guard(GuardSettings(contexts=4), _pays_for_brightness, _contexts(4), _true_quality)
    for step, level in enumerate([110, 126, 126, 160, 127]):
        guard.validate(step, Painter([np.full((16, 16, 3), level, np.uint8)] * 4), tmp_path)
        seen.append(guard.best_is_last)
    assert seen == [True, True, False, False, True]


def test_when_validation_is_due():
    guard = Guard(GuardSettings(validate_every=4), _true_quality, _contexts(1))
    assert [done for done in range(10) if guard.due(done, done == 9)] == [0, 2, 4, 8, 9]
    assert not Guard(GuardSettings(validate_every=4), _true_quality, []).due(4, True)
    sooner = Guard(GuardSettings(validate_every=6, early=(1, 4)), _true_quality, _contexts(1))
    assert [done for done in range(10) if sooner.due(done, done == 9)] == [0, 1, 4, 6, 9]
    sooner.check_rhythm(3)
    assert [done for done in range(10) if sooner.due(done, done == 9)] == [0, 3, 6, 9]
    assert not Guard(GuardSettings(validate_every=0), _true_quality, _contexts(1)).due(2, False)
    with pytest.raises(ValueError, match=r"early=\(2, -1\): must be 0 or more"):
        GuardSettings(early=(2, -1))


def test_validation_edits_are_held_to_less_than_training_edits(tmp_path):
    """The same contexts and seeds every time: 8 of 20 levels, and a tenth of what edits change."""
    contexts = _contexts(2)
    grey = np.full((16, 16, 3), 128, np.uint8)

    def alerts(level, **changes):
        guard = Guard(GuardSettings(**changes), _true_quality, contexts)
        for step, shown in enumerate((100, level)):
            guard.validate(step, Painter([np.full_like(grey, shown)] * 2), tmp_path)
        return [alert["name"] for alert in guard.validations[-1]["alerts"] if alert["name"] != "divergence"]

    assert alerts(107, max_timid=1.0) == []
    assert alerts(109, max_timid=1.0) == ["brightness"]
    assert alerts(109, max_timid=1.0, paired=0.5) == []


def test_edits_that_change_less_and_less_are_told_before_they_are_copies(tmp_path):
    def painted(change):
        return Painter([_picture(index) + np.uint8(change) for index in range(2)])

    contexts = _contexts(2)
    guard = Guard(GuardSettings(max_brightness=1e9, contexts=2), _true_quality, contexts)
    for step, change in enumerate((40, 50, 37, 35)):
        guard.validate(step, painted(change), tmp_path)
    names = [[alert["name"] for alert in line["alerts"]] for line in guard.validations]
    assert names == [[], [], [], ["timid"]]
    assert guard.validations[-1]["alerts"][0]["value"] == pytest.approx(1 - 35 / 40)


def test_validations_fall_on_optimiser_steps():
    guard = Guard(GuardSettings(validate_every=4), _true_quality, _contexts(1))
    guard.check_rhythm(2)
    with pytest.raises(ValueError, match="validate_every=4: not a multiple of accumulate=3"):
        guard.check_rhythm(3)
    Guard(GuardSettings(validate_every=4), _true_quality, []).check_rhythm(3)


def test_validation_edits_without_a_reward_are_an_alert(tmp_path):
    """One of the two: as much as is let pass. A guard without a held-out reward asks for none."""
    contexts = _contexts(2)

    def alerts(heldout, heldout_contexts=None, pictures=2):
        guard = Guard(GuardSettings(), _true_quality, contexts, heldout, heldout_contexts)
        shown = [_picture(0)] * pictures + [None] * (2 - pictures)
        return guard.validate(0, Painter(shown), tmp_path)["alerts"]

    assert alerts(None) == alerts(_true_quality) == alerts(_true_quality, [contexts[0], None]) == []
    [alert] = alerts(_true_quality, [None, None])
    assert (alert["name"], alert["value"]) == ("no heldout", 1.0) and "--heldout.address" in alert["message"]
    assert [one["name"] for one in alerts(lambda c, images: [None] * len(images))] == ["no heldout"]
    assert [one["name"] for one in alerts(None, pictures=0)] == ["no reward"]
    assert [one["name"] for one in alerts(_true_quality, pictures=0)] == ["no reward"], (
        "what is missing in both is one fault"
    )


def test_only_the_first_process_judges_validation(tmp_path):
    def never(contexts, images):
        raise AssertionError

    guard = Guard(GuardSettings(contexts=1), never, _contexts(1))
    assert guard.validate(0, Painter([_picture(0)]), tmp_path, Team(1, 2)) is None


@pytest.mark.parametrize("changes", [{"window": 0}, {"patience": 0}, {"max_copies": -0.1}, {"paired": float("nan")}])
def test_settings_that_cannot_be(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        GuardSettings(**changes)


# --- in a training --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_editor():
    """The tiny random Kontext of tests/editors, loaded by path because tests are not a package."""
    path = Path(__file__).parents[1] / "editors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_kontext", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def build() -> FluxKontextEditor:
        pipeline = module.make_kontext_pipeline(False)
        pipeline.set_progress_bar_config(disable=True)
        return FluxKontextEditor(pipeline, FluxKontextSettings(steps=4))

    return build


def _guard(**changes):
    settings = GuardSettings(contexts=4, validate_every=2, window=2, **changes)
    # The random editor is bright already: here its earlier pictures are the better ones.
    return Guard(
        settings, _pays_for_brightness, _contexts(8)[4:], lambda c, i: [10 - v for v in _pays_for_brightness(c, i)]
    )


def _lines(path):
    return [{k: v for k, v in json.loads(text).items() if k != "seconds"} for text in path.read_text().splitlines()]


def test_a_planted_reward_hack_is_caught_and_resuming_decides_alike(make_editor, tmp_path):
    contexts = _contexts(4)
    editor = make_editor()
    done = train_editor(
        STAGE, editor, contexts, _pays_for_brightness, tmp_path / "whole", guard=_guard(least_fall=0.02)
    )
    assert done.stopped and done.steps < STAGE.steps
    lines = _lines(done.metrics)
    validations = [line for line in lines if line["kind"] == "validation"]
    assert validations[0]["step"] == 0 and validations[-1]["stop"]
    # The trained reward rose, the held-out one fell, and not by much before the run ended.
    assert validations[-1]["reward_mean"] > validations[0]["reward_mean"] + 0.1
    assert (
        validations[0]["heldout_mean"] - 0.5 < validations[-1]["heldout_mean"] < validations[0]["heldout_mean"] - 0.02
    )
    assert validations[-1]["guard"]["brightness"] > validations[0]["guard"]["brightness"]
    assert len(list((tmp_path / "whole" / "validation").glob("*.png"))) == len(validations)
    # What is left is the editor as the held-out reward liked it best: here, untouched.
    start = make_editor().transformer.state_dict()
    best = newest_state(tmp_path / "whole" / "best")[1]["weights"]
    assert all(torch.equal(start[name], value) for name, value in best.items())
    assert all(torch.equal(start[name], value) for name, value in editor.transformer.state_dict().items())

    calls = []

    def dies(contexts_N, images_N):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return _pays_for_brightness(contexts_N, images_N)

    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train_editor(STAGE, make_editor(), contexts, dies, out, guard=_guard(least_fall=0.02))
    again = train_editor(
        STAGE, make_editor(), contexts, _pays_for_brightness, out, resume=True, guard=_guard(least_fall=0.02)
    )
    assert _lines(again.metrics) == lines and again.stopped
    # Resumed once more it does not go on, and says the same.
    last = train_editor(
        STAGE, make_editor(), contexts, _pays_for_brightness, out, resume=True, guard=_guard(least_fall=0.02)
    )
    assert (last.steps, last.stopped, _lines(last.metrics)) == (done.steps, True, lines)


def test_the_best_state_is_this_runs_and_never_younger_than_its_last_one(make_editor, tmp_path):
    """A run that saves nothing between its validations is killed, begun anew with another seed, killed and resumed."""

    def dies_at(call):
        calls = []

        def reward(contexts_N, images_N):
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return _pays_for_brightness(contexts_N, images_N)

        return reward

    def train(stage, reward, resume=False):
        return train_editor(stage, make_editor(), _contexts(4), reward, tmp_path, resume, guard=_guard(least_fall=0.02))

    def kept(folder):
        return [torch.load(path, weights_only=True) for path in sorted((tmp_path / folder).glob("*.pt"))]

    first, second = changed(STAGE, save_every=0), changed(STAGE, save_every=0, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(first, dies_at(1))
    assert [state["stage"]["seed"] for state in kept("best")] == [0] and not kept("state")
    with pytest.raises(KeyboardInterrupt):
        train(second, dies_at(4))
    assert {state["stage"]["seed"] for state in kept("best")} == {1}
    assert [state["step"] for state in kept("state")] == [2]
    torn = tmp_path / "best" / "00000004-00000000.pt"  # of a validation that comes again
    torn.write_bytes(b"")
    done = train(second, _pays_for_brightness, resume=True)
    assert done.stopped and not torn.exists() and [state["step"] for state in kept("best")] == [0]


def test_a_guard_that_only_looks_changes_nothing(make_editor, tmp_path):
    stage = replace(STAGE, steps=2)
    alone, watched = make_editor(), make_editor()
    train_editor(stage, alone, _contexts(4), _pays_for_brightness, tmp_path / "alone")
    done = train_editor(
        stage, watched, _contexts(4), _pays_for_brightness, tmp_path / "watched", guard=_guard(stop=False)
    )
    expected = alone.transformer.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in watched.transformer.state_dict().items())
    assert not done.stopped and done.steps == 2
