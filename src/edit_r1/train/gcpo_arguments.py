"""GCPO's settings as TRL's GRPOConfig takes them, with everything that shapes training said aloud."""

from __future__ import annotations

from typing import Any

from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from edit_r1.train.gcpo_stage import GCPOStage
from edit_r1.train.machine import fsdp_arguments
from edit_r1.train.trainer_arguments import shared_arguments
from edit_r1.train.verifier_run import RunFolder


def pictures_tokens(model: Any) -> list[int]:
    """Tokens that stand for pictures: one in a trace would have no picture to match when it is trained on."""
    config = model.config
    return [config.image_token_id, config.video_token_id]


def grpo_arguments(stage: GCPOStage, folder: RunFolder, suppressed: list[int]) -> GRPOConfig:
    """TRL's defaults may change, so none is relied on where it matters.

    Raises:
        ValueError: when the processes' shares of a generation are not whole micro-batches, or of the replayed traces
            not equal, when vLLM is asked for and not installed, or when sharded processes would sample different
            numbers of candidates.
    """
    probe = GRPOConfig(output_dir=str(folder.checkpoints), use_cpu=stage.cpu, report_to="none", bf16=False)
    forwards, rest = divmod(stage.rollouts, stage.updates.micro_batch * probe.world_size)
    if rest:
        raise ValueError(
            f"micro_batch={stage.updates.micro_batch} on {probe.world_size} processes: must divide the "
            f"{stage.rollouts} traces of a generation"
        )
    if stage.replay.replay_weight and stage.replay.replay_traces % probe.world_size:
        raise ValueError(
            f"replay_traces={stage.replay.replay_traces} on {probe.world_size} processes: must be a multiple of them"
        )
    if stage.machine.shard != "none" and stage.rollouts // probe.world_size % stage.traces:
        raise ValueError(
            f"shard={stage.machine.shard!r} with {stage.rollouts // probe.world_size} traces a process: must be a "
            f"multiple of traces={stage.traces}, so that all processes sample as many candidates"
        )
    return GRPOConfig(
        **shared_arguments(stage.updates, stage, folder),
        max_steps=stage.steps * stage.updates.updates_per_generation,
        per_device_train_batch_size=stage.updates.micro_batch,
        # One generation is one accumulation: every update sees all of it.
        steps_per_generation=forwards,
        gradient_accumulation_steps=forwards,
        num_iterations=stage.updates.updates_per_generation,
        num_generations=stage.traces,
        max_completion_length=stage.sampling.max_new_tokens,
        temperature=stage.sampling.temperature,
        top_p=1.0,
        top_k=0,
        min_p=None,
        repetition_penalty=1.0,
        **sampling_arguments(stage, suppressed, probe.world_size),
        beta=0.0,
        epsilon=stage.updates.epsilon,
        epsilon_high=stage.updates.epsilon,
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
        gradient_checkpointing=stage.machine.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        **fsdp_arguments(stage.machine),
        logging_steps=stage.updates.updates_per_generation,
        # Only between generations, so that a resumed run samples what the stopped one would have.
        save_steps=stage.save_every * stage.updates.updates_per_generation,
        log_completions=False,
    )


def sampling_arguments(stage: GCPOStage, suppressed: list[int], processes: int) -> dict[str, Any]:
    """How traces are drawn: by the trainer's own model, or by vLLM through TRL's VLLMGeneration.

    Raises:
        ValueError: when vLLM is asked for and not installed, or split over a number of GPUs that does not fit.
    """
    sampling = stage.sampling
    if sampling.engine == "own":
        return {
            "use_vllm": False,
            "vllm_importance_sampling_correction": False,
            "generation_kwargs": {"suppress_tokens": suppressed},
        }
    if not is_vllm_available():
        raise ValueError(
            f"engine={sampling.engine!r}: vLLM is not installed; pip install 'edit-r1[vllm]' on a CUDA machine, or use "
            "engine='own'"
        )
    if processes % sampling.vllm_split:
        raise ValueError(f"vllm_split={sampling.vllm_split} on {processes} processes: must divide their number")
    return {
        "use_vllm": True,
        "vllm_mode": {"vllm-colocated": "colocate", "vllm-served": "server"}[sampling.engine],
        "vllm_server_base_url": sampling.vllm_address,
        "vllm_gpu_memory_utilization": sampling.vllm_memory,
        "vllm_max_model_length": sampling.vllm_context or None,
        "vllm_tensor_parallel_size": sampling.vllm_split,
        "vllm_enable_sleep_mode": sampling.vllm_sleep,
        "vllm_importance_sampling_correction": sampling.correction != "none",
        "vllm_importance_sampling_mode": "token_truncate" if sampling.correction == "none" else sampling.correction,
        "vllm_importance_sampling_clip_max": sampling.correction_cap,
        # A bias of -100 leaves a token no chance; vLLM has no list of tokens to suppress.
        "generation_kwargs": {"logit_bias": dict.fromkeys(suppressed, -100.0)},
    }
