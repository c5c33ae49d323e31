from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline

from edit_r1.algo.group_advantage import group_advantage
from edit_r1.editors.flow import generator, sample_trajectory
from edit_r1.editors.flux_kontext import FluxKontextEditor, FluxKontextSettings
from edit_r1.images import decode_rgb, encode_png
from edit_r1.records import Context, Principle, Sample
from edit_r1.train import best_of_g, nft
from edit_r1.train import editor as editor_module
from edit_r1.train.best_of_g import best_of_groups, train_best_of_g
from edit_r1.train.editor import train_editor, update
from edit_r1.train.editor_policy import EditorPolicy
from edit_r1.train.editor_rollout import sample_edits
from edit_r1.train.editor_stage import EditorRLStage, changed, plan_iteration
from edit_r1.train.nft import train_nft, update_by_contrast
from edit_r1.train.reward_queue import Judging

STAGE = changed(EditorRLStage(),
    steps=2, contexts_per_step=2, group_size=3, sampling_steps=4, trained_steps=2, lora_rank=0, learning_rate=1e-3,
    train_batch=4, sample_batch=4, save_every=1,
)  # fmt: skip


def _contexts(count: int, sizes: tuple[tuple[int, int], ...] = ((16, 16),)) -> list[Context]:
    rng = np.random.default_rng(0)
    contexts = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        source = encode_png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        sample = Sample(f"s{index}", source, ["make it red", "add a star"][index % 2], "")
        contexts.append(Context(sample, (Principle("Is it red?", "Instruction Following"),), "test"))
    return contexts


def _brightness(contexts, images):
    return [float(decode_rgb(image).mean()) / 25.5 for image in images]


def _one_iteration(editor, stage, contexts, reward=_brightness):
    iteration = plan_iteration(stage, 0, len(contexts))
    chosen = [contexts[i] for i in iteration.contexts_B]
    rollouts = sample_edits(editor, stage, iteration, chosen)
    judging = Judging(reward, chosen, stage.group_size)
    for rollout in rollouts:
        judging.put(rollout.edits_M, rollout.images_M)
    rewards = judging.rewards()
    groups = [edit // stage.group_size for edit in range(len(rewards))]
    return iteration, rollouts, rewards, group_advantage(rewards, groups)


def _lines(path, kind):
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def test_fault_1_master_weights_are_float32(make_editor):
    editor = make_editor()
    editor.pipeline.transformer.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"not float32.*dtype=torch.float32"):
        EditorPolicy(editor, STAGE)
    # A transformer that waits for being sharded has nowhere to go in one process.
    waiting = make_editor()
    waiting.pipeline.vae.to("meta")
    with pytest.raises(ValueError, match="the transformer is on cpu and the rest of the editor on meta: with waits"):
        EditorPolicy(waiting, STAGE)
    # LoRA on a bf16 base is fine: its own weights are float32, and a small update is kept.
    lora = EditorPolicy(editor, changed(STAGE, lora_rank=2, learning_rate=1e-6))
    assert {parameter.dtype for parameter in lora.parameters.values()} == {torch.float32}
    before = {name: parameter.detach().clone() for name, parameter in lora.parameters.items()}
    for parameter in lora.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    lora.expect_update()
    assert lora.update() > 0
    assert all(not torch.equal(before[name], parameter) for name, parameter in lora.parameters.items())


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("window", ["random", "all"])
@pytest.mark.parametrize("bf16_products", [False, True])
def test_fault_2_the_ratio_is_one_at_the_first_update(make_editor, lora_rank, window, bf16_products):
    stage = changed(STAGE, lora_rank=lora_rank, window=window, inner_updates=2, learning_rate=1e-2)
    editor = make_editor(guidance_embeds=True)
    editor.settings = replace(editor.settings, bf16_products=bf16_products)
    policy = EditorPolicy(editor, stage)
    contexts = _contexts(2, ((16, 16), (16, 24)))
    iteration, rollouts, _, advantages = _one_iteration(editor, stage, contexts)
    assert len(rollouts) == 2  # two sizes, each with a schedule and position ids of its own
    changes = update(stage, policy, iteration, rollouts, advantages)
    assert changes["ratio_deviation"] < 1e-5
    assert changes["clip_share"] > 0  # after the first inner update the ratio has moved past the clip
    assert changes["kl"] > 0


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_fault_3_the_kl_has_a_gradient(make_editor, lora_rank):
    stage = changed(STAGE, lora_rank=lora_rank, kl_beta=1.0, max_grad_norm=1e9)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    iteration, rollouts, _, advantages = _one_iteration(editor, stage, _contexts(2))
    with torch.no_grad():
        for parameter in policy.parameters.values():
            parameter.add_(0.05)
    # Without advantages only the KL is left to move the weights: it must pull them back.
    silent = replace(advantages, advantages_N=(0.0,) * len(advantages.advantages_N))
    values = []
    for _ in range(8):
        changes = update(stage, policy, iteration, rollouts, silent)
        assert changes["grad_norm"] > 0
        values.append(changes["kl"])
    assert values[-1] < values[0]


