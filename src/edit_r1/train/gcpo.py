"""GCPO: the verifier learns from comparisons of its own scores on preference pairs (arXiv 2604.27505, section 3).

TRL's GRPOTrainer does the sampling, the clipped surrogate and the update. What is ours, and all of it:
pairs stay together (`train.pairs.PairSampler`), the reward of a trace is its win or loss ratio against the
other candidate's traces (`algo.gcpo`), and what the traces of a candidate have in common is computed once where they
are in one batch (`train.rollout`, `train.shared_vision`, `train.shared_prompt`).
TRL's own group statistics then give the paper's advantages: mean-centred inside each group of N traces of
one candidate, not scaled, no KL term, and the loss is the mean over traces of the token mean ("grpo").

An update sees the whole generation: with `updates_per_generation` = 1 the policy that samples is the one
that is updated, the ratio is exactly 1 and the clip never acts; above 1 it does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from edit_r1.records import OutputMode, Preference, Trace
from edit_r1.train.averaging import TailAverage
from edit_r1.train.pairs import Comparison, Pair, PairSampler, Rollouts, compare, pairs_of
from edit_r1.train.rollout import own_precision, pictures_of, rows_that_teach, runs_of, sample_copies, without_padding
from edit_r1.train.shared_prompt import share_prompt
from edit_r1.train.shared_vision import share_vision
from edit_r1.train.verifier_run import (
    SCHEDULERS,
    CurvesCallback,
    ExactResume,
    Precision,
    Progress,
    RunFolder,
    Schedule,
    check_numbers,
    identity_hash,
    judge_messages,
    load_trainable,
    lora_config,
    row_dataset,
    run_trainer,
    save_model,
    set_up,
)
from edit_r1.verifier.cards import ModelCard
from edit_r1.verifier.parsing import parse_trace
from edit_r1.verifier.prompts import Variant


@dataclass(frozen=True)
class GCPOStage:
    """GCPO of a verifier; every setting that shapes the result. The paper discloses none of the numbers."""

    model: str
    """Folder (or hub id) of the verifier after SFT."""
    out: str
    """Folder of the run; the result is `out`/model."""
    mode: OutputMode = "both"
    variant: Variant = "full"
    steps: int = 50
    """Generations of sample, compare, advantage, update."""
    pairs_per_step: int = 16
    """Preference pairs of a generation, over all processes."""
    traces: int = 8
    """N, traces per candidate; at least 2."""
    updates_per_generation: int = 1
    """Optimiser steps on each generation, every one over all its traces."""
    max_new_tokens: int = 160
    """A longer trace is cut, counted as truncated and treated as unparsed."""
    temperature: float = 1.0
    """Of sampling, and of the log-probabilities that are trained. top_p, top_k, min_p and penalties are off."""
    epsilon: float = 0.2
    """Clip range of the ratio, on both sides."""
    learning_rate: float = 1e-6
    """Of AdamW without weight decay; 1e-6 suits full training of 7B, 8e-5 models of 1-5M."""
    warmup_steps: int = 0
    """Optimiser steps with a growing learning rate."""
    schedule: Schedule = "constant"
    """What the learning rate does after the warm-up."""
    average_last: float = 0.0
    """Share of the steps, [0, 1), at the end of the run whose weights are averaged into the result; 0 keeps the last
    weights. The fewer pairs a generation holds, the noisier its update, and the more the mean is worth."""
    max_grad_norm: float = 1.0
    decode_batch: int = 64
    """Traces a process samples at once, rounded up to whole candidates; caches beyond a CPU's own are slow."""
    micro_batch: int = 64
    """Traces a process puts through the model at once in an update; divides its share of the generation. With a
    multiple of `traces` every prompt is read once for all its traces."""
    lora_rank: int = 0
    """0 trains every weight. alpha is twice the rank."""
    freeze_vision: bool = False
    """Leaves the vision tower as it is (LoRA does so anyway)."""
    precision: Precision = "fp32"
    """What is computed in; trained weights are fp32 in any case."""
    stored: Precision = "bf16"
    """What the result is stored in."""
    save_every: int = 10
    """Generations between checkpoints."""
    cpu: bool = False
    """True never uses a GPU."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            {
                "steps": self.steps, "pairs_per_step": self.pairs_per_step, "max_new_tokens": self.max_new_tokens,
                "updates_per_generation": self.updates_per_generation, "temperature": self.temperature,
                "learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm,
                "micro_batch": self.micro_batch, "save_every": self.save_every,
                "decode_batch": self.decode_batch,
            },
            {
                "warmup_steps": self.warmup_steps, "lora_rank": self.lora_rank,
                "seed": self.seed,
            },
        )  # fmt: skip
        if self.traces < 2:
            raise ValueError(f"traces={self.traces}: a group needs at least 2 traces to have an advantage")
        if not 0 <= self.average_last < 1:
            raise ValueError(f"average_last={self.average_last}: must lie in [0, 1); 0 averages nothing")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon}: must lie in (0, 1), usually 0.2")
        if self.rollouts % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch}: must divide the {self.rollouts} traces of a generation "
                f"(2 x pairs_per_step={self.pairs_per_step} x traces={self.traces})"
            )

    @property
    def rollouts(self) -> int:
        """Traces of a generation."""
        return 2 * self.pairs_per_step * self.traces


def train_gcpo(
    stage: GCPOStage, preferences: Sequence[Preference], resume: bool = False, progress: Progress | None = None
) -> Path:
    """Train on the decided preferences; returns the folder of the result.

    With `resume` a run that was stopped continues from its last checkpoint, to the same weights as if it
    had not been, and a finished one returns at once.

    Raises:
        ValueError: for no decided preference, fewer pairs than a generation takes, a folder that holds
            another run, or a model that cannot be opened.
    """
    pairs = pairs_of(preferences)
    folder = RunFolder(Path(stage.out))
    data = identity_hash((pair.winner.id, pair.loser.id) for pair in pairs)
    folder.check(stage, data, resume)
    if folder.model.exists():
        return folder.model
    trainer = build_trainer(stage, pairs, folder, progress)
    folder.claim(stage, data)
    run_trainer(trainer, folder)
    if trainer.average is not None:
        trainer.average.assign(trainer.model)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        card = ModelCard(stage.variant, stage.mode)
        save_model(model, trainer.processing_class, folder, stage.model, card, stage.stored)
    trainer.accelerator.wait_for_everyone()
    return folder.model


def build_trainer(
    stage: GCPOStage, pairs: Sequence[Pair], folder: RunFolder, progress: Progress | None = None
) -> GCPOTrainer:
    """Model, data and trainer of a run. Raises ValueError as `train_gcpo`."""
    set_up(stage.seed)
    model, processor = load_trainable(stage.model, stage.freeze_vision, max_pixels=0)
    share_vision(model)
    return GCPOTrainer(stage, pairs, model, processor, folder, progress)


class GCPOTrainer(ExactResume, GRPOTrainer):
    """TRL's GRPOTrainer with the pairs' sampler and the pairs' reward."""

    def __init__(
        self, stage: GCPOStage, pairs: Sequence[Pair], model: Any, processor: Any, folder: RunFolder,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.stage = stage
        self.pairs = pairs
        self.comparison: Comparison | None = None
        """The last generation, for tests and reports."""
        arguments = grpo_arguments(stage, folder, suppressed=pictures_tokens(model))
        self.average: TailAverage | None = None
        if stage.average_last > 0:
            self.average = TailAverage(1 + math.floor((1 - stage.average_last) * arguments.max_steps))
        self.sampler = PairSampler(
            len(pairs),
            stage.pairs_per_step,
            stage.traces,
            repeats=stage.updates_per_generation * arguments.steps_per_generation,
            steps=stage.steps,
            seed=stage.seed,
        )
        super().__init__(
            model=model,
            reward_funcs=ratio,
            args=arguments,
            train_dataset=row_dataset(2 * len(pairs), self._rows, str(folder.root)),
            processing_class=processor,
            peft_config=lora_config(stage.lora_rank),
            callbacks=[*([self.average] if self.average else []), CurvesCallback(folder.curves, 0.0, progress)],
        )
        # Sharded weights are gathered layer by layer: every process must go through the layers equally often.
        self.sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if not self.sharded:
            share_prompt(model)

    def _rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Prompts of the rows: 2p is pair p's winner, 2p + 1 its loser."""
        asked = {row: self._ask(row) for row in set(batch["row"])}
        return {
            "row": batch["row"],
            "prompt": [asked[row][0] for row in batch["row"]],
            "images": [asked[row][1] for row in batch["row"]],
        }

    def _ask(self, row: int) -> tuple[list[dict[str, Any]], list[Any]]:
        pair = self.pairs[row // 2]
        candidate = pair.loser if row % 2 else pair.winner
        return judge_messages(pair.context, candidate, self.stage.mode, self.stage.variant)

    def _get_train_sampler(self, dataset: Any = None) -> PairSampler:
        return self.sampler

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's, without its shuffle: an update sees the whole generation, and traces of a prompt are to stay together.

        A generation is sampled, or the next micro-batch of it returned.
        """
        forwards = self.args.steps_per_generation
        self._buffered_inputs: list[dict[str, Any]] | None
        if self._buffered_inputs is None or self._step % (forwards * self.num_iterations) == 0:
            generation = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            parts = split_tensor_dict(generation, forwards)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        return self._buffered_inputs[self._step % forwards]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        self._metrics["train"]["seconds_rollout"].append(time.perf_counter() - started)
        return output

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: list[list[Any]] | None, multimodal_fields: dict[str, Any],
        num_generations: int, has_tool_images: bool = False,
    ) -> tuple[list[list[int]], None]:  # fmt: skip
        """TRL's sampling, in batches of `decode_batch`, with every prompt read once for all its traces."""
        assert images is not None, "every prompt has pictures"
        starts, copies = runs_of([(ids, [id(i) for i in shown]) for ids, shown in zip(prompt_ids, images, strict=True)])
        per_batch = max(1, self.stage.decode_batch // self.stage.traces)
        traces: list[list[int]] = []
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, generation_kwargs=self.generation_kwargs
            ) as model,
            own_precision(model),
            torch.no_grad(),
        ):
            for first in range(0, len(starts), per_batch):
                chosen = starts[first : first + per_batch]
                inputs = self._padded([prompt_ids[i] for i in chosen])
                inputs |= pictures_of(multimodal_fields, [len(shown) for shown in images], chosen)
                inputs = {name: value.to(self.accelerator.device) for name, value in inputs.items()}
                tokens_BL = sample_copies(
                    model, inputs, copies[first : first + per_batch], self.generation_config, self.sharded
                )
                traces += [until_end(row, self.eos_token_ids) for row in tokens_BL.tolist()]
        return traces, None

    def _padded(self, prompt_ids: list[list[int]]) -> dict[str, Tensor]:
        ids = [torch.tensor(row) for row in prompt_ids]
        input_ids = pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side="left")
        return {
            "input_ids": input_ids,
            "attention_mask": pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left"),
            "mm_token_type_ids": (input_ids == self.model.config.image_token_id).int(),
        }

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss of the rows that have a gradient, scaled to be the mean over all rows."""
        teaching, share = rows_that_teach(inputs)
        return super()._compute_loss(model, without_padding(teaching)) * share

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> Tensor:
        """(B, 1) win and loss ratios of the whole generation, over all processes."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        truncated = [ids[-1] not in ends for ids in completion_ids_list]
        scores = []
        for row, text, ids, cut in zip(inputs, completions, completion_ids_list, truncated, strict=True):
            principles = self.pairs[row["row"] // 2].context.principles
            outcome = parse_trace(text[0]["content"], principles, self.stage.mode, len(ids), cut)
            scores.append(outcome.score if isinstance(outcome, Trace) else math.nan)
        device = self.accelerator.device
        local = Rollouts(
            rows_B=torch.tensor([row["row"] for row in inputs], device=device),
            scores_B=torch.tensor(scores, dtype=torch.float64, device=device),
            tokens_B=torch.tensor([len(ids) for ids in completion_ids_list], device=device),
            truncated_B=torch.tensor(truncated, device=device),
        )
        rollouts = local.gathered()
        self.comparison = compare(rollouts, self.stage.traces)
        for name, value in generation_metrics(rollouts, self.comparison).items():
            self._metrics["train"][name].append(value)
        return self.comparison.ratios_B.unsqueeze(1).float()


def generation_metrics(rollouts: Rollouts, comparison: Comparison) -> dict[str, float]:
    """What is logged of a generation."""
    counts = comparison.contrast.counts
    total = len(rollouts.rows_B)
    return {
        "mean_ratio": float(comparison.ratios_B.nanmean()),
        "unparsed": counts.unparsed / total,
        "truncated": float(rollouts.truncated_B.double().mean()),
        "tie_share": counts.ties / counts.comparisons if counts.comparisons else math.nan,
        "pairs_all_unparsed": counts.all_unparsed / counts.pairs,
        "pairs_silent": counts.silent / counts.pairs,
        "weighted_advantage": comparison.weighted_advantage,
        "trace_tokens": float(rollouts.tokens_B.double().mean()),
        "score_winner": comparison.score_winner,
        "score_loser": comparison.score_loser,
    }


def until_end(tokens: list[int], ends: list[int]) -> list[int]:
    """The tokens up to and including the first end token."""
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def ratio(**_: Any) -> list[float]:
    """Names the reward in TRL's logs; a ratio needs both groups, so `_calculate_rewards` computes it."""
    raise RuntimeError("the ratio of a trace cannot be computed without the traces of the other candidate")


def pictures_tokens(model: Any) -> list[int]:
    """Tokens that stand for pictures: one in a trace would have no picture to match when it is trained on."""
    config = model.config
    return [config.image_token_id, config.video_token_id]


def grpo_arguments(stage: GCPOStage, folder: RunFolder, suppressed: list[int]) -> GRPOConfig:
    """Everything that shapes training, said aloud: TRL's defaults may change.

    Raises:
        ValueError: when the processes' shares of a generation are not whole micro-batches.
    """
    probe = GRPOConfig(output_dir=str(folder.checkpoints), use_cpu=stage.cpu, report_to="none", bf16=False)
    forwards, rest = divmod(stage.rollouts, stage.micro_batch * probe.world_size)
    if rest:
        raise ValueError(
            f"micro_batch={stage.micro_batch} on {probe.world_size} processes: must divide the {stage.rollouts} "
            "traces of a generation"
        )
    return GRPOConfig(
        output_dir=str(folder.checkpoints),
        max_steps=stage.steps * stage.updates_per_generation,
        per_device_train_batch_size=stage.micro_batch,
        # One generation is one accumulation: every update sees all of it.
        steps_per_generation=forwards,
        gradient_accumulation_steps=forwards,
        num_iterations=stage.updates_per_generation,
        num_generations=stage.traces,
        max_completion_length=stage.max_new_tokens,
        temperature=stage.temperature,
        top_p=1.0,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        generation_kwargs={"suppress_tokens": suppressed},
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        beta=0.0,
        epsilon=stage.epsilon,
        epsilon_high=stage.epsilon,
        loss_type="grpo",
        scale_rewards="none",
        multi_objective_aggregation="sum_then_normalize",
        importance_sampling_level="token",
        # A truncated trace is a rollout that won nothing, not one to forget.
        mask_truncated_completions=False,
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        disable_dropout=True,
        shuffle_dataset=False,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=SCHEDULERS[stage.schedule],
        warmup_steps=stage.warmup_steps,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        weight_decay=0.0,
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.precision == "bf16",
        fp16=False,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not stage.cpu,
        logging_strategy="steps",
        logging_steps=stage.updates_per_generation,
        save_strategy="steps",
        # Only between generations, so that a resumed run samples what the stopped one would have.
        save_steps=stage.save_every * stage.updates_per_generation,
        save_total_limit=2,
        eval_strategy="no",
        log_completions=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=stage.cpu,
        seed=stage.seed,
        data_seed=stage.seed,
    )
