"""The weights that editor training changes: LoRA or all, their reference, optimiser, average and state.

The master weights are float32, always: at bf16's resolution of 2^-8 an update of 1e-4 is rounded away, the
probability ratio stays 1 and the reward stays flat. Products are bf16 where the frozen base is (LoRA, its own products
too: `train.adapter`), or where the editor's settings ask for it (`bf16_products`, LoRA and full), in rollout and replay
alike.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from edit_r1.algo.diffusion_nft import decay_after
from edit_r1.editors.flow import E, FlowEditor
from edit_r1.records import Context
from edit_r1.store import new_folder
from edit_r1.train.adapter import add_lora, lora_config
from edit_r1.train.data_parallel import ALONE, Team
from edit_r1.train.editor_stage import EditorRLStage
from edit_r1.train.editor_state import newest_state, write_state
from edit_r1.train.sharding import part, parted_like, shard, total_norm, whole_transformer, wholes

_MAY_CHANGE_ON_RESUME = (
    "steps", "eval_every", "save_every", "save_as", "sample_batch", "train_batch", "shard", "checkpointing", "guided",
)  # fmt: skip
"""Fields that do not change what an iteration computes (some of them only up to rounding). What `guided` comes to is in
`guidance`."""
_EARLIER = {"ema_schedule": "constant"}
"""Of states saved before there was such a field."""


class EditorPolicy(Generic[E]):
    """Prepares an editor's transformer for training, in place.

    With `lora_rank` > 0 the transformer gets a fresh adapter named "default", the rest stays frozen, and
    the reference is the same transformer with the adapter off. With 0 every weight is trained and the
    reference is a frozen copy, made only when `kl_beta` needs it. With `shard` on several processes each holds a part
    of the transformer and of that copy; then all methods below are called by all processes alike.
    Raises ValueError for trainable weights that are not float32, for a quantised transformer that cannot be trained so
    (`check_quantised`), and for one that is not on the editor's device (`check_place`).
    """

    def __init__(self, editor: FlowEditor[E], stage: EditorRLStage, team: Team = ALONE) -> None:
        self.editor = editor
        self.stage = stage
        self.team = team
        self.sharded = stage.shard and team.size > 1
        transformer: Any = editor.transformer
        check_quantised(transformer, stage)
        transformer.eval()
        transformer.requires_grad_(False)
        self._frozen: FlowEditor[E] | None = None
        self._lora = lora_config(editor.lora_targets, stage.lora_rank) if stage.lora_rank > 0 else None
        if self._lora is not None:
            add_lora(transformer, self._lora, stage.seed)
        else:
            if stage.kl_beta > 0:
                self._frozen = editor.with_transformer(copy.deepcopy(transformer))
            transformer.requires_grad_(True)
        if stage.checkpointing:
            transformer.enable_gradient_checkpointing()
        check_float32(_trained(transformer))
        check_place(transformer, editor.device, self.sharded)
        if self.sharded:
            shard(transformer, editor.device)
            if self._frozen is not None:
                shard(self._frozen.transformer, editor.device)
        self.parameters = _trained(transformer)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=stage.updates.learning_rate, weight_decay=0.0)
        self._average: dict[str, Tensor] | None = None
        if stage.ema_decay > 0:
            self._average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._waiting = False

    @contextmanager
    def reference(self) -> Iterator[FlowEditor[E]]:
        """The editor as it was before training; use it without a gradient and before the policy's forward."""
        if self._frozen is not None:
            yield self._frozen
            return
        if self._lora is None:
            raise ValueError("kl_beta=0 with full training keeps no reference model: set kl_beta above 0")
        transformer: Any = self.editor.transformer
        transformer.disable_adapters()
        try:
            yield self.editor
        finally:
            transformer.enable_adapters()

    def learn(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's share of an iteration's loss to what waits for the next step."""
        # FSDP2 takes the mean of the processes' gradients, and the loss wants their sum.
        share = (self.team.size if self.sharded else 1) / self.stage.updates.accumulate
        (loss * share).backward()

    def expect_update(self) -> None:
        """To be called by all processes when any of them has learned something."""
        self._waiting = True

    @property
    def updates(self) -> int:
        """Optimiser steps taken so far, those before a resumed run's start included."""
        return max((int(values["step"]) for values in self.optimizer.state.values()), default=0)

    def update(self, average: bool = True) -> float | None:
        """One optimiser step on the gradients of all processes; returns their norm before clipping.

        average: whether the averaged weights, if there are any, follow. None when there are no gradients. A norm that
        is not finite changes nothing: the gradients are dropped and the caller sees the norm.
        """
        if not self._waiting:
            return None
        self._waiting = False
        if not self.sharded:
            self.team.sum_gradients(self.parameters.values())
        norm = total_norm(self.parameters)
        if bool(torch.isfinite(norm)):
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.stage.updates.max_grad_norm, norm)
            self.optimizer.step()
            if average and self._average is not None:
                decay = decay_after(self.updates, self.stage.ema_schedule, self.stage.ema_decay)
                for name, parameter in self.parameters.items():
                    part(self._average[name]).lerp_(part(parameter.detach()), 1 - decay)
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
            part(parameter).copy_(part(weights[name]))

    # --- results and state ----------------------------------------------------------------------------

    def export(self, path: Path) -> None:
        """The first process writes the result, averaged if there is an average: a full pipeline, or the adapter."""
        with self.averaged():
            editor = self.editor
            if self.sharded:
                alone = self.stage.save_as == "adapter"
                transformer = whole_transformer(editor.transformer, self._lora, self.team.first, adapter_alone=alone)
                editor = editor.with_transformer(transformer) if self.team.first else editor
            if self.team.first:
                with new_folder(path) as partial:
                    self._write_result(editor, partial)

    def _write_result(self, editor: FlowEditor[E], path: Path) -> None:
        if self.stage.save_as == "adapter":
            editor.save_lora(path)
        elif self._lora is None:
            editor.save(path)
        else:
            merged: Any = editor.transformer if self.sharded else copy.deepcopy(editor.transformer)
            merged.fuse_lora()
            merged.unload_lora()
            editor.with_transformer(merged).save(path)

    def save_state(self, folder: Path, step: int, contexts: Sequence[Context]) -> None:
        """The first process writes everything an exact continuation needs, on any number of processes."""
        first = self.team.first
        optimizer = self.optimizer.state_dict()
        moments = {index: wholes(values, first) for index, values in optimizer["state"].items()}
        state = {
            "step": step,
            "stage": asdict(self.stage),
            "contexts": contexts_digest(contexts),
            "weights": wholes(self.parameters, first),
            "optimizer": {**optimizer, "state": moments},
            "average": None if self._average is None else wholes(self._average, first),
        }
        if first:
            write_state(folder, step, state)

    def load_state(self, folder: Path, contexts: Sequence[Context]) -> int:
        """Continue from the newest whole state in a folder; returns the number of iterations done.

        Raises ValueError when the state belongs to another model, stage or list of contexts, or when none is whole.
        """
        path, state = newest_state(folder, tell=self.team.first)
        changed = _differences(state["stage"], asdict(self.stage))
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
        self._assign(self._parted(state["weights"]))
        likes = list(self.parameters.values())
        optimizer = state["optimizer"]
        moments = {
            index: {
                name: value.clone() if name == "step" else parted_like(value, likes[index].detach()).clone()
                for name, value in values.items()
            }
            for index, values in optimizer["state"].items()
        }
        self.optimizer.load_state_dict({**optimizer, "state": moments})
        if state["average"] is not None:
            self._average = self._parted(state["average"])
        return int(state["step"])

    def _parted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the device, in parts where the parameters are."""
        return {name: parted_like(weights[name], like.detach()).clone() for name, like in self.parameters.items()}


def step_metrics(norms: Sequence[float | None]) -> dict[str, Any]:
    """Of an iteration's calls of `EditorPolicy.update`, whose norms these are, for its metrics.

    updated: whether the optimiser stepped. lost_updates: how often a gradient was not finite and changed nothing.
    grad_norm: of the last step, before clipping; None without one.
    """
    taken = [norm for norm in norms if norm is not None and math.isfinite(norm)]
    lost = sum(norm is not None for norm in norms) - len(taken)
    return {"updated": bool(taken), "lost_updates": lost, "grad_norm": taken[-1] if taken else None}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Fields, nested ones by their dotted names, that a resumed run may not have changed."""
    found = []
    for name, value in now.items():
        before = saved.get(name, _EARLIER.get(name))
        # Saving is where a run that draws ahead waits: with another rhythm it is another run.
        ahead = name == "save_every" and now["updates"]["ahead"]
        if name in _MAY_CHANGE_ON_RESUME and not ahead:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found += _differences(before, value, f"{prefix}{name}.")
        elif before != value:
            found.append(f"{prefix}{name} was {before!r} and is {value!r}")
    return found


