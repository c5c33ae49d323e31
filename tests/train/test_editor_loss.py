"""What an editor's update computes, against the same written out with plain loops in float64 or by another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from edit_r1.algo.group_advantage import group_advantage
from edit_r1.editors.flow import replay
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Sample
from edit_r1.train import nft
from edit_r1.train.best_of_g import train_best_of_g
from edit_r1.train.editor import train_editor, update
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import sample_edits
from edit_r1.train.editor_stage import EditorRLStage, changed, plan_iteration
from edit_r1.train.editor_state import newest_state
from edit_r1.train.nft import train_nft
from edit_r1.train.reward_queue import Judging
from edit_r1.train.sharding import shard

STAGE = changed(
    EditorRLStage(), steps=2, contexts_per_step=2, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0,
    learning_rate=1e-3, train_batch=4, sample_batch=4, save_every=0, kl_beta=0.0,
)  # fmt: skip


def _contexts(count: int) -> list[Context]:
    rng = np.random.default_rng(0)
    sources = [encode_png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]
    return [Context(Sample(f"s{i}", source, "make it red", ""), (), "test") for i, source in enumerate(sources)]


def _brightness(contexts, images):
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def _one_iteration(editor, stage, contexts, step=0, reward=_brightness):
    iteration = plan_iteration(stage, step, len(contexts))
    chosen = [contexts[i] for i in iteration.contexts_B]
    rollouts = sample_edits(editor, stage, iteration, chosen)
    judging = Judging(reward, chosen, stage.group_size)
    for rollout in rollouts:
        judging.put(rollout.edits_M, rollout.images_M)
    rewards = judging.rewards()
    groups = [edit // stage.group_size for edit in range(len(rewards))]
    advantages = group_advantage(rewards, groups, clip=stage.loss.advantage_clip, std_over=stage.loss.advantage_std)
    return iteration, rollouts, rewards, advantages


def _moved(policy):
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(0.002)


@pytest.mark.parametrize("kind", ["flow", "dance", "cps"])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_fault_2_the_ratio_is_one_for_every_kind(make_editor, kind, lora_rank):
    stage = changed(STAGE, kind=kind, lora_rank=lora_rank, inner_updates=2, learning_rate=1e-2, kl_beta=0.1)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    iteration, rollouts, _, advantages = _one_iteration(editor, stage, _contexts(2))
    changes = update(stage, policy, iteration, rollouts, advantages)
    assert changes["ratio_deviation"] < 1e-5 and changes["kl"] > 0


@pytest.mark.parametrize("ratio", ["plain", "guard"])
def test_fault_2_the_ratio_is_one_on_a_bf16_base(make_editor, ratio):
    """LoRA in float32 on a base stored in bf16, encoders and autoencoder too: the usual way on a GPU."""
    stage = changed(STAGE, lora_rank=2, ratio=ratio, inner_updates=2, learning_rate=1e-2, kl_beta=0.1)
    editor = make_editor(dtype=torch.bfloat16)
    policy = EditorPolicy(editor, stage)
    assert {parameter.dtype for parameter in policy.parameters.values()} == {torch.float32}
    iteration, rollouts, _, advantages = _one_iteration(editor, stage, _contexts(2))
    assert rollouts[0].next_MKLC.dtype == rollouts[0].log_prob_MK.dtype == torch.float32
    changes = update(stage, policy, iteration, rollouts, advantages)
    assert changes["ratio_deviation"] < 1e-5 and changes["kl"] > 0


@pytest.mark.parametrize(
    ("ratio", "advantage_std", "kl_scale"),
    [("plain", "group", "with_dt"), ("plain", "batch", "without_dt"), ("guard", "batch", "with_dt")],
)
def test_the_loss_against_loops_over_edits_and_steps(make_editor, ratio, advantage_std, kl_scale):
    """The gradient of one iteration, from the published forms of the ratios, edit by edit and step by step."""
    stage = changed(STAGE, ratio=ratio, advantage_std=advantage_std, clip_range=0.5, kl_beta=0.3, kl_scale=kl_scale)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    iteration, rollouts, rewards, advantages = _one_iteration(editor, stage, _contexts(2))
    [rollout] = rollouts
    contexts = rollout.contexts.rows(rollout.rows_M)
    args = (rollout.latents_MKLC, rollout.schedule, stage.guidance, stage.sde.eta, iteration.window)
    old = replay(editor, contexts, *args)[0].detach().double()
    _moved(policy)  # the policy that is updated is no longer the one that drew the edits, nor the reference
    values = [value for value in rewards if value is not None]
    batch_std = math.sqrt(sum((value - sum(values) / 6) ** 2 for value in values) / 6)

    mean, std, dt = replay(editor, contexts, *args)
    losses = []
    for edit in range(6):
        group = values[edit // 3 * 3 : edit // 3 * 3 + 3]
        spread = math.sqrt(sum((value - sum(group) / 3) ** 2 for value in group) / 3)
        advantage = (values[edit] - sum(group) / 3) / ((spread if advantage_std == "group" else batch_std) + 1e-4)
        for k in range(2):
            drawn, s = rollout.next_MKLC[edit, k].double(), float(std[k])
            now, before = mean[edit, k].double(), old[edit, k]
            log_ratio = ((-((drawn - now) ** 2) + (drawn - before) ** 2) / (2 * s * s)).mean()
            scale = 1.0
            if ratio == "guard":
                log_ratio = (log_ratio + ((now - before) ** 2).mean() / (2 * s * s)) * s
                scale = 1 / -float(dt[k])
            rho = torch.exp(log_ratio)
            surrogate = torch.minimum(rho * advantage, torch.clamp(rho, 0.5, 1.5) * advantage) * scale
            kl = ((now - before) ** 2).mean() / (2 * s * s) * (-float(dt[k]) if kl_scale == "without_dt" else 1.0)
            losses.append(0.3 * kl - surrogate)
    expected = torch.autograd.grad(sum(losses) / 12, list(policy.parameters.values()))

    seen = []
    policy.update = lambda: seen.extend(parameter.grad.clone() for parameter in policy.parameters.values()) or 1.0
    if ratio == "guard":  # the old means are those of a first pass, made here by the policy that drew the edits
        from edit_r1.train import editor as module

        batches = module._batches
        monkey = pytest.MonkeyPatch()

        def with_old(*args_):
            made = batches(*args_)
            for batch in made:
                batch.old_FLC = old[batch.rows_M].float().flatten(0, 1)
            return made

        monkey.setattr(module, "_batches", with_old)
        update(stage, policy, iteration, rollouts, advantages)
        monkey.undo()
    else:
        update(stage, policy, iteration, rollouts, advantages)
    for got, wanted in zip(seen, expected, strict=True):
        assert torch.allclose(got, wanted.float(), atol=1e-4 * float(wanted.abs().max()) + 1e-7)


def test_the_guard_ratio_clips_on_its_own_scale(make_editor):
    shares = {}
    for clip in (0.9, 1e-7):
        stage = changed(STAGE, ratio="guard", clip_range=clip, inner_updates=2, learning_rate=1e-3)
        editor = make_editor()
        policy = EditorPolicy(editor, stage)
        changes = update(stage, policy, *_pick(_one_iteration(editor, stage, _contexts(2))))
        assert changes["ratio_deviation"] < 1e-6
        shares[clip] = changes["clip_share"]
    assert shares[1e-7] > shares[0.9] == 0.0


def _pick(made):
    iteration, rollouts, _, advantages = made
    return iteration, rollouts, advantages


def test_fault_12_evaluation_takes_the_editors_own_number_of_steps(make_editor, tmp_path):
    """Few-step rollouts look worse than finished edits: what is evaluated is sampled in full, without noise."""
    editor = make_editor()
    editor.settings = replace(editor.settings, steps=7)
    calls, velocity = [], editor.velocity
    editor.velocity = lambda *args: calls.append(1) or velocity(*args)
    steps = []

    def evaluate(step):
        before = len(calls)
        editor.edit([context.sample for context in _contexts(2)], [0, 1])
        steps.append(len(calls) - before)
        return {}

    train_editor(changed(STAGE, steps=1), editor, _contexts(2), _brightness, tmp_path, evaluate=evaluate)
    assert steps == [7, 7] and STAGE.sampling_steps == 4


def test_fault_10_a_compiled_transformer_is_not_sharded(make_editor):
    editor = make_editor()
    editor.transformer.transformer_blocks[0].compile()
    with pytest.raises(ValueError, match="can hang"):
        shard(editor.transformer, editor.device)


@pytest.mark.parametrize("inner_updates", [1, 2])
def test_a_gradient_that_is_not_finite_is_counted_and_changes_nothing(make_editor, inner_updates):
    stage = changed(STAGE, inner_updates=inner_updates)
    policy = EditorPolicy(make_editor(), stage)
    iteration, rollouts, _, advantages = _one_iteration(policy.editor, stage, _contexts(2))
    before = {name: parameter.detach().clone() for name, parameter in policy.parameters.items()}
    broken = replace(advantages, advantages_N=(math.inf, *advantages.advantages_N[1:]))
    changes = update(stage, policy, iteration, rollouts, broken)
    assert (changes["updated"], changes["lost_updates"], changes["grad_norm"]) == (False, inner_updates, None)
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.parameters.items())
    changes = update(stage, policy, iteration, rollouts, advantages)
    assert changes["updated"] and changes["lost_updates"] == 0 and changes["grad_norm"] is not None


def test_trap_14_one_update_an_iteration_makes_the_clip_inert(make_editor):
    """Said in the settings' docstrings; with two the clip acts."""
    for inner, acts in ((1, False), (2, True)):
        stage = changed(STAGE, inner_updates=inner, learning_rate=1e-2)
        editor = make_editor()
        policy = EditorPolicy(editor, stage)
        changes = update(stage, policy, *_pick(_one_iteration(editor, stage, _contexts(2))))
        assert (changes["clip_share"] > 0) is acts


