"""vLLM in this process (the extra `vllm`, which needs a GPU): for judging tens of thousands of edits on one machine.

Written against vLLM 0.33's own source (`LLM.chat`, `SamplingParams`, `CompletionOutput`); it could not be run where
this was written, whose machines have no GPU. What the calls rely on:

- `LLM(generation_config="vllm")` leaves the checkpoint's generation_config out, and every parameter of
  `SamplingParams` is given, so that fine-tunes' top_k = 1 or repetition_penalty = 1.05 change nothing.
- Prefix caching shares a prompt with its pictures between its n traces and between the edits of a context.
- Of n traces with a seed, vLLM draws trace i from seed + i: the same request has the same traces whatever is asked
  beside it. Greedy decoding allows one trace, which is copied.
- `logprobs_mode="raw_logprobs"`: alternatives are those of temperature 1, before any truncation.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edit_r1.images import decode_pil
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import Completion, Request, Sampling, TokenChoices, check_sampling
from edit_r1.vlm.weights import files_key

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be."""
MAX_IMAGES = 16
"""Pictures of one request: several references and the edit."""


class VLLM:
    """A local checkpoint run by vLLM as a `VLM`. Calls from several threads run one after another."""

    simulated = False

    def __init__(self, engine: Any, name: str, adapter: Any = None) -> None:
        """engine: a `vllm.LLM`; adapter: a `vllm.lora.request.LoRARequest` for every request, or None."""
        self.engine = engine
        self.name = name
        self.weights_key = ""
        """See `vlm.weights.Loaded`."""
        self._adapter = adapter
        self._end = engine.get_tokenizer().eos_token_id
        self._lock = threading.Lock()
        self._refusals = _refusals()

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: str = "bfloat16",
        adapter: str | Path | None = None,
        gpus: int = 1,
        gpu_memory: float = 0.9,
        context: int | None = None,
    ) -> VLLM:
        """Opens a checkpoint folder (or a hub id) on the visible GPUs.

        gpus: tensor parallelism. gpu_memory: share of each GPU's memory that vLLM takes. context: most tokens of a
        prompt and its answer; None takes the model's. Raises `ModelError` when vLLM is not installed or cannot open
        the checkpoint or the adapter.
        """
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ModelError(
                f"vLLM cannot be imported ({error}): pip install 'edit-r1[vllm]' on a CUDA machine"
            ) from None
        options: dict[str, Any] = {}
        request = None
        if adapter is not None:
            options |= {"enable_lora": True, "max_lora_rank": _lora_rank(Path(adapter))}
            request = LoRARequest("adapter", 1, str(adapter))
        if context is not None:
            options["max_model_len"] = context
        refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, *_refusals())
        try:
            engine = LLM(
                model=str(path),
                dtype=dtype,
                tensor_parallel_size=gpus,
                gpu_memory_utilization=gpu_memory,
                generation_config="vllm",
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                limit_mm_per_prompt={"image": MAX_IMAGES},
                **options,
            )
        except refusals as error:
            raise ModelError(f"{path}: vLLM cannot open this model ({' '.join(str(error).split())[:200]})") from error
        vlm = cls(engine, Path(path).name, request)
        vlm.weights_key = files_key(path, adapter)
        return vlm

    def generate(self, requests: Sequence[Request], sampling: Sampling, n: int = 1) -> list[list[Completion]]:
        """n completions per request, in order; a request that vLLM refuses comes back as n errors.

        Raises ValueError for sampling parameters out of range.
        """
        from vllm import SamplingParams

        check_sampling(sampling, n)
        drawn = n if sampling.temperature > 0 else 1
        answers: list[list[Completion]] = [[] for _ in requests]
        conversations: dict[int, list[dict[str, Any]]] = {}
        for place, request in enumerate(requests):
            try:
                conversations[place] = _messages(request)
            except ValueError as error:
                answers[place] = [Completion("", 0, "error", str(error))] * n
        params = SamplingParams(
            n=drawn,
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature > 0 else 1.0,
            top_k=sampling.top_k if sampling.temperature > 0 else 0,
            min_p=0.0,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            seed=sampling.seed,
            max_tokens=sampling.max_new_tokens,
            logprobs=sampling.top_logprobs or None,
        )
        with self._lock:
            for place, row in self._answer(conversations, params).items():
                answers[place] = row * (n // len(row))
        return answers

    def _answer(self, conversations: dict[int, list[dict[str, Any]]], params: Any) -> dict[int, list[Completion]]:
        """All in one call; a call that is refused is asked again conversation by conversation."""
        if not conversations:
            return {}
        try:
            outputs = self.engine.chat(list(conversations.values()), params, use_tqdm=False, lora_request=self._adapter)
        except self._refusals as error:
            if len(conversations) == 1:
                reason = " ".join(str(error).split())[:300]
                return {place: [Completion("", 0, "error", f"vLLM refuses it: {reason}")] for place in conversations}
            rows: dict[int, list[Completion]] = {}
            for place, conversation in conversations.items():
                rows |= self._answer({place: conversation}, params)
            return rows
        return {
            place: [self._completion(one, params.logprobs) for one in sorted(output.outputs, key=lambda one: one.index)]
            for place, output in zip(conversations, outputs, strict=True)
        }

    def _completion(self, output: Any, top: int | None) -> Completion:
        """The end token, which vLLM counts, is neither text nor counted here."""
        if output.finish_reason not in ("stop", "length"):
            return Completion("", 0, "error", f"vLLM ended this answer with {output.finish_reason!r}: ask again")
        count = len(output.token_ids)
        if output.finish_reason == "stop" and count and output.token_ids[-1] in (self._end, output.stop_reason):
            count -= 1
        completion = Completion(output.text, count, output.finish_reason)
        if not top or output.logprobs is None:
            return completion
        pairs = list(zip(output.token_ids, output.logprobs, strict=True))[:count]
        return replace(completion, choices=tuple(_choices(token, row, top) for token, row in pairs))


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for input that it does not take: a ValueError, in later versions its own error too."""
    try:
        from vllm.exceptions import VLLMError
    except ImportError:
        return (ValueError,)
    return (ValueError, VLLMError)


def _choices(token: int, row: Any, top: int) -> TokenChoices:
    """`row`: {token id: Logprob}; the sampled token is there too when it is not among the likeliest."""
    ranked = sorted(row.values(), key=lambda one: -one.logprob)[:top]
    return TokenChoices(
        row[token].decoded_token or "", tuple((one.decoded_token or "", float(one.logprob)) for one in ranked)
    )


def _messages(request: Request) -> list[dict[str, Any]]:
    """vLLM's chat messages with decoded pictures. Raises `ImageError` (a ValueError) for one that cannot be read."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_pil", "image_pil": decode_pil(part)}
        for part in request.parts
    ]
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    return [*system, {"role": "user", "content": content}]


def _lora_rank(adapter: Path) -> int:
    """The least rank vLLM can be told that holds the adapter's. Raises ModelError."""
    path = adapter / "adapter_config.json"
    try:
        rank = int(json.loads(path.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not the config of a LoRA adapter ({error}); give the folder that PEFT saved"
        ) from None
    fitting = [known for known in LORA_RANKS if known >= rank]
    if not fitting:
        raise ModelError(
            f"{adapter}: LoRA of rank {rank}, vLLM takes at most {LORA_RANKS[-1]}: merge it into the model"
        )
    return fitting[0]
