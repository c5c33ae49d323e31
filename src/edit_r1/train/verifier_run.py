"""What SFT and GCPO of a verifier share: loading in fp32, the run's folder, curves, and saving.

A run's folder holds

    stage.json      the configuration and a hash of the data; another one is refused
    curves.jsonl    one JSON object a logged step: {"step", "seconds", ...}
    data_card.md    what it was trained on
    checkpoints/    the trainer's state, for resuming; removed when the run is done
    model/          the result in Hugging Face layout, written last and at once
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig, PeftModel
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback
from transformers.utils import logging as transformers_logging

from edit_r1.images import decode_pil, judged_pictures, judged_sources
from edit_r1.records import Candidate, Context, OutputMode
from edit_r1.store import StoreError, new_folder, read_json, write_json, write_text, writing
from edit_r1.train.alarms import Alarms
from edit_r1.train.learned_tokens import score_learned_tokens
from edit_r1.train.settings import flat
from edit_r1.train.sharded_verifier import train_in_parts
from edit_r1.verifier.cards import ModelCard, read_card, write_card
from edit_r1.verifier.items import context_key, examples_of
from edit_r1.verifier.prompts import Variant, decompose_request, judge_request
from edit_r1.vlm.chat import to_messages
from edit_r1.vlm.transformers import TransformersVLM

Precision = Literal["fp32", "bf16"]
Schedule = Literal["constant", "linear", "cosine"]
Progress = Callable[[int, int, Mapping[str, Any]], None]
"""Called with (steps done, steps in all, what was logged: numbers, and a list of texts under "alarms" if there are)."""

SCHEDULERS: dict[str, str] = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
LORA_MODULES = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Every linear layer of the language model; the vision tower stays as it is."""
_COMPLETE = "complete"
_NOT_OF_A_RUN = ("out", "alarms", "vllm_address")
"""Fields that may change when a run is resumed: where it is kept, what is told of it, where a server listens."""
_MACHINE = {"gradient_checkpointing", "micro_batch", "row_workers", "vllm_memory", "vllm_context", "vllm_sleep"}
"""Fields that may change too, for what ran out of memory: the same is computed but for rounding."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and what may be done with them."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def curves(self) -> Path:
        return self.root / "curves.jsonl"

    @property
    def data_card(self) -> Path:
        return self.root / "data_card.md"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def check(self, stage: Any, data_hash: str, resume: bool) -> None:
        """Whether a stage (a dataclass) may use the folder for its data; writes nothing.

        Raises:
            ValueError: when it holds another run, or this run and `resume` was not asked for, or cannot be written.
        """
        above = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        if not self.model.exists() and not (above.is_dir() and os.access(above, os.W_OK)):
            raise StoreError(f"{self.root}: {above} is no folder that can be written to: choose another folder")
        settings = _settings(stage, data_hash)
        path = self.root / "stage.json"
        if path.exists():
            found = read_json(path)
            names = {*settings, *found} - _MACHINE
            changed = sorted(name for name in names if settings.get(name) != found.get(name))
            if changed:
                raise ValueError(
                    f"{self.root}: holds a run with other settings ({', '.join(changed)}): choose another folder"
                )
            if not resume:
                raise ValueError(f"{self.root}: holds this run already: resume it, or choose another folder")

    def claim(self, stage: Any, data_hash: str, accelerator: Accelerator) -> None:
        """Marks the folder as this run's; once its inputs have proved to open, and every process has checked it."""
        accelerator.wait_for_everyone()
        write_json(self.root / "stage.json", _settings(stage, data_hash))

    def checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end."""
        found = [path.parent for path in self.checkpoints.glob(f"checkpoint-*/{_COMPLETE}")]
        return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def _settings(stage: Any, data_hash: str) -> dict[str, Any]:
    """What makes a run this run: all but `_NOT_OF_A_RUN`."""
    values = {name: value for name, value in asdict(stage).items() if name not in _NOT_OF_A_RUN}
    settings = {name: value for name, value in flat(values).items() if name not in _NOT_OF_A_RUN}
    return {**settings, "data": data_hash}


class CurvesCallback(TrainerCallback):
    """Writes the curves, keeps the run's clock over restarts, tells alarms, and ends a run whose time is up."""

    def __init__(self, path: Path, max_seconds: float, progress: Progress | None, alarms: Alarms | None = None) -> None:
        self.path = path
        self.max_seconds = max_seconds
        self.progress = progress
        self.alarms = alarms
        self.stopped = ""
        """The alarms that ended the run; empty when none did."""
        self.started = 0.0

    def seconds(self) -> float:
        """Time spent in training, over all restarts."""
        return time.monotonic() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        lines = read_curves(self.path) if self.path.exists() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        if state.is_world_process_zero:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if self.alarms is not None:
            self.alarms.start(kept)
        self.started = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "train_runtime" in logs:
            return
        told = self._write(state, logs) if state.is_world_process_zero else []
        if self.alarms is not None and self.alarms.settings.alarm_stop > 0:
            # Only the first process looks at the numbers, all of them stop.
            ended = gather_object(["; ".join(told) if self.alarms.stops else ""])
            self.stopped = next((text for text in ended if text), "")
            control.should_training_stop = control.should_training_stop or bool(self.stopped)

    def _write(self, state: Any, logs: dict[str, Any]) -> list[str]:
        """A line of the curves; returns its alarms."""
        numbers = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        told = self.alarms.check(numbers) if self.alarms is not None else []
        logged = {**numbers, **({"alarms": told} if told else {})}
        line = {"step": state.global_step, "seconds": round(self.seconds(), 3), **logged}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps, logged)
        else:
            for text in told:
                print(f"step {state.global_step}: {text}", file=sys.stderr)
        return told

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.max_seconds > 0 and any(gather_object([self.seconds() >= self.max_seconds])):
            control.should_training_stop = True
        if control.should_training_stop:  # the last step stands in the curves and on the card, wherever it falls
            control.should_log = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last thing in a checkpoint, how many processes wrote it: a killed save leaves none and is not whole."""
        processes = PartialState()
        processes.wait_for_everyone()
        if state.is_world_process_zero:
            mark = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE
            mark.write_text(str(processes.num_processes), encoding="ascii")


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The logged steps of a run, in order; a last line cut by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def set_up(seed: int) -> None:
    """Every seed, and no bars of transformers: callers draw their own. Threads are OMP_NUM_THREADS's business."""
    transformers_logging.disable_progress_bar()
    score_learned_tokens()
    random.seed(seed)
    torch.manual_seed(seed)


