"""GCPO with traces from vLLM: TRL's own code on both sides of a stand-in for the server, which runs a real tiny model.

vLLM itself needs a GPU and was not run. What is tested: the arguments that are built, that weights reach the server
under their names before every generation, that its traces find their pairs, and that the correction is the ratio of the
two models' probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.generation.vllm_generation as vllm_generation
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig

import edit_r1.train.gcpo_arguments as gcpo_arguments
from edit_r1.records import Preference
from edit_r1.train.gcpo import build_trainer, train_gcpo
from edit_r1.train.gcpo_arguments import grpo_arguments
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.pairs import pairs_of
from edit_r1.train.rollout import without_padding
from edit_r1.train.settings import changed
from edit_r1.train.verifier_run import RunFolder, read_curves


class Server:
    """In place of TRL's VLLMClient: what a server would do, by a model of its own that knows only what is pushed."""

    checkpoint: Path
    made: list[Server]

    def __init__(self, base_url: str, group_port: int, connection_timeout: float) -> None:
        self.base_url = base_url
        self.model = AutoModelForImageTextToText.from_pretrained(self.checkpoint, dtype=torch.float32).eval()
        for weight in self.model.parameters():
            weight.data.zero_()
        self.processor = AutoProcessor.from_pretrained(self.checkpoint)
        self.pushes = 0
        self.asked: list[dict[str, Any]] = []
        self.made.append(self)

    def init_communicator(self, device: Any) -> None:
        self.device = device

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata: list[tuple[str, str, list[int]]], params: Iterator[Any]) -> None:
        own = dict(self.model.named_parameters())
        told = [name for name, _, _ in metadata]
        pushed = []
        for name, weight in params:
            own[name].data.copy_(weight)
            pushed.append(name)
        assert pushed == told
        assert set(pushed) == set(own)
        self.pushes += 1

    def reset_prefix_cache(self) -> None:
        pass

    def image_features(self, images: list[list[Any]]) -> list[dict[str, Any]]:
        return [{"mm_placeholders": {"image": [{} for _ in shown]}, "images": shown} for shown in images]

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], features: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
        self.asked.append({**asked, "prompts": len(prompts)})
        ids, logps = [], []
        for prompt, feature in zip(prompts, features, strict=True):
            assert all("offset" in place for place in feature["mm_placeholders"]["image"])
            for _ in range(asked["n"]):
                tokens, values = self._sample(prompt, feature["images"], asked)
                ids.append(tokens)
                logps.append([[value] for value in values])
        return {"prompt_ids": prompts, "completion_ids": ids, "logprobs": logps}

    def _sample(self, prompt: list[int], images: list[Any], asked: dict[str, Any]) -> tuple[list[int], list[float]]:
        pictures = self.processor.image_processor(images=images, return_tensors="pt")
        tokens: list[int] = []
        values: list[float] = []
        while len(tokens) < asked["max_tokens"] and tokens[-1:] != [self.processor.tokenizer.eos_token_id]:
            ids = torch.tensor([prompt + tokens])
            kinds = (ids == self.model.config.image_token_id).int()
            logits = self.model(input_ids=ids, mm_token_type_ids=kinds, **pictures).logits[0, -1]
            for token, bias in asked["generation_kwargs"]["logit_bias"].items():
                logits[token] += bias
            logps = (logits / asked["temperature"]).log_softmax(-1)
            tokens.append(int(logps.exp().multinomial(1)))
            values.append(float(logps[tokens[-1]]))
        return tokens, values


