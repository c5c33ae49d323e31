"""Cold-start SFT: the verifier learns to write the selected traces (Edit-R1, arXiv 2604.27505, section 2).

TRL's SFTTrainer on the prompts a scorer would send, with the loss on the answer alone. Writing the principles of a
context is a second task (ours): without it a verifier can judge only by principles that someone else wrote.

The control "SFT continued for the same compute as GCPO" is this stage on the SFT model, bounded by `steps` or
`max_seconds`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from trl import SFTConfig, SFTTrainer

from edit_r1.images import MAX_JUDGED_PIXELS, image_size
from edit_r1.records import OutputMode, Quadruple, Unparsed
from edit_r1.store import write_text
from edit_r1.train.length_batches import LengthBatches
from edit_r1.train.machine import MachineSettings, check_machine, check_one_gpu, fsdp_arguments
from edit_r1.train.optimizers import trainer_optimizer
from edit_r1.train.settings import Unprefixed
from edit_r1.train.trainer_arguments import supervised_arguments
from edit_r1.train.verifier_card import VerifierFacts, quadruples_card, verifier_card
from edit_r1.train.verifier_run import (
    CurvesCallback,
    ExactResume,
    IdentityHash,
    Precision,
    Progress,
    RunFolder,
    Schedule,
    check_numbers,
    decompose_messages,
    judge_messages,
    load_trainable,
    lora_config,
    read_curves,
    row_dataset,
    run_trainer,
    save_model,
    set_up,
    whole_weights,
)
from edit_r1.verifier.cards import ModelCard
from edit_r1.verifier.items import context_key, examples_of
from edit_r1.verifier.parsing import parse_trace
from edit_r1.verifier.prompts import Variant, decompose_request, judge_request
from edit_r1.verifier.traces import project, write_principles
from edit_r1.vlm.protocol import Request


@dataclass(frozen=True)
class SFTStage:
    """Cold-start SFT of a verifier; every setting that shapes the result."""

    model: str
    """Folder (or hub id) of the vision-language model to start from."""
    out: str
    """Folder of the run; the result is `out`/model."""
    mode: OutputMode = "both"
    """What the traces hold; targets of mode "both" are projected onto it."""
    decompose: bool = True
    """Also learn to write the principles: each context that the quadruples hold is one more row, with its principles as
    the target."""
    variant: Variant = "full"
    """Prompts and traces in full, or compact for models of a few million parameters."""
    steps: int = 0
    """Optimiser steps; 0 trains for `epochs`."""
    epochs: int = 1
    """Passes over the data; ignored when `steps` is given."""
    max_seconds: float = 0.0
    """Stops after this much training time, restarts included; 0 sets no limit."""
    batch_size: int = 32
    """Traces a process sees in one forward."""
    accumulate: int = 1
    """Forwards a step: an update sees batch_size * accumulate * processes traces."""
    learning_rate: float = 1e-5
    """Without weight decay; with AdamW 1e-5 suits full training of 7B, 1e-4 LoRA, 2e-3 models of 1-5M."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" steps hidden matrices by Muon and the rest by AdamW: for models of a few million parameters, in one
    process or DDP (sharded weights need "adamw")."""
    schedule: Schedule = "cosine"
    """What the learning rate does after the warm-up; "constant" where `max_seconds` ends the run."""
    warmup_steps: int = 10
    max_grad_norm: float = 1.0
    lora_rank: int = 0
    """0 trains every weight. alpha is twice the rank."""
    freeze_vision: bool = False
    """Leaves the vision tower as it is (LoRA does so anyway)."""
    max_pixels: int = 0
    """Largest area of a picture, in pixels; kept in the saved processor. 0 keeps the processor's own."""
    precision: Precision = "fp32"
    """What is computed in; trained weights are fp32 in any case."""
    stored: Precision = "bf16"
    """What the result is stored in."""
    machine: Annotated[MachineSettings, Unprefixed] = field(default_factory=MachineSettings)
    log_every: int = 10
    """Steps between lines of the curves."""
    save_every: int = 100
    """Steps between checkpoints."""
    cpu: bool = False
    """True never uses a GPU."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            {
                "epochs": self.epochs, "batch_size": self.batch_size, "accumulate": self.accumulate,
                "learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm,
                "log_every": self.log_every, "save_every": self.save_every,
            },
            {
                "steps": self.steps, "max_seconds": self.max_seconds, "warmup_steps": self.warmup_steps,
                "lora_rank": self.lora_rank, "max_pixels": self.max_pixels, "seed": self.seed,
            },
        )  # fmt: skip
        check_machine(self.machine, self.lora_rank)
        if self.machine.shard != "none" and self.optimizer == "muon":
            raise ValueError("optimizer='muon' with shard: Muon needs whole matrices; use optimizer='adamw'")


class VerifierSFTTrainer(ExactResume, SFTTrainer):
    """TRL's SFTTrainer, resumed exactly; every token of an update counts alike, over micro-batches and processes."""

    def __init__(self, *args: Any, lengths: Sequence[int], **options: Any) -> None:
        """lengths: of the rows, roughly."""
        self.lengths = lengths
        super().__init__(*args, **options)
        # Qwen2.5-VL says that its own loss takes no count of tokens, and transformers then counts none; but the loss is
        # TRL's, which does. Without it every process weighs its own mean alike, however many tokens it holds.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthBatches:
        return LengthBatches(self.lengths, self._update_rows(), self.args.seed)

    def _update_rows(self) -> int:
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)


