"""vLLM's backend, against a stand-in with the signatures of vLLM 0.33: the real one needs a GPU."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edit_r1.images import encode_png
from edit_r1.verifier.choice import ModelChoice
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Request, Sampling
from edit_r1.vlm.vllm import VLLM

PICTURE = encode_png(np.zeros((8, 12, 3), dtype=np.uint8))
END = 99


class VLLMError(Exception):
    """Not a ValueError, as in vllm.exceptions."""


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.5
    frequency_penalty: float = 0.5
    repetition_penalty: float = 1.05
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 1
    min_p: float = 0.1
    seed: int | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class Logprob:
    logprob: float
    rank: int | None
    decoded_token: str | None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = "stop"
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


@dataclass
class LLM:
    """Answers with the seed; refuses a conversation that says "refuse", cuts one that says "long"."""

    model: str
    dtype: str
    tensor_parallel_size: int
    gpu_memory_utilization: float
    generation_config: str
    enable_prefix_caching: bool
    logprobs_mode: str
    limit_mm_per_prompt: dict[str, int]
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_model_len: int | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.model == "foreign":
            raise VLLMError("no such\narchitecture")

    def get_tokenizer(self) -> Any:
        return types.SimpleNamespace(eos_token_id=END)

    def chat(
        self, messages: list[Any], sampling_params: SamplingParams, use_tqdm: bool = True, lora_request: Any = None
    ) -> list[RequestOutput]:
        texts = ["".join(part.get("text", "") for part in m[-1]["content"]) for m in messages]
        self.calls.append({"messages": messages, "params": sampling_params, "lora": lora_request, "tqdm": use_tqdm})
        if any("refuse" in text for text in texts):
            raise VLLMError("prompt too long")
        return [
            RequestOutput([self._one(text, i, sampling_params) for i in range(sampling_params.n)]) for text in texts
        ]

    def _one(self, text: str, index: int, params: SamplingParams) -> CompletionOutput:
        cut = "long" in text
        row = {5: Logprob(-0.5, 2, "8"), 4: Logprob(-0.1, 1, "9"), 7: Logprob(-3.0, 9, "0")}
        tokens = [5, 5] if cut else [5, 5, END]
        return CompletionOutput(
            index,
            f"{text}:{(params.seed or 0) + index}",
            tokens,
            None if params.logprobs is None else [row] * 2 + [{END: Logprob(0.0, 1, "")}] * (not cut),
            "abort" if "abort" in text else "length" if cut else "stop",
        )


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module, lora, request, errors = (
        types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.exceptions")
    )
    module.__dict__.update(LLM=LLM, SamplingParams=SamplingParams)
    request.__dict__.update(LoRARequest=LoRARequest)
    errors.__dict__.update(VLLMError=VLLMError)
    for one in (module, lora, request, errors):
        monkeypatch.setitem(sys.modules, one.__name__, one)


@pytest.mark.usefixtures("vllm")
def test_every_sampling_parameter_is_given_and_traces_differ() -> None:
    model = VLLM.load("models/rrm", gpus=2)
    assert model.name == "rrm" and not model.simulated
    requests = [Request((PICTURE, "a"), system="judge"), Request(("b",))]
    first, second = model.generate(requests, Sampling(64, temperature=0.9, top_p=0.95, top_k=40, seed=7), n=3)
    assert [one.text for one in first] == ["a:7", "a:8", "a:9"] and second[0].text == "b:7"
    assert {one.tokens for one in first} == {2} and {one.finish for one in first} == {"stop"}
    [call] = model.engine.calls
    assert call["params"] == SamplingParams(3, 0.0, 0.0, 1.0, 0.9, 0.95, 40, 0.0, 7, 64, None)
    assert call["tqdm"] is False and call["lora"] is None
    system, user = call["messages"][0]
    assert system == {"role": "system", "content": "judge"}
    assert user["content"][0]["type"] == "image_pil" and user["content"][0]["image_pil"].size == (12, 8)
    assert isinstance(user["content"][0]["image_pil"], Image.Image)
    assert model.engine.generation_config == "vllm" and model.engine.tensor_parallel_size == 2


@pytest.mark.usefixtures("vllm")
def test_greedy_copies_are_one_answer_and_alternatives_come_likeliest_first() -> None:
    model = VLLM.load("rrm")
    [row] = model.generate([Request(("a",))], Sampling(8, temperature=0, top_logprobs=2), n=4)
    assert len(row) == 4 and len(set(row)) == 1 and model.engine.calls[0]["params"].n == 1
    assert row[0].choices is not None and len(row[0].choices) == 2 == row[0].tokens
    assert row[0].choices[0].token == "8" and row[0].choices[0].alternatives == (("9", -0.1), ("8", -0.5))


@pytest.mark.usefixtures("vllm")
def test_a_refused_request_is_an_error_of_its_own() -> None:
    model = VLLM.load("rrm")
    requests = [Request((text,)) for text in ("a", "refuse", "long", "abort")] + [Request((b"GIF no",))]
    good, refused, long, aborted, broken = model.generate(requests, Sampling(8), n=2)
    assert [one.finish for one in good] == ["stop"] * 2 and [one.finish for one in long] == ["length"] * 2
    assert [one.finish for one in refused + aborted + broken] == ["error"] * 6
    assert refused[0].error == "vLLM refuses it: prompt too long" and "abort" in str(aborted[0].error)
    with pytest.raises(ValueError, match="top_p=2"):
        model.generate(requests, Sampling(8, top_p=2))


@pytest.mark.usefixtures("vllm")
def test_adapters_and_models_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 24}))
    model = VLLM.load("rrm", adapter=tmp_path)
    model.generate([Request(("a",))], Sampling(8))
    assert (model.engine.enable_lora, model.engine.max_lora_rank) == (True, 32)
    assert model.engine.calls[0]["lora"] == LoRARequest("adapter", 1, str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1024}))
    with pytest.raises(ModelError, match="rank 1024"):
        VLLM.load("rrm", adapter=tmp_path)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        VLLM.load("rrm", adapter=tmp_path / "none")
    with pytest.raises(ModelError, match="foreign: vLLM cannot open this model .no such architecture"):
        VLLM.load("foreign")


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"edit-r1\[vllm\]"):
        VLLM.load("rrm")
    with pytest.raises(ValueError, match="--device cuda"):
        ModelChoice(model="rrm", backend="vllm").check()
    with pytest.raises(ValueError, match="leave --endpoint out"):
        ModelChoice(model="rrm", backend="vllm", device="cuda", endpoint="http://x/v1").check()