def test_micro_batches_do_not_change_the_update(make_editor):
    results = []
    for train_batch in (1, 4, 6):
        stage = changed(STAGE, train_batch=train_batch, sample_batch=6, kl_beta=0.1)
        editor = make_editor()
        policy = EditorPolicy(editor, stage)
        made = _pick(_one_iteration(editor, stage, _contexts(2)))
        results.append(update(stage, policy, *made)["grad_norm"])
    assert results == pytest.approx([results[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_recomputed_activations_give_the_same_gradient(make_editor, checkpointing):
    stage = changed(STAGE, checkpointing=checkpointing, lora_rank=2, kl_beta=0.1)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    assert editor.transformer.is_gradient_checkpointing == checkpointing
    changes = update(stage, policy, *_pick(_one_iteration(editor, stage, _contexts(2))))
    plain = make_editor()
    other = EditorPolicy(plain, changed(stage, checkpointing=False))
    assert changes["grad_norm"] == pytest.approx(
        update(stage, other, *_pick(_one_iteration(plain, stage, _contexts(2))))["grad_norm"], rel=1e-5
    )


def test_an_optimiser_step_waits_for_as_many_iterations_as_asked(make_editor):
    """The gradient of a step over two iterations is the mean of theirs, each by its own weights of one policy."""
    norms, gradients = [], []
    for step in (0, 1):
        stage = changed(STAGE, max_grad_norm=1e9)
        editor = make_editor()
        policy = EditorPolicy(editor, stage)
        policy.update = lambda: 1.0
        update(stage, policy, *_pick(_one_iteration(editor, stage, _contexts(4), step)))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in policy.parameters.values()]))
    stage = changed(STAGE, accumulate=2, max_grad_norm=1e9)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    start = {name: value.detach().clone() for name, value in policy.parameters.items()}
    for step, updated in ((0, False), (1, True)):
        assert all(torch.equal(start[name], value) for name, value in policy.parameters.items())
        changes = update(stage, policy, *_pick(_one_iteration(editor, stage, _contexts(4), step)))
        assert changes["updated"] is updated and (changes["grad_norm"] is None) is not updated
        norms.append(changes["grad_norm"])
    assert norms[1] == pytest.approx(float((gradients[0] + gradients[1]).norm()) / 2, rel=1e-4)
    assert any(not torch.equal(start[name], value) for name, value in policy.parameters.items())


