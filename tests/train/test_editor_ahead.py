"""Edits drawn ahead of the optimiser: the judge works meanwhile, the ratio knows, and a resumed run is the same."""

from __future__ import annotations

import json
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import CATEGORIES, Context, Judgment, Principle, Sample
from edit_r1.train import editor as flow_grpo
from edit_r1.train import editor_rollout, editor_run
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.nft import train_nft
from edit_r1.train.rewards import CombinedReward, RewardSettings

STAGE = changed(
    EditorRLStage(), steps=5, contexts_per_step=2, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0,
    learning_rate=1e-2, train_batch=6, sample_batch=6, save_every=3, kl_beta=0.0, ahead=1,
)  # fmt: skip


class BrightnessJudge:
    """Computes elsewhere, as a served one does; `begun` is notified when it is asked."""

    identity, apart = "brightness", True

    def __init__(self) -> None:
        self.asked, self.begun = 0, threading.Condition()

    def judge(self, items):
        with self.begun:
            self.asked += 1
            self.begun.notify_all()
        return [
            Judgment(float(decode_rgb(item.edited).mean()) / 25.5, 1, 0, None, (), dict.fromkeys(CATEGORIES), "b", 0.0)
            for item in items
        ]

    def close(self): ...


def _contexts(count: int = 4) -> list[Context]:
    rng = np.random.default_rng(0)
    sources = [encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]
    principles = (Principle("?", CATEGORIES[0]),)
    return [Context(Sample(f"s{i}", source, "make it red", ""), principles, "test") for i, source in enumerate(sources)]


def _reward(judge: BrightnessJudge | None = None) -> CombinedReward:
    return CombinedReward(judge or BrightnessJudge(), RewardSettings())


def test_the_next_iteration_is_judged_while_the_optimiser_works(make_editor, tmp_path, monkeypatch):
    judge, seen = BrightnessJudge(), []
    original = flow_grpo.update

    def update(*arguments):
        with judge.begun:  # the judge of the next iteration has begun although this one is still learned from
            expected = len(seen) + (1 if len(seen) in (2, 4) else 2)  # nothing is drawn ahead of a saved state
            assert judge.begun.wait_for(lambda: judge.asked >= expected, timeout=20)
            seen.append(judge.asked)
        return original(*arguments)

    monkeypatch.setattr(flow_grpo, "update", update)
    train_editor(STAGE, make_editor(), _contexts(), _reward(judge), tmp_path)
    assert seen == [2, 3, 3, 5, 5]


def test_edits_drawn_ahead_are_an_update_old_and_the_ratio_says_so(make_editor, tmp_path, monkeypatch):
    drawn, original = [], editor_run.sample_edits

    def watched(editor, *arguments):
        drawn.append(editor.transformer.proj_out.weight.detach().clone())
        return original(editor, *arguments)

    monkeypatch.setattr(editor_run, "sample_edits", watched)
    train_editor(STAGE, make_editor(), _contexts(), _reward(), tmp_path)
    same = [torch.equal(a, b) for a, b in pairwise(drawn)]
    assert same == [True, False, False, True]  # 0 and 1 by the first weights, 2 by those after 0; 3 after a save
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    deviations = [line["ratio_deviation"] for line in lines]
    assert deviations[0] < 1e-5 < min(deviations[1], deviations[2], deviations[4])
    assert deviations[3] < 1e-5


@pytest.mark.parametrize("train", [train_editor, train_best_of_g])
def test_a_resumed_run_is_the_uninterrupted_one(make_editor, tmp_path, train):
    class Killed(Exception): ...

    def die(line):
        if line["step"] == 4:
            raise Killed

    stage = changed(STAGE, steps=6)
    whole, torn = make_editor(), make_editor()
    train(stage, whole, _contexts(), _reward(), tmp_path / "whole")
    with pytest.raises(Killed):
        train(stage, torn, _contexts(), _reward(), tmp_path / "torn", progress=die)
    resumed = make_editor()
    train(stage, resumed, _contexts(), _reward(), tmp_path / "torn", resume=True)
    expected = whole.transformer.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.transformer.state_dict().items())
    with pytest.raises(ValueError, match="save_every was 3 and is 2"):
        train(changed(stage, save_every=2), make_editor(), _contexts(), _reward(), tmp_path / "torn", resume=True)


def test_what_breaks_off_leaves_nothing_to_be_judged(make_editor, tmp_path, monkeypatch):
    """Threads that still judged would hold a process that was told to end."""
    asked, judge, held = [], BrightnessJudge(), threading.Event()
    answer = judge.judge

    def waits(items):
        asked.append(len(items))
        assert held.wait(30)
        return answer(items)

    monkeypatch.setattr(judge, "judge", waits)
    decoded = []

    def breaks(picture):
        decoded.append(1)
        if len(decoded) == 6:
            raise KeyboardInterrupt
        return encode_png(picture)

    monkeypatch.setattr(editor_rollout, "encode_png", breaks)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        train_editor(changed(STAGE, sample_batch=1), make_editor(), _contexts(), _reward(judge), tmp_path)
    held.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert asked == [1]  # the one that had begun; four waited


def test_what_cannot_run_ahead_is_refused(make_editor, tmp_path):
    with pytest.raises(ValueError, match="set ahead=0"):
        train_nft(STAGE, make_editor(), _contexts(), _reward(), tmp_path)
    with pytest.raises(ValueError, match="nothing would be judged meanwhile"):
        train_editor(STAGE, make_editor(), _contexts(), lambda c, i: [0.0] * len(i), tmp_path)
    with pytest.raises(ValueError, match="ratio='guard'"):
        changed(STAGE, ratio="guard", clip_range=2e-6)
