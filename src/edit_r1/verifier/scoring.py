"""The verifier: source, edited image and instruction in, a `Judgment` out.

Bad input raises ValueError before any model call in `score` and `rank`. In `score_many` a bad item
becomes a judgment without a score whose `outcomes` name the reason, so that one broken image never
costs a batch. What a model answers never raises: a trace that cannot be parsed is counted in
`unparsed`, and principles that cannot be parsed leave the item without a score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from edit_r1.images import MAX_JUDGED_PIXELS, Picture, judged_pictures
from edit_r1.records import Judgment, OutputMode, Principle, Unparsed
from edit_r1.verifier.cards import read_card
from edit_r1.verifier.decomposition import MAX_NEW_TOKENS, Decomposer
from edit_r1.verifier.expected_score import expected_value
from edit_r1.verifier.items import ScoreItem, check_item, check_pictures, score_item
from edit_r1.verifier.judgments import aggregate, best_first, failed, judgment_json, weighted_verdicts
from edit_r1.verifier.parsing import parse_completion
from edit_r1.verifier.principles_cache import PrinciplesCache, checkpoint_identity, chosen_cache
from edit_r1.verifier.prompts import (
    PROMPT_VERSIONS,
    Variant,
    check_instruction,
    check_principles,
    check_sources,
    judge_request,
)
from edit_r1.vlm.attention import Attention
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.protocol import MAX_TOP_LOGPROBS, VLM, Completion, Request, Sampling

if TYPE_CHECKING:
    from edit_r1.vlm.openai import LimitKey, Prices

__all__ = ["MAX_NEW_TOKENS", "Ranked", "ScoreItem", "Verifier", "judgment_json", "weighted_verdicts"]

Backend = Literal["transformers", "vllm"]
"""What runs a model of this machine."""
Progress = Callable[[int, int], None]
"""Called with (items judged, items asked)."""

MAX_TRACES = 64
"""Most traces per item."""
_CHUNK_TRACES = 256
"""Traces asked for in one call of the model, between two reports of progress."""


@dataclass(frozen=True)
class Ranked:
    """One edited image in a ranking."""

    index: int
    """Its place in the caller's order."""
    judgment: Judgment


class UnparsedPrinciples(ValueError):
    """The model answered, but not with principles."""


def trace_temperature(traces: int) -> float:
    """What traces are sampled at where nothing is said: one is greedy, several are drawn at temperature 1."""
    return 0.0 if traces == 1 else 1.0


