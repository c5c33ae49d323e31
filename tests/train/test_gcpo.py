"""GCPO on a real, tiny Qwen2.5-VL: sampling, comparing, updating."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import add_fused_lm_head

from edit_r1.images import encode_png
from edit_r1.records import Preference
from edit_r1.train.gcpo import GCPOTrainer, build_trainer, train_gcpo, until_end
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.rollout import own_precision, rows_that_teach, runs_of, without_padding
from edit_r1.train.settings import changed
from edit_r1.train.shared_prompt import shared_prompts
from edit_r1.train.shared_vision import distinct_pictures
from edit_r1.train.verifier_run import RunFolder, load_trainable, read_curves


def stage_for(model: Path, out: Path, **changes: Any) -> GCPOStage:
    stage = GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=2, pairs_per_step=3, traces=4,
        sampling=SamplingSettings(max_new_tokens=8, decode_batch=8),
        updates=GCPOUpdates(learning_rate=3e-3, micro_batch=8), stored="fp32", save_every=1, cpu=True,
    )  # fmt: skip
    return changed(stage, **changes)


def trainer_for(model: Path, out: Path, preferences: Sequence[Preference], **changes: Any) -> GCPOTrainer:
    return build_trainer(stage_for(model, out, **changes), pairs_of(preferences), RunFolder(out))


# Sampling


def test_traces_of_a_group_differ_whatever_the_checkpoint_ships(
    checkpoint: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    shipped = json.loads((checkpoint / "generation_config.json").read_text())
    assert (shipped["top_k"], shipped["repetition_penalty"]) == (1, 1.5)
    trainer = trainer_for(checkpoint, tmp_path, preferences)
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    output = trainer._generate_and_score_completions(batch)
    groups = output["completion_ids"].view(-1, 4, output["completion_ids"].shape[1])
    assert all(len(set(map(tuple, group.tolist()))) > 1 for group in groups)
    config = trainer.generation_config
    assert (config.temperature, config.top_p, config.top_k, config.min_p, config.repetition_penalty) == (
        1.0, 1.0, 0, None, 1.0
    )  # fmt: skip
    pictures = {trainer.model.config.image_token_id, trainer.model.config.video_token_id}
    assert set(config.suppress_tokens) == pictures
    assert not pictures & set(output["completion_ids"].flatten().tolist())
    assert {output["completion_mask"].sum(1).max().item()} <= set(range(1, 9))


@pytest.mark.parametrize("sharded", [False, True])
def test_reading_a_prompt_once_samples_what_reading_every_copy_would(
    sharded: bool, wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    """One batch of all rows draws the same random numbers, so that TRL's own path is an exact twin."""
    trainer = trainer_for(wavering, tmp_path, preferences, decode_batch=24)
    trainer.sharded = sharded
    prompts = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    prompts = [prepare_multimodal_messages(row["prompt"], row["images"]) for row in prompts]
    prompt_ids, images, extra = trainer._tokenize_prompts(prompts)
    torch.manual_seed(3)
    once, _ = trainer._generate_single_turn(prompt_ids, images, extra, 4)
    torch.manual_seed(3)
    copies, _ = GRPOTrainer._generate_single_turn(trainer, prompt_ids, images, extra, 4)
    assert once == copies
    # Where a candidate's traces are torn between processes, prompts have unequal numbers of them.
    torn = slice(2, 23)
    few = dict(extra)
    torn_images = images[torn]
    per = [len(shown) for shown in images]
    patches = extra["image_grid_thw"].prod(1).tolist()
    first, last = sum(per[:2]), sum(per[:23])
    few["image_grid_thw"] = extra["image_grid_thw"][first:last]
    few["pixel_values"] = extra["pixel_values"][sum(patches[:first]) : sum(patches[:last])]
    traces, _ = trainer._generate_single_turn(prompt_ids[torn], torn_images, few, 4)
    assert len(traces) == 21 and all(traces)


