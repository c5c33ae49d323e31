"""A discriminative judge: a scalar head that gives a score and no checklist (`vlm.scalar_head`, `train.head`).

The score is 10 * sigmoid(logit), 0 to 10. Only its order was trained (Bradley-Terry): 5 is where the logit is 0, and
the anchors of the verifier's scale do not apply.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edit_r1.images import MAX_JUDGED_PIXELS, judged_pictures
from edit_r1.records import Judgment, Trace, Unparsed
from edit_r1.verifier.items import ScoreItem, check_item
from edit_r1.verifier.judgments import aggregate, failed
from edit_r1.verifier.prompts import check_instruction, check_sources
from edit_r1.verifier.scoring import Progress
from edit_r1.vlm.protocol import Request

if TYPE_CHECKING:
    from edit_r1.vlm.scalar_head import ScalarVLM

HEAD_VERSION = "head-1"
"""Version of the prompt below; any change of its wording changes it."""
_CHUNK = 64


def head_request(sources: Sequence[bytes], edited: bytes, instruction: str) -> Request:
    """What a head reads of an edit; the same in training and in judging. Raises ValueError for a bad input."""
    pictures = [part for source in check_sources(sources) for part in ("Source: ", source, "\n")]
    text = " ".join(check_instruction(instruction).split())
    return Request((*pictures, f"Instruction: {text}\nEdited: ", edited, "\nHow good is the edit?"))


def score_of(logit: float) -> float:
    """10 * sigmoid(logit), without overflow."""
    if logit >= 0:
        return 10 / (1 + math.exp(-logit))
    small = math.exp(logit)
    return 10 * small / (1 + small)


class HeadJudge:
    """A model with a scalar head; `score_many` is that of `Verifier`."""

    def __init__(self, model: ScalarVLM, max_pixels: int = MAX_JUDGED_PIXELS) -> None:
        self.vlm = model
        self.max_pixels = max_pixels

    def score_many(
        self,
        items: Sequence[ScoreItem],
        traces: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        expected: bool = False,
    ) -> list[Judgment]:
        """One judgment per item, in order, without a checklist. A bad item comes back without a score.

        Nothing is sampled: temperature, seed and expected change nothing. Raises ValueError for more than one trace.
        """
        if traces != 1:
            raise ValueError(f"traces={traces}: a scalar head gives one number and samples nothing; ask for 1")
        start = time.monotonic()
        judgments: dict[int, Judgment] = {}
        requests: dict[int, Request] = {}
        seen: set[bytes] = set()
        for first in range(0, len(items), _CHUNK):
            for place in range(first, min(first + _CHUNK, len(items))):
                item = items[place]
                try:
                    check_item(item, seen)
                except ValueError as error:
                    judgments[place] = self._failed(str(error))
                    continue
                pictures = judged_pictures(item.sources, item.edited, self.max_pixels)
                requests[place] = head_request(*pictures, item.instruction)
            for place, logit in zip(requests, self.vlm.logits(list(requests.values())), strict=True):
                judgments[place] = self._judgment(logit)
            requests.clear()
            if progress is not None:
                progress(len(judgments), len(items))
        seconds = (time.monotonic() - start) / max(1, len(items))
        return [replace(judgments[place], seconds=seconds, prompts=HEAD_VERSION) for place in range(len(items))]

    def close(self) -> None:
        """Nothing is kept open."""

    def _judgment(self, logit: float | str) -> Judgment:
        if isinstance(logit, str):
            return self._failed(logit)
        if not math.isfinite(logit):
            return self._failed(f"the head gave {logit}: its model has diverged")
        return aggregate([Trace("", score_of(logit), None)], (), self.vlm.name, 0.0)

    def _failed(self, reason: str) -> Judgment:
        return failed(Unparsed("", reason, failed_call=True), 1, (), self.vlm.name, False)
