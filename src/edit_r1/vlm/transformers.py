"""Local vision-language models: any `AutoModelForImageTextToText` with its `AutoProcessor`.

Sampling is explicit: the checkpoint's generation_config is discarded at loading, because fine-tunes
ship top_k = 1 or repetition_penalty = 1.05, which would make N sampled traces identical. Its end
tokens alone are kept: some models (Gemma 3) end a turn by another token than the tokenizer's.
Special tokens other than the end of the answer are suppressed: a sampled image token would break
the match of tokens and image features when the trace is trained on.

Greedy answers do not depend on what else is in the batch (up to rounding). Sampled answers do: the
seed is set once per batch, since transformers draws for all rows from one generator. The same
requests in the same order with the same batch size give the same answers.

Legend: B requests of a batch, n answers per request, L tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from edit_r1.images import decode_pil, encode_png
from edit_r1.vlm.attention import TRIED, Attention, check_attention
from edit_r1.vlm.chat import start_once, to_messages
from edit_r1.vlm.decoding import continue_prompts, read_prompts
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.growing_cache import growing_cache
from edit_r1.vlm.protocol import Completion, Request, Sampling, check_sampling
from edit_r1.vlm.shared_prefix import shared_attention
from edit_r1.vlm.token_choices import ChoiceRecorder, token_choices
from edit_r1.vlm.weights import files_key

__all__ = ["ModelError", "TransformersVLM"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Progress = Callable[[int, int], None]
"""Called with (requests answered, requests asked)."""

_VISION_TOKENS = (
    "image_token_id",
    "video_token_id",
    "image_token_index",
    "video_token_index",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
    "boi_token_id",
    "eoi_token_id",
)
"""Where configs of vision-language models name tokens that stand for pictures."""


@dataclass(frozen=True)
class _Prepared:
    """A request that can be put into a batch."""

    index: int
    """Its place among the caller's requests."""
    text: str
    """The chat template's rendering."""
    images: tuple[Image.Image, ...]

    @property
    def size(self) -> float:
        """A proxy of the prompt's length, for batches of like lengths: characters and pixels."""
        return len(self.text) / 4 + sum(image.width * image.height for image in self.images) / 28**2


