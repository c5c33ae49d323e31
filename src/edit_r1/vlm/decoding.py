"""Generating from a prompt that is read once, with the rows that have ended taken out.

`transformers.generate` reads every copy of a prompt that is to be continued n times, holds its cache n times, and
computes every row until the longest has ended. Here the prompt and its pictures are read and held once for their n
answers, and an ended row costs nothing: what a step costs follows the rows that still write. The random numbers are
those of `generate`, a draw for every row at every step, so that a seed gives the same text here and there (up to
rounding).

Legend: B requests, N = B*n rows, M rows that still write, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edit_r1.vlm.growing_cache import GrowingCache, growing_cache
from edit_r1.vlm.protocol import Sampling
from edit_r1.vlm.shared_prefix import SharedPrefix
from edit_r1.vlm.token_choices import ChoiceRecorder

_WORTH = 8
"""Rows are taken out when one in so many has ended: copying the others' cache costs about one step."""


@dataclass
class Prompts:
    """Prompts that were read but for their last token."""

    tokens_NL: Tensor
    mask_NL: Tensor
    """1 for a token, 0 for padding on the left."""
    offsets_N1: Tensor
    """What pictures take off or add to the positions of the tokens after them (Qwen's `rope_deltas`)."""
    prefix: SharedPrefix
    """Keys and values of the B prompts, without those of their last tokens."""

    def keep(self, rows: Tensor) -> None:
        """Leaves the other rows out; `rows` are indices, ascending. Prompts may then have fewer than n answers."""
        self.tokens_NL, self.mask_NL, self.offsets_N1 = self.tokens_NL[rows], self.mask_NL[rows], self.offsets_N1[rows]
        self.prefix.keep(rows)


def read_prompts(model: Any, inputs: dict[str, Tensor], n: int) -> Prompts | None:
    """Reads prompts and pictures once, for n answers each; None where that is not possible.

    Done for models of full attention that keep the offset of their multimodal positions in `rope_deltas` (Qwen2-VL
    and its successors), where the rest of the positions follow from the attention mask.
    """
    holders = [module for module in model.modules() if hasattr(module, "rope_deltas")]
    cache = growing_cache(model)
    if len(holders) != 1 or cache is None or "image_grid_thw" not in inputs:  # no pictures, no such positions
        return None
    holders[0].rope_deltas = None
    per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
    prompt = {key: value[:, :-1] if key in per_token else value for key, value in inputs.items()}
    model(**prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prompts(
        inputs["input_ids"].repeat_interleave(n, dim=0),
        inputs["attention_mask"].repeat_interleave(n, dim=0),
        holders[0].rope_deltas.repeat_interleave(n, dim=0),
        _as_prefix(cache, prompt["attention_mask"], n),
    )


def _as_prefix(cache: Any, mask_BP: Tensor, n: int) -> SharedPrefix:
    keys = [layer.keys.contiguous() for layer in cache.layers]  # without the room to grow
    values = [layer.values.contiguous() for layer in cache.layers]
    padding_BP = torch.zeros_like(mask_BP, dtype=keys[0].dtype).masked_fill(mask_BP == 0, -torch.inf)
    rows_N = torch.arange(len(mask_BP) * n, device=mask_BP.device)
    return SharedPrefix(keys, values, padding_BP[:, None, None], rows_N // n, rows_N % n, n)


def continue_prompts(
    model: Any,
    prompts: Prompts,
    sampling: Sampling,
    ends: list[int],
    pad: int,
    suppressed: list[int],
    recorder: ChoiceRecorder,
) -> Tensor:
    """The generated tokens (N, L), `pad` after a row's end; greedy at temperature 0.

    To be called inside `shared_attention(model)`. The prompts are used up.
    """
    tokens_ML = prompts.tokens_NL
    rows = tokens_ML.shape[0]
    places_M = torch.arange(rows, device=tokens_ML.device)
    writing_M = torch.ones_like(places_M, dtype=torch.bool)
    ends_E = torch.tensor(ends, device=tokens_ML.device)
    generated_NL = tokens_ML.new_full((rows, sampling.max_new_tokens), pad)
    shapers = _shapers(sampling)
    suppressed_S = torch.tensor(suppressed, dtype=torch.long, device=tokens_ML.device)
    positions_M1 = prompts.mask_NL.sum(dim=-1, keepdim=True) - 1 + prompts.offsets_N1
    cache, prefix = GrowingCache(), prompts.prefix
    for step in range(sampling.max_new_tokens):
        recorder.places = places_M
        logits_MV = model(
            input_ids=tokens_ML[:, -1:],
            position_ids=(positions_M1 + step).expand(3, -1, 1),
            past_key_values=cache,
            shared_prefix=prefix,
            use_cache=True,
        ).logits[:, -1]
        scores_MV = logits_MV.float().index_fill(1, suppressed_S, -torch.inf)
        for shape in shapers:
            scores_MV = shape(tokens_ML, scores_MV)
        drawn_M = scores_MV.argmax(dim=-1) if sampling.temperature == 0 else _draw(scores_MV, places_M, rows)
        generated_NL[places_M[writing_M], step] = drawn_M[writing_M]
        writing_M = writing_M & (drawn_M[:, None] != ends_E).all(dim=1)
        left = int(writing_M.sum())
        if left == 0:
            return generated_NL[:, : step + 1]
        tokens_ML = torch.cat([tokens_ML, drawn_M[:, None]], dim=1)
        if (len(writing_M) - left) * _WORTH >= len(writing_M):
            keep = writing_M.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            prefix.keep(keep)
            tokens_ML, positions_M1 = tokens_ML[keep], positions_M1[keep]
            places_M, writing_M = places_M[keep], writing_M[keep]
    return generated_NL


def _draw(scores_MV: Tensor, places_M: Tensor, rows: int) -> Tensor:
    """A token per row with the probabilities softmax(scores), as `torch.multinomial` draws it.

    Its draw is argmax(p / e) with exponential e; all N rows get theirs, so that a row's text does not depend on
    which others have ended.
    """
    noise_MV = _exponential(places_M, rows, scores_MV.shape[-1])
    return scores_MV.softmax(dim=-1).div_(noise_MV).argmax(dim=-1)


def _exponential(places_M: Tensor, rows: int, count: int) -> Tensor:
    """Of the (N, V) numbers that `exponential_` would draw, the rows of `places_M`.

    On a CPU `exponential_` takes a double of uniform distribution for each number, and its logarithm one by one: three
    times as long as both in one go, and a sixth of the time of a step of a tiny model. The numbers are the same.
    """
    everyone = len(places_M) == rows
    if places_M.device.type != "cpu":
        noise_NV = torch.empty((rows, count), device=places_M.device).exponential_()
        return noise_NV if everyone else noise_NV[places_M]
    uniform_NV = torch.empty((rows, count), dtype=torch.float64).uniform_()
    uniform_MV = uniform_NV if everyone else uniform_NV.index_select(0, places_M)
    return uniform_MV.neg_().log1p_().neg_().float()


def _shapers(sampling: Sampling) -> list[LogitsProcessor]:
    """What shapes the distribution, in the order of `transformers.generate`.

    Suppressed tokens are left to the caller: transformers' own processor makes its mask anew at every step, and its
    list of processors looks at every signature.
    """
    used: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        used.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        used.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.temperature > 0 and sampling.top_k > 0:
        used.append(TopKLogitsWarper(sampling.top_k))
    if sampling.temperature > 0 and sampling.top_p < 1:
        used.append(TopPLogitsWarper(sampling.top_p))
    return used
