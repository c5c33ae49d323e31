"""Every backbone through the loops of reinforcement learning: the ratio, a reward that rises, LoRA, references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model_state_dict
from torch import nn

from edit_r1.algo.group_advantage import group_advantage
from edit_r1.editors.flow import generator
from edit_r1.editors.flux2_klein import Flux2KleinEditor, Flux2KleinSettings
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.editors.qwen_image_edit import QwenImageEditor, QwenImageEditSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.train.adapter import lora_config
from edit_r1.train.editor import train_editor, update
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import sample_edits
from edit_r1.train.editor_stage import EditorRLStage, changed, plan_iteration, policy_of, settled
from edit_r1.train.editor_state import newest_state
from edit_r1.train.nft import train_nft
from edit_r1.train.plan_measure import LiveBytes
from edit_r1.train.reward_queue import Judging
from edit_r1.train.sharding import shard, whole_transformer

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


@pytest.mark.parametrize("backbone", ["qwen", "klein"])
def test_nft_leaves_classifier_free_guidance_out_unless_asked(make_editor, tmp_path, backbone):
    """Published so: rollouts and the regression take one forward each, and the editor's own edits must match."""
    stage = changed(STAGE, guidance=3.0, kl_beta=0.0, ema_decay=0.0)
    contexts = _contexts(backbone, 2)
    with pytest.raises(ValueError, match="set guidance=1 there.*or guided=True"):
        train_nft(stage, make_editor(backbone), contexts, _brightness, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    def trained(name, guided, guidance):
        editor, forwards = make_editor(backbone), []
        editor.settings = replace(editor.settings, guidance=guidance)
        editor.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
        done = train_nft(changed(stage, guided=guided), editor, contexts, _brightness, tmp_path / name)
        return newest_state(tmp_path / name / "state")[1], len(forwards), done.steps

    plain, forwards, steps = trained("plain", None, 1.0)
    assert steps == 1 and plain["stage"]["guidance"] == 1.0 and plain["stage"]["guided"] is False
    same, _, _ = trained("same", None, 0.0)
    assert all(np.array_equal(value, same["weights"][name]) for name, value in plain["weights"].items())
    guided, twice, _ = trained("guided", True, 3.0)
    assert guided["stage"]["guidance"] == 3.0 and twice == 2 * forwards
    assert any(not np.array_equal(value, guided["weights"][name]) for name, value in plain["weights"].items())


def test_embedded_guidance_stays_in_every_policy(make_editor, klein_pipeline):
    """Kontext's is an input of its one forward, and a distilled FLUX.2 has none."""
    distilled = Flux2KleinEditor(klein_pipeline(is_distilled=True), Flux2KleinSettings(steps=4))
    for editor in (make_editor("kontext"), distilled):
        assert not editor.classifier_free and not editor.guided_edits
        for algorithm in ("flow-grpo", "diffusion-nft"):
            assert policy_of(settled(STAGE, algorithm), editor).guidance == STAGE.guidance
    qwen = make_editor("qwen")
    assert qwen.classifier_free and qwen.guided_edits
    assert policy_of(settled(STAGE, "flow-grpo"), qwen).guidance == STAGE.guidance


@pytest.mark.parametrize("backbone", ["kontext", "qwen", "klein"])
def test_a_sharded_transformer_is_put_together(make_editor, backbone):
    """Whole it computes what it did, and the adapter alone has no other weights in memory; one process holds all."""
    editor = make_editor(backbone)
    policy = EditorPolicy(editor, changed(STAGE, lora_rank=2, kl_beta=0.0))
    for name, weight in policy.parameters.items():
        weight.data.normal_(std=0.1, generator=generator(len(name)))
    [(_, contexts)] = editor.encode([_contexts(backbone, 1)[0].sample])
    inputs = editor.noise(contexts, [generator(0)]), torch.tensor([500.0]), contexts, 1.0
    expected = editor.velocity(*inputs)
    adapter = get_peft_model_state_dict(editor.transformer)
    config = lora_config(editor.lora_targets, 2)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shard(editor.transformer, editor.device)
        before = torch.random.get_rng_state()
        whole, alone = (whole_transformer(editor.transformer, config, True, adapter_alone=one) for one in (False, True))
        assert torch.equal(torch.random.get_rng_state(), before)  # no weight was drawn just to be replaced
        assert whole_transformer(editor.transformer, config, keep=False) is None
    finally:
        dist.destroy_process_group()
    assert torch.equal(editor.with_transformer(whole).velocity(*inputs), expected)
    in_memory = {name for name, weight in alone.named_parameters() if not weight.is_meta}
    assert in_memory == set(policy.parameters)
    found = get_peft_model_state_dict(editor.with_transformer(alone).transformer)
    assert found.keys() == adapter.keys() and all(torch.equal(found[name], adapter[name]) for name in adapter)


@pytest.mark.parametrize("backbone", ["kontext", "qwen", "plus 2511", "klein"])
def test_no_bf16_copy_of_a_weight_outlives_its_product(make_editor, monkeypatch, backbone):
    """Beside autocast's cache of copies: the same velocity and gradients, and less held while edits are drawn."""
    found = []
    for cached in (False, True):
        editor = make_editor(backbone)
        editor.settings = replace(editor.settings, bf16_products=True)
        if cached:
            monkeypatch.setattr(editor, "_products", lambda: torch.autocast("cpu", torch.bfloat16))
        policy = EditorPolicy(editor, changed(STAGE, kl_beta=0.0))
        [(_, contexts)] = editor.encode([_contexts(backbone, 2)[1].sample])
        inputs = editor.noise(contexts, [generator(0)]), torch.tensor([500.0]), contexts, 3.0
        with LiveBytes() as live, torch.no_grad():
            editor.velocity(*inputs)
        velocity = editor.velocity(*inputs)
        velocity.square().mean().backward()
        gradients = {name: weight.grad for name, weight in policy.parameters.items() if weight.grad is not None}
        found.append((velocity.detach(), gradients, live.peak))
    (own, gradients, peak), (expected, others, higher) = found
    assert torch.equal(own, expected) and gradients.keys() == others.keys()
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    assert peak < higher


class Packed(nn.Linear):
    """As bitsandbytes' 4-bit layers: integers for a weight, products in bf16, the result in its input's precision."""

    def __init__(self, matrix: nn.Linear, seen: set[torch.dtype]) -> None:
        super().__init__(matrix.in_features, matrix.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(matrix.weight.detach().bfloat16().view(torch.uint8), requires_grad=False)
        self.bias = matrix.bias
        self.seen = seen

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.seen.add(input.dtype)
        weight = self.weight.view(torch.bfloat16)
        return nn.functional.linear(input.bfloat16(), weight, self.bias).to(input.dtype)


@pytest.mark.parametrize("backbone", ["kontext", "qwen", "klein"])
def test_a_packed_base_is_trained_in_its_own_precision(make_editor, backbone):
    """FLUX.2 has no biases: the first floating weight of a packed one with an adapter is the adapter's, float32."""
    made, seen = make_editor(backbone), set()
    pipeline = made.pipeline.to(torch.bfloat16)
    for name, module in list(pipeline.transformer.named_modules()):
        if type(module) is nn.Linear:
            pipeline.transformer.set_submodule(name, Packed(module, seen))
    editor = type(made)(pipeline, made.settings)
    stage = changed(STAGE, lora_rank=2, save_as="adapter", kl_beta=0.0)
    policy = EditorPolicy(editor, stage)
    [(_, contexts)] = editor.encode([_contexts(backbone, 1)[0].sample])
    velocity = editor.velocity(editor.noise(contexts, [generator(0)]), torch.tensor([500.0]), contexts, 1.0)
    velocity.square().mean().backward()
    assert seen == {torch.bfloat16}
    assert any(bool(weight.grad.any()) for weight in policy.parameters.values())
    # Whoever wraps the trained transformer finds the same.
    assert editor.with_transformer(editor.transformer).dtype == torch.bfloat16