def train_sft(
    stage: SFTStage, quadruples: Sequence[Quadruple], resume: bool = False, progress: Progress | None = None
) -> Path:
    """Train on the quadruples' targets; returns the folder of the result.

    With `resume` a run that was stopped continues from its last checkpoint, to the same weights as if it
    had not been, and a finished one returns at once.

    Raises:
        ValueError: for quadruples without targets or of another split than "train", a target that cannot be
            put into `mode`, a folder that holds another run, or a model that cannot be opened.
    """
    folder = RunFolder(Path(stage.out))
    rows = _Rows(stage, quadruples)
    data = rows.identity
    folder.check(stage, data, resume)
    if folder.model.exists():
        return folder.model
    check_one_gpu(stage.cpu)
    set_up(stage.seed)
    model, processor = load_trainable(stage.model, stage.freeze_vision, stage.max_pixels, stage.machine.frozen)

    curves = CurvesCallback(folder.curves, stage.max_seconds, progress)
    trainer = VerifierSFTTrainer(
        model=model,
        args=_arguments(stage, folder),
        train_dataset=row_dataset(len(rows), rows.messages, str(folder.root)),
        processing_class=processor,
        peft_config=lora_config(stage.lora_rank),
        callbacks=[curves],
        optimizer_cls_and_kwargs=trainer_optimizer(stage.optimizer, stage.learning_rate),
        lengths=rows.lengths,
    )
    folder.claim(stage, data, trainer.accelerator)
    if trainer.is_world_process_zero():
        write_text(folder.data_card, quadruples_card(quadruples))
    run_trainer(trainer, folder)
    weights = whole_weights(trainer)
    if trainer.is_world_process_zero():
        card = ModelCard(stage.variant, stage.mode)
        model = trainer.accelerator.unwrap_model(trainer.model)
        told = f"{len(quadruples)} quadruples in {len(rows)} rows"
        readme = verifier_card(VerifierFacts("SFT", stage, data, told, read_curves(folder.curves)))
        save_model(model, processor, folder, stage.model, card, stage.stored, weights, readme)
    trainer.accelerator.wait_for_everyone()
    return folder.model


