"""What a Qwen-VL verifier costs in training, by running its own code on tensors without memory.

As `train.plan_measure` does for editors: a model with few layers, and one with one more of each kind, run forward and
backward under torch's FakeTensorMode. Weights and FLOPs of the whole follow, the memory of an update is bounded
(`plan_measure.update_bound`: its peak moves as layers are added, and may lie above any line). The language model is fed
embeddings, the vision tower pictures of one size whose layout is computed beforehand. The head is counted by
`train.verifier_plan`.

Legend: U prompts, n traces of each, P tokens of a prompt, L of a trace, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel
from transformers.cache_utils import DynamicCache
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from edit_r1.algo.step_cost import grown
from edit_r1.editors.architecture import Part, read_json
from edit_r1.train.plan_measure import Held, LiveBytes, Training, bounded, materialise

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""As `train.verifier_run.LORA_MODULES`, in the language model alone."""
SPECIAL = {"qwen2_5_vl": "fullatt_block_indexes", "qwen3_vl": "deepstack_visual_indexes"}
"""The towers' second kind of block: of full attention, or one that feeds the language model."""


def _qwen2_5(text: dict[str, Any], out: int, tied: bool) -> Part:
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
        "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": out,
    }  # fmt: skip
    text = {**text, "tie_word_embeddings": tied}
    return Part("transformers", "Qwen2_5_VLForConditionalGeneration", {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": tied, "text_config": text, "vision_config": vision,
    })  # fmt: skip


KNOWN: dict[str, Part] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5({
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2,
    }, 2048, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5({
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    }, 3584, tied=False),
    "Qwen/Qwen3-VL-8B-Instruct": Part("transformers", "Qwen3VLForConditionalGeneration", {
        "model_type": "qwen3_vl", "tie_word_embeddings": False,
        "text_config": {
            "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        },
        "vision_config": {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24], "out_hidden_size": 4096,
        },
    }),
}  # fmt: skip
"""By hub id; values of the checkpoints' own config.json files."""


def verifier_part(path: str) -> Part:
    """Of a checkpoint's folder (its config is read, no weights), or of a `KNOWN` hub id.

    Raises ValueError for anything else, or for an architecture that is not planned here.
    """
    if not Path(path).is_dir():
        if path in KNOWN:
            return KNOWN[path]
        raise ValueError(
            f"{path}: neither a folder nor one of {', '.join(KNOWN)}: give the folder of a checkpoint, or plan with "
            "--model and one of these"
        )
    config = read_json(Path(path) / "config.json")
    if config.get("model_type") not in SPECIAL:
        raise ValueError(f"{path}: model_type {config.get('model_type')!r}; a plan knows {', '.join(SPECIAL)}")
    return Part("transformers", (config.get("architectures") or ["Qwen2_5_VLForConditionalGeneration"])[0], config)


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once in an update."""

    prompts: int
    """U."""
    traces: int
    """n."""
    prompt: int
    """P, pictures included."""
    trace: int
    """L."""
    shared: bool
    """Whether a prompt is read once for its traces (`train.shared_prompt`)."""

    @property
    def rows(self) -> int:
        return self.prompts * self.traces


@dataclass(frozen=True)
class Footprint:
    """Of one micro-batch: FLOPs, and the most bytes that can be held beside weights and summed gradients."""

    trained: float
    """Weights that are trained."""
    forward_flops: float
    update_flops: float
    """A forward, its recomputation if any, and the backward pass."""
    update_bytes: float


def text_footprint(part: Part, training: Training, batch: Batch) -> Footprint:
    """Of the language model without its embedding and its head."""
    one, two = (text_counted(part, training, batch, layers) for layers in (1, 2))
    return _whole(one, [two], (_text(part).num_hidden_layers,), twice=batch.shared)


def text_counted(part: Part, training: Training, batch: Batch, layers: int) -> Counted:
    """Of so many layers, run."""
    model = _prepared(_text(part, num_hidden_layers=layers), training)
    return _measured(model, training, lambda: _read(model, training, batch))


def vision_footprint(part: Part, training: Training, grid: tuple[int, int], pictures: int, trained: bool) -> Footprint:
    """Of the tower on so many pictures of `grid` patches (rows, columns); without gradients unless it is trained."""
    values: dict[str, Any] = dict(part.config["vision_config"])
    marked = len(values[SPECIAL[part.config["model_type"]]])
    base, *more = (
        vision_counted(part, training, grid, pictures, trained, depth, places)
        for depth, places in ((2, [1]), (3, [2]), (3, [1, 2]))
    )
    return _whole(base, more, (values["depth"] - marked, marked))


def vision_counted(
    part: Part, training: Training, grid: tuple[int, int], pictures: int, trained: bool, depth: int, places: list[int]
) -> Counted:
    """Of a tower of so many blocks, run. places: of those of the second kind."""
    changes = {"depth": depth, SPECIAL[part.config["model_type"]]: places}
    tower = _prepared(_sub_config(part, "vision_config", **changes), training, lora=False)
    tower.requires_grad_(trained)
    layout = _layout(tower.config, grid, pictures)
    return _measured(tower, training, lambda: _look(tower, training, layout, grid, pictures), backward=trained)


@dataclass(frozen=True)
class Counted:
    """Of a model that was run with all its layers."""

    trained: int
    forward_flops: int
    update_flops: int
    held: Held
    """In an update; without gradients in a forward, which keeps nothing."""


def _whole(base: Counted, more: Sequence[Counted], counts: tuple[int, ...], twice: bool = False) -> Footprint:
    trained, forward, update = (
        grown(getattr(base, name), [getattr(one, name) for one in more], counts)
        for name in ("trained", "forward_flops", "update_flops")
    )
    return Footprint(trained, forward, update, bounded(base.held, [one.held for one in more], counts, twice))


def _measured(model: nn.Module, training: Training, forward: Callable[[], Tensor], backward: bool = True) -> Counted:
    ends: list[int] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialise(model, training, lambda size, dtype: torch.empty(size, dtype=dtype))
        trained = [weight for weight in model.parameters() if weight.requires_grad]

        def loss() -> Tensor:
            return forward().float().square().mean()

        # Apart: what counts FLOPs keeps tensors alive.
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            forward()
        if backward:
            with FlopCounterMode(display=False) as update_flops:
                loss().backward()
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
        with LiveBytes() as live:
            model.register_forward_hook(lambda *_: ends.append(live.now))
            if not backward:
                with torch.no_grad():
                    made = forward()
                nothing = Held(ends[0], ends[-1], live.now, live.peak, live.peak, 0)
                del made
                return Counted(0, flops.get_total_flops(), flops.get_total_flops(), nothing)
            value = loss()
            waiting, most = live.now, live.peak
            live.peak = live.now
            value.backward()
    gradients = sum(weight.numel() * weight.element_size() for weight in trained)
    return Counted(
        sum(weight.numel() for weight in trained), flops.get_total_flops(), update_flops.get_total_flops(),
        Held(ends[0], ends[-1], waiting, most, live.peak, gradients),
    )  # fmt: skip


def _products(training: Training) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if training.bf16_products else nullcontext()


def _read(model: Any, training: Training, batch: Batch) -> Tensor:
    """Hidden states of the rows, as `train.shared_prompt` or TRL's trainer gets them."""
    full = training.lora_rank == 0

    def embedded(rows: int, tokens: int) -> Tensor:
        made = torch.zeros(rows, tokens, model.config.hidden_size, dtype=training.dtype)
        return made.requires_grad_(full or training.checkpointing)

    with _products(training):
        if not batch.shared:
            states: Tensor = model(
                inputs_embeds=embedded(batch.rows, batch.prompt + batch.trace), use_cache=False
            ).last_hidden_state
            return states[:, batch.prompt :]
        cache = DynamicCache(config=model.config)
        model(inputs_embeds=embedded(batch.prompts, batch.prompt), past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.arange(batch.prompts).repeat_interleave(batch.traces))
        answered: Tensor = model(
            inputs_embeds=embedded(batch.rows, batch.trace), past_key_values=cache, use_cache=True
        ).last_hidden_state
        return answered