def test_reference_is_the_editor_before_training(make_editor):
    for lora_rank in (0, 2):
        editor = make_editor()
        contexts = _contexts(1)
        [(_, encoded)] = editor.encode([contexts[0].sample])
        latents = editor.noise(encoded, [generator(0)])
        timestep = torch.tensor([500.0])
        with torch.no_grad():
            before = editor.velocity(latents, timestep, encoded, 2.5)
            policy = EditorPolicy(editor, changed(STAGE, lora_rank=lora_rank))
            for parameter in policy.parameters.values():
                parameter.add_(0.1)
            with policy.reference() as reference:
                assert torch.allclose(reference.velocity(latents, timestep, encoded, 2.5), before, atol=1e-6)
            assert not torch.allclose(editor.velocity(latents, timestep, encoded, 2.5), before, atol=1e-3)
        assert all(parameter.requires_grad for parameter in policy.parameters.values())


def test_fault_6_an_iteration_without_spread_is_skipped(make_editor, tmp_path):
    editor = make_editor()
    before = {k: v.clone() for k, v in editor.transformer.state_dict().items()}
    done = train_editor(STAGE, editor, _contexts(3), lambda contexts, images: [5.0] * len(images), tmp_path)
    assert all(torch.equal(before[k], v) for k, v in editor.transformer.state_dict().items())
    for line in _lines(done.metrics, "step"):
        assert (line["updated"], line["groups_zero_spread"], line["trained_edits"]) == (False, 2, 0)


def test_failed_judgments_are_masked_and_counted(make_editor, tmp_path):
    def reward(contexts, images):
        values = _brightness(contexts, images)
        return [None, float("nan"), values[2], None, *values[4:]]

    done = train_editor(changed(STAGE, steps=1), make_editor(), _contexts(2), reward, tmp_path)
    [line] = _lines(done.metrics, "step")
    assert (line["failed_judgments"], line["groups_too_few"], line["trained_edits"]) == (3, 1, 2)
    with pytest.raises(ValueError, match="one per image"):
        train_editor(STAGE, make_editor(), _contexts(2), lambda contexts, images: [1.0], tmp_path / "other")


def test_a_silent_judge_ends_a_run_that_resumes_when_it_speaks_again(make_editor, tmp_path):
    stage = changed(STAGE, steps=8, save_every=2)
    asked = []

    def reward(contexts, images):
        asked.append(len(images))
        return _brightness(contexts, images) if len(asked) in (1, 3) else [None] * len(images)

    with pytest.raises(ValueError, match="no edit of the last 3 iterations was judged.*--resume"):
        train_editor(stage, make_editor(), _contexts(2), reward, tmp_path)
    assert [line["trained_edits"] for line in _lines(tmp_path / "metrics.jsonl", "step")] == [6, 0, 6, 0, 0, 0]
    done = train_editor(stage, make_editor(), _contexts(2), _brightness, tmp_path, resume=True)
    assert done.steps == len(_lines(done.metrics, "step")) == 8