class _Rows:
    """A row per quadruple, then one per different context when the stage trains decomposition too.

    The quadruples may be more than memory holds (`store.open_dataset`): they are gone through once here, and read again
    as their rows are asked for.
    """

    def __init__(self, stage: SFTStage, quadruples: Sequence[Quadruple]) -> None:
        """Raises ValueError as `train_sft` does for its quadruples."""
        self.stage, self.quadruples = stage, quadruples
        self.lengths = array("l")
        """(rows,) question and answer in characters, a picture's tokens counted as so many; only to be compared."""
        self._contexts: dict[str, int] = {}
        """By sample: the place of a quadruple that holds it."""
        digest = IdentityHash()
        for place, quadruple in enumerate(targets_checked(quadruples)):
            self._add(digest, quadruple.candidate.id, *_judging(stage, quadruple))
            if stage.decompose:
                self._contexts[quadruple.context.sample.id] = place
        self._places = array("l", self._contexts.values())
        for name, place in self._contexts.items():
            self._add(digest, name, *_decomposing(stage, quadruples[place]))
        self.identity = digest.hexdigest()
        """Of the targets in order."""

    def __len__(self) -> int:
        return len(self.lengths)

    def messages(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        """The rows of these numbers, as TRL takes them."""
        stage, count = self.stage, len(self.quadruples)
        asked, targets = [], []
        for number in batch["row"]:
            quadruple = self.quadruples[number if number < count else self._places[number - count]]
            context = quadruple.context
            if number < count:
                asked.append(judge_messages(context, quadruple.candidate, stage.mode, stage.variant))
                targets.append(trace_text(quadruple, stage.mode, stage.variant))
            else:
                asked.append(decompose_messages(context, stage.variant))
                targets.append(write_principles(context.principles, stage.variant))
        return {
            "prompt": [messages for messages, _ in asked],
            "images": [images for _, images in asked],
            "completion": [[{"role": "assistant", "content": target}] for target in targets],
        }

    def _add(self, digest: IdentityHash, name: str, question: Request, target: str) -> None:
        digest.update((name, target))
        most = min(self.stage.max_pixels or MAX_JUDGED_PIXELS, MAX_JUDGED_PIXELS)
        self.lengths.append(_length(question, target, most))


def _judging(stage: SFTStage, quadruple: Quadruple) -> tuple[Request, str]:
    """Question and answer of a quadruple's row."""
    context, target = quadruple.context, trace_text(quadruple, stage.mode, stage.variant)
    asked = context.sample
    pictures = (asked.sources, quadruple.candidate.image)
    return judge_request(*pictures, asked.instruction, context.principles, stage.mode, stage.variant), target


def _decomposing(stage: SFTStage, quadruple: Quadruple) -> tuple[Request, str]:
    """Question and answer of the row of a quadruple's context."""
    context, asked = quadruple.context, quadruple.context.sample
    examples = examples_of(context_key(asked.sources, asked.instruction))
    question = decompose_request(asked.sources, asked.instruction, examples, stage.variant)
    return question, write_principles(context.principles, stage.variant)


_PICTURE_PX = 200
"""Pixels of a picture per character of text: a token of Qwen's stands for 28 x 28 pixels or some 4 characters."""


def _length(question: Request, target: str, most: int) -> int:
    """most: pixels that a picture is scaled down to."""
    sizes = [image_size(picture) for picture in question.images]
    pixels = sum(min(width * height, most) // _PICTURE_PX for width, height in sizes)
    return pixels + len(question.text) + len(target)


def trace_text(quadruple: Quadruple, mode: OutputMode, variant: Variant) -> str:
    """The target as the model will write it.

    Raises:
        ValueError: for a target that does not hold what `mode` asks for, or that cannot be parsed.
    """
    target, principles = quadruple.target, quadruple.context.principles
    assert target is not None, "checked by targets_checked"
    text = target.text
    try:
        if target.verdicts is not None or mode != "think":
            text = project(target, mode, variant, [principle.question for principle in principles]).text
    except ValueError as error:
        raise ValueError(f"target of candidate {quadruple.candidate.id!r}: {error}") from error
    outcome = parse_trace(text, principles, mode)
    if isinstance(outcome, Unparsed):
        raise ValueError(
            f"target of candidate {quadruple.candidate.id!r} cannot be parsed ({outcome.reason}): "
            "leave it out, or the model learns a format that is never scored"
        )
    return text


def targets_checked(quadruples: Sequence[Quadruple]) -> Iterator[Quadruple]:
    """The quadruples in order.

    Raises:
        ValueError: for no quadruples, one without a target, or one of another split than "train".
    """
    if not quadruples:
        raise ValueError("no quadruples: SFT needs at least one with a target; run the curation first")
    for quadruple in quadruples:
        if quadruple.target is None:
            raise ValueError(
                f"candidate {quadruple.candidate.id!r} has no target trace: give only quadruples that were selected"
            )
        sample = quadruple.context.sample
        if sample.split != "train":
            raise ValueError(f"sample {sample.id} is of split {sample.split!r}: leave it out, it is held out")
        yield quadruple


def _arguments(stage: SFTStage, folder: RunFolder) -> SFTConfig:
    """Everything that shapes training, said aloud: TRL's defaults may change."""
    return SFTConfig(
        **supervised_arguments(stage, folder) | {"dataloader_num_workers": stage.machine.row_workers},
        gradient_checkpointing=stage.machine.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        **fsdp_arguments(stage.machine),
        # A cut would take image tokens away from their pictures.
        max_length=None,
        completion_only_loss=True,
        assistant_only_loss=False,
        packing=False,
        padding_free=False,
        loss_type="nll",
    )