@pytest.mark.parametrize("train", [train_editor, train_best_of_g, train_nft])
def test_fault_6_a_step_is_taken_when_its_last_iteration_taught_nothing(make_editor, tmp_path, train):
    calls = []

    def reward(contexts, images):
        calls.append(1)
        return _brightness(contexts, images) if len(calls) == 1 else [5.0] * len(images)

    stage = changed(STAGE, steps=4, accumulate=2)
    editor = make_editor()
    before = {name: value.clone() for name, value in editor.transformer.state_dict().items()}
    seen = []
    train(stage, editor, _contexts(4), reward, tmp_path, progress=lambda line: seen.append(line["updated"]))
    assert seen == [False, True, False, False]
    assert any(not torch.equal(before[name], value) for name, value in editor.transformer.state_dict().items())


def test_trap_17_the_old_policy_of_nft_is_the_decayed_one(make_editor, tmp_path):
    """Edits are drawn by the averaged weights, without noise on the way, and the average decays as asked."""
    from edit_r1.train import editor_run as loop

    drawn, monkey = [], pytest.MonkeyPatch()
    original = loop.sample_edits

    def watched(editor, stage, iteration, contexts, team, finished):
        assert iteration.window == () and iteration.starts_N is None
        drawn.append(editor.transformer.proj_out.weight.detach().clone())
        return original(editor, stage, iteration, contexts, team, finished)

    monkey.setattr(loop, "sample_edits", watched)
    editor = make_editor()
    start = editor.transformer.proj_out.weight.detach().clone()
    trained = []
    train_nft(
        changed(STAGE, ema_decay=0.75, learning_rate=1e-2), editor, _contexts(2), _brightness, tmp_path,
        progress=lambda line: trained.append(editor.transformer.proj_out.weight.detach().clone()),
    )  # fmt: skip
    monkey.undo()
    assert torch.equal(drawn[0], start) and not torch.equal(trained[0], start)
    assert torch.allclose(drawn[1], start.lerp(trained[0], 0.25), atol=1e-7)


