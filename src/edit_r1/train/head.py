"""A discriminative judge by Bradley-Terry: a scalar head on a vision-language backbone, trained on preference pairs.

The highest published pointwise judge of edits is of this kind, so it is the baseline that a reasoning verifier trained
on the same pairs has to be compared with. P(winner beats loser) = sigmoid(r_w - r_l), and the loss is its negative
logarithm; `center` times the mean of (r_w + r_l)^2 keeps the scale, which the order leaves open, around 0 (Eisenstein
et al., arXiv 2312.09244). TRL's RewardTrainer (1.16) reads texts only, hence a loss of ours in transformers' Trainer.

Legend: B pairs of a batch, rows 0 to B-1 the winners, B to 2B-1 the losers; D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import Trainer, TrainingArguments

from edit_r1.images import judged_pictures
from edit_r1.records import Candidate, Preference
from edit_r1.store import write_text
from edit_r1.train.machine import check_one_gpu
from edit_r1.train.pairs import Pair, check_one_aspect, pairs_of
from edit_r1.train.trainer_arguments import supervised_arguments
from edit_r1.train.verifier_card import VerifierFacts, head_card, preferences_card
from edit_r1.train.verifier_run import (
    CurvesCallback,
    Precision,
    Progress,
    RunFolder,
    Schedule,
    check_numbers,
    identity_hash,
    load_trainable,
    lora_config,
    read_curves,
    row_dataset,
    run_trainer,
    save_model,
    set_up,
)
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.head_judge import HEAD_VERSION, head_request
from edit_r1.vlm.protocol import Request
from edit_r1.vlm.scalar_head import encode, head_logits_B, last_hidden_BD, write_head

_TRAINED = "trained.safetensors"
"""Weights of a checkpoint: those that are trained, by their names."""


@dataclass(frozen=True)
class HeadStage:
    """Training of a scalar head with its backbone; every setting that shapes the result."""

    model: str
    """Folder (or hub id) of the vision-language model to start from."""
    out: str
    """Folder of the run; the result is `out`/model."""
    steps: int = 0
    """Optimiser steps; 0 trains for `epochs`."""
    epochs: int = 1
    """Passes over the pairs; ignored when `steps` is given."""
    max_seconds: float = 0.0
    """Stops after this much training time, restarts included; 0 sets no limit."""
    batch_size: int = 16
    """Pairs a process sees in one forward: twice as many edits."""
    accumulate: int = 1
    """Forwards a step."""
    learning_rate: float = 1e-5
    """Without weight decay; 1e-5 suits full training of 7B, 1e-4 LoRA, 1e-3 models of a few million parameters."""
    head_learning_rate: float = 0.0
    """Of the head, which starts from nothing; 0 takes `learning_rate`."""
    center: float = 0.01
    """Weight of the mean of (r_w + r_l)^2; 0 leaves the scale free."""
    schedule: Schedule = "cosine"
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
    """What the backbone is stored in; the head is stored in fp32."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    log_every: int = 10
    save_every: int = 100
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
                "head_learning_rate": self.head_learning_rate, "center": self.center, "lora_rank": self.lora_rank,
                "max_pixels": self.max_pixels, "seed": self.seed,
            },
        )  # fmt: skip


def bradley_terry_loss(winner_B: Tensor, loser_B: Tensor, center: float = 0.0) -> Tensor:
    """mean(-log sigmoid(r_w - r_l)) + center * mean((r_w + r_l)^2), of logits (B,)."""
    loss: Tensor = -logsigmoid(winner_B - loser_B).mean() + center * (winner_B + loser_B).square().mean()
    return loss


