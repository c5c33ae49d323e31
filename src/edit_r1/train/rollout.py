"""Work that GCPO need not do twice, and work it need not do at all. None of it changes a result.

N traces of one candidate continue one reading of its prompt, and show the same two pictures, which are prepared and
held once; and in an update, rows whose advantage is 0 have no gradient (without a KL term the surrogate is rho * 0),
nor has padding that no row of a micro-batch needs.

Legend: U distinct prompts, B rollouts, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from transformers import GenerationConfig
from transformers.image_utils import make_flat_list_of_images
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from edit_r1.vlm.decoding import continue_prompts, read_prompts
from edit_r1.vlm.growing_cache import growing_cache
from edit_r1.vlm.protocol import Sampling
from edit_r1.vlm.shared_prefix import shared_attention
from edit_r1.vlm.token_choices import ChoiceRecorder

_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
_PER_TRACE_TOKEN = (
    "completion_ids", "completion_mask", "old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"
)  # fmt: skip
"""(B, L) of a trace's tokens; the last is (B, 1) where it is one of a whole trace."""


def runs_of(keys: Sequence[Any]) -> tuple[list[int], list[int]]:
    """(where each run of equal neighbours begins, how long it is)."""
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return starts, [end - start for start, end in zip(starts, [*starts[1:], len(keys)], strict=True)]


def sample_copies(
    model: Any, inputs_U: dict[str, Tensor], copies_U: list[int], config: GenerationConfig, in_step: bool = False
) -> Tensor:
    """`copies_U[u]` samples of prompt u, side by side; generated tokens alone, (B, L), padded after their end.

    Every prompt but its last token is read once for its samples. `inputs_U` is left-padded. in_step: weights are
    sharded over processes, which must then take equally many steps: transformers' own loop sees to that.
    """
    most = max(copies_U)
    prompts = None if in_step else read_prompts(model, inputs_U, most)
    if prompts is None:
        return _sample_repeated(model, inputs_U, copies_U, config)
    rows = [most * prompt + copy for prompt, copies in enumerate(copies_U) for copy in range(copies)]
    prompts.keep(torch.tensor(rows, device=prompts.tokens_NL.device))
    sampling = Sampling(
        config.max_new_tokens, config.temperature, config.top_p, config.top_k or 0, config.repetition_penalty or 1.0
    )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    with shared_attention(model):
        return continue_prompts(
            model, prompts, sampling, ends, config.pad_token_id, config.suppress_tokens or [], ChoiceRecorder(model, 0)
        )


def _sample_repeated(model: Any, inputs_U: dict[str, Tensor], copies_U: list[int], config: GenerationConfig) -> Tensor:
    """The same by transformers' loop, the cache of each prompt repeated."""
    holder = next(module for module in model.modules() if hasattr(module, "rope_deltas"))
    holder.rope_deltas = None
    prompt = {name: value[:, :-1] if name in _PER_TOKEN else value for name, value in inputs_U.items()}
    cache = model(**prompt, past_key_values=growing_cache(model), use_cache=True, logits_to_keep=1).past_key_values
    row_B = torch.arange(len(copies_U)).repeat_interleave(torch.tensor(copies_U)).to(inputs_U["input_ids"].device)
    cache.batch_select_indices(row_B)
    holder.rope_deltas = holder.rope_deltas[row_B]
    repeated = {name: inputs_U[name][row_B] for name in ("input_ids", "attention_mask")}
    tokens_BL = model.generate(**repeated, past_key_values=cache, generation_config=config)
    holder.rope_deltas = None
    return tokens_BL[:, inputs_U["input_ids"].shape[1] :]