def load_trainable(
    path: str, freeze_vision: bool, max_pixels: int, frozen: Precision = "fp32"
) -> tuple[PreTrainedModel, Any]:
    """(model, processor): fp32 weights whatever the checkpoint stores, and no sampling settings of its own.

    transformers 5 keeps the stored dtype on loading, and bf16 master weights swallow small updates; a
    fine-tune's generation_config can carry top_k = 1 or a repetition penalty, which would make all traces
    of a group equal. Both are settled here. `max_pixels` bounds a picture's area; 0 keeps the processor's.
    `frozen` is "bf16" for a model that LoRA is put on, whose own weights then stay as they are.

    Raises:
        ModelError: (a ValueError) for a checkpoint that cannot be opened, or whose card cannot be read (it is needed
            again when the result is saved).
    """
    read_card(path)
    opened = TransformersVLM.load(path, dtype={"fp32": "float32", "bf16": "bfloat16"}[frozen])
    model, processor = opened.model, opened.processor
    tokenizer = processor.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=opened.ends, pad_token_id=pad)
    model.train()
    if freeze_vision:
        vision_tower(model).requires_grad_(False)
    if max_pixels > 0:
        size = dict(processor.image_processor.size)
        size["longest_edge"] = max_pixels
        size["shortest_edge"] = min(size["shortest_edge"], max_pixels)
        processor.image_processor.size = size
    return model, processor


def vision_tower(model: Any) -> torch.nn.Module:
    """The module that reads pictures. Raises ValueError for an architecture that keeps it elsewhere."""
    for name, module in model.named_modules():
        if name.split(".")[-1] in ("visual", "vision_tower"):
            return module
    raise ValueError(f"{type(model).__name__}: no module named visual or vision_tower; use a Qwen-VL checkpoint")


def require_fp32(model: torch.nn.Module) -> None:
    """Raises ValueError when a weight that will be trained is not fp32."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            raise ValueError(
                f"{name} is {weight.dtype} and trainable: bf16 swallows updates of 1e-4; load the model with "
                "dtype=float32 (precision bf16 still computes in bf16)"
            )


def lora_config(rank: int) -> Any:
    """LoRA on the language model's linear layers, alpha twice the rank, or None for rank 0: all weights are trained."""
    if rank == 0:
        return None
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules=LORA_MODULES, task_type="CAUSAL_LM"
    )