def test_a_run_whose_end_was_never_judged_has_no_result(make_editor, tmp_path):
    """Neither an editor nor a state says that it was done, also when it is resumed in vain."""
    stage = changed(STAGE, steps=3, save_every=1)
    for resume in (False, True):
        with pytest.raises(ValueError, match="no edit of the last 3 iterations was judged.*--resume"):
            train_editor(stage, make_editor(), _contexts(2), lambda c, images: [None] * len(images), tmp_path, resume)
        assert len(_lines(tmp_path / "metrics.jsonl", "step")) == 2 and not (tmp_path / "editor").exists()
    done = train_editor(stage, make_editor(), _contexts(2), _brightness, tmp_path, resume=True)
    assert [line["trained_edits"] for line in _lines(done.metrics, "step")] == [0, 0, 6] and done.result.is_dir()


@pytest.mark.parametrize("name", ["learning_rate", "eta", "advantage_clip", "kl_beta", "max_grad_norm"])
def test_a_number_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=nan: must be"):
        changed(STAGE, **{name: float("nan")})


def test_fault_8_the_window_is_shared_and_the_last_step_is_left_out(make_editor):
    stage = changed(STAGE, window="all", trained_steps=1, sampling_steps=5, sample_batch=2)
    iteration, rollouts, _, _ = _one_iteration(make_editor(), stage, _contexts(2, ((16, 16), (16, 24))))
    assert iteration.window == (0, 1, 2, 3)
    for rollout in rollouts:
        assert rollout.latents_MKLC.shape[:2] == (3, 4) == rollout.log_prob_MK.shape


def test_edits_of_one_start_part_in_the_window_alone(make_editor):
    stage = changed(STAGE, sampling_steps=6, window="random", trained_steps=2, same_start=True, group_size=2)
    iteration, rollouts, _, _ = _one_iteration(make_editor(), stage, _contexts(2))
    first_MLC = rollouts[0].latents_MKLC[:, 0]
    assert torch.equal(first_MLC[0], first_MLC[1]) and torch.equal(first_MLC[2], first_MLC[3])
    assert not torch.equal(first_MLC[0], first_MLC[2])
    next_MLC = rollouts[0].next_MKLC[:, 0]
    assert not torch.equal(next_MLC[0], next_MLC[1])
    own = changed(stage, same_start=False)
    assert not torch.equal(*_one_iteration(make_editor(), own, _contexts(2))[1][0].latents_MKLC[:2, 0])


