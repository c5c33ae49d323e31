"""What all trainings of a verifier tell transformers' Trainer alike, said aloud: its defaults may change."""

from __future__ import annotations

from typing import Any, Protocol

from edit_r1.train.verifier_run import SCHEDULERS, Precision, RunFolder, Schedule


class Rated(Protocol):
    """How updates step."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def max_grad_norm(self) -> float: ...


class OnMachine(Protocol):
    """Where and in what is computed."""

    @property
    def precision(self) -> Precision: ...
    @property
    def cpu(self) -> bool: ...
    @property
    def seed(self) -> int: ...


class Supervised(Rated, OnMachine, Protocol):
    """A stage that passes over its rows."""

    @property
    def steps(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...


def shared_arguments(rated: Rated, stage: OnMachine, folder: RunFolder) -> dict[str, Any]:
    """AdamW without weight decay, rows made in the process itself, checkpoints in the run's folder, nothing printed."""
    return {
        "output_dir": str(folder.checkpoints),
        "learning_rate": rated.learning_rate,
        "lr_scheduler_type": SCHEDULERS[rated.schedule],
        "warmup_steps": rated.warmup_steps,
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": rated.max_grad_norm,
        "bf16": stage.precision == "bf16",
        "fp16": False,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not stage.cpu,
        "ddp_find_unused_parameters": False,
        "logging_strategy": "steps",
        "save_strategy": "steps",
        "save_total_limit": 2,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": stage.cpu,
        "seed": stage.seed,
        "data_seed": stage.seed,
    }


def supervised_arguments(stage: Supervised, folder: RunFolder) -> dict[str, Any]:
    """`shared_arguments`, and how often a supervised stage passes over its rows, logs and saves."""
    return shared_arguments(stage, stage, folder) | {
        "max_steps": stage.steps if stage.steps > 0 else -1,
        "num_train_epochs": stage.epochs,
        "per_device_train_batch_size": stage.batch_size,
        "gradient_accumulation_steps": stage.accumulate,
        "dataloader_drop_last": False,
        "logging_steps": stage.log_every,
        "logging_first_step": True,
        "save_steps": stage.save_every,
    }