class TransformersVLM:
    """A local checkpoint as a `VLM`. Calls from several threads run one after another."""

    simulated = False

    def __init__(self, model: Any, processor: Any, name: str, batch_size: int = 64) -> None:
        """`batch_size`: sequences decoded at once, n answers of a request counted n times.

        The model is used where it stands (device, dtype), in eval mode during `generate` only; its
        generation_config is replaced by one that holds its end tokens alone.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 sequence is decoded at once")
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.name = name
        self.weights_key = ""
        """See `vlm.weights.Loaded`."""
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{name}: the tokenizer names no end token: set eos_token in its tokenizer_config.json")
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        config = model.config.to_dict()
        pictures = {config[key] for key in _VISION_TOKENS if isinstance(config.get(key), int)}
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        special |= set(tokenizer.all_special_ids)
        # A config that was never adapted to its tokenizer names any token as the end: only a special one is believed.
        self._ends = sorted({tokenizer.eos_token_id, self._pad, *(_end_tokens(model) & special)})
        self._suppressed = sorted((special | pictures) - set(self._ends))
        self._context: int = model.config.get_text_config().max_position_embeddings
        model.generation_config = GenerationConfig(eos_token_id=self._ends)
        self._lock = threading.Lock()

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer, ascending."""
        return list(self._ends)

    @property
    def attention(self) -> str:
        """The kernel in use, by transformers' name: what was asked for, or what transformers chose."""
        return str(self.model.config.get_text_config(decoder=True)._attn_implementation)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        attention: Attention | None = None,
        batch_size: int = 64,
        adapter: str | Path | None = None,
    ) -> TransformersVLM:
        """Opens a checkpoint folder (or a hub id). `adapter`: a PEFT folder, merged into the weights.

        `attention`: the kernel that reads pictures and prompts, and answers too where `read_prompts` does not know the
        model; None for transformers' choice. Answers to a prompt that is read once attend by `shared_prefix`.

        Raises `ModelError` for a path that does not exist, a checkpoint that is not a vision-language model with its
        processor, weights that are damaged or incomplete, a device that cannot hold them, or a kernel that is not
        installed or that the model refuses.
        """
        if dtype not in DTYPES:
            raise ModelError(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        check_attention(attention, device, dtype)
        _check_device(device)
        name = str(path)
        _check_folder(name)
        processor = _load_processor(name)
        model = _load_model(name, DTYPES[dtype], attention)
        if adapter is not None:
            model = _merge_adapter(model, str(adapter))
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # no memory, or torch lacks this device
            raise ModelError(f"{name}: cannot be put on {device} ({_one_line(error)}); use another --device") from error
        vlm = cls(model.eval(), processor, Path(name).name, batch_size)
        vlm.weights_key = files_key(name, adapter)
        if attention in TRIED:
            vlm._try_attention(name)
        return vlm

    def _try_attention(self, path: str) -> None:
        """A token about a small picture: a kernel may load and not run here, for want of a compiler or a newer GPU."""
        picture = encode_png(np.full((64, 64, 3), 127, np.uint8))
        try:
            self.generate([Request((picture, "Look."))], Sampling(1, temperature=0.0))
        except (RuntimeError, ValueError, ImportError, TypeError, AttributeError, OSError) as error:
            told = f"attention={self.attention!r} does not run here ({_one_line(error)})"
            raise ModelError(f"{path}: {told}; use sdpa, which needs nothing") from error

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, n: int = 1, progress: Progress | None = None
    ) -> list[list[Completion]]:
        """n answers per request, in the order of the requests; see `VLM.generate`.

        A request that cannot be read (broken image, longer than the model's context), or for which a GPU's memory
        does not suffice when it is asked alone, comes back as n completions with finish "error". Raises ValueError for
        sampling parameters out of range.
        """
        check_sampling(sampling, n)
        answers: list[list[Completion]] = [[] for _ in requests]
        prepared = []
        pictures: dict[bytes, Image.Image] = {}
        for index, request in enumerate(requests):
            try:
                images = tuple(_decode(data, pictures) for data in request.images)
            except ValueError as error:
                answers[index] = [_failed(str(error))] * n
                continue
            text = self.processor.apply_chat_template(to_messages(request), tokenize=False, add_generation_prompt=True)
            prepared.append(_Prepared(index, text, images))
        prepared.sort(key=lambda item: (item.size, item.index))
        drawn = n if sampling.temperature > 0 else 1  # greedy copies are one answer
        per_batch = max(1, self.batch_size // drawn)
        done = len(requests) - len(prepared)
        for start in range(0, len(prepared), per_batch):
            batch = prepared[start : start + per_batch]
            with self._lock:
                rows = self._answer_in_memory(batch, replace(sampling, seed=sampling.seed + start), drawn)
            for item, row in zip(batch, rows, strict=True):
                answers[item.index] = row * (n // drawn)
            done += len(batch)
            if progress is not None:
                progress(done, len(requests))
        return answers

    def _answer_in_memory(self, batch: Sequence[_Prepared], sampling: Sampling, n: int) -> list[list[Completion]]:
        """`_answer`, in halves where the GPU's memory does not hold the batch."""
        try:
            return self._answer(batch, sampling, n)
        except torch.OutOfMemoryError as error:
            reason = _one_line(error)
        # Only here, where the failed pass and its tensors are no longer held by the exception.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            told = f"out of memory ({reason}): use smaller pictures, fewer traces, --dtype bfloat16 or a smaller model"
            return [[_failed(told)] * n]
        half = len(batch) // 2
        rest = replace(sampling, seed=sampling.seed + half)
        return [
            *self._answer_in_memory(batch[:half], sampling, n),
            *self._answer_in_memory(batch[half:], rest, n),
        ]

    def _answer(self, batch: Sequence[_Prepared], sampling: Sampling, n: int) -> list[list[Completion]]:
        """n completions for each request of a batch; requests that do not fit are errors."""
        try:
            inputs = self._tensors(batch)
        except ValueError as error:  # the image processor refuses some pictures, such as a strip of one pixel
            if len(batch) == 1:
                return [[_failed(f"the model's processor refuses this request: {error}")] * n]
            return [row for item in batch for row in self._answer([item], sampling, n)]
        longest = int(inputs["attention_mask"].sum(dim=1).max())
        if longest + sampling.max_new_tokens > self._context:
            if len(batch) > 1:
                return [row for item in batch for row in self._answer([item], sampling, n)]
            reason = (
                f"the prompt has {longest} tokens and {sampling.max_new_tokens} may follow, but the model's context "
                f"is {self._context}: use smaller images or a lower max_new_tokens"
            )
            return [[_failed(reason)] * n]
        was_training = self.model.training
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        try:
            with torch.inference_mode(), torch.random.fork_rng(devices=devices):
                torch.manual_seed(sampling.seed)
                recorder = ChoiceRecorder(self.model, sampling.top_logprobs)
                generated_NL = self._sample(inputs, sampling, n, recorder).cpu()
        finally:
            self.model.train(was_training)
        completions = [self._completion(row.tolist()) for row in generated_NL]
        if sampling.top_logprobs:
            alternatives = recorder.rows(generated_NL.shape[0])
            completions = [
                replace(one, choices=token_choices(self.processor.tokenizer, row.tolist()[: one.tokens], options))
                for one, row, options in zip(completions, generated_NL, alternatives, strict=True)
            ]
        return [completions[start : start + n] for start in range(0, len(completions), n)]

    def _tensors(self, batch: Sequence[_Prepared]) -> dict[str, torch.Tensor]:
        images = [list(item.images) for item in batch]
        encoded = self.processor(
            text=[item.text for item in batch],
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            **start_once(self.processor.tokenizer, [item.text for item in batch]),
        )
        return dict(encoded.to(self.model.device, dtype=self.model.dtype))

    def _sample(
        self, inputs: dict[str, torch.Tensor], sampling: Sampling, n: int, recorder: ChoiceRecorder
    ) -> torch.Tensor:
        """The generated tokens alone, (B*n, L), the n answers of a request side by side."""
        prompts = read_prompts(self.model, inputs, n)
        if prompts is None:
            with recorder:
                return self._generate(inputs, sampling, n)
        with recorder, shared_attention(self.model):
            return continue_prompts(self.model, prompts, sampling, self._ends, self._pad, self._suppressed, recorder)

    def _generate(self, inputs: dict[str, torch.Tensor], sampling: Sampling, n: int) -> torch.Tensor:
        """`transformers.generate`, for models and prompts that `read_prompts` does not know."""
        greedy = sampling.temperature == 0
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=not greedy,
            temperature=1.0 if greedy else sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=50 if greedy else sampling.top_k,  # 50 is the unset value: greedy decoding warns of any other
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._ends,
            pad_token_id=self._pad,
            suppress_tokens=self._suppressed or None,
            num_return_sequences=n,
            use_cache=True,
        )
        cache = growing_cache(self.model) if n == 1 else None
        length = inputs["input_ids"].shape[1]
        return self.model.generate(**inputs, past_key_values=cache, generation_config=config)[:, length:]

    def _completion(self, tokens: list[int]) -> Completion:
        """Cut at the end token, which is neither text nor counted."""
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens if end is None else tokens[:end]
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, len(kept), "length" if end is None else "stop")