@contextmanager
def own_precision(model: Any, autocast: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Keeps weights from being cast anew for every token, as the autocast does that accelerate puts around a forward.

    On a CPU it is taken off: log-probabilities are computed under it all the same. Elsewhere `autocast`, the same kind
    around all forwards, keeps what is cast once, a 16-bit copy of the trained weights (autocast's cache lives as long
    as the outermost context). None for a sharded model: the cache would hold the whole of it.
    """
    original = model.__dict__.get("_original_forward")
    if original is None or model.device.type != "cpu":
        with autocast or nullcontext():
            yield
        return
    wrapped = model.forward
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped


def pictures_of(fields: dict[str, Tensor], images: Sequence[int], prompts: Sequence[int]) -> dict[str, Tensor]:
    """The pixels and grids of some prompts; `images[i]` is the number of pictures of prompt i."""
    patches = fields["image_grid_thw"].prod(1).tolist()
    first = [sum(images[:i]) for i in range(len(images))]
    wanted = [picture for i in prompts for picture in range(first[i], first[i] + images[i])]
    split = fields["pixel_values"].split(patches)
    return {
        "pixel_values": torch.cat([split[picture] for picture in wanted]),
        "image_grid_thw": fields["image_grid_thw"][wanted],
    }


@contextmanager
def pictures_once(image_processor: Any) -> Iterator[None]:
    """Inside, a picture that one call shows several times is prepared once; its patches are copied.

    Of the 4N pictures that a pair shows in a generation three differ. Meant for processors of Qwen2-VL's kind, which
    lay patches one picture after the other; what others make is left as they make it.
    """
    prepare = image_processor.preprocess

    def once(images: Any, *arguments: Any, **options: Any) -> Any:
        shown = make_flat_list_of_images(images)
        distinct = {id(image): image for image in shown}
        if len(distinct) == len(shown):
            return prepare(images, *arguments, **options)
        made = prepare(list(distinct.values()), *arguments, **options)
        if set(made) != {"pixel_values", "image_grid_thw"}:
            return prepare(images, *arguments, **options)
        place_of = {name: place for place, name in enumerate(distinct)}
        places = [place_of[id(image)] for image in shown]
        patches = made["pixel_values"].split(made["image_grid_thw"].prod(1).tolist())
        made["pixel_values"] = torch.cat([patches[place] for place in places])
        made["image_grid_thw"] = made["image_grid_thw"][places]
        return made

    image_processor.preprocess = once
    try:
        yield
    finally:
        del image_processor.preprocess


def held_once(generation: dict[str, Any]) -> dict[str, Any]:
    """A generation whose pixels were split by rows, with one tensor for neighbours that show the same.

    The rows are views of the pixels of all traces, which at 768 x 768 are 14 GB of 512 traces, and need not be held
    while the traces are trained on.
    """
    rows: list[Tensor] = []
    for pixels in generation["pixel_values"]:
        same = bool(rows) and rows[-1].shape == pixels.shape and torch.equal(rows[-1], pixels)
        rows.append(rows[-1] if same else pixels.clone())
    return {**generation, "pixel_values": rows}


def rows_that_teach(inputs: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """(a micro-batch without its rows of advantage 0, the share that is left); one row is always left.

    The mean loss of all rows is the mean of those left times their share. Every process keeps as many rows as
    the one that needs most: TRL gathers a number per row, and gathering needs equal shapes.
    """
    advantages_B = inputs["advantages"]
    total = len(advantages_B)
    # A group of equal ratios has advantages of rounding size.
    silent_B = advantages_B.abs() <= 1e-6
    kept = int(gather((~silent_B).sum().view(1)).max().clamp(min=1))
    rows = silent_B.int().argsort(stable=True)[:kept].sort().values.tolist()
    if len(rows) == total:
        return inputs, 1.0
    chosen: dict[str, Any] = {}
    for name, value in split_pixel_values_by_grid(inputs).items():
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == total:
            chosen[name] = value[rows]
        elif isinstance(value, list) and len(value) == total:
            chosen[name] = [value[row] for row in rows]
        else:
            chosen[name] = value
    return unsplit_pixel_values_by_grid(chosen), len(rows) / total


def without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """A micro-batch cut to its own longest prompt (padded left) and trace (padded right)."""
    prompt = inputs["prompt_ids"].shape[1]
    long_prompt = int(inputs["prompt_mask"].sum(1).max())
    long_trace = int(inputs["completion_mask"].sum(1).max())
    cut = dict(inputs)
    for name in ("prompt_ids", "prompt_mask"):
        cut[name] = inputs[name][:, prompt - long_prompt :]
    for name in _PER_TRACE_TOKEN:
        if name in inputs:
            cut[name] = inputs[name][:, :long_trace]
    if "mm_token_type_ids" in inputs:
        cut["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, prompt - long_prompt : prompt + long_trace]
    return cut
