"""What accelerate and TRL leave to be done for a verifier that is trained in parts (FSDP2)."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import Trainer, TrainerCallback


def train_in_parts(trainer: Trainer) -> None:
    """To be called before `trainer.train`; does nothing for a model that is not sharded.

    - Gradients are summed in fp32. accelerate's policy for bf16 sums those of processes and of micro-batches in bf16,
      and rounds what the model gives, its log-probabilities among it.
    - An LM head with weights of its own is whole in every forward. TRL's fused head reads the weights past the module
      (`full_tensor`), and autograd takes the gradient of that for the same in every process: each would update its part
      of the head by its own rows alone.
    """
    if not getattr(trainer, "is_fsdp_enabled", False):
        return
    if trainer.args.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    trainer.add_callback(_WholeHead())


class _WholeHead(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            # Its gradient is reduced with all others', when the backward pass ends.
            model.register_forward_pre_hook(lambda *_: head.unshard())