def test_on_a_cpu_bf16_is_of_the_update_alone(wavering: Path, preferences: list[Preference], tmp_path: Path) -> None:
    """Sampling keeps the weights' own precision: the same traces, then other log-probabilities."""
    runs = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_for(wavering, tmp_path / precision, preferences, steps=1, precision=precision)
        trainer.train()
        assert trainer.comparison is not None
        norm = next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)
        runs[precision] = (trainer.comparison.ratios_B, norm)
        assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert torch.equal(runs["fp32"][0], runs["bf16"][0])
    assert runs["fp32"][1] != runs["bf16"][1]
    assert abs(runs["fp32"][1] / runs["bf16"][1] - 1) < 0.1


def test_a_trace_ends_with_its_first_end_token() -> None:
    assert until_end([5, 6, 2, 0, 0], [2]) == [5, 6, 2]
    assert until_end([5, 6], [2]) == [5, 6]


# The step


def objective(model: torch.nn.Module, rollouts: dict[str, Any]) -> float:
    """What an update is to raise: the mean over traces of A times the mean log-probability of the tokens."""
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], dim=1)
    mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], dim=1)
    pictures = {name: rollouts[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **pictures).logits
    length = rollouts["completion_ids"].shape[1]
    chosen = logits[:, -length - 1 : -1].log_softmax(-1).gather(2, rollouts["completion_ids"].unsqueeze(2)).squeeze(2)
    kept = rollouts["completion_mask"]
    return float((rollouts["advantages"] * (chosen * kept).sum(1) / kept.sum(1)).mean())


def test_one_step_uses_the_papers_advantages_and_makes_the_better_traces_likelier(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    trainer = trainer_for(wavering, tmp_path, preferences, steps=1)
    recorded: list[dict[str, Any]] = []
    score = trainer._generate_and_score_completions

    def record(inputs: list[dict[str, Any]]) -> dict[str, Any]:
        recorded.append(score(inputs))
        return recorded[-1]

    trainer._generate_and_score_completions = record  # type: ignore[method-assign]
    trainer.train()
    assert len(recorded) == 1
    compared = trainer.comparison
    assert compared is not None
    assert compared.contrast.counts.silent < compared.contrast.counts.pairs  # else the test shows nothing
    # TRL centres the ratios itself; that must be the paper's advantage.
    assert torch.allclose(recorded[0]["advantages"].double(), compared.advantages_B, atol=1e-6)
    start, _ = load_trainable(str(wavering), freeze_vision=False, max_pixels=0)
    assert objective(trainer.model, recorded[0]) > objective(start, recorded[0]) + 1e-3
    logged = next(line for line in trainer.state.log_history if "mean_ratio" in line)
    expected = {
        "mean_ratio", "unparsed", "truncated", "tie_share", "pairs_all_unparsed", "pairs_silent", "entropy",
        "weighted_advantage", "trace_tokens", "score_winner", "score_loser", "seconds_rollout", "step_time",
    }  # fmt: skip
    assert expected <= set(logged)


@pytest.mark.parametrize("updates", [1, 2])
def test_the_ratio_is_one_exactly_with_one_update_and_not_with_two(
    wavering: Path, preferences: list[Preference], tmp_path: Path, updates: int
) -> None:
    trainer = trainer_for(wavering, tmp_path, preferences, steps=1, updates_per_generation=updates)
    deviations: list[list[float]] = []
    compute = GRPOTrainer._get_per_token_logps_and_entropies

    def watch(model: Any, *args: Any, **options: Any) -> Any:
        result = compute(trainer, model, *args, **options)
        if torch.is_grad_enabled():
            deviations.append([])
            old = watched.get("old_per_token_logps")
            mask = watched["completion_mask"].bool()
            new = result[0].detach()
            deviations[-1] = (new - (new if old is None else old)).exp().sub(1).abs()[mask].tolist()
        return result

    watched: dict[str, Any] = {}
    loss = GRPOTrainer._compute_loss

    def keep(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        watched.clear()
        watched.update(inputs)
        return loss(self, model, inputs)

    trainer._get_per_token_logps_and_entropies = watch  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_compute_loss", keep)
        trainer.train()
    forwards = 24 // 8
    assert len(deviations) == forwards * updates
    assert trainer.state.global_step == updates
    first = [value for part in deviations[:forwards] for value in part]
    if updates == 1:
        assert set(first) == {0.0}
        return
    assert max(first) < 1e-5  # rollout's and update's log-probabilities agree (fault 2)
    assert max(value for part in deviations[forwards:] for value in part) > 1e-3


def test_rows_without_a_gradient_and_padding_can_be_left_out(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    """Loss and gradients equal TRL's on the full micro-batch."""
    trainer = trainer_for(wavering, tmp_path, preferences, micro_batch=24)
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    inputs = trainer._generate_and_score_completions(batch)
    inputs["advantages"] = torch.tensor([0.5, 0.0, -0.5, 0.0, 1e-9, 0.0] * 4)
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    for loss_of in (GRPOTrainer._compute_loss, GCPOTrainer._compute_loss):
        trainer.model.zero_grad()
        loss_of(trainer, trainer.model, inputs).backward()
        gradients.append({name: weight.grad.clone() for name, weight in trainer.model.named_parameters()})
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-4
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name
    teaching, share = rows_that_teach(inputs)
    assert (len(teaching["advantages"]), share) == (8, 8 / 24)
    assert len(teaching["num_images"]) == len(teaching["prompt_ids"]) == 8
    assert without_padding(teaching)["completion_mask"].any(0).all()
    silent, share = rows_that_teach({**inputs, "advantages": torch.zeros(24)})
    assert len(silent["advantages"]) == 1  # the step stays a step, with a gradient of zero


def test_a_picture_seen_twice_is_read_once(wavering: Path, preferences: list[Preference], tmp_path: Path) -> None:
    trainer = trainer_for(wavering, tmp_path, preferences)
    plain, _ = load_trainable(str(wavering), freeze_vision=False, max_pixels=0)
    pixels = torch.randn(3, 16, 192)[[0, 1, 0, 2, 1]].reshape(-1, 192)
    grids = torch.tensor([[1, 4, 4]] * 5)
    assert distinct_pictures(pixels, grids) == ([0, 1, 3], [0, 1, 0, 2, 1])
    assert distinct_pictures(pixels.bfloat16(), grids) == ([0, 1, 3], [0, 1, 0, 2, 1])
    turned = torch.cat([pixels[:16], pixels[:16].flip(0)])  # the same bits in another order
    assert distinct_pictures(turned, grids[:2]) == ([0, 1], [0, 1])
    outputs = [model.model.visual(pixels, grid_thw=grids) for model in (plain, trainer.model)]
    for name in ("last_hidden_state", "pooler_output"):
        assert torch.allclose(outputs[0][name], outputs[1][name], atol=1e-5)
    for output in outputs:
        output.pooler_output.pow(2).sum().backward()
    for one, other in zip(plain.model.visual.parameters(), trainer.model.model.visual.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4)
    assert runs_of("aabccc") == ([0, 2, 3], [2, 1, 3])


def _rows_of(pictures: dict[str, torch.Tensor], rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """The pictures of some rows of two pictures each."""
    pixels = pictures["pixel_values"].unflatten(0, (-1, 2 * 16))
    grids = pictures["image_grid_thw"].unflatten(0, (-1, 2))
    return {
        "mm_token_type_ids": pictures["mm_token_type_ids"][rows],
        "pixel_values": pixels[rows].flatten(0, 1),
        "image_grid_thw": grids[rows].flatten(0, 1),
    }


def _uneven(preferences: Sequence[Preference]) -> list[Preference]:
    """The same comparisons with prompts of several lengths and, in every second context, wide pictures."""
    made = []
    for number, preference in enumerate(preferences):
        context = preference.context
        wide = np.full((32, 64, 3), 40 + 20 * number, np.uint8)
        sample = replace(context.sample, instruction=context.sample.instruction + " please" * number)
        if number % 2:
            sample = replace(sample, source=encode_png(wide))
        context = replace(context, sample=sample, principles=context.principles * (1 + number % 3))
        made.append(replace(preference, context=context))
    return made


@pytest.mark.parametrize("uneven", [False, True])
def test_a_prompt_read_once_for_its_traces_changes_nothing(
    uneven: bool, wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    """Log-probabilities and gradients equal those of a model that reads every row whole."""
    preferences = _uneven(preferences) if uneven else preferences
    trainer = trainer_for(wavering, tmp_path, preferences, micro_batch=24)
    plain, _ = load_trainable(str(wavering), freeze_vision=False, max_pixels=0)
    add_fused_lm_head(plain, outputs=("log_probs", "entropy"))
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:24]]
    inputs = trainer._generate_and_score_completions(batch)
    fields = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids", "num_images")}
    ids, mask = (torch.cat([inputs[f"prompt_{k}"], inputs[f"completion_{k}"]], dim=1) for k in ("ids", "mask"))
    merge = trainer.model.config.vision_config.spatial_merge_size**2
    pictures = {name: fields[name] for name in ("mm_token_type_ids", "image_grid_thw", "pixel_values")}
    shared = shared_prompts(ids, mask, **pictures, merge=merge)
    assert shared is not None
    assert shared.row_B.tolist() == [row // 4 for row in range(24)]
    assert shared.length >= inputs["prompt_ids"].shape[1]
    if uneven:
        assert len(set(inputs["prompt_mask"].sum(1).tolist())) > 1
        assert len({tuple(grid) for grid in fields["image_grid_thw"].tolist()}) > 1
    else:
        assert shared_prompts(ids[::4], mask[::4], **_rows_of(pictures, range(0, 24, 4)), merge=merge) is None
    results, lengths = [], []
    for model in (plain, trainer.model):
        model.model.language_model.register_forward_pre_hook(
            lambda _, __, given: lengths.append(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
        )
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, inputs["completion_ids"].shape[1], **fields
        )
        logps = logps * inputs["completion_mask"]
        logps.cos().sum().backward()
        results.append((logps.detach(), [weight.grad for weight in model.parameters()]))
    rest = ids.shape[1] - shared.length
    assert lengths == [tuple(ids.shape), (6, shared.length), (24, rest)]  # six prompts once, then what follows them
    (one, gradients), (other, others) = results
    assert torch.allclose(one, other, atol=1e-5)
    for gradient, its_twin in zip(gradients, others, strict=True):
        assert torch.allclose(gradient, its_twin, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-6)


# Whole runs


def test_a_killed_run_resumes_to_the_same_weights(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    stage = stage_for(wavering, tmp_path / "run", steps=4, save_every=2, average_last=0.75)  # the mean of 2, 3 and 4
    model = train_gcpo(stage, preferences)
    assert [line["step"] for line in read_curves(tmp_path / "run/curves.jsonl")] == [1, 2, 3, 4]

    class Killed(Exception):
        pass

    def kill(done: int, total: int, logged: object) -> None:
        if done == 3:
            raise Killed

    again = replace(stage, out=str(tmp_path / "again"))
    with pytest.raises(Killed):
        train_gcpo(again, preferences, progress=kill)
    assert RunFolder(tmp_path / "again").checkpoint().name == "checkpoint-2"
    straight = load_file(model / "model.safetensors")
    resumed = load_file(train_gcpo(again, preferences, resume=True) / "model.safetensors")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_run_that_ran_out_of_memory_goes_on_in_smaller_parts(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    """The same update but for rounding; what it computes may not change."""
    stage = stage_for(wavering, tmp_path / "run", steps=3)
    straight = load_file(train_gcpo(stage, preferences) / "model.safetensors")

    def out_of_memory(done: int, total: int, logged: object) -> None:
        if done == 2:
            raise torch.OutOfMemoryError

    again = replace(stage, out=str(tmp_path / "again"))
    with pytest.raises(torch.OutOfMemoryError):
        train_gcpo(again, preferences, progress=out_of_memory)
    smaller = changed(again, micro_batch=4, gradient_checkpointing=True)
    with pytest.raises(ValueError, match=r"other settings \(epsilon\)"):
        train_gcpo(changed(smaller, epsilon=0.1), preferences, resume=True)
    resumed = load_file(train_gcpo(smaller, preferences, resume=True) / "model.safetensors")
    start = load_file(wavering / "model.safetensors")
    moved = sum(float((straight[name] - start[name]).square().sum()) for name in start)
    apart = sum(float((straight[name] - resumed[name]).square().sum()) for name in start)
    assert apart <= 0.05**2 * moved


def test_lora_with_two_updates_a_generation(wavering: Path, preferences: list[Preference], tmp_path: Path) -> None:
    stage = stage_for(wavering, tmp_path / "run", updates_per_generation=2, lora_rank=2)
    before = load_file(wavering / "model.safetensors")
    after = load_file(train_gcpo(stage, preferences) / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("_proj.weight") and "layers" in name for name in changed)
    assert len(read_curves(tmp_path / "run/curves.jsonl")) == 2  # a line a generation


def test_the_learning_rate_falls_when_asked_to(wavering: Path, preferences: list[Preference], tmp_path: Path) -> None:
    rates = {}
    for schedule in ("constant", "linear"):
        stage = stage_for(wavering, tmp_path / schedule, steps=2, schedule=schedule)
        train_gcpo(stage, preferences)
        rates[schedule] = [line["learning_rate"] for line in read_curves(tmp_path / schedule / "curves.jsonl")]
    rate = stage.updates.learning_rate
    assert rates == {"constant": [rate, rate], "linear": [rate, rate / 2]}


def test_the_config_is_small_and_checked() -> None:
    assert len(fields(GCPOStage)) <= 25
    with pytest.raises(ValueError, match="traces=1: a group needs at least 2"):
        GCPOStage("m", "o", traces=1)
    with pytest.raises(ValueError, match="micro_batch=7"):
        changed(GCPOStage("m", "o"), micro_batch=7)
    with pytest.raises(ValueError, match=r"average_last=1\.0"):
        GCPOUpdates(average_last=1.0)
    with pytest.raises(ValueError, match=r"epsilon=1\.5"):
        GCPOUpdates(epsilon=1.5)
    with pytest.raises(ValueError, match="row_workers=2: for SFT alone"):
        changed(GCPOStage("m", "o"), row_workers=2)
    for name, value in (("temperature", math.nan), ("learning_rate", math.inf), ("correction_cap", math.nan)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            changed(GCPOStage("m", "o"), **{name: value})


@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_weights_are_not_cast_for_every_token(on: str) -> None:
    """A stand-in for a model that accelerate has wrapped: on a CPU without its autocast, else within one around all."""

    class Model:
        device = torch.device(on)

        def _original_forward(self) -> str:
            return "plain"

        def forward(self) -> str:
            return "in autocast"

    model, seen = Model(), []
    model.__dict__["_original_forward"] = model._original_forward
    model.__dict__["forward"] = model.forward

    @contextmanager
    def around() -> Iterator[None]:
        seen.append("begin")
        yield
        seen.append("end")

    with own_precision(model, around()):
        seen.append(model.forward())
    assert seen == (["plain"] if on == "cpu" else ["begin", "in autocast", "end"])
    assert model.forward() == "in autocast"
