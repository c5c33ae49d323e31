"""GCPO: the verifier learns from comparisons of its own scores on preference pairs (arXiv 2604.27505, section 3).

TRL's GRPOTrainer does the sampling, the clipped surrogate and the update. What is ours, and all of it:
pairs stay together (`train.pairs.PairSampler`), the reward of a trace is its win or loss ratio against the
other candidate's traces (`algo.gcpo`), and what the traces of a candidate have in common is computed once where they
are in one batch (`train.rollout`, `train.shared_vision`, `train.shared_prompt`).
TRL's own group statistics then give the paper's advantages: mean-centred inside each group of N traces of
one candidate, not scaled, no KL term, and the loss is the mean over traces of the token mean ("grpo").

An update sees the whole generation: with `updates_per_generation` = 1 the policy that samples is the one
that is updated, the ratio is exactly 1 and the clip never acts; above 1 it does. Traces that vLLM drew
(`SamplingSettings.engine`) come from other rounding: TRL then computes the old log-probabilities in a pass of its own,
so that the ratio is 1 up to rounding, and weighs each token by `SamplingSettings.correction`.

Overridden of TRL's trainer: the sampler, the reward, the order within a generation (`_prepare_inputs`), sampling by our
own engine (`_generate_single_turn`), how often pictures are prepared (`_generate_and_score_completions`, which is timed
too) and where their pixels lie (`_prepare_input`), rows and padding that no loss needs and what is replayed beside it
(`_compute_loss`, `train.replay`), and reading checkpoints.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad, split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from edit_r1.algo.label_noise import after_flips
from edit_r1.records import Preference, Quadruple, Trace
from edit_r1.store import write_text
from edit_r1.train.alarms import Alarms
from edit_r1.train.averaging import TailAverage
from edit_r1.train.gcpo_arguments import grpo_arguments, pictures_tokens
from edit_r1.train.gcpo_stage import GCPOStage
from edit_r1.train.machine import check_one_gpu
from edit_r1.train.pairs import (
    Comparison,
    Pair,
    PairSampler,
    Rollouts,
    check_enough,
    check_judgeable,
    compare,
    pairs_of,
)
from edit_r1.train.replay import Replay, learned_tokens, trace_loss
from edit_r1.train.rollout import (
    held_once,
    own_precision,
    pictures_of,
    pictures_once,
    rows_that_teach,
    runs_of,
    sample_copies,
    without_padding,
)
from edit_r1.train.shared_prompt import share_prompt
from edit_r1.train.shared_vision import share_vision
from edit_r1.train.verifier_card import VerifierFacts, preferences_card, verifier_card
from edit_r1.train.verifier_run import (
    CurvesCallback,
    ExactResume,
    Progress,
    RunFolder,
    identity_hash,
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
from edit_r1.verifier.parsing import parse_trace


def train_gcpo(
    stage: GCPOStage, preferences: Sequence[Preference], resume: bool = False, progress: Progress | None = None,
    trainer_class: type[GCPOTrainer] | None = None, replay: Sequence[Quadruple] = (),
) -> Path:  # fmt: skip
    """Train on the decided preferences; returns the folder of the result.

    With `resume` a run that was stopped continues from its last checkpoint, to the same weights as if it
    had not been, and a finished one returns at once. `trainer_class` is for other objectives on the same rollouts
    (bench/preference_study.py). `replay` holds the quadruples that SFT learned, for a stage that replays them.

    Raises:
        ValueError: for no decided preference, preferences without principles or of one aspect alone, fewer pairs than a
            generation takes, a `replay_weight` without quadruples to replay or the other way round, a folder that holds
            another run, a model that cannot be opened, or a run that its alarms ended.
    """
    check_judgeable(preferences, stage.ratio.aspects)
    pairs = pairs_of(preferences, stage.ratio.pairs_from)
    folder = RunFolder(Path(stage.out))
    data = identity_hash(pair.identity for pair in pairs)
    replayed = replay_of(stage, replay)
    if replayed is not None:
        data = identity_hash([(data, replayed.identity)])
    folder.check(stage, data, resume)
    if folder.model.exists():
        return folder.model
    trainer = build_trainer(stage, pairs, folder, progress, trainer_class, replayed)
    folder.claim(stage, data, trainer.accelerator)
    if trainer.is_world_process_zero():
        write_text(folder.data_card, preferences_card(preferences))
    run_trainer(trainer, folder)
    if trainer.curves.stopped:
        raise ValueError(
            f"stopped after {stage.alarms.alarm_stop} generations with alarms ({trainer.curves.stopped}): no result; "
            "the last checkpoint is kept: resume with other alarm_... limits, or start anew with other settings"
        )
    if trainer.average is not None:
        trainer.average.assign(trainer.model)
    weights = whole_weights(trainer)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        card = ModelCard(stage.variant, stage.mode)
        told = f"{len(pairs)} preference pairs" + (f" and {len(replay)} quadruples" if replay else "")
        facts = VerifierFacts("GCPO", stage, data, told, read_curves(folder.curves))
        readme = verifier_card(facts)
        save_model(model, trainer.processing_class, folder, stage.model, card, stage.stored, weights, readme)
    trainer.accelerator.wait_for_everyone()
    return folder.model


def build_trainer(
    stage: GCPOStage, pairs: Sequence[Pair], folder: RunFolder, progress: Progress | None = None,
    trainer_class: type[GCPOTrainer] | None = None, replay: Replay | None = None,
) -> GCPOTrainer:  # fmt: skip
    """Model, data and trainer of a run. Raises ValueError as `train_gcpo`, for settings before the model is opened."""
    check_enough(len(pairs), stage.pairs_per_step)
    grpo_arguments(stage, folder, suppressed=[])
    check_one_gpu(stage.cpu)
    set_up(stage.seed)
    model, processor = load_trainable(stage.model, stage.freeze_vision, stage.max_pixels, stage.machine.frozen)
    share_vision(model)
    return (trainer_class or GCPOTrainer)(stage, pairs, model, processor, folder, progress, replay)


def replay_of(stage: GCPOStage, quadruples: Sequence[Quadruple]) -> Replay | None:
    """What a stage replays; None for a weight of 0. Raises ValueError when weight and quadruples do not go together."""
    settings = stage.replay
    if not settings.replay_weight:
        if quadruples:
            raise ValueError(f"{len(quadruples)} quadruples to replay, replay_weight=0: give it a weight, or no replay")
        return None
    if not quadruples:
        raise ValueError(
            f"replay_weight={settings.replay_weight} and nothing to replay: name SFT's dataset (--replay), or set it "
            "to 0"
        )
    return Replay(quadruples, settings.replay_traces, stage.mode, stage.variant, stage.seed)


class GCPOTrainer(ExactResume, GRPOTrainer):
    """TRL's GRPOTrainer with the pairs' sampler and the pairs' reward."""

    def __init__(
        self, stage: GCPOStage, pairs: Sequence[Pair], model: Any, processor: Any, folder: RunFolder,
        progress: Progress | None = None, replay: Replay | None = None,
    ) -> None:  # fmt: skip
        self.stage = stage
        self.replay = replay
        self.pairs = pairs
        self.comparison: Comparison | None = None
        """The last generation, for tests and reports."""
        arguments = grpo_arguments(stage, folder, suppressed=pictures_tokens(model))
        self.average: TailAverage | None = None
        if stage.updates.average_last > 0:
            self.average = TailAverage(1 + math.floor((1 - stage.updates.average_last) * arguments.max_steps))
        self.sampler = PairSampler(
            len(pairs),
            stage.pairs_per_step,
            stage.traces,
            repeats=stage.updates.updates_per_generation * arguments.steps_per_generation,
            steps=stage.steps,
            seed=stage.seed,
        )
        self._asked: dict[int, tuple[list[dict[str, Any]], list[Any]]] = {}
        """By row, the questions of the last batch: a generation comes again for each of its forwards."""
        self.labels: list[float] = []
        """By pair; empty where all are certain."""
        labels = [after_flips(pair.label, stage.ratio.flip_rate) for pair in pairs]
        if any(label != 1 for label in labels):
            self.labels = labels
        self.curves = CurvesCallback(folder.curves, 0.0, progress, Alarms(stage.alarms))
        super().__init__(
            model=model,
            reward_funcs=ratio,
            args=arguments,
            train_dataset=row_dataset(2 * len(pairs), self._rows, str(folder.root)),
            processing_class=processor,
            peft_config=lora_config(stage.lora_rank),
            callbacks=[*([self.average] if self.average else []), self.curves],
        )
        # Sharded weights are gathered layer by layer: every process must go through the layers equally often.
        self.sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if not self.sharded:
            share_prompt(model)

    def _rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Prompts of the rows: 2p is pair p's winner, 2p + 1 its loser."""
        known, rows = self._asked, batch["row"]
        self._asked = {row: known[row] if row in known else self._ask(row) for row in dict.fromkeys(rows)}
        return {
            "row": rows,
            "prompt": [self._asked[row][0] for row in rows],
            "images": [self._asked[row][1] for row in rows],
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
            self._buffered_inputs = split_tensor_dict(held_once(generation), forwards)
        return unsplit_pixel_values_by_grid(self._buffered_inputs[self._step % forwards])

    def _prepare_input(self, data: Any) -> Any:
        """transformers', which moves to the device, but for the pixels: those of a whole generation would fill it.

        The tower moves what it reads (`train.shared_vision`).
        """
        if not isinstance(data, Mapping) or "pixel_values" not in data:
            return super()._prepare_input(data)
        moved = super()._prepare_input({name: value for name, value in data.items() if name != "pixel_values"})
        kind: Any = type(data)
        return kind({**moved, "pixel_values": data["pixel_values"]})

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        with pictures_once(self.processing_class.image_processor):
            output = super()._generate_and_score_completions(inputs)
        self._metrics["train"]["seconds_rollout"].append(time.perf_counter() - started)
        return output

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: list[list[Any]] | None, multimodal_fields: dict[str, Any],
        num_generations: int, has_tool_images: bool = False,
    ) -> tuple[list[list[int]], list[list[float]] | None]:  # fmt: skip
        """TRL's by vLLM; or its own in batches of `decode_batch`, with every prompt read once for all its traces."""
        if self.use_vllm:
            sampled: tuple[list[list[int]], list[list[float]]] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations
            )
            return sampled
        assert images is not None, "every prompt has pictures"
        starts, copies = runs_of([(ids, [id(i) for i in shown]) for ids, shown in zip(prompt_ids, images, strict=True)])
        per_batch = max(1, self.stage.sampling.decode_batch // self.stage.traces)
        traces: list[list[int]] = []
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                generation_kwargs=self.generation_kwargs,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            own_precision(model, None if self.sharded else self.accelerator.autocast()),
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
        loss, replayed = self.policy_loss(model, inputs), self._replay_loss(model)
        return loss if replayed is None else loss + self.stage.replay.replay_weight * replayed

    def policy_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """() TRL's loss of the rows that have a gradient, scaled to be the mean over all rows."""
        teaching, share = rows_that_teach(inputs)
        loss: Tensor = super()._compute_loss(model, without_padding(teaching)) * share
        return loss

    def _replay_loss(self, model: Any) -> Tensor | None:
        """This forward's part of the mean over the replayed traces of an update; None when it has none.

        An update's traces fill its first forwards: the fewer passes, the fewer small products.
        """
        if self.replay is None:
            return None
        accelerator, most = self.accelerator, self.stage.updates.micro_batch
        rows = self.replay.rows(self.state.global_step, accelerator.process_index, accelerator.num_processes)
        place = self._step % self.args.steps_per_generation
        here = rows[place * most : (place + 1) * most]
        if not here:
            return None
        batch = self.replay.batch(here, self.processing_class)
        moved = {name: value.to(accelerator.device) for name, value in batch.items() if isinstance(value, Tensor)}
        length, mask_BK = learned_tokens(moved.pop("labels"))
        log_prob_BK, _, _ = self._get_per_token_logps_and_entropies(
            model, moved.pop("input_ids"), moved.pop("attention_mask"), length, num_images=batch["num_images"], **moved
        )
        total = trace_loss(log_prob_BK, mask_BK)
        self._metrics["train"]["replay_loss"].append(float(total.detach()) / len(here))
        return total / len(rows)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> Tensor:
        """(B, 1) win and loss ratios of the whole generation, over all processes, less what length costs."""
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        truncated = [ids[-1] not in ends for ids in completion_ids_list]
        scores, passed = [], []
        for row, text, ids, cut in zip(inputs, completions, completion_ids_list, truncated, strict=True):
            principles = self.pairs[row["row"] // 2].context.principles
            outcome = parse_trace(text[0]["content"], principles, self.stage.mode, len(ids), cut)
            scores.append(outcome.score if isinstance(outcome, Trace) else math.nan)
            verdicts = outcome.verdicts if isinstance(outcome, Trace) else None
            passed.append(statistics.fmean(verdict.value for verdict in verdicts) if verdicts else math.nan)
        device = self.accelerator.device
        local = Rollouts(
            rows_B=torch.tensor([row["row"] for row in inputs], device=device),
            scores_B=torch.tensor(scores, dtype=torch.float64, device=device),
            tokens_B=torch.tensor([len(ids) for ids in completion_ids_list], device=device),
            truncated_B=torch.tensor(truncated, device=device),
            passed_B=torch.tensor(passed, dtype=torch.float64, device=device),
        )
        return self.rewards_of(local.gathered()).unsqueeze(1).float()

    def rewards_of(self, rollouts: Rollouts) -> Tensor:
        """(B,) what each trace of a whole generation earns."""
        earns = self.stage.ratio
        self.comparison = compare(rollouts, self.stage.traces, self.labels, earns.length_limit, earns.length_cost)
        for name, value in generation_metrics(rollouts, self.comparison).items():
            self._metrics["train"][name].append(value)
        return self.comparison.rewards_B


def generation_metrics(rollouts: Rollouts, comparison: Comparison) -> dict[str, float]:
    """What is logged of a generation."""
    counts = comparison.contrast.counts
    total = len(rollouts.rows_B)
    return {
        "mean_ratio": float(comparison.ratios_B.nanmean()),
        "length_cost": float((comparison.ratios_B - comparison.rewards_B).mean()),
        "unparsed": counts.unparsed / total,
        "truncated": float(rollouts.truncated_B.double().mean()),
        "tie_share": counts.ties / counts.comparisons if counts.comparisons else math.nan,
        "pairs_all_unparsed": counts.all_unparsed / counts.pairs,
        "pairs_silent": counts.silent / counts.pairs,
        "weighted_advantage": comparison.weighted_advantage,
        "passed": float(rollouts.passed_B.nanmean()),
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