class Verifier:
    """A vision-language model that judges edits by principles."""

    def __init__(
        self,
        vlm: VLM,
        mode: OutputMode = "both",
        variant: Variant = "full",
        principles_vlm: VLM | None = None,
        domain: str | None = None,
        max_new_tokens: int | None = None,
        max_pixels: int = MAX_JUDGED_PIXELS,
        principles_variant: Variant | None = None,
        cache: PrinciplesCache | None = None,
    ) -> None:
        """
        Args:
            mode: what the traces hold.
            variant: prompts in full, or compact for models trained on them.
            principles_vlm: who writes the principles where none are given; None for `vlm` itself.
            domain: the only kind of pictures the model knows, None for no limit; recorded, not checked here.
            max_new_tokens: longest trace, None for the variant's `MAX_NEW_TOKENS`; principles may be as long.
            max_pixels: most pixels of a picture shown to a model (see `edit_r1.images.judged_pictures`).
            principles_variant: prompt of `principles_vlm`; None for `variant`.
            cache: where the principles that a model writes are kept between runs; None keeps them in memory alone.
        """
        if max_pixels < 64 * 64:
            raise ValueError(f"max_pixels={max_pixels}: in fewer than 4096 pixels nothing can be judged")
        self.vlm = vlm
        self.mode = mode
        self.variant = variant
        self.principles_vlm = principles_vlm or vlm
        self.domain = domain
        self.max_new_tokens = MAX_NEW_TOKENS[variant] if max_new_tokens is None else max_new_tokens
        self.max_pixels = max_pixels
        self.principles_variant = principles_variant or variant
        self.cache = cache
        longest = max(MAX_NEW_TOKENS[self.principles_variant], max_new_tokens or 0)
        self._decomposer = Decomposer(self.principles_vlm, self.principles_variant, max_pixels, cache, longest)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | Sequence[str] = "cpu",
        dtype: str = "float32",
        batch_size: int = 64,
        adapter: str | Path | None = None,
        mode: OutputMode | None = None,
        variant: Variant | None = None,
        principles_vlm: VLM | None = None,
        max_new_tokens: int | None = None,
        max_pixels: int = MAX_JUDGED_PIXELS,
        principles_variant: Variant | None = None,
        cache: PrinciplesCache | Literal["default"] | None = "default",
        backend: Backend = "transformers",
        attention: Attention | None = None,
    ) -> Verifier:
        """A local checkpoint, asked as its `edit_r1.json` says unless `mode` or `variant` say otherwise.

        device: several, such as ("cuda:0", "cuda:1") or ("cpu", "cpu"), load a replica each in a process of its own;
        a script then needs the usual `if __name__ == "__main__"`, and `close` (or `with`) ends them.
        cache: of the principles that the model writes; "default" for the one of `default_cache`, None for none. What a
        `principles_vlm` writes is kept on disk only in a cache that is given and names that model (`PrinciplesCache`).
        batch_size: sequences decoded at once, by each replica. backend: "vllm" runs it by `vlm.vllm.VLLM`, split over
        as many GPUs as there are devices, with a batch and attention kernels of its own choice. attention: the kernel
        of the other backend by transformers' name; None for what transformers chooses. Raises
        `edit_r1.vlm.errors.ModelError` (a ValueError).
        """
        # Here alone: scoring by an endpoint needs no torch.
        from edit_r1.vlm.replicas import TransformersReplicas
        from edit_r1.vlm.transformers import TransformersVLM
        from edit_r1.vlm.vllm import VLLM

        card = read_card(path)
        vlm: VLM
        if backend == "vllm":
            if attention is not None:
                raise ModelError(f"attention={attention!r}: vLLM chooses its own kernels: leave it out")
            vlm = VLLM.load(path, dtype, adapter, gpus=1 if isinstance(device, str) else len(device))
        elif isinstance(device, str):
            vlm = TransformersVLM.load(path, device, dtype, attention, batch_size, adapter)
        else:
            vlm = TransformersReplicas(path, device, batch_size, dtype=dtype, attention=attention, adapter=adapter)
        return cls(
            vlm,
            mode or card.mode,
            variant or card.variant,
            principles_vlm,
            card.domain,
            max_new_tokens,
            max_pixels,
            principles_variant,
            chosen_cache(cache, checkpoint_identity(path, adapter), principles_vlm is not None),
        )

    @classmethod
    def connect(
        cls,
        endpoint: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout_s: float = 300.0,
        server_n: bool = False,
        prices: Prices | None = None,
        mode: OutputMode | None = None,
        variant: Variant | None = None,
        principles_vlm: VLM | None = None,
        max_new_tokens: int | None = None,
        max_pixels: int = MAX_JUDGED_PIXELS,
        principles_variant: Variant | None = None,
        cache: PrinciplesCache | Literal["default"] | None = "default",
        limit_key: LimitKey = "max_tokens",
        server_sampling: bool = False,
    ) -> Verifier:
        """A model behind an OpenAI-compatible server; see `edit_r1.vlm.openai.OpenAIVLM` for the connection.

        model: as the server names it. Servers on this machine name a model by its folder: the `edit_r1.json` there
        is read, as in `load`; any other name is asked by the full prompts unless `mode` or `variant` say otherwise.
        cache: as in `load`; a served model is told from others by its address and its name.
        For settings that are not here give `Verifier` an `OpenAIVLM` of your own. Raises ModelError (a ValueError)
        for an address or a key that cannot be one; whether the server answers shows `verifier.vlm.check()`.
        """
        from edit_r1.vlm.openai import OpenAIVLM

        card = read_card(model)
        vlm = OpenAIVLM(
            endpoint, model, api_key_env, concurrency, timeout_s,
            server_n=server_n, limit_key=limit_key, server_sampling=server_sampling, prices=prices,
        )  # fmt: skip
        return cls(
            vlm,
            mode or card.mode,
            variant or card.variant,
            principles_vlm,
            card.domain,
            max_new_tokens,
            max_pixels,
            principles_variant,
            chosen_cache(cache, vlm.endpoint, principles_vlm is not None),
        )

    def close(self) -> None:
        """Ends the processes of a model on several devices, or the connections to a served one; no more for others."""
        close = getattr(self.vlm, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def principles(self, sources: Sequence[Picture], instruction: str) -> tuple[Principle, ...]:
        """The model's principles for a context, greedy; kept in memory, and in the cache, for the next question.

        An answer without usable principles is drawn once more, sampled at temperature 1. A question that is written
        twice is kept once (`repeated` counts).

        Raises ValueError for bad input, `ModelError` (one too) when no answer came, `UnparsedPrinciples` when the
        answer holds no principles.
        """
        pictures = check_sources(sources)
        check_pictures(pictures, "source image")
        check_instruction(instruction)
        written = self._decomposer.write([(pictures, instruction)])[0]
        if isinstance(written, Unparsed):
            if written.failed_call:
                raise ModelError(f"no principles: {written.reason}")
            raise UnparsedPrinciples(
                f"{self.principles_vlm.name} wrote no usable principles ({written.reason}): give them yourself"
            )
        return written

    def principles_many(
        self, contexts: Sequence[tuple[tuple[bytes, ...], str]]
    ) -> list[tuple[Principle, ...] | Unparsed]:
        """`principles` of many checked (sources, instruction) in one batch; a reason where there are none."""
        return self._decomposer.write(contexts)

    def is_cached(self, sources: Sequence[Picture], instruction: str) -> bool:
        """True when the principles of this context were read from the cache instead of being asked for."""
        known = self._decomposer.known(check_sources(sources), instruction)
        return known is not None and known.cached

    def repeated(self, sources: Sequence[Picture], instruction: str) -> int:
        """Principles that the model wrote for this context and that were left out: their question stood there before.

        0 where no model was asked for any.
        """
        known = self._decomposer.known(check_sources(sources), instruction)
        return 0 if known is None else known.repeated

    def score(
        self,
        sources: Sequence[Picture],
        edited: Picture,
        instruction: str,
        principles: Sequence[Principle] | None = None,
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        expected: bool = False,
    ) -> Judgment:
        """Judges one edited image; score 0 to 10.

        One trace is greedy by default, several are sampled at temperature 1. expected: as in `score_many`. Raises
        ValueError for bad input.
        """
        item = score_item(sources, edited, instruction, principles)
        check_item(item)
        return self.score_many([item], traces, temperature, seed, expected=expected)[0]

    def rank(
        self,
        sources: Sequence[Picture],
        edited: Sequence[Picture],
        instruction: str,
        principles: Sequence[Principle] | None = None,
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        expected: bool = True,
    ) -> list[Ranked]:
        """Judges several edits of one context by the same principles: best first, those without a score last.

        expected: edits of one score are ordered by their expected scores, where the model gives the probabilities
        of its tokens (see `verifier.expected_score`). Other ties keep the caller's order. Raises ValueError for bad
        input.
        """
        pictures = check_sources(sources)
        items = [score_item(pictures, image, instruction, principles) for image in edited]
        seen: set[bytes] = set()
        for item in items:
            check_item(item, seen)
        judgments = self.score_many(items, traces, temperature, seed, expected=expected)
        return [Ranked(place, judgments[place]) for place in best_first(judgments)]

    def score_many(
        self,
        items: Sequence[ScoreItem],
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        expected: bool = False,
    ) -> list[Judgment]:
        """Judges many edits in batches; one judgment per item, in order.

        A bad item (unreadable image, empty or over-long instruction, malformed principles) comes back without
        a score, its reason in `outcomes`. `seconds` is the call's time divided by the items. expected: also ask for
        the probabilities of the tokens, and give `expected_score` where they come. Raises ValueError for `traces` or
        `temperature` out of range only.
        """
        sampling = self._sampling(traces, temperature, seed)
        if expected:
            sampling = replace(sampling, top_logprobs=MAX_TOP_LOGPROBS)
        start = time.monotonic()
        ready, judgments = self._ready(items, traces)
        done = len(judgments)
        at_once = max(_CHUNK_TRACES, 2 * getattr(self.vlm, "capacity", 0))
        step = max(1, at_once // traces)
        places = sorted(ready)
        for first in range(0, len(places), step):
            chunk = places[first : first + step]
            requests = [self._judge_request(items[place], ready[place]) for place in chunk]
            answers = self.vlm.generate(requests, replace(sampling, seed=seed + first), traces)
            for place, completions in zip(chunk, answers, strict=True):
                judgments[place] = self._judgment(completions, ready[place], self._is_simulated(items[place]))
            done += len(chunk)
            if progress is not None:
                progress(done, len(items))
        seconds = (time.monotonic() - start) / max(1, len(items))
        prompts = PROMPT_VERSIONS[self.variant]
        return [replace(judgments[place], seconds=seconds, prompts=prompts) for place in range(len(items))]

    def score_stream(
        self,
        items: Iterable[ScoreItem],
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        expected: bool = False,
        chunk: int = 64,
    ) -> Iterator[Judgment]:
        """`score_many` of any number of edits: a judgment per item, in order, handed over as its chunk ends.

        Items are taken from `items` `chunk` at a time, so that neither they nor their judgments need to be in memory
        together. A chunk has the seed `seed` plus the number of items before it. Raises ValueError, when the first
        judgment is asked for, as `score_many` and for a chunk of none.
        """
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: judge at least 1 item at a time")
        left, first = iter(items), 0
        while part := list(islice(left, chunk)):
            yield from self.score_many(part, traces, temperature, seed + first, expected=expected)
            first += len(part)

    def _sampling(self, traces: int, temperature: float | None, seed: int) -> Sampling:
        if not 1 <= traces <= MAX_TRACES:
            raise ValueError(f"traces={traces}: ask for 1 to {MAX_TRACES}")
        if temperature is not None and temperature < 0:
            raise ValueError(f"temperature={temperature}: use 0 (greedy) or more")
        default = trace_temperature(traces)
        return Sampling(self.max_new_tokens, default if temperature is None else temperature, seed=seed)

    def _ready(
        self, items: Sequence[ScoreItem], traces: int
    ) -> tuple[dict[int, tuple[Principle, ...]], dict[int, Judgment]]:
        """Principles of the items that can be judged, and judgments of those that cannot; by place."""
        ready: dict[int, tuple[Principle, ...]] = {}
        judgments: dict[int, Judgment] = {}
        open_places: list[int] = []
        seen: set[bytes] = set()
        for place, item in enumerate(items):
            try:
                check_item(item, seen)
            except ValueError as error:
                bad = Unparsed("", str(error), failed_call=True)
                judgments[place] = failed(bad, traces, item.principles or (), self.vlm.name, self.vlm.simulated)
                continue
            if item.principles is None:
                open_places.append(place)
            else:
                ready[place] = check_principles(item.principles)
        written = self._decomposer.write([(items[place].sources, items[place].instruction) for place in open_places])
        for place, principles in zip(open_places, written, strict=True):
            if isinstance(principles, Unparsed):
                bad = replace(principles, reason=f"no principles: {principles.reason}")
                judgments[place] = failed(bad, traces, (), self.vlm.name, self._is_simulated(items[place]))
            else:
                ready[place] = principles
        return ready, judgments

    def _judge_request(self, item: ScoreItem, principles: Sequence[Principle]) -> Request:
        sources, edited = judged_pictures(item.sources, item.edited, self.max_pixels)
        return judge_request(sources, edited, item.instruction, principles, self.mode, self.variant)

    def _judgment(
        self, completions: Sequence[Completion], principles: Sequence[Principle], simulated: bool
    ) -> Judgment:
        outcomes = [parse_completion(completion, principles, self.mode) for completion in completions]
        expected = None
        if any(completion.choices is not None for completion in completions):
            expected = [expected_value(*pair) for pair in zip(completions, outcomes, strict=True)]
        return aggregate(outcomes, principles, self.vlm.name, 0.0, simulated, expected)

    def _is_simulated(self, item: ScoreItem) -> bool:
        return self.vlm.simulated or (item.principles is None and self.principles_vlm.simulated)