def test_fault_11_rewards_stay_with_their_edits(make_editor):
    """Mixed sizes and several micro-batches: edit n is of context n // G, drawn from seed n."""
    stage = changed(STAGE, contexts_per_step=4, sample_batch=2)
    editor = make_editor()
    contexts = _contexts(4, ((16, 16), (16, 24)))
    seen = []

    def reward(contexts_N, images_N):
        seen.extend(zip(contexts_N, images_N, strict=True))
        return _brightness(contexts_N, images_N)

    iteration, rollouts, _, advantages = _one_iteration(editor, stage, contexts, reward)
    for edit, (context, image) in enumerate(seen):
        assert context is contexts[iteration.contexts_B[edit // 3]]
        [(_, encoded)] = editor.encode([context.sample])
        run = sample_trajectory(
            editor, encoded, [generator(iteration.seeds_N[edit])], editor.schedule(encoded, 4), stage.guidance,
            stage.sde.eta, iteration.window,
        )  # fmt: skip
        alone = editor.decode(run.final_BLC, encoded)[0].astype(int)
        assert np.abs(alone - decode_rgb(image).astype(int)).max() <= 1
    kept = [r.edits_M[i] for r in rollouts for rows in r.micro_batches(advantages.trained_N, 2) for i in rows.tolist()]
    assert sorted(kept) == [edit for edit, trained in enumerate(advantages.trained_N) if trained]


@pytest.mark.parametrize("train", [train_editor, train_best_of_g, train_nft])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_resume_is_exact(make_editor, tmp_path, monkeypatch, train, lora_rank):
    stage = changed(STAGE, steps=4, save_every=2, eval_every=1, lora_rank=lora_rank, ema_decay=0.5)
    contexts = _contexts(3)
    whole = make_editor()
    full = train(stage, whole, contexts, _brightness, tmp_path / "whole", evaluate=lambda step: {"x": float(step)})

    calls = []

    def dies(contexts_N, images_N):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return _brightness(contexts_N, images_N)

    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(stage, make_editor(), contexts, dies, out, evaluate=lambda step: {"x": float(step)})
    with pytest.raises(ValueError, match="--resume"):
        train(stage, make_editor(), contexts, _brightness, out)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001"):
        train(changed(stage, learning_rate=0.1), make_editor(), contexts, _brightness, out, resume=True)
    with pytest.raises(ValueError, match="other contexts"):
        train(stage, make_editor(), contexts[::-1], _brightness, out, resume=True)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    resumed = make_editor()
    again = train(stage, resumed, contexts, _brightness, out, resume=True, evaluate=lambda step: {"x": float(step)})

    expected = whole.transformer.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in resumed.transformer.state_dict().items())

    def without_seconds(path):
        return [{k: v for k, v in json.loads(t).items() if k != "seconds"} for t in path.read_text().splitlines()]

    assert without_seconds(full.metrics) == without_seconds(again.metrics)
    assert [line["step"] for line in _lines(again.metrics, "evaluation")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("lora_rank", "save_as"), [(0, "merged"), (2, "merged"), (2, "adapter")])
def test_result_opens_in_diffusers_and_edits_like_the_trained_editor(make_editor, tmp_path, lora_rank, save_as):
    stage = changed(STAGE, steps=1, lora_rank=lora_rank, save_as=save_as, learning_rate=0.05)
    editor = make_editor()
    contexts = _contexts(2)
    untouched = editor.edit([contexts[0].sample], [1])[0].image
    done = train_editor(stage, editor, contexts, _brightness, tmp_path)
    trained = decode_rgb(editor.edit([contexts[0].sample], [1])[0].image).astype(int)
    if save_as == "merged":
        pipeline = FluxKontextPipeline.from_pretrained(done.result)
    else:
        pipeline = make_editor().pipeline
        pipeline.load_lora_weights(done.result)
    loaded = FluxKontextEditor(pipeline, FluxKontextSettings(steps=4))
    again = decode_rgb(loaded.edit([contexts[0].sample], [1])[0].image).astype(int)
    assert np.abs(again - trained).max() <= 1
    assert np.abs(trained - decode_rgb(untouched).astype(int)).max() > 1


def test_ema_is_what_is_evaluated(make_editor, tmp_path):
    editor = make_editor()
    start = editor.transformer.proj_out.weight.detach().clone()
    seen = []
    stage = changed(STAGE, steps=1, ema_decay=0.9)
    train_editor(
        stage,
        editor,
        _contexts(2),
        _brightness,
        tmp_path,
        evaluate=lambda step: seen.append(editor.transformer.proj_out.weight.detach().clone()) or {},
    )
    trained = editor.transformer.proj_out.weight.detach()
    assert torch.equal(seen[0], start)
    assert torch.allclose(seen[1], 0.9 * start + 0.1 * trained, atol=1e-7)


def test_best_of_groups_takes_the_best_judged_edit():
    rewards = [1.0, 4.0, 4.0, None, 2.0, 3.0, 5.0, 5.0, 5.0]
    advantages = group_advantage(rewards, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert best_of_groups(rewards, advantages, 3) == [1, 5]


@pytest.mark.parametrize(("like", "other"), [("flow-grpo", train_editor), ("diffusion-nft", train_nft)])
def test_the_control_draws_what_the_other_algorithm_draws(make_editor, tmp_path, monkeypatch, like, other):
    stage = changed(STAGE, steps=1, group_size=4, window_share=0.5)
    editor, drawn, sigmas, contexts = make_editor(), [], [], _contexts(2)
    [(_, encoded)] = editor.encode([contexts[0].sample])
    schedule = editor.schedule(encoded, best_of_g.SIGMA_LEVELS)
    middle = float(schedule.sigmas[best_of_g.SIGMA_LEVELS // 2])
    loss = best_of_g.flow_matching_loss

    def noted(model, rollout, noisy, guidance):
        sigmas.extend(noisy.sigma_F.tolist())
        return loss(model, rollout, noisy, guidance)

    def brightness(contexts_N, images_N):
        drawn[-1].extend(images_N)
        return _brightness(contexts_N, images_N)

    monkeypatch.setattr(best_of_g, "flow_matching_loss", noted)
    for name, train, options in (("control", train_best_of_g, {"like": like}), ("other", other, {})):
        drawn.append([])
        train(stage, make_editor(), contexts, brightness, tmp_path / name, **options)
    assert drawn[0] == drawn[1] and len(drawn[0]) == 8
    assert len(sigmas) == 2 * 4 * 2  # a best edit of each context, a version for every edit and trained step
    assert (min(sigmas) >= middle) == (like == "diffusion-nft")


@pytest.mark.parametrize("train", [train_editor, train_best_of_g, train_nft])
def test_a_few_iterations_raise_a_simple_reward(make_editor, tmp_path, train):
    editor = make_editor()
    contexts = _contexts(4)
    seeds = list(range(4))

    def brightness(step):
        edits = editor.edit([context.sample for context in contexts], seeds)
        return {"brightness": float(np.mean([decode_rgb(edit.image).mean() for edit in edits]))}

    stage = changed(
        STAGE,
        steps=20,
        contexts_per_step=4,
        group_size=8,
        learning_rate=3e-3,
        kl_beta=0.0,
        ema_decay=0.0,
        sample_batch=32,
        train_batch=32,
        save_every=0,
    )
    done = train(stage, editor, contexts, _brightness, tmp_path, evaluate=brightness)
    before, after = (line["brightness"] for line in _lines(done.metrics, "evaluation"))
    assert after > before + 3
    assert set(_lines(done.metrics, "step")[0]["seconds"]) == {"sample", "judge", "update"}
    assert editor_module.EditorRLStage is EditorRLStage


def test_nft_leaves_failed_judgments_out_and_shares_noise_within_a_group(make_editor):
    stage = changed(STAGE, group_size=4, kl_beta=0.1, window_share=1.0)
    editor = make_editor()
    policy = EditorPolicy(editor, stage)
    contexts = _contexts(2)
    iteration = replace(plan_iteration(stage, 0, len(contexts)), window=())
    rollouts = sample_edits(editor, stage, iteration, [contexts[i] for i in iteration.contexts_B])
    rewards = [1.0, None, 3.0, 2.0, None, None, None, 5.0]  # of the second group one is left, which teaches nothing
    advantages = group_advantage(rewards, [0] * 4 + [1] * 4)
    batches = list(nft._noisy_edits(stage, policy, iteration, rollouts, advantages, 0))
    used = [batch.rollout.edits_M[row] for batch in batches for row in batch.rows_M.tolist()]
    assert used == [0, 2, 3]
    [batch] = batches
    clean = batch.rollout.final_MLC[batch.rows_M][:, None]
    sigma = batch.sigma_MK[..., None, None]
    noise = (batch.noisy_MKLC - (1 - sigma) * clean) / sigma
    assert torch.allclose(noise, noise[:1].expand_as(noise), atol=1e-4)
    assert torch.equal(batch.sigma_MK, batch.sigma_MK[:1].expand_as(batch.sigma_MK))
    assert batch.old_FLC is None and batch.reference_FLC is not None
    before = {name: value.detach().clone() for name, value in policy.parameters.items()}
    changes = update_by_contrast(stage, policy, iteration, rollouts, advantages)
    assert changes["kl"] == pytest.approx(0.0, abs=1e-9)  # the first update starts at the reference
    assert any(not torch.equal(before[name], value) for name, value in policy.parameters.items())
    nothing = group_advantage([None] * 8, [0] * 4 + [1] * 4)
    assert not update_by_contrast(stage, policy, iteration, rollouts, nothing)["updated"]
