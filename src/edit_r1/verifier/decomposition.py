"""Principles that a model writes: each context's once, kept in memory and, in a cache, on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edit_r1.images import judged_sources
from edit_r1.records import Principle, Unparsed
from edit_r1.verifier.items import context_key, examples_of
from edit_r1.verifier.parsing import parse_written
from edit_r1.verifier.principles_cache import PrinciplesCache
from edit_r1.verifier.prompts import PROMPT_VERSIONS, Variant, decompose_request
from edit_r1.verifier.questions import each_once
from edit_r1.vlm.protocol import VLM, Request, Sampling

MAX_NEW_TOKENS: dict[str, int] = {"full": 4096, "compact": 512}
"""Longest answer per variant, in tokens: about 10 principles with evidence, and room for reasoning in full."""
MAX_REMEMBERED = 10_000
"""Contexts whose principles stay in memory: a server runs for weeks."""


@dataclass(frozen=True)
class Written:
    """What a model wrote for one context."""

    principles: tuple[Principle, ...]
    """Each question once."""
    repeated: int
    """Principles left out, because their question stands among the others (`verifier.questions`)."""
    cached: bool
    """True when they were read from the disk instead of being asked for."""


class Decomposer:
    """A model with its prompt, and what it wrote so far. Threads may share it."""

    def __init__(
        self, vlm: VLM, variant: Variant, max_pixels: int, cache: PrinciplesCache | None, max_new_tokens: int
    ) -> None:
        """
        Args:
            max_pixels: most pixels of a source that is shown.
            cache: None keeps what is written in memory alone.
            max_new_tokens: longest answer.
        """
        self.vlm, self.variant, self.max_pixels, self.cache = vlm, variant, max_pixels, cache
        self.max_new_tokens = max_new_tokens
        self._known: dict[str, Written] = {}
        self._writing = threading.Lock()

    def known(self, sources: Sequence[bytes], instruction: str) -> Written | None:
        """What was written for this context, while it is remembered; nothing is asked."""
        return self._known.get(context_key(sources, instruction))

    def write(self, contexts: Sequence[tuple[tuple[bytes, ...], str]]) -> list[tuple[Principle, ...] | Unparsed]:
        """Principles for each (sources, instruction); each different one is asked about once, whatever threads ask.

        Greedy; an answer without usable principles is drawn once more, sampled at temperature 1.
        """
        known = [self._known.get(context_key(*context)) for context in contexts]
        found = [one.principles for one in known if one is not None]
        if len(found) == len(known):  # not to wait while another thread has a model write others
            return list(found)
        with self._writing:
            return self._write_in_turn(contexts)

    def _write_in_turn(
        self, contexts: Sequence[tuple[tuple[bytes, ...], str]]
    ) -> list[tuple[Principle, ...] | Unparsed]:
        keys = [context_key(*context) for context in contexts]
        unknown = {key: context for key, context in zip(keys, contexts, strict=True) if key not in self._known}
        requests: dict[str, Request] = {
            key: decompose_request(
                judged_sources(sources, self.max_pixels), instruction, examples_of(key), self.variant
            )
            for key, (sources, instruction) in unknown.items()
        }
        sampling = Sampling(self.max_new_tokens, temperature=0.0)
        entries = self._look_up(requests, sampling)
        failures: dict[str, Unparsed] = {}
        left = {key: request for key, request in requests.items() if key not in self._known}
        for once in (sampling, replace(sampling, temperature=1.0, seed=1)):  # greedily the answer would be the same
            answers = self.vlm.generate(list(left.values()), once, 1) if left else []
            for key, answer in zip(left, answers, strict=True):
                parsed = parse_written(answer[0])
                if isinstance(parsed, Unparsed):
                    failures[key] = parsed
                    continue
                failures.pop(key, None)
                self._known[key] = _written(parsed, cached=False)
                if self.cache is not None:  # as it was written: what is a repetition is decided at reading
                    about = {"model": self.vlm.name, "instruction": unknown[key][1]}
                    self.cache.put(entries[key], parsed, about)
            left = {key: left[key] for key, failure in failures.items() if not failure.failed_call}
        found = [failures[key] if key in failures else self._known[key].principles for key in keys]
        for key in list(self._known)[: max(0, len(self._known) - MAX_REMEMBERED)]:  # the oldest first
            del self._known[key]
        return found

    def _look_up(self, requests: dict[str, Request], sampling: Sampling) -> dict[str, str]:
        """Takes what the cache holds into memory; returns each context's key there."""
        if self.cache is None:
            return {}
        prompts, model = PROMPT_VERSIONS[self.variant], self.vlm.name
        entries = {key: self.cache.key(request, prompts, model, sampling) for key, request in requests.items()}
        for key, entry in entries.items():
            found = self.cache.get(entry)
            if found is not None:
                self._known[key] = _written(found, cached=True)
        return entries


def _written(principles: tuple[Principle, ...], cached: bool) -> Written:
    kept = each_once(principles)
    return Written(kept, len(principles) - len(kept), cached)
