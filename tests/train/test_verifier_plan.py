"""Plans of verifier trainings: counts that equal the model's own, and memory that grows as it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from edit_r1.algo.step_cost import grown
from edit_r1.editors.architecture import Part, read_json
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.machine import MachineSettings
from edit_r1.train.plan_measure import LiveBytes, Training
from edit_r1.train.plan_parts import plan_json
from edit_r1.train.settings import changed
from edit_r1.train.sft import SFTStage
from edit_r1.train.verifier_measure import (
    KNOWN,
    Batch,
    Counted,
    Footprint,
    text_counted,
    text_footprint,
    verifier_part,
    vision_counted,
    vision_footprint,
)
from edit_r1.train.verifier_plan import (
    VerifierPlanOptions,
    plan_verifier,
    verifier_plan_text,
)

GIVEN = VerifierPlanOptions(device_memory=1.0, tflops=1.0, bandwidth=10.0, pixels=32)
PLAIN = Training(torch.float32, 0, False, False, 1, 1)


@pytest.fixture(scope="module")
def part(checkpoint: Path) -> Part:
    """The tiny model with a tower of three blocks, one of full attention."""
    values = verifier_part(str(checkpoint)).config
    vision = {**values["vision_config"], "depth": 3, "fullatt_block_indexes": [1]}
    text = {**values["text_config"], "num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    return Part("transformers", "Qwen2_5_VLForConditionalGeneration", {
        **values, "vision_config": vision, "text_config": text,
    })  # fmt: skip


def stage_for(model: Path | str, **changes: object) -> GCPOStage:
    stage = GCPOStage(
        str(model), "out", variant="compact", mode="verify", steps=2, pairs_per_step=2, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(micro_batch=8), cpu=True,
    )  # fmt: skip
    return changed(stage, **changes)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
    ],
)
def test_released_models_have_their_published_numbers_of_weights(name: str, weights: int) -> None:
    assert KNOWN[name].parameters() == weights


def test_the_whole_follows_from_few_layers(part: Part) -> None:
    """Three layers as grown from one and two, against three layers run themselves on real tensors."""
    batch = Batch(2, 2, 12, 5, shared=False)
    found = text_footprint(part, PLAIN, batch)
    four = text_footprint(_with(part, "text_config", num_hidden_layers=4), PLAIN, batch)
    more = _with(part, "text_config", num_hidden_layers=5)
    five = text_footprint(more, PLAIN, batch)
    for name in ("trained", "forward_flops", "update_flops"):
        values = [getattr(each, name) for each in (found, four, five)]
        assert values[2] - values[1] == pytest.approx(values[1] - values[0])
    assert found.update_flops > 2 * found.forward_flops
    whole = text_counted(part, PLAIN, batch, 3)
    assert [whole.trained, whole.forward_flops, whole.update_flops] == [
        found.trained, found.forward_flops, found.update_flops
    ]  # fmt: skip


def most(found: Counted) -> int:
    """What an update of a model holds, run with all of its layers."""
    return max(found.held.forward, found.held.backward)


@pytest.mark.parametrize(
    ("training", "shared", "prompt", "above"),
    [
        (PLAIN, False, 24, 1.001),
        (PLAIN, True, 8, 1.01),
        (replace(PLAIN, checkpointing=True, bf16_products=True), False, 8, 1.001),
        (replace(PLAIN, bf16_products=True), True, 24, 1.15),
        (Training(torch.bfloat16, 4, False, False, 1, 1), True, 24, 1.15),
    ],
)
def test_an_update_holds_no_more_than_is_told(
    part: Part, training: Training, shared: bool, prompt: int, above: float
) -> None:
    """Against five layers run whole."""
    batch = Batch(1, 2, prompt, 4, shared)
    five = _with(part, "text_config", num_hidden_layers=5, layer_types=["full_attention"] * 5)
    whole = most(text_counted(five, training, batch, 5))
    assert whole <= text_footprint(five, training, batch).update_bytes <= above * whole


def test_the_line_through_few_layers_would_tell_too_little(part: Part) -> None:
    batch, training = Batch(1, 2, 8, 4, False), replace(PLAIN, checkpointing=True, bf16_products=True)
    one, two, five = (most(text_counted(part, training, batch, layers)) for layers in (1, 2, 5))
    assert grown(one, [two], (5,)) < 0.8 * five


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trained_tower_holds_no_more_than_is_told(part: Part, checkpointing: bool) -> None:
    training = replace(PLAIN, checkpointing=checkpointing)
    seven = _with(part, "vision_config", depth=7, fullatt_block_indexes=[2, 5])
    whole = most(vision_counted(seven, training, (8, 8), 4, True, 7, [2, 5]))
    assert whole <= vision_footprint(seven, training, (8, 8), 4, trained=True).update_bytes <= 1.01 * whole
    looked = most(vision_counted(seven, training, (8, 8), 4, False, 7, [2, 5]))
    assert vision_footprint(seven, training, (8, 8), 4, trained=False).update_bytes == pytest.approx(looked, rel=0.05)


def _with(part: Part, group: str, **changes: object) -> Part:
    return Part(part.library, part.kind, {**part.config, group: {**part.config[group], **changes}})


def test_language_model_and_tower_have_the_weights_of_the_model(part: Part) -> None:
    batch = Batch(1, 1, 8, 4, shared=False)
    text = text_footprint(part, PLAIN, batch)
    vision = vision_footprint(part, PLAIN, (4, 4), 2, trained=True)
    config = part.config["text_config"]
    embedding = config["vocab_size"] * config["hidden_size"]
    assert text.trained - 8 * config["hidden_size"] + vision.trained + embedding == part.parameters()
    frozen = vision_footprint(part, PLAIN, (4, 4), 2, trained=False)
    assert (frozen.trained, frozen.forward_flops) == (0, vision.forward_flops)
    assert frozen.update_bytes < vision.update_bytes


def test_memory_equals_that_of_real_tensors(part: Part, checkpoint: Path) -> None:
    """A forward and backward pass of the language model, whole rows, against the same on real tensors."""
    batch = Batch(2, 2, 12, 5, shared=False)
    two = _with(part, "text_config", num_hidden_layers=2)
    found = text_footprint(two, PLAIN, batch)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).model.language_model
    model.train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    embeddings = torch.zeros(4, 17, model.config.hidden_size, requires_grad=True)
    with LiveBytes() as live:
        states = model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        states[:, 12:].float().square().mean().backward()
    assert found.update_bytes == pytest.approx(live.peak, rel=0.1)


def test_reading_a_prompt_once_and_recomputation_save_what_they_should(part: Part) -> None:
    whole = text_footprint(part, PLAIN, Batch(1, 8, 60, 10, shared=False))
    shared = text_footprint(part, PLAIN, Batch(1, 8, 60, 10, shared=True))
    recomputed = text_footprint(part, replace(PLAIN, checkpointing=True), Batch(1, 8, 60, 10, shared=False))
    assert shared.forward_flops < whole.forward_flops / 3
    assert shared.update_bytes < whole.update_bytes
    assert recomputed.update_bytes < whole.update_bytes
    assert recomputed.update_flops > 1.2 * whole.update_flops
    adapter = text_footprint(part, replace(PLAIN, lora_rank=2), Batch(1, 8, 60, 10, shared=True))
    assert 0 < adapter.trained < shared.trained
    assert isinstance(adapter, Footprint)
    assert grown(1.0, [3.0], (4,)) == 7.0


def test_a_gcpo_plan_counts_what_the_stage_says(checkpoint: Path) -> None:
    made = plan_verifier(stage_for(checkpoint), GIVEN)
    assert made.traces_per_step == 16
    assert made.tokens_per_step == 16 * (made.prompt_tokens + 8)
    weights = read_json(checkpoint / "config.json")
    assert weights["model_type"] == "qwen2_5_vl"
    assert made.trained == made.parameters
    assert made.resident["optimiser"] == pytest.approx(2 * made.resident["weights"])
    assert set(made.seconds) == {"update", "read prompts", "decode"}
    assert made.seconds["update"] == pytest.approx(made.petaflops["update"] * 1e15 / 1e12)
    twice = plan_verifier(stage_for(checkpoint, updates_per_generation=2), GIVEN)
    assert twice.petaflops["update"] == pytest.approx(2 * made.petaflops["update"])
    assert "old log-probabilities" in twice.petaflops
    # Four candidates are read at once: their prompts by the language model, four edits and two sources by the tower.
    part = verifier_part(str(checkpoint))
    config = part.config["text_config"]
    language = made.parameters - config["vocab_size"] * config["hidden_size"]
    tower = vision_footprint(part, PLAIN, (4, 4), 6, trained=False).forward_flops
    read = 2 * language * 4 * made.prompt_tokens + tower
    assert made.petaflops["read prompts"] * 1e15 == pytest.approx(read, rel=1e-3)
    # Two pictures of 4 x 4 patches of 3 x 1 x 8 x 8 values in float32, for 16 traces and for 4 candidates.
    assert made.host["pictures of a generation"] * 2**30 == pytest.approx(20 * 2 * 16 * 192 * 4)
    shared_out = plan_verifier(stage_for(checkpoint, micro_batch=4), replace(GIVEN, processes=2))
    assert shared_out.host["pictures of a generation"] == pytest.approx(made.host["pictures of a generation"] / 2)
    document = json.loads(json.dumps(plan_json(made)))
    assert document["fits"] is True
    assert f"{made.traces_per_step} traces" in verifier_plan_text(made)


def test_replayed_traces_are_a_supervised_batch_beside_a_micro_batch(checkpoint: Path) -> None:
    """Eight rows in two forwards of four: FLOPs of SFT on eight rows, memory of SFT on four beside the plain update."""
    stage = stage_for(checkpoint, micro_batch=4)
    plain = plan_verifier(stage, GIVEN)
    replaying = plan_verifier(changed(stage, replay_weight=0.3, replay_traces=8), GIVEN)
    sft = SFTStage(str(checkpoint), "out", variant="compact", mode="verify", batch_size=4, accumulate=2, cpu=True)
    supervised = plan_verifier(sft, replace(GIVEN, trace_tokens=8))
    assert replaying.petaflops["replay"] == pytest.approx(supervised.petaflops["update"])
    assert {**replaying.petaflops, "replay": 0} == {**plain.petaflops, "replay": 0}
    more = replaying.phases["update"] - plain.phases["update"]
    assert 0.5 * supervised.phases["update"] < more < supervised.phases["update"]  # without the LM head's tiles


def test_shards_lora_and_vllm_change_memory_as_they_should(checkpoint: Path) -> None:
    full = plan_verifier(stage_for(checkpoint, micro_batch=4), GIVEN)
    parts = plan_verifier(stage_for(checkpoint, micro_batch=4, shard="fsdp2"), replace(GIVEN, processes=2))
    assert parts.resident["weights"] == pytest.approx(full.resident["weights"] / 2)
    lora = plan_verifier(stage_for(checkpoint, lora_rank=2, frozen="bf16"), GIVEN)
    assert lora.resident["weights"] == pytest.approx(full.resident["weights"] / 2)
    assert lora.resident["optimiser"] < full.resident["optimiser"] / 4
    colocated = plan_verifier(stage_for(checkpoint, engine="vllm-colocated", vllm_memory=0.4), GIVEN)
    assert colocated.phases["sample"] == pytest.approx(0.4)
    assert "old log-probabilities" in colocated.petaflops
    awake = plan_verifier(stage_for(checkpoint, engine="vllm-colocated", vllm_sleep=False), GIVEN)
    assert awake.resident["vLLM"] == pytest.approx(0.3)
    served = plan_verifier(stage_for(checkpoint, engine="vllm-served"), GIVEN)
    assert "sample" not in served.phases
    assert "decode" not in served.seconds


def test_what_does_not_fit_is_told_with_a_remedy(checkpoint: Path) -> None:
    small = replace(GIVEN, device_memory=1e-5)
    assert "what is always held" in plan_verifier(stage_for(checkpoint), small).misfits[0]
    sft = SFTStage(str(checkpoint), "out", variant="compact", batch_size=4)
    enough = replace(GIVEN, device_memory=sum(plan_verifier(sft, GIVEN).resident.values()) + 1e-6)
    made = plan_verifier(sft, enough)
    assert any("batch_size" in text for text in made.misfits)
    assert plan_json(made)["fits"] is False
    assert made.traces_per_step == 4
    assert set(made.seconds) == {"update"}


def test_what_cannot_be_planned_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor one of"):
        plan_verifier(stage_for("runs/nowhere"), GIVEN)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type 'llama'"):
        plan_verifier(stage_for(tmp_path), GIVEN)
    with pytest.raises(ValueError, match="micro_batch=8 on 4 processes"):
        plan_verifier(stage_for(checkpoint), replace(GIVEN, processes=4))
    with pytest.raises(ValueError, match="bandwidth=0"):
        VerifierPlanOptions(bandwidth=0)
    assert MachineSettings().shard == "none"