def _trained(transformer: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


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


def check_place(transformer: nn.Module, device: torch.device, sharded: bool) -> None:
    """Raise ValueError for a transformer that is not where the editor is and will not come there."""
    here = next(transformer.parameters()).device
    if here != device and not sharded:
        raise ValueError(
            f"the transformer is on {here} and the rest of the editor on {device}: with waits=True it comes there when "
            "it is sharded, which takes shard=True and several processes; start them, or set waits off"
        )


def check_quantised(transformer: nn.Module, stage: EditorRLStage) -> None:
    """Raise ValueError for packed (integer) weights in a stage that would have to change, part or merge them."""
    packed = any(not parameter.is_floating_point() for parameter in transformer.parameters())
    if packed and (stage.lora_rank == 0 or stage.shard or stage.save_as != "adapter"):
        raise ValueError(
            f"a quantised transformer, lora_rank={stage.lora_rank}, shard={stage.shard}, save_as={stage.save_as!r}: "
            "it trains as LoRA alone, unsharded, and is saved as save_as='adapter'"
        )


def contexts_digest(contexts: Sequence[Context]) -> str:
    """Identifies the training contexts, principles included, and their order."""
    digest = hashlib.sha256()
    for context in contexts:
        sample = context.sample
        asked = [text.encode() for principle in context.principles for text in (principle.category, principle.question)]
        for content in (sample.id.encode(), sample.instruction.encode(), sample.source, *sample.references, *asked):
            digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
