"""A holistic judge: two pairs of scores and no checklist, the usual baseline of reward benchmarks.

After the facts of VIEScore, in our own words: one call sees source and edit and gives two scores for semantic
consistency (was the instruction carried out; was anything else left alone), another sees the edit alone and gives two
for perceptual quality (naturalness; freedom from artefacts), each 0 to 10. SC and PQ are the smaller of their two,
O = sqrt(SC * PQ).

An answer that does not hold two scores from 0 to 10 is `Unparsed`, never a number; so is a trace of which one half is.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edit_r1.images import MAX_JUDGED_PIXELS, judged_pictures
from edit_r1.records import (
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Judgment,
    Trace,
    Unparsed,
)
from edit_r1.verifier.answer_text import BadAnswer, answer_of
from edit_r1.verifier.items import ScoreItem, check_item
from edit_r1.verifier.judgments import aggregate, failed, mean
from edit_r1.verifier.loose_json import json_values, to_ascii_punctuation
from edit_r1.verifier.prompts import check_instruction, check_sources
from edit_r1.verifier.scoring import MAX_TRACES, Progress, trace_temperature
from edit_r1.vlm.protocol import VLM, Completion, Request, Sampling

HOLISTIC_VERSION = "holistic-1"
"""Version of the two prompts below; any change of their wording changes it."""
MAX_NEW_TOKENS = 1024
_CHUNK_TRACES = 128

_OUTPUT = (
    'Answer with one JSON object and nothing else, the reasoning in two sentences at most:\n{{"reasoning": "...", '
    '"score": [{first}, {second}]}}\nBoth scores are numbers from 0 to 10.'
)
_CONSISTENCY = (
    "You grade the work of an automatic image editor. The last picture is what it made of what stands before it, when "
    "it was given this instruction:\n{instruction}\n\nGive two scores.\n"
    "1. Success: how far the last picture shows what the instruction asks for. 0: nothing of it is there, or nothing "
    "was changed at all; 5: part of it; 10: all of it, exactly as asked.\n"
    "2. Restraint: how well everything that the instruction does not mention was left as it was. 0: the last picture "
    "has nothing to do with the original any more; 5: clearly more was changed than was asked for; 10: only what had "
    "to change did.\nFaces, things, texts and background all count. Be strict.\n\n"
)
_QUALITY = (
    "You grade a picture that an automatic image editor made. Only its technical quality matters, not its subject.\n"
    "Give two scores.\n"
    "1. Naturalness: do light, shadow, perspective and proportions fit together, in the style that the picture has? "
    "0: it falls apart; 5: something is plainly off; 10: nothing is.\n"
    "2. Cleanness: is it free of damage such as smears, seams, doubled outlines, broken hands or faces, garbled "
    "letters, noise, or watermarks? 0: damaged all over; 5: visible damage in places; 10: none.\n\n"
)

_NUMBER = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,10})?)(?:\s*/\s*10)?")
_PAIR = re.compile(
    r"scores?[\"']?\s*+[:=]\s*+[\[(]\s*+([0-9]{1,2}(?:\.[0-9]{1,10})?)\s*+,\s*+([0-9]{1,2}(?:\.[0-9]{1,10})?)\s*+[\])]",
    re.IGNORECASE,
)
_KEYS = ("score", "scores")


def consistency_request(sources: Sequence[bytes], edited: bytes, instruction: str) -> Request:
    """Asks for success and restraint. Raises ValueError for a bad input."""
    pictures = [part for source in check_sources(sources) for part in (source, "\n")]
    text = _CONSISTENCY.format(instruction=check_instruction(instruction))
    return Request((*pictures, edited, "\n" + text + _OUTPUT.format(first="success", second="restraint")))


def quality_request(edited: bytes) -> Request:
    """Asks for naturalness and cleanness."""
    return Request((edited, "\n" + _QUALITY + _OUTPUT.format(first="naturalness", second="cleanness")))


def parse_scores(text: str, truncated: bool = False) -> tuple[float, float] | Unparsed:
    """The two scores of an answer, each 0 to 10, or why there are none.

    Read are an object with "score": [a, b] in loose JSON, the same written without sound JSON around it, or a bare list
    of two numbers as the only JSON of the answer. Numbers may be quoted or written 8/10. Several that differ are
    Unparsed.
    """
    try:
        if truncated:
            raise BadAnswer("cut at the token limit")
        return _scores(answer_of(text))
    except BadAnswer as bad:
        return Unparsed(text, str(bad))


def _scores(answer: str) -> tuple[float, float]:
    values = list(json_values(answer))
    written = [value[key] for value in values if isinstance(value, dict) for key in _KEYS if key in value]
    if not written:
        written = [[found[1], found[2]] for found in _PAIR.finditer(to_ascii_punctuation(answer))]
    if not written and len(values) == 1:
        written = values
    if not written:
        raise BadAnswer("no scores in the answer")
    found = {_two(value) for value in written}
    if len(found) > 1:
        raise BadAnswer(f"{len(written)} lists of scores that differ")
    return found.pop()


def _two(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadAnswer(f"the scores {str(value)[:60]} are not two numbers")
    return _score(value[0]), _score(value[1])


def _score(value: Any) -> float:
    found: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str) and (number := _NUMBER.fullmatch(to_ascii_punctuation(value).strip())):
        found = float(number[1])
    if found is None or not 0 <= found <= 10:
        raise BadAnswer(f"the score {str(value)[:40]!r} is not a number from 0 to 10")
    return found


def overall(sc: float, pq: float) -> float:
    """O = sqrt(SC * PQ), 0 to 10, of an edit (Ku et al., VIEScore, arXiv 2312.14867)."""
    return math.sqrt(sc * pq)


@dataclass(frozen=True)
class _Halves:
    """One trace: the answers to both questions."""

    success: float
    restraint: float
    quality: float
    """PQ, the smaller of its two scores."""

    @property
    def overall(self) -> float:
        """O, 0 to 10."""
        return overall(min(self.success, self.restraint), self.quality)


class HolisticJudge:
    """Any `VLM`, asked holistically; `score_many` is that of `Verifier`."""

    def __init__(self, vlm: VLM, max_pixels: int = MAX_JUDGED_PIXELS, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        """max_pixels: most pixels of a picture shown to the model. max_new_tokens: longest answer."""
        self.vlm = vlm
        self.max_pixels = max_pixels
        self.max_new_tokens = max_new_tokens

    def score_many(
        self,
        items: Sequence[ScoreItem],
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        expected: bool = False,
    ) -> list[Judgment]:
        """One judgment per item, in order; score is O, 0 to 10, the mean over the traces of which both halves parsed.

        `categories` are success, restraint and PQ as shares of 10, in the places of Instruction Following, Feature
        Preservation and Image Quality. Principles of the items are not read, and there is no expected score. A bad item
        comes back without a score. Raises ValueError for `traces` or `temperature` out of range.
        """
        if not 1 <= traces <= MAX_TRACES:
            raise ValueError(f"traces={traces}: ask for 1 to {MAX_TRACES}")
        default = trace_temperature(traces)
        sampling = Sampling(self.max_new_tokens, default if temperature is None else temperature, seed=seed)
        start = time.monotonic()
        judgments: dict[int, Judgment] = {}
        ready: list[int] = []
        seen: set[bytes] = set()
        for place, item in enumerate(items):
            try:
                check_item(item, seen)
                ready.append(place)
            except ValueError as error:
                bad = Unparsed("", str(error), failed_call=True)
                judgments[place] = failed(bad, traces, (), self.vlm.name, self.vlm.simulated)
        step = max(1, _CHUNK_TRACES // traces)
        for first in range(0, len(ready), step):
            chunk = ready[first : first + step]
            judged = self._judge([items[place] for place in chunk], sampling, traces)
            judgments |= dict(zip(chunk, judged, strict=True))
            sampling = replace(sampling, seed=sampling.seed + step)
            if progress is not None:
                progress(len(judgments), len(items))
        seconds = (time.monotonic() - start) / max(1, len(items))
        return [replace(judgments[place], seconds=seconds, prompts=HOLISTIC_VERSION) for place in range(len(items))]

    def close(self) -> None:
        """Ends what the model keeps open."""
        close = getattr(self.vlm, "close", None)
        if close is not None:
            close()

    def _judge(self, items: Sequence[ScoreItem], sampling: Sampling, traces: int) -> list[Judgment]:
        requests: list[Request] = []
        for item in items:
            sources, edited = judged_pictures(item.sources, item.edited, self.max_pixels)
            requests += [consistency_request(sources, edited, item.instruction), quality_request(edited)]
        answers = self.vlm.generate(requests, sampling, traces)
        return [
            self._judgment(consistency, quality)
            for consistency, quality in zip(answers[::2], answers[1::2], strict=True)
        ]

    def _judgment(self, consistency: Sequence[Completion], quality: Sequence[Completion]) -> Judgment:
        halves = [_halves(*pair) for pair in zip(consistency, quality, strict=True)]
        outcomes: list[Trace | Unparsed] = [
            half
            if isinstance(half, Unparsed)
            else Trace(f"{sc.text}\n{pq.text}", half.overall, None, tokens=sc.tokens + pq.tokens)
            for half, sc, pq in zip(halves, consistency, quality, strict=True)
        ]
        parsed = [half for half in halves if isinstance(half, _Halves)]
        judgment = aggregate(outcomes, (), self.vlm.name, 0.0, self.vlm.simulated)
        categories = {
            INSTRUCTION_FOLLOWING: mean([half.success / 10 for half in parsed]),
            FEATURE_PRESERVATION: mean([half.restraint / 10 for half in parsed]),
            IMAGE_QUALITY: mean([half.quality / 10 for half in parsed]),
        }
        return replace(judgment, categories=categories)


def _halves(consistency: Completion, quality: Completion) -> _Halves | Unparsed:
    text, tokens = f"{consistency.text}\n{quality.text}", consistency.tokens + quality.tokens
    for completion in (consistency, quality):
        if completion.finish == "error":
            reason = f"no answer came: {completion.error or 'unknown error'}"
            return Unparsed(text, reason, tokens, failed_call=True)
    found = [parse_scores(one.text, one.finish == "length") for one in (consistency, quality)]
    for name, half in zip(("consistency", "quality"), found, strict=True):
        if isinstance(half, Unparsed):
            return Unparsed(text, f"{name}: {half.reason}", tokens)
    (success, restraint), (natural, clean) = found[0], found[1]  # type: ignore[misc]
    return _Halves(success, restraint, min(natural, clean))
