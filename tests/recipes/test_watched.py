"""`train editor`: a recipe's reward and guard at work on the tiny random Kontext."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edit_r1.editors.checkpoint import EditorCheckpoint
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.recipes.run import EditorRecipe, judge_of, run_training
from edit_r1.recipes.watched import keep_out, open_watched, read_regions
from edit_r1.records import CATEGORIES, Context, Judgment, Principle, PrincipleResult, Sample
from edit_r1.store import CONTEXTS, write_dataset
from edit_r1.train import rewards
from edit_r1.train.contexts import DataSettings
from edit_r1.train.editor_stage import EditorRLStage, changed
from edit_r1.train.editor_state import newest_state
from edit_r1.train.guards import GuardSettings
from edit_r1.train.judges import JudgeSettings
from edit_r1.train.nft import train_nft
from edit_r1.train.rewards import RewardSettings

STAGE = changed(EditorRLStage(),
    steps=2, contexts_per_step=2, group_size=3, sampling_steps=3, trained_steps=1, lora_rank=0, learning_rate=1e-3,
    save_every=1, kl_beta=0.0,
)  # fmt: skip


class BrightnessJudge:
    """Passes a principle with the share of brightness; a judge of another address counts darkness."""

    apart = False

    def __init__(self, settings):
        self.identity, self.asked, self.closed = settings.address, [], False

    def judge(self, items):
        self.asked += [len(item.principles) for item in items]
        return [self._one(item, float(decode_rgb(item.edited).mean()) / 255) for item in items]

    def _one(self, item, share):
        share = 1 - share if self.identity == "dark" else share
        results = tuple(PrincipleResult(p.question, p.category, share, None) for p in item.principles)
        present = {p.category for p in item.principles}
        categories = {category: share if category in present else None for category in CATEGORIES}
        return Judgment(10 * share, 1, 0, None, results, categories, "b", 0.0)

    def close(self):
        self.closed = True


@pytest.fixture
def judges(monkeypatch):
    opened = []
    monkeypatch.setattr(rewards, "open_judge", lambda settings: opened.append(BrightnessJudge(settings)) or opened[-1])
    return opened


def _contexts(count: int) -> list[Context]:
    rng = np.random.default_rng(0)
    principles = tuple(Principle(f"{category} {i}?", category) for category in CATEGORIES for i in range(3))
    return [
        Context(Sample(f"s{i}", encode_png(rng.integers(0, 256, (16, 16, 3), np.uint8)), "do it", ""), principles, "t")
        for i in range(count)
    ]


def _editor():
    path = Path(__file__).parents[1] / "editors" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_kontext", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipeline = module.make_kontext_pipeline(False)
    pipeline.set_progress_bar_config(disable=True)
    return FluxKontextEditor(pipeline, FluxKontextSettings(steps=3))


def test_validation_contexts_are_kept_out_of_training():
    contexts = _contexts(6)
    assert keep_out(contexts, 2, 3, None) == (contexts[:4], contexts[4:])
    assert keep_out(contexts, 8, 5, None) == (contexts[:5], contexts[5:])
    assert keep_out(contexts, 8, 6, None) == (contexts, [])
    assert keep_out(contexts[:4], 1, 4, contexts[4:]) == (contexts[:4], contexts[4:5])


def test_regions_are_boxes_or_masks(tmp_path):
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:4] = 255
    (tmp_path / "mask.png").write_bytes(encode_png(mask))
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"a": [[1, 2, 3, 4]], "b": "mask.png"}))
    regions = read_regions(path)
    assert regions["a"] == [(1.0, 2.0, 3.0, 4.0)] and (regions["b"] == (mask[:, :, 0] > 0)).all()
    for wrong, message in (({"a": [[1, 2, 3]]}, "a: give boxes"), ([1], "found list")):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            read_regions(path)


def test_principles_are_held_out_unless_a_judge_is(judges, monkeypatch):
    contexts = _contexts(4)
    given = (contexts[:2], contexts[2:])
    seen, reward, guard = open_watched(RewardSettings(), GuardSettings(), JudgeSettings(), 0.34, *given)
    assert [len(context.principles) for context in seen] == [6, 6] and len(judges) == 1
    assert [len(context.principles) for context in guard.heldout_contexts] == [3, 3]
    assert guard.heldout is not None and guard.heldout.judge is reward.judge
    seen, reward, guard = open_watched(RewardSettings(), GuardSettings(), JudgeSettings("dark"), 0.34, *given)
    assert seen == contexts[:2] and guard.heldout_contexts == contexts[2:]
    assert (reward.judge.identity, guard.heldout.judge.identity) == ("", "dark")
    assert open_watched(RewardSettings(), GuardSettings(), JudgeSettings(), 0.0, *given)[2].heldout is None
    monkeypatch.setenv("RANK", "1")
    opened = len(judges)
    assert open_watched(RewardSettings(), GuardSettings(), JudgeSettings("dark"), 0.34, *given)[2].heldout is None
    assert len(judges) == opened + 1  # the training reward's


def test_an_editor_that_cannot_train_here_is_refused_before_anything_is_opened(judges, tmp_path):
    load = EditorCheckpoint("nowhere", FluxKontextSettings(), "cpu", "float32", waits=True)
    recipe = EditorRecipe("nowhere", "model", changed(STAGE, shard=True), load, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="waits=True in one process"):
        run_training("editor", recipe, resume=False)
    assert not judges and not (tmp_path / "run").exists()


def test_a_recipe_trains_under_guard(judges, tmp_path):
    write_dataset(tmp_path, "contexts", _contexts(5), CONTEXTS)
    recipe = EditorRecipe(
        str(tmp_path / "contexts"), "model", STAGE, _editor, out=str(tmp_path / "run"), traces=2,
        reward=RewardSettings(value="categories", overlap="on"), guard=GuardSettings(validate_every=1, contexts=2),
    )  # fmt: skip
    result = run_training("editor", recipe, resume=False)
    assert (result / "model_index.json").exists() and judges[0].closed and judges[0].identity == "model"
    lines = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert set(steps[0]["reward_parts"]) == set(CATEGORIES)
    assert set(steps[0]["seconds"]) == {"sample", "judge", "update", "judging", "waiting"}
    assert steps[0]["guard"]["copies"] == 0.0 and steps[0]["trained_edits"] == 6
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [0, 1, 2]
    assert all(value is not None for line in validations for value in (*line["reward"], *line["heldout"]))
    assert set(judges[0].asked) == {6, 3}  # never all nine at once
    assert len(list((tmp_path / "run/validation").glob("*.png"))) == 3
    with pytest.raises(ValueError, match="--resume"):
        run_training("editor", replace(recipe, load=partial(_editor)), resume=False)
    other = replace(recipe, reward=RewardSettings(value="score", workers=2), verifier="another")
    with pytest.raises(
        ValueError, match="judge was 'hub:model' and is 'hub:another'; reward.value was 'categories' and"
    ):
        run_training("editor", other, resume=True)
    faster = replace(recipe, reward=RewardSettings(value="categories", workers=2))
    assert run_training("editor", faster, resume=True) == result


def test_the_judge_is_what_is_given_in_either_place():
    recipe = EditorRecipe("data", "model", replace(STAGE, seed=7), _editor)
    assert judge_of(recipe) == JudgeSettings("model", seed=7)
    assert judge_of(replace(recipe, traces=4)).traces == 4
    inner = replace(recipe, reward=RewardSettings(judge=JudgeSettings("other", traces=3, seed=2, timeout_s=9.0)))
    assert (
        judge_of(inner) == JudgeSettings("other", traces=3, seed=2, timeout_s=9.0) == judge_of(replace(inner, traces=3))
    )
    with pytest.raises(ValueError, match="traces=4 and reward.judge.traces=3: give one"):
        judge_of(replace(inner, traces=4))


def test_too_few_contexts_for_validation_are_told(judges, tmp_path, capsys):
    write_dataset(tmp_path, "contexts", _contexts(3), CONTEXTS)
    recipe = EditorRecipe(
        str(tmp_path / "contexts"), "model", replace(STAGE, steps=1), _editor, out=str(tmp_path / "run"),
        guard=GuardSettings(contexts=2), heldout=JudgeSettings("dark"),
    )  # fmt: skip
    run_training("editor", recipe, resume=True)
    told = capsys.readouterr().out
    assert "1 validation contexts in place of 2" in told and "no saved state to resume" in told
    assert [(judge.identity, judge.closed) for judge in judges] == [("model", True), ("dark", True)]


def test_a_swapped_algorithm_trains_by_its_own_values(judges, tmp_path, capsys):
    """Not by Flow-GRPO's KL, which is of another quantity; what it has no use for is said, and the card knows both."""
    write_dataset(tmp_path, "contexts", _contexts(4), CONTEXTS)
    recipe = EditorRecipe(
        str(tmp_path / "contexts"), "model", changed(STAGE, steps=1, kl_beta=None, eta=0.9), _editor, train=train_nft,
        out=str(tmp_path / "run"), guard=GuardSettings(contexts=2), heldout=JudgeSettings("dark"),
    )  # fmt: skip
    result = run_training("editor", recipe, resume=False)
    assert "DiffusionNFT has no use for eta=0.9" in capsys.readouterr().out
    stage = newest_state(tmp_path / "run/state")[1]["stage"]
    assert (stage["loss"]["kl_beta"], stage["updates"]["ema_decay"]) == (1e-4, 0.5)
    assert '"kl_beta": 0.0001' in (result / "README.md").read_text()


def test_a_context_that_the_editor_cannot_edit_is_told_before_anything_is_drawn(judges, tmp_path, capsys):
    """Not at the iteration that draws it, where --resume would end in the same way for ever."""
    contexts = _contexts(5)
    two = replace(contexts[1].sample, references=(contexts[0].sample.source,))
    contexts[1] = replace(contexts[1], sample=two)
    write_dataset(tmp_path, "contexts", contexts, CONTEXTS)
    recipe = EditorRecipe(
        str(tmp_path / "contexts"), "model", replace(STAGE, steps=1), _editor, out=str(tmp_path / "run"),
        guard=GuardSettings(contexts=2), heldout=JudgeSettings("dark"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"1 of 5 contexts cannot be edited by .* \(s1: 1 reference images .*--broken"):
        run_training("editor", recipe, resume=False)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    run_training("editor", replace(recipe, reading=DataSettings(broken="skip")), resume=False)
    assert "s1: 1 reference images" in capsys.readouterr().out
    assert (tmp_path / "run/editor").is_dir()
