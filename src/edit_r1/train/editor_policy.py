"""The weights that editor training changes: LoRA or all, their reference, optimiser, average and state.

The master weights are float32, always: at bf16's resolution of 2^-8 an update of 1e-4 is rounded away, the
probability ratio stays 1 and the reward stays flat.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic

import torch
from peft import LoraConfig
from torch import Tensor, nn

from edit_r1.editors.flow import E, FlowEditor
from edit_r1.records import Context
from edit_r1.store import new_folder, writing
from edit_r1.train.editor_stage import EditorRLStage

_MAY_CHANGE_ON_RESUME = ("steps", "eval_every", "save_every", "save_as", "sample_batch", "train_batch")
"""Fields that do not change what an iteration computes (the batches only up to rounding)."""


class EditorPolicy(Generic[E]):
    """Prepares an editor's transformer for training, in place.

    With `lora_rank` > 0 the transformer gets a fresh adapter named "default", the rest stays frozen, and
    the reference is the same transformer with the adapter off. With 0 every weight is trained and the
    reference is a frozen copy, made only when `kl_beta` needs it.
    Raises ValueError for trainable weights that are not float32.
    """

    def __init__(self, editor: FlowEditor[E], stage: EditorRLStage) -> None:
        self.editor = editor
        self.stage = stage
        transformer = editor.transformer
        transformer.eval()
        transformer.requires_grad_(False)
        self._frozen: FlowEditor[E] | None = None
        if stage.lora_rank > 0:
            _add_lora(editor, stage)
        else:
            if stage.kl_beta > 0:
                self._frozen = editor.with_transformer(copy.deepcopy(transformer))
            transformer.requires_grad_(True)
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad
        }
        check_float32(self.parameters)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=stage.learning_rate, weight_decay=0.0)
        self._average: dict[str, Tensor] | None = None
        if stage.ema_decay > 0:
            self._average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @contextmanager
    def reference(self) -> Iterator[FlowEditor[E]]:
        """The editor as it was before training; use it without a gradient and before the policy's forward."""
        if self._frozen is not None:
            yield self._frozen
            return
        if self.stage.lora_rank == 0:
            raise ValueError("kl_beta=0 with full training keeps no reference model: set kl_beta above 0")
        transformer: Any = self.editor.transformer
        transformer.disable_adapters()
        try:
            yield self.editor
        finally:
            transformer.enable_adapters()

    def update(self) -> float:
        """One optimiser step on the gradients gathered so far; returns their norm before clipping.

        A norm that is not finite changes nothing: the gradients are dropped and the caller sees the norm.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.stage.max_grad_norm)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self._average is not None:
                for name, parameter in self.parameters.items():
                    self._average[name].lerp_(parameter.detach(), 1 - self.stage.ema_decay)
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the editor carries the averaged weights; without an average, those it has."""
        if self._average is None:
            yield
            return
        current = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._assign(self._average)
        try:
            yield
        finally:
            self._assign(current)

    @torch.no_grad()
    def _assign(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    # --- results and state ----------------------------------------------------------------------------

    def export(self, path: Path) -> None:
        """Write the result, averaged weights if there are any: a full pipeline, or the adapter alone."""
        with self.averaged(), new_folder(path) as partial:
            if self.stage.save_as == "adapter":
                self.editor.save_lora(partial)
            elif self.stage.lora_rank == 0:
                self.editor.save(partial)
            else:
                merged: Any = copy.deepcopy(self.editor.transformer)
                merged.fuse_lora()
                merged.unload_lora()
                self.editor.with_transformer(merged).save(partial)

    def save_state(self, path: Path, step: int, contexts: Sequence[Context]) -> None:
        """Everything an exact continuation needs, written whole or not at all."""
        state = {
            "step": step,
            "stage": asdict(self.stage),
            "contexts": contexts_digest(contexts),
            "weights": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self._average,
        }
        partial = path.with_name(path.name + ".partial")
        try:
            with writing(path):
                torch.save(state, partial)
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def load_state(self, path: Path, contexts: Sequence[Context]) -> int:
        """Continue from a saved state; returns the number of iterations done.

        Raises ValueError when the state belongs to another model, stage or list of contexts.
        """
        state = torch.load(path, map_location=self.editor.device, weights_only=True)
        changed = [
            f"{name} was {state['stage'].get(name)!r} and is {value!r}"
            for name, value in asdict(self.stage).items()
            if name not in _MAY_CHANGE_ON_RESUME and state["stage"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} was saved with another stage ({'; '.join(changed)}): restore these fields to "
                "resume, or start in a new folder"
            )
        if state["contexts"] != contexts_digest(contexts):
            raise ValueError(
                f"{path} was saved while training on other contexts: give the same ones, or start in a new folder"
            )
        shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        if {name: tuple(weight.shape) for name, weight in state["weights"].items()} != shapes:
            raise ValueError(f"{path} holds the weights of another model: load the editor it was trained from")
        self._assign(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
        return int(state["step"])


def check_float32(parameters: dict[str, nn.Parameter]) -> None:
    """Raise ValueError when a trainable weight is not float32."""
    wrong = {name: parameter.dtype for name, parameter in parameters.items() if parameter.dtype != torch.float32}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise ValueError(
            f"{len(wrong)} trainable weights are not float32 (first: {name}, {dtype}), so that small "
            "updates would be lost: load the editor with dtype=torch.float32, or train LoRA "
            "(lora_rank > 0), whose weights are float32 on any base"
        )


def contexts_digest(contexts: Sequence[Context]) -> str:
    """Identifies the training contexts and their order."""
    digest = hashlib.sha256()
    for context in contexts:
        sample = context.sample
        for part in (sample.id.encode(), sample.instruction.encode(), sample.source):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _add_lora(editor: FlowEditor[E], stage: EditorRLStage) -> None:
    """A fresh adapter in float32; B starts at 0, so that the policy starts as the reference."""
    transformer: Any = editor.transformer
    config = LoraConfig(
        r=stage.lora_rank,
        lora_alpha=2 * stage.lora_rank,
        target_modules=list(editor.lora_targets),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng():
        torch.manual_seed(stage.seed)
        transformer.add_adapter(config)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