@pytest.mark.parametrize(("schedule", "inner"), [("rising", 1), ("rising", 2), ("late", 1), ("constant", 2)])
def test_the_old_policy_follows_once_an_iteration_by_its_schedule(make_editor, tmp_path, schedule, inner):
    """Against a float64 twin of every iteration's average, through a stop and a resumed run."""
    from edit_r1.train import editor_run as loop

    stage = changed(
        STAGE, steps=4, save_every=2, inner_updates=inner, ema_schedule=schedule, ema_decay=0.4, learning_rate=1e-2
    )
    drawn, trained = [], []
    original, monkey = loop.sample_edits, pytest.MonkeyPatch()

    def watched(editor, *rest):
        drawn.append(editor.transformer.proj_out.weight.detach().double())
        return original(editor, *rest)

    monkey.setattr(loop, "sample_edits", watched)

    def run(editor, steps):
        train_nft(
            changed(stage, steps=steps), editor, _contexts(2), _brightness, tmp_path, resume=True,
            progress=lambda line: trained.append(editor.transformer.proj_out.weight.detach().double()),
        )  # fmt: skip

    run(make_editor(), 2)
    run(make_editor(), 4)
    monkey.undo()
    old = drawn[0]
    for iteration in range(1, 4):
        updates = iteration * inner
        decay = {"rising": min(updates * 0.001, 0.4), "late": 0.0, "constant": 0.4}[schedule]
        old = decay * old + (1 - decay) * trained[iteration - 1]
        assert torch.allclose(drawn[iteration], old, atol=1e-7)
        assert not torch.allclose(drawn[iteration], drawn[iteration - 1], atol=1e-5)
    state = newest_state(tmp_path / "state")[1]
    assert state["stage"]["updates"]["ema_schedule"] == schedule


@pytest.mark.parametrize("spread", ["group", "batch"])
def test_nft_normalises_by_the_std_that_is_asked_for(make_editor, tmp_path, monkeypatch, spread):
    """Two groups of different spreads: published code divides both by the batch's std."""
    rewards = [0.0, 1.0, 2.0, 0.0, 10.0, 5.0]
    seen, original = [], nft.update_by_contrast

    def watched(stage, policy, iteration, rollouts, advantages):
        seen.append(advantages)
        return original(stage, policy, iteration, rollouts, advantages)

    monkeypatch.setattr(nft, "update_by_contrast", watched)
    stage = changed(STAGE, steps=1, advantage_std=spread, ema_decay=0.0)
    train_nft(stage, make_editor(), _contexts(2), lambda *_: rewards, tmp_path)
    assert seen == [group_advantage(rewards, [0, 0, 0, 1, 1, 1], std_over=spread)]
