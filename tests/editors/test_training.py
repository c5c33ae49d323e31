"""Every backbone through the loops of reinforcement learning: the ratio, a reward that rises, LoRA, references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edit_r1.algo.group_advantage import group_advantage
from edit_r1.editors.flux2_klein import Flux2KleinEditor, Flux2KleinSettings
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.qwen_image_edit import QwenImageEditor, QwenImageEditSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.train.editor import train_editor, update
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import sample_edits
from edit_r1.train.editor_stage import EditorRLStage, changed, plan_iteration
from edit_r1.train.reward_queue import Judging

BACKBONES = ("kontext", "qwen", "plus", "plus 2511", "klein")
STAGE = changed(EditorRLStage(),
    steps=1, contexts_per_step=2, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0, learning_rate=1e-3,
    train_batch=4, sample_batch=4, save_every=0,
)  # fmt: skip


@pytest.fixture
def make_editor(kontext_pipeline, qwen_pipeline, klein_pipeline):
    def build(backbone: str) -> Any:
        if backbone == "kontext":
            return FluxKontextEditor(kontext_pipeline(True), FluxKontextSettings(steps=4))
        if backbone == "klein":
            return Flux2KleinEditor(klein_pipeline(), Flux2KleinSettings(steps=4, max_text_tokens=24))
        areas = {"area": 32 * 32, "source_area": 32 * 32, "condition_area": 32 * 32}
        pipeline = qwen_pipeline(plus=backbone != "qwen", zero_cond_t=backbone == "plus 2511")
        return QwenImageEditor(pipeline, QwenImageEditSettings(steps=4, **areas))

    return build


def _contexts(backbone: str, count: int) -> list[Context]:
    """Of two sizes, and with further pictures in every second one where the editor takes them."""
    rng = np.random.default_rng(0)
    sizes = {"kontext": ((16, 16), (16, 24)), "klein": ((64, 64), (64, 72))}.get(backbone, ((32, 32), (24, 72)))

    def picture(size):
        return encode_png(rng.integers(0, 256, (*size, 3), dtype=np.uint8))

    samples = []
    for index in range(count):
        several = index % 2 == 1 and backbone not in ("kontext", "qwen")
        references = (picture(sizes[0]),) if several else ()
        words = ["make it red", "add a star on the left"][index % 2]
        samples.append(Sample(f"s{index}", picture(sizes[index % 2]), words, "", references=references))
    return [Context(sample, (Principle("Is it red?", "Instruction Following"),), "test") for sample in samples]


def _brightness(contexts, images):
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_fault_2_the_ratio_is_one_at_the_first_update(make_editor, backbone, lora_rank):
    """Two layouts, guidance where the backbone has it: rollout and replay compute the same velocity."""
    stage = changed(STAGE, lora_rank=lora_rank, inner_updates=2, learning_rate=1e-2, guidance=3.0)
    editor = make_editor(backbone)
    contexts = _contexts(backbone, 2)
    policy = EditorPolicy(editor, stage)
    iteration = plan_iteration(stage, 0, len(contexts))
    chosen = [contexts[i] for i in iteration.contexts_B]
    rollouts = sample_edits(editor, stage, iteration, chosen)
    assert len(rollouts) == 2 and all(len(rollout.edits_M) == stage.group_size for rollout in rollouts)
    judging = Judging(_brightness, chosen, stage.group_size)
    for rollout in rollouts:
        judging.put(rollout.edits_M, rollout.images_M)
    rewards = judging.rewards()
    advantages = group_advantage(rewards, [edit // stage.group_size for edit in range(len(rewards))])
    changes = update(stage, policy, iteration, rollouts, advantages)
    assert changes["ratio_deviation"] < 1e-5
    assert changes["clip_share"] > 0 and changes["kl"] > 0


@pytest.mark.parametrize("backbone", ["qwen", "plus 2511", "klein"])
def test_a_few_iterations_raise_a_simple_reward(make_editor, tmp_path, backbone):
    editor = make_editor(backbone)
    contexts = _contexts(backbone, 2)

    def brightness(step):
        edits = editor.edit([context.sample for context in contexts] * 2, [0, 1, 2, 3])
        return {"brightness": float(np.mean([decode_rgb(edit.image).mean() for edit in edits]))}

    seen = []
    stage = changed(STAGE, steps=8, group_size=6, learning_rate=2e-2, kl_beta=0.0, sample_batch=16, train_batch=16,
                    guidance=1.0)  # fmt: skip
    train_editor(
        stage, editor, contexts, _brightness, tmp_path, evaluate=lambda step: seen.append(brightness(step)) or {}
    )
    assert seen[-1]["brightness"] > seen[0]["brightness"] + 1.5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_adapter_loads_through_the_pipeline(make_editor, tmp_path, backbone):
    editor = make_editor(backbone)
    contexts = _contexts(backbone, 2)
    sample = contexts[0].sample
    untouched = decode_rgb(editor.edit([sample], [1])[0].image).astype(int)
    stage = changed(STAGE, lora_rank=2, save_as="adapter", learning_rate=0.05, guidance=1.0)
    done = train_editor(stage, editor, contexts, _brightness, tmp_path)
    trained = decode_rgb(editor.edit([sample], [1])[0].image).astype(int)
    again = make_editor(backbone)
    again.pipeline.load_lora_weights(done.result)
    loaded = decode_rgb(again.edit([sample], [1])[0].image).astype(int)
    assert np.abs(loaded - trained).max() <= 1
    assert np.abs(trained - untouched).max() > 1