def _look(tower: Any, training: Training, layout: Mapping[str, Any], grid: tuple[int, int], pictures: int) -> Tensor:
    config = tower.config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.zeros(pictures * grid[0] * grid[1], values, dtype=training.dtype)
    with _products(training):
        seen: Tensor = tower(pixels, grid_thw=torch.zeros(pictures, 3, dtype=torch.long), **layout).pooler_output
        return seen


def _layout(config: Any, grid: tuple[int, int], pictures: int) -> dict[str, Any]:
    """What the tower derives from its grids, computed on real ones; lengths as numpy arrays, whose values are read."""
    grids = torch.tensor([[1, *grid]] * pictures)
    layout: dict[str, Any] = {
        "position_ids": get_vision_position_ids(grids, config.spatial_merge_size),
        "cu_seqlens": get_vision_cu_seqlens(grids).numpy(),
    }
    if hasattr(config, "window_size"):
        window, lengths = get_vision_window_index(
            grids, spatial_merge_size=config.spatial_merge_size, window_size=config.window_size,
            patch_size=config.patch_size,
        )  # fmt: skip
        return {**layout, "window_index": window, "cu_window_seqlens": lengths.numpy()}
    indices, weights = get_vision_interpolation_indices_and_weights(
        grids, num_grid_per_side=int(config.num_position_embeddings**0.5), mode="bilinear", align_corners=True,
        spatial_merge_size=config.spatial_merge_size,
    )  # fmt: skip
    return {**layout, "interp_indices": indices, "interp_weights": weights}


def _text(part: Part, **changes: Any) -> Any:
    # Without its head's rows: embeddings are given, and `verifier_plan` counts both.
    return _sub_config(
        part, "text_config", vocab_size=8, pad_token_id=0, bos_token_id=None, eos_token_id=None, **changes
    )


def _sub_config(part: Part, name: str, **changes: Any) -> Any:
    values = {key: value for key, value in part.config[name].items() if key != "layer_types"}
    kind = f"{part.config['model_type']}_{name.removesuffix('_config')}"
    values["model_type"] = kind if kind in _SUB_TYPES else part.config["model_type"]
    return AutoConfig.for_model(**{**values, **changes})


_SUB_TYPES = ("qwen2_5_vl_text", "qwen2_5_vl_vision", "qwen3_vl_text", "qwen3_vl_vision")


def _prepared(config: Any, training: Training, lora: bool = True) -> Any:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    model.train()
    if training.lora_rank and lora:
        model.requires_grad_(False)
        adapter = LoraConfig(r=training.lora_rank, lora_alpha=2 * training.lora_rank, target_modules=list(LORA_TARGETS))
        inject_adapter_in_model(adapter, model, low_cpu_mem_usage=True)
    if training.checkpointing:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a new name for the same thing
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return model