def _decode(data: bytes, pictures: dict[bytes, Image.Image]) -> Image.Image:
    """The picture, decoded once per call of `generate`: candidates of one context share their source."""
    if data not in pictures:
        pictures[data] = decode_pil(data)
    return pictures[data]


def _failed(reason: str) -> Completion:
    return Completion("", 0, "error", reason)


def _end_tokens(model: Any) -> set[int]:
    """What the checkpoint says of its end tokens: none, one or several."""
    told = model.generation_config.eos_token_id if model.generation_config is not None else None
    tokens = told if isinstance(told, list | tuple) else [told]
    return {token for token in tokens if isinstance(token, int)}


def _check_device(device: str) -> None:
    """ModelError for what is no device of torch, or none of this machine."""
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device={device!r}: no device; use cpu, cuda or, of several, cuda:1") from error
    if kind.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ModelError(f"device={device!r}: this machine has no CUDA device; use cpu")
    count = torch.cuda.device_count()
    if kind.index is not None and kind.index >= count:
        raise ModelError(f"device={device!r}: this machine's CUDA devices are cuda:0 to cuda:{count - 1}")


def _check_folder(name: str) -> None:
    """A folder with a config, or something that may be a hub id ("owner/name")."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{name}: no config.json here; give the folder that holds the model's weights")
    elif folder.exists():
        raise ModelError(f"{name}: this is a file; give the folder of a Hugging Face checkpoint")
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{name}: no such folder; give the path of a Hugging Face checkpoint")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _load_processor(name: str) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(f"{name}: no usable processor beside the model ({_one_line(error)})") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"{name}: the processor reads no images; give a vision-language checkpoint")
    if processor.chat_template is None:
        raise ModelError(f"{name}: the processor has no chat template; give an instruction-tuned checkpoint")
    return processor


def _load_model(name: str, dtype: torch.dtype, attention: Attention | None) -> Any:
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        told = "" if attention is None else f" with attention {attention}"
        raise ModelError(
            f"{name}: not a vision-language model that can be opened{told} ({_one_line(error)})"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name}: {len(missing)} weights are missing ({missing[0]}, ...); the checkpoint is incomplete"
        )
    return model


def _merge_adapter(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        # By default PEFT loads an adapter onto the first GPU, wherever the model is.
        return PeftModel.from_pretrained(model, adapter, torch_device=str(model.device)).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{adapter}: not an adapter of this model ({_one_line(error)})") from error