class HeadModel(nn.Module):
    """A backbone with a head of one output, without bias: the order has no use for one."""

    def __init__(self, backbone: Any, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.weight_1D = nn.Parameter(torch.randn(1, width) / width**0.5)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (2B,) of a batch of winners and losers."""
        return head_logits_B(last_hidden_BD(self.backbone, inputs), self.weight_1D)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """As transformers' models; called by the Trainer."""
        self.backbone.gradient_checkpointing_enable(**options)

    def trained(self) -> dict[str, Tensor]:
        """The weights that are trained, by their names."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}


class HeadTrainer(Trainer):
    """transformers' Trainer with the Bradley-Terry loss; checkpoints hold what is trained."""

    optimizer: Any

    def __init__(self, stage: HeadStage, **options: Any) -> None:
        super().__init__(**options)
        self.stage = stage
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs, which all weigh alike
        self._seen: dict[str, list[float]] = {}

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        winner_B, loser_B = model(**inputs).chunk(2)
        loss = bradley_terry_loss(winner_B, loser_B, self.stage.center)
        gap_B = (winner_B - loser_B).detach()
        measured = torch.stack([(gap_B > 0).float().mean(), gap_B.mean(), winner_B.detach().mean()])
        accuracy, gap, mean = self.accelerator.gather(measured[None]).mean(dim=0).tolist()
        for name, value in (("accuracy", accuracy), ("margin", gap), ("winner_logit", mean)):
            self._seen.setdefault(name, []).append(value)
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        means = {name: sum(values) / len(values) for name, values in self._seen.items() if values}
        self._seen.clear()
        super().log({**logs, **means}, start_time)

    def create_optimizer(self, *_: Any) -> Any:
        if self.optimizer is None:
            head = [weight for name, weight in self.model.trained().items() if name == "weight_1D"]
            rest = [weight for name, weight in self.model.trained().items() if name != "weight_1D"]
            rate = self.stage.head_learning_rate or self.stage.learning_rate
            groups = [{"params": rest, "lr": self.stage.learning_rate}, {"params": head, "lr": rate}]
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        save_file({name: weight.detach().cpu().contiguous() for name, weight in model.trained().items()},
                  folder / _TRAINED)  # fmt: skip

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / _TRAINED)
        trained = self.model.trained()
        if stored.keys() != trained.keys():
            raise ValueError(f"{resume_from_checkpoint}: holds other weights than are trained: start the run anew")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(stored[name])


def train_head(
    stage: HeadStage, preferences: Sequence[Preference], resume: bool = False, progress: Progress | None = None
) -> Path:
    """Train on the decided pairs ("same" is left out); returns the folder of the result, which `evaluate reward` opens.

    With `resume` a run that was stopped continues from its last checkpoint, and a finished one returns at once.

    Raises:
        ValueError: without a decided pair, for pairs of another split than "train" or compared by several aspects, a
            folder that holds another run, or a model that cannot be opened or is a head already.
    """
    pairs = pairs_of(preferences)
    check_one_aspect(preferences)
    folder = RunFolder(Path(stage.out))
    data = identity_hash((pair.context.sample.id, pair.winner.id, pair.loser.id) for pair in pairs)
    folder.check(stage, data, resume)
    if folder.model.exists():
        return folder.model
    card = read_card(stage.model)
    check_one_gpu(stage.cpu)
    set_up(stage.seed)
    backbone, processor = load_trainable(stage.model, stage.freeze_vision, stage.max_pixels)

    def batch(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        chosen = [pairs[row["row"]] for row in rows]
        winners = [request_of(pair, pair.winner) for pair in chosen]
        losers = [request_of(pair, pair.loser) for pair in chosen]
        return dict(encode(processor, winners + losers))

    trainer = HeadTrainer(
        stage,
        model=_with_head(stage, backbone),
        args=_arguments(stage, folder),
        train_dataset=row_dataset(len(pairs), dict, str(folder.root)),
        data_collator=batch,
        callbacks=[CurvesCallback(folder.curves, stage.max_seconds, progress)],
    )
    folder.claim(stage, data, trainer.accelerator)
    if trainer.is_world_process_zero():
        write_text(folder.data_card, preferences_card(preferences))
    run_trainer(trainer, folder)
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)

        def add_head(partial: Path) -> None:
            write_head(partial, trained.weight_1D, HEAD_VERSION)

        facts = VerifierFacts(
            "Bradley-Terry", stage, data, f"{len(pairs)} preference pairs", read_curves(folder.curves)
        )
        readme = head_card(facts)
        save_model(trained.backbone, processor, folder, stage.model, card, stage.stored, readme=readme, add=add_head)
    trainer.accelerator.wait_for_everyone()
    return folder.model


def request_of(pair: Pair, candidate: Candidate) -> Request:
    """What the head reads of a candidate: the same as in judging."""
    sources, edited = judged_pictures(pair.context.sample.sources, candidate.image)
    return head_request(sources, edited, pair.context.sample.instruction)


def _with_head(stage: HeadStage, backbone: Any) -> HeadModel:
    width = backbone.config.get_text_config().hidden_size
    words = backbone.get_output_embeddings()
    if words is not None and words.weight is not backbone.get_input_embeddings().weight:
        words.requires_grad_(False)  # nothing is written, so its gradient would never come
    adapter = lora_config(stage.lora_rank)
    return HeadModel(backbone if adapter is None else get_peft_model(backbone, adapter), width)


def _arguments(stage: HeadStage, folder: RunFolder) -> TrainingArguments:
    """Everything that shapes training, said aloud: defaults may change."""
    return TrainingArguments(
        **supervised_arguments(stage, folder),
        gradient_checkpointing=stage.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if stage.gradient_checkpointing else None,
    )