def judge_messages(
    context: Context, candidate: Candidate, mode: OutputMode, variant: Variant
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Chat messages with image placeholders, and the pictures: what a scorer would send for this candidate."""
    sources, edited = judged_pictures(context.sample.sources, candidate.image)
    request = judge_request(sources, edited, context.sample.instruction, context.principles, mode, variant)
    return to_messages(request), [_picture(data) for data in request.images]


def decompose_messages(context: Context, variant: Variant) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Chat messages with image placeholders, and the pictures: what a scorer without principles would send."""
    sample = context.sample
    examples = examples_of(context_key(sample.sources, sample.instruction))
    request = decompose_request(judged_sources(sample.sources), sample.instruction, examples, variant)
    return to_messages(request), [_picture(data) for data in request.images]


@lru_cache(maxsize=256)
def _picture(data: bytes) -> Image.Image:
    return decode_pil(data)


def whole_weights(trainer: Trainer) -> dict[str, Tensor] | None:
    """Weights of a sharded model put together on the CPU of the first process; None for one that is not sharded.

    All processes must call this alike.
    """
    if trainer.accelerator.distributed_type != DistributedType.FSDP:
        return None
    gathered: dict[str, Tensor] = trainer.accelerator.get_state_dict(trainer.model)
    # A tied weight comes under both of its names; these name each once.
    own = {name for name, _ in (*trainer.model.named_parameters(), *trainer.model.named_buffers())}
    return {name: weight for name, weight in gathered.items() if name in own}


def save_model(
    model: Any, processor: Any, folder: RunFolder, base: str, card: ModelCard, stored: Precision,
    weights: dict[str, Tensor] | None = None, readme: str = "", add: Callable[[Path], None] | None = None,
) -> Path:  # fmt: skip
    """The result, LoRA merged in, complete or not at all; then the checkpoints are no longer needed.

    The domain of the base model's card is kept. With stored="bf16" the weights are rounded in place. weights: those of
    a sharded model, from `whole_weights`. readme: its model card. add: writes more into the folder before it takes its
    place.
    """
    if isinstance(model, PeftModel):
        if model.dtype != torch.float32:
            model = model.to("cpu", torch.float32)  # merged in bf16 a product would be rounded before the sum is
        model = model.merge_and_unload()
    if weights is not None and stored == "bf16":
        weights = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    elif stored == "bf16":
        model.to(torch.bfloat16)
    with new_folder(folder.model) as partial:
        model.save_pretrained(partial, state_dict=weights)
        processor.save_pretrained(partial)
        write_card(partial, ModelCard(card.variant, card.mode, read_card(base).domain))
        if readme:
            write_text(partial / "README.md", readme)
        if add is not None:
            add(partial)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return folder.model


def row_dataset(count: int, make: Callable[[dict[str, list[int]]], dict[str, list[Any]]], data: str) -> Dataset:
    """A dataset of the numbers 0 to count - 1 that `make` turns into rows when they are asked for.

    `data` stands for `make` in datasets' fingerprint, which would else be a hash of every picture and of the model.
    """
    return Dataset.from_dict({"row": list(range(count))}).with_transform(_Named(make, data))


class _Named:
    """A function that is pickled as its name."""

    def __init__(self, make: Callable[[dict[str, list[int]]], dict[str, list[Any]]], name: str) -> None:
        self.make, self.name = make, name

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        return self.make(batch)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (self.name,)


class ExactResume:
    """Mixed into a trainer: weights of a checkpoint are read as `from_pretrained` reads them.

    transformers' own Trainer (5.23) takes a checkpoint's tensors by the names in the file. Those of
    Qwen2.5-VL are not the names in the model (saving renames them), so that resuming went on from the
    initial weights, with a warning only.
    """

    model: Any
    is_fsdp_enabled: bool

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if isinstance(self.model, PeftModel):
            # As transformers, but for the device: PEFT would load the adapters of all processes onto the first GPU.
            where = str(self.model.device)
            self.model.load_adapter(
                resume_from_checkpoint, self.model.active_adapter, is_trainable=True, torch_device=where
            )
            return
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        stored = type(self.model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        self.model.load_state_dict(stored.state_dict(), strict=True)


def run_trainer(trainer: Trainer, folder: RunFolder) -> None:
    """Train from the newest whole checkpoint, or from the start; nothing is printed.

    Raises:
        ValueError: for DeepSpeed, which a launcher may have asked for, or a checkpoint of another number of processes,
            which shared out rows and random numbers in their own way.
    """
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError("DeepSpeed was asked for by the launcher: start by torchrun and use --shard fsdp2 instead")
    require_fp32(trainer.model)
    trainer.remove_callback(PrinterCallback)
    checkpoint = folder.checkpoint()
    written = (checkpoint / _COMPLETE).read_text(encoding="ascii") if checkpoint else ""
    if written and int(written) != trainer.accelerator.num_processes:
        raise ValueError(
            f"{checkpoint}: written by {written} processes, and this run has {trainer.accelerator.num_processes}: "
            "start as many, or a new run in another folder"
        )
    train_in_parts(trainer)
    with writing(folder.checkpoints):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def check_numbers(positive: Mapping[str, float], not_negative: Mapping[str, float]) -> None:
    """Raises ValueError naming the first field out of range."""
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be a number above 0")
    for name, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: must be a number, 0 or more")


def identity_hash(ids: Iterable[Sequence[str]]) -> str:
    """SHA-256 of the data's identities in order, for refusing to resume on other data."""
    digest = IdentityHash()
    for parts in ids:
        digest.update(parts)
    return digest.hexdigest()


class IdentityHash:
    """`identity_hash` of identities that come one by one."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"[")
        self._between = b""

    def update(self, parts: Sequence[str]) -> None:
        """One row's."""
        self._digest.update(self._between + json.dumps(list(parts)).encode())
        self._between = b", "

    def hexdigest(self) -> str:
        """Of all so far."""
        whole = self._digest.copy()
        whole.update(b"]")
        return whole.hexdigest()
