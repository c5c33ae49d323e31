"""The choice of a model, as the command line's flags and as one record: who judges, and who writes the principles."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edit_r1.images import MAX_JUDGED_PIXELS
from edit_r1.records import OutputMode
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.principles_cache import PrinciplesCache, checkpoint_identity, default_cache
from edit_r1.verifier.prompts import PROMPT_VERSIONS, Variant
from edit_r1.verifier.scoring import Backend, Verifier
from edit_r1.vlm.address import read_address
from edit_r1.vlm.attention import Attention
from edit_r1.vlm.openai import LimitKey, OpenAIVLM, Prices
from edit_r1.vlm.protocol import VLM


@dataclass(frozen=True)
class ModelChoice:
    """Which model is asked, where, and how."""

    model: str | None = None
    """Folder of a vision-language model; with --endpoint the name of the served model. Without it the packaged tiny
    verifier is asked, which knows EditWorld only."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the server's key, if it wants one."""
    adapter: str | None = None
    """Folder of a LoRA adapter for a local model."""
    backend: Backend = "transformers"
    """What runs a local model: transformers, or vllm (the extra of that name; it takes the visible GPUs)."""
    device: str = "cpu"
    """Of a local model: cpu, cuda, cuda:1; several (cuda:0,cuda:1) load a copy each. vLLM: cuda, or cuda,cuda to
    split the model over as many GPUs."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of a local model's weights."""
    attention: Attention | None = None
    """Attention kernel of a local model, by transformers' name; by default sdpa, or eager where it has no other."""
    variant: Variant | None = None
    """Prompts in full or compact; by default what the model's edit_r1.json says, else full."""
    mode: OutputMode | None = None
    """What a trace holds; by default what the model's edit_r1.json says, else both."""
    principles_model: str | None = None
    """Another model that writes the principles: a folder, or with --principles-endpoint a served model's name."""
    principles_device: str | None = None
    """Where a local --principles-model is; by default the first of --device."""
    principles_endpoint: str | None = None
    """Address of the server of --principles-model."""
    concurrency: int = 16
    """Requests in flight at once, per endpoint."""
    timeout: float = 300.0
    """Seconds for one attempt of a request to an endpoint."""
    price_in: float | None = None
    """Price of a million prompt tokens, for the cost in the summary."""
    price_out: float | None = None
    """Price of a million generated tokens."""
    limit_key: LimitKey = "max_tokens"
    """How an endpoint is told the longest answer; hosted reasoning models want max_completion_tokens."""
    server_sampling: bool = False
    """Leave temperature and the like to an endpoint that takes none, as hosted reasoning models."""
    max_new_tokens: int | None = None
    """Longest trace in tokens, the reasoning of thinking models included; by default 4096, compact prompts 512."""
    max_pixels: int = MAX_JUDGED_PIXELS
    """Most pixels of a picture shown to a model; larger ones are scaled down, aspect kept."""

    def check(self) -> None:
        """Raises ValueError for flags that contradict each other, before anything is opened."""
        if self.endpoint is not None and self.model is None:
            raise ValueError("--endpoint needs the name of the served model: add --model NAME")
        if self.endpoint is not None and self.adapter is not None:
            raise ValueError("--adapter is for a local model: let the server load it, or leave --endpoint out")
        if self.adapter is not None and self.model is None:
            raise ValueError("--adapter needs the model it belongs to: add --model PATH")
        if self.backend == "vllm" and self.endpoint is not None:
            raise ValueError("--backend vllm runs a local model: leave --endpoint out, or leave --backend out")
        if self.backend == "vllm" and not all(device.startswith("cuda") for device in self.device.split(",")):
            raise ValueError(f"--backend vllm with --device {self.device}: vLLM needs a GPU, add --device cuda")
        if self.backend == "vllm" and ":" in self.device:
            raise ValueError(
                f"--backend vllm with --device {self.device}: vLLM takes the first GPUs that it sees; give cuda "
                "(cuda,cuda for two) and say which by CUDA_VISIBLE_DEVICES"
            )
        if self.backend == "vllm" and self._writes_here and self.principles_device is None:
            raise ValueError(
                "--principles-model beside --backend vllm, which fills the GPUs that it takes: add --principles-device "
                "(cpu, or a GPU that vLLM does not take), or --principles-endpoint"
            )
        if self.attention is not None and self.backend == "vllm":
            raise ValueError(f"--attention {self.attention}: vLLM chooses its own kernels: leave it out")
        if self.attention is not None and self.endpoint is not None and not self._writes_here:
            raise ValueError(f"--attention {self.attention} is for a local model: leave --endpoint out, or it")
        if self.endpoint is None and self.principles_endpoint is None:
            for flag, given in (
                (f"--limit-key {self.limit_key}", self.limit_key != "max_tokens"),
                ("--server-sampling", self.server_sampling),
            ):
                if given:
                    raise ValueError(f"{flag} is for a served model: add --endpoint URL, or leave it out")
        if self.principles_device is not None and not self._writes_here:
            raise ValueError(
                f"--principles-device {self.principles_device}: nothing to put there; add --principles-model PATH"
            )
        if self.principles_endpoint is not None and self.principles_model is None:
            raise ValueError("--principles-endpoint needs a served model: add --principles-model NAME")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens {self.max_new_tokens}: allow at least one token")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("a cost needs both prices: give --price-in and --price-out")

    def settings(self) -> dict[str, Any]:
        """What shapes an answer by more than rounding, for a record of a run: no key, no speed, no price."""
        left_out = {
            "api_key_env",
            "limit_key",
            "device",
            "principles_device",
            "attention",
            "concurrency",
            "timeout",
            "price_in",
            "price_out",
        }
        # These came later: a record of a run that was asked without them stays that run's.
        left_out |= ({"max_new_tokens"} if self.max_new_tokens is None else set()) | (
            set() if self.server_sampling else {"server_sampling"}
        )
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**kept, "prompts": dict(PROMPT_VERSIONS)}

    def writer(self) -> VLM | None:
        """The model of --principles-model; None when the judge writes the principles itself. Raises ModelError."""
        if self.principles_model is None:
            return None
        if self.principles_endpoint is not None:
            return self._served(self.principles_endpoint, self.principles_model)
        from edit_r1.vlm.transformers import TransformersVLM  # here alone: endpoints need no torch

        device = self.principles_device or self.device.split(",")[0]
        return TransformersVLM.load(self.principles_model, device, self.dtype, self.attention)

    def cache(self) -> PrinciplesCache | Literal["default"] | None:
        """Where principles are kept on disk: that of --principles-model names this model, not the judge."""
        if self.principles_model is None:
            return "default"
        kept = default_cache()
        if kept is None:
            return None
        if self.principles_endpoint is not None:
            return replace(kept, model=read_address(self.principles_endpoint)[0])
        return replace(kept, model=checkpoint_identity(self.principles_model))

    def verifier(self, batch_size: int = 64) -> Verifier:
        """The verifier of `model`, which is not None. Raises ModelError (a ValueError) when it cannot be opened.

        batch_size: sequences that a local model decodes at once.
        """
        assert self.model is not None, "the packaged verifier is opened by the command line"
        self.check()
        writer = self.writer()
        variant = None if self.principles_model is None else read_card(self.principles_model).variant
        if self.endpoint is not None:
            return Verifier.connect(
                self.endpoint,
                self.model,
                self.api_key_env,
                self.concurrency,
                self.timeout,
                prices=self._prices(),
                limit_key=self.limit_key,
                server_sampling=self.server_sampling,
                mode=self.mode,
                variant=self.variant,
                principles_vlm=writer,
                max_new_tokens=self.max_new_tokens,
                max_pixels=self.max_pixels,
                principles_variant=variant,
                cache=self.cache(),
            )
        devices = self.device.split(",")
        return Verifier.load(
            self.model,
            devices[0] if len(devices) == 1 else devices,
            self.dtype,
            batch_size,
            adapter=self.adapter,
            mode=self.mode,
            variant=self.variant,
            principles_vlm=writer,
            max_new_tokens=self.max_new_tokens,
            max_pixels=self.max_pixels,
            principles_variant=variant,
            cache=self.cache(),
            backend=self.backend,
            attention=self.attention,
        )

    def principles_verifier(self) -> Verifier:
        """A verifier that only writes principles: no judge is opened when another model writes them."""
        self.check()
        writer = self.writer()
        if writer is None or self.principles_model is None:
            return self.verifier()
        cache = self.cache()
        assert cache != "default", "the default one is for a judge that writes them itself"
        variant = read_card(self.principles_model).variant
        longest = self.max_new_tokens
        return Verifier(writer, variant=variant, max_new_tokens=longest, max_pixels=self.max_pixels, cache=cache)

    @property
    def _writes_here(self) -> bool:
        """Whether a model of this machine writes the principles for another."""
        return self.principles_model is not None and self.principles_endpoint is None

    def _served(self, endpoint: str, model: str) -> OpenAIVLM:
        return OpenAIVLM(
            endpoint, model, self.api_key_env, self.concurrency, self.timeout,
            limit_key=self.limit_key, server_sampling=self.server_sampling, prices=self._prices(),
        )  # fmt: skip

    def _prices(self) -> Prices | None:
        if self.price_in is None or self.price_out is None:
            return None
        return Prices(self.price_in, self.price_out)
