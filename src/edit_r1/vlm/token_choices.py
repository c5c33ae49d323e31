"""What the model could have said at each generated position: its log-probabilities, before anything was cut off.

Shapes: M sequences of a forward pass, V tokens of the vocabulary, K alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from edit_r1.vlm.protocol import TokenChoices


class ChoiceRecorder:
    """Inside its `with`, keeps the K likeliest tokens of every forward pass of `model`; nothing for K = 0.

    It reads the logits as they leave the model: temperature, top_p, top_k, penalties and suppressed tokens come
    later. Only (M, K) numbers a step are kept: all logits of 64 answers of 500 tokens would be 20 GB.
    """

    def __init__(self, model: Any, count: int) -> None:
        self._model, self._count = model, count
        self._steps: list[tuple[Tensor | None, Tensor, Tensor]] = []
        self._hook: Any = None
        self.places: Tensor | None = None
        """Which sequences the next forward pass is about, (M,); None for all of them in order."""

    def __enter__(self) -> Self:
        if self._count:
            self._hook = self._model.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _keep(self, model: Any, inputs: Any, output: Any) -> None:
        logits_MV = output.logits[:, -1].float()  # prompts are padded on the left: the last position is everyone's
        logprobs_MK, tokens_MK = logits_MV.log_softmax(dim=-1).topk(min(self._count, logits_MV.shape[-1]), dim=-1)
        self._steps.append((self.places, tokens_MK, logprobs_MK))

    def rows(self, count: int) -> list[list[list[tuple[int, float]]]]:
        """Per sequence, of `count`, and per pass that it was in: (token, log-probability), likeliest first."""
        rows: list[list[list[tuple[int, float]]]] = [[] for _ in range(count)]
        for places, tokens_MK, logprobs_MK in self._steps:
            where = range(count) if places is None else places.tolist()
            for place, tokens, logprobs in zip(where, tokens_MK.tolist(), logprobs_MK.tolist(), strict=True):
                rows[place].append(list(zip(tokens, logprobs, strict=True)))
        return rows


def token_choices(
    tokenizer: Any, generated: Sequence[int], alternatives: Sequence[Sequence[tuple[int, float]]]
) -> tuple[TokenChoices, ...]:
    """One entry per generated token; what was recorded after the answer's end is left out.

    A token of a part of a character has U+FFFD as its text, as the tokenizer decodes it.
    """
    known = {token for row in alternatives[: len(generated)] for token, _ in row} | set(generated)
    texts = {
        token: tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for token in known
    }
    return tuple(
        TokenChoices(texts[token], tuple((texts[other], value) for other, value in options))
        for token, options in zip(generated, alternatives, strict=False)
    )