@pytest.fixture
def server(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(gcpo_arguments, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "VLLMClient", Server)
    Server.checkpoint, Server.made = checkpoint, []
    return Server


def stage_for(model: Path, out: Path, **changes: Any) -> GCPOStage:
    stage = GCPOStage(
        str(model), str(out), mode="verify", variant="compact", steps=2, pairs_per_step=2, traces=3,
        sampling=SamplingSettings(max_new_tokens=6, engine="vllm-served", vllm_address="http://judge:8000"),
        updates=GCPOUpdates(learning_rate=1e-2, micro_batch=6), stored="fp32", cpu=True,
    )  # fmt: skip
    return changed(stage, **changes)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_served_model_samples_with_the_weights_of_the_last_update(
    lora_rank: int, server: type[Server], wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    train_gcpo(stage_for(wavering, tmp_path / "run", lora_rank=lora_rank), preferences)
    (made,) = server.made
    assert made.base_url == "http://judge:8000"
    assert made.pushes == 2
    bias = {made.model.config.image_token_id: -100.0, made.model.config.video_token_id: -100.0}
    for asked in made.asked:
        assert (asked["prompts"], asked["n"], asked["max_tokens"]) == (4, 3, 6)
        assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["min_p"]) == (1.0, 1.0, 0, 0.0)
        assert asked["repetition_penalty"] == 1.0
        assert asked["generation_kwargs"] == {"logit_bias": bias}
    lines = read_curves(tmp_path / "run/curves.jsonl")
    assert len(lines) == 2
    for line in lines:
        # Weights and precision are alike here, so that the correction has nothing to correct.
        assert line["sampling/importance_sampling_ratio/min"] == pytest.approx(1, abs=5e-3)
        assert line["sampling/importance_sampling_ratio/max"] == pytest.approx(1, abs=5e-3)
        assert 0 <= line["unparsed"] < 1


def test_the_correction_is_the_truncated_ratio_of_the_two_models(
    server: type[Server], wavering: Path, preferences: list[Preference], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A server whose weights are off stands for one that rounds differently."""
    trainer = build_trainer(
        stage_for(wavering, tmp_path / "run", correction_cap=1.1), pairs_of(preferences), RunFolder(tmp_path)
    )
    update = Server.update_named_params

    def rounded(self: Server, metadata: Any, params: Iterator[Any]) -> None:
        update(self, metadata, ((name, weight * 1.02) for name, weight in params))

    monkeypatch.setattr(Server, "update_named_params", rounded)
    batch = [trainer.train_dataset[row] for row in list(trainer.sampler)[:12]]
    inputs = trainer._generate_and_score_completions(batch)
    mask = inputs["completion_mask"]
    expected = (inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]).exp().clamp(max=1.1)
    assert torch.allclose(inputs["importance_sampling_ratio"] * mask, expected * mask)
    assert (expected * mask).max() == pytest.approx(1.1)
    trainer.current_gradient_accumulation_steps = 1
    cut = without_padding({**inputs, "completion_mask": mask.clone()})
    assert cut["importance_sampling_ratio"].shape == cut["completion_ids"].shape
    assert trainer._compute_loss(trainer.model, inputs).isfinite()


def arguments_of(folder: Path, **changes: Any) -> GRPOConfig:
    return grpo_arguments(stage_for(Path("m"), folder, **changes), RunFolder(folder), suppressed=[7])


def test_the_arguments_of_both_engines(server: type[Server], tmp_path: Path) -> None:
    built = arguments_of(
        tmp_path, engine="vllm-colocated", vllm_memory=0.4, vllm_context=6000, correction="sequence_mask",
        correction_cap=3.0,
    )  # fmt: skip
    assert (built.use_vllm, built.vllm_mode, built.vllm_gpu_memory_utilization) == (True, "colocate", 0.4)
    assert (built.vllm_max_model_length, built.vllm_enable_sleep_mode) == (6000, True)
    assert built.vllm_importance_sampling_correction
    assert (built.vllm_importance_sampling_mode, built.vllm_importance_sampling_clip_max) == ("sequence_mask", 3.0)
    assert built.generation_kwargs == {"logit_bias": {7: -100.0}}
    assert not arguments_of(tmp_path, correction="none").vllm_importance_sampling_correction
    own = arguments_of(tmp_path, engine="own")
    assert not own.use_vllm
    assert own.generation_kwargs == {"suppress_tokens": [7]}
    with pytest.raises(ValueError, match="vllm_split=2 on 1 processes"):
        arguments_of(tmp_path, engine="vllm-colocated", vllm_split=2)


def test_without_vllm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcpo_arguments, "is_vllm_available", lambda: False)
    with pytest.raises(ValueError, match="vLLM is not installed"):
        arguments_of(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_memory": 1.5}, "vllm_memory=1.5"),
        ({"vllm_address": "judge:8000"}, "must begin with http"),
        ({"correction_cap": 0.5}, "correction_cap=0.5"),
        ({"max_pixels": 4096}, "vLLM reads pictures by the checkpoint's own processor"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        stage_for(tmp_path, tmp_path, **changes)
