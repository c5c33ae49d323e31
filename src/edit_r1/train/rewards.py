"""An editor's reward from a judge and, beside it, from other functions: one number per edit that knows its parts.

Scale: every part and the total are 0 to 10. What is rewarded of a judgment is its final score, its weighted verdicts,
or its principle categories as parts of their own. Parts are summed with their weights into the total; their advantages
come from that sum, or each apart (`algo.gdpo`). A gated part counts only as far as the instruction was followed:
Feature Preservation and Image Quality are (an unedited copy has full marks in both), a further reward unless it says
otherwise. The gate is the category Instruction Following, or a tenth of the score where there are no verdicts. The
score itself, which weighs the instruction already, counts whole or, where the gate is shut, not at all.

An edit in which no change can be seen is worth nothing in any part, whatever the judge says of it. No part is below 0,
so that in its group such an edit never has an advantage above 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import fsum, inf, isfinite, isnan
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edit_r1.algo.edit_change import Box, measure_change, unseen
from edit_r1.algo.gdpo import Gate, gated, gdpo_advantage
from edit_r1.algo.group_advantage import GroupAdvantages, Spread, group_advantage
from edit_r1.images import MAX_JUDGED_PIXELS, bounded_size, decode_rgb, to_same_size
from edit_r1.records import (
    CATEGORIES,
    FEATURE_PRESERVATION,
    IMAGE_QUALITY,
    INSTRUCTION_FOLLOWING,
    Context,
    Judgment,
)
from edit_r1.train.editor_stage import Reward
from edit_r1.train.judges import Judge, JudgeSettings, open_judge
from edit_r1.train.reward_cache import Grade, GradeCache, grade_key
from edit_r1.verifier.judgments import CATEGORY_WEIGHTS
from edit_r1.verifier.scoring import ScoreItem

DEFAULT_WEIGHTS = (
    CATEGORY_WEIGHTS[INSTRUCTION_FOLLOWING],
    CATEGORY_WEIGHTS[FEATURE_PRESERVATION],
    CATEGORY_WEIGHTS[IMAGE_QUALITY],
)


@dataclass(frozen=True)
class RewardSettings:
    """The reward of an editor's training."""

    judge: JudgeSettings = field(default_factory=JudgeSettings)
    value: Literal["score", "verdicts", "categories"] = "score"
    """Of a judgment: its final score (the paper), its weighted verdicts, or each category as a part of its own."""
    weights: tuple[float, float, float] = DEFAULT_WEIGHTS
    """Of the categories Instruction Following, Feature Preservation, Image Quality; without effect on the score."""
    combine: Literal["sum", "apart"] = "apart"
    """Several parts: advantages of their weighted sum, or of each apart (GDPO). One part alone is always a sum."""
    gate: Gate = "product"
    """How far gated parts count: times the share of the instruction followed, from a threshold on, or always (then an
    edit that does nothing asked for profits). The score counts whole, or not at all: at a share of 0, below the
    threshold, or never."""
    gate_threshold: float = 0.5
    """Share of the instruction's principles from which the gate "threshold" is open, (0, 1]."""
    copies: Literal["worthless", "judged"] = "worthless"
    """What an edit is worth that no change can be seen in (`algo.edit_change.unseen`): nothing in any part, or what the
    judge and the further rewards say. "judged" is for instructions that ask for less than can be seen."""
    std_floor: float = 1.0
    """Smallest std that a part is divided by when normalised apart, points."""
    batch_floor: float = 0.1
    """Smallest std over the batch that the combination is divided by; unfloored parts give at most 1."""
    overlap: Literal["auto", "on", "off"] = "auto"
    """Judge finished micro-batches while the next is sampled; auto: when the judge computes elsewhere."""
    workers: int = 1
    """Micro-batches judged at once; more than 1 suits a server."""
    pending: int = 4
    """Most micro-batches that wait to be judged; then sampling waits."""
    cache_entries: int = 100_000
    """Grades kept in memory; 0 keeps none."""
    cache_folder: str = ""
    """Folder for them between runs; empty: memory alone."""

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or not 0 < fsum(self.weights) < inf:
            raise ValueError(f"weights={self.weights}: weights are 0 or more, and one must be above 0")
        if self.value != "score" and self.weights[0] == 0:
            raise ValueError(f"weights={self.weights}: without Instruction Following nothing is asked of an edit")
        if not 0 < self.gate_threshold <= 1:
            raise ValueError(f"gate_threshold={self.gate_threshold}: must lie in (0, 1]; at 0 the gate is always open")
        if min(self.workers, self.pending) < 1 or self.cache_entries < 0:
            raise ValueError(
                f"workers={self.workers} and pending={self.pending} must be at least 1, "
                f"cache_entries={self.cache_entries} 0 or more"
            )
        if not (self.std_floor > 0 and self.batch_floor > 0):  # nan is neither
            raise ValueError(f"std_floor={self.std_floor}, batch_floor={self.batch_floor}: must be above 0")


@dataclass(frozen=True)
class FurtherReward:
    """Another reward beside the judge, such as one of the image alone."""

    name: str
    reward: Reward
    weight: float
    """Above 0; the judge's parts have theirs, which sum to 1 in the default."""
    low: float
    high: float
    """What it ranges over; brought to 0 to 10."""
    gated: bool = True
    """Counts only as far as the instruction was followed. An image-only reward must be, or a copy profits."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < inf or not self.low < self.high:
            raise ValueError(
                f"reward {self.name}: weight={self.weight} must be above 0 and low={self.low} below high={self.high}"
            )

    def points(self, value: float | None) -> float | None:
        """0 to 10. Raises ValueError for a value outside the range."""
        if value is None or isnan(value):
            return None
        if not isfinite(value) or not self.low <= value <= self.high:
            raise ValueError(
                f"reward {self.name} gave {value}, not {self.low} to {self.high}: correct its low and high"
            )
        return 10 * (value - self.low) / (self.high - self.low)


class EditReward(float):
    """The total of one edit, 0 to 10, that knows what it is made of; elsewhere it is a number like another."""

    parts: tuple[float | None, ...]
    """One per `CombinedReward.parts`, 0 to 10, gated; None where a context has no such principles."""
    boxes: tuple[Box, ...]
    """Where the judge says that something changed, as shares of the source's sides."""

    def __new__(cls, total: float, parts: Sequence[float | None], boxes: Sequence[Box] = ()) -> EditReward:
        made = super().__new__(cls, total)
        made.parts, made.boxes = tuple(parts), tuple(boxes)
        return made

    def nothing(self) -> EditReward:
        """0 in every part that there is."""
        return EditReward(0.0, [None if part is None else 0.0 for part in self.parts], self.boxes)

    def __reduce__(self) -> tuple[Any, ...]:
        return EditReward, (float(self), self.parts, self.boxes)


@dataclass(frozen=True)
class Part:
    """One part of a reward."""

    name: str
    weight: float


class CombinedReward:
    """A `Reward` of a judge and further functions; see the module. Use `close` (or `with`) when done."""

    def __init__(
        self,
        judge: Judge,
        settings: RewardSettings,
        further: Sequence[FurtherReward] = (),
        cache: GradeCache | None = None,
    ) -> None:
        self.judge, self.settings, self.further = judge, settings, tuple(further)
        self.cache = cache
        self.parts: tuple[Part, ...] = (
            *_judge_parts(settings),
            *(Part(one.name, one.weight) for one in self.further),
        )
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"parts {names}: give every further reward a name of its own")

    @property
    def overlaps(self) -> bool:
        """Whether micro-batches are judged while others are sampled."""
        return self.settings.overlap == "on" or (self.settings.overlap == "auto" and self.judge.apart)

    def __call__(self, contexts_N: Sequence[Context], images_N: Sequence[bytes]) -> list[EditReward | None]:
        """The reward of each edit; None where the judge or a further reward failed. May run in several threads."""
        grades = self.grades(contexts_N, images_N)
        columns = [
            [one.points(value) for value in one.reward(contexts_N, images_N)] if contexts_N else []
            for one in self.further
        ]
        for one, column in zip(self.further, columns, strict=True):
            if len(column) != len(images_N):
                raise ValueError(
                    f"reward {one.name} gave {len(column)} values for {len(images_N)} images: give one each"
                )
        totals = []
        sources: dict[bytes, np.ndarray] = {}
        for edit, (context, image, grade) in enumerate(zip(contexts_N, images_N, grades, strict=True)):
            boxes = shares_of(grade.boxes, context.sample.source, self.settings.judge.boxes)
            total = self._total(replace(grade, boxes=boxes), [column[edit] for column in columns])
            if total is not None and self.settings.copies == "worthless":
                if (source := context.sample.source) not in sources:
                    sources[source] = decode_rgb(source)
                total = total.nothing() if _shows_no_change(sources[source], image) else total
            totals.append(total)
        return totals

    def grades(self, contexts_N: Sequence[Context], images_N: Sequence[bytes]) -> list[Grade]:
        """The judge's grades, those from the cache included; each different edit is judged once."""
        items = [
            # A context without principles leaves them to the judge.
            ScoreItem(context.sample.sources, image, context.sample.instruction, context.principles or None)
            for context, image in zip(contexts_N, images_N, strict=True)
        ]
        keys = [grade_key(item, self.judge.identity, self.settings.judge) for item in items]
        known = [None] * len(keys) if self.cache is None else self.cache.get(keys)
        open_items = {key: item for key, item, grade in zip(keys, items, known, strict=True) if grade is None}
        judged: dict[str, Grade] = {}
        if open_items:
            judgments = self.judge.judge(list(open_items.values()))
            judged = {key: grade_of(judgment) for key, judgment in zip(open_items, judgments, strict=True)}
            if self.cache is not None:
                self.cache.put(judged)
        return [judged[key] if grade is None else grade for key, grade in zip(keys, known, strict=True)]

    def publish(self) -> None:
        """An iteration is over: its grades may be found from now on."""
        if self.cache is not None:
            self.cache.publish()

    def advantages(
        self, rewards_N: Sequence[float | None], groups_N: Sequence[int], clip: float, std_over: Spread = "group"
    ) -> GroupAdvantages:
        """Of all edits of an iteration, by `settings.combine`; `std_over` is for a sum, GDPO has stds of its own."""
        if self.settings.combine == "sum" or len(self.parts) == 1:
            return group_advantage(rewards_N, groups_N, clip=clip, std_over=std_over)
        rows = [reward.parts if isinstance(reward, EditReward) else None for reward in rewards_N]
        weights = [part.weight for part in self.parts]
        return gdpo_advantage(rows, groups_N, weights, self.settings.std_floor, self.settings.batch_floor, clip)

    def metrics(self, rewards_N: Sequence[float | None]) -> dict[str, Any]:
        """Mean of every part over the edits that have it, points."""
        means: dict[str, float | None] = {}
        rows = [reward.parts for reward in rewards_N if isinstance(reward, EditReward)]
        for place, part in enumerate(self.parts):
            values = [value for row in rows if (value := row[place]) is not None]
            means[part.name] = fsum(values) / len(values) if values else None
        return {"reward_parts": means} if len(self.parts) > 1 else {}

    def close(self) -> None:
        self.judge.close()

    def __enter__(self) -> CombinedReward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _total(self, grade: Grade, further: Sequence[float | None]) -> EditReward | None:
        share = _share_followed(grade)
        own = _judge_values(grade, self.settings)
        if own is None or share is None or any(value is None for value in further):
            return None
        parts = [
            *own,
            *(
                self._gated(value, share) if one.gated and value is not None else value
                for one, value in zip(self.further, further, strict=True)
            ),
        ]
        return EditReward(
            _weighted([(part.weight, value) for part, value in zip(self.parts, parts, strict=True)]), parts, grade.boxes
        )

    def _gated(self, value: float, share: float) -> float:
        return gated(value, share, self.settings.gate, self.settings.gate_threshold)


def open_reward(settings: RewardSettings, further: Sequence[FurtherReward] = (), rank: int = 0) -> CombinedReward:
    """The reward that a recipe names. rank: of this process, which names its file of the cache. Raises ValueError."""
    cache = None
    if settings.cache_entries:
        folder = Path(settings.cache_folder) if settings.cache_folder else None
        cache = GradeCache(folder, rank, settings.cache_entries)
    return CombinedReward(open_judge(settings.judge), settings, further, cache)


def edit_advantages(
    reward: Reward,
    rewards_N: Sequence[float | None],
    groups_N: Sequence[int],
    clip: float = inf,
    std_over: Spread = "group",
) -> GroupAdvantages:
    """What the reward makes of an iteration's rewards: a plain function's are normalised within their groups."""
    if isinstance(reward, CombinedReward):
        return reward.advantages(rewards_N, groups_N, clip, std_over)
    return group_advantage(rewards_N, groups_N, clip=clip, std_over=std_over)


def reward_metrics(reward: Reward, rewards_N: Sequence[float | None]) -> dict[str, Any]:
    """What a reward adds to an iteration's metrics."""
    return reward.metrics(rewards_N) if isinstance(reward, CombinedReward) else {}


def grade_of(judgment: Judgment) -> Grade:
    """What a reward needs of a judgment."""
    evidence = [
        result.evidence
        for result in judgment.principles
        if result.category == INSTRUCTION_FOLLOWING and result.evidence is not None
    ]
    categories = tuple(judgment.categories.get(category) for category in CATEGORIES)
    boxes = tuple(box for text in evidence for box in boxes_in(text))
    return Grade(judgment.score, categories, boxes)


_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]")


def boxes_in(text: str) -> list[Box]:
    """Boxes "[left, top, right, bottom]" (or in round brackets) named in a text; those turned around are left out."""
    found = []
    for numbers in _BOX.findall(text):
        left, top, right, bottom = (float(number) for number in numbers)
        if left < right and top < bottom:
            found.append((left, top, right, bottom))
    return found


def shares_of(boxes: Sequence[Box], source: bytes, counted: Literal["pixels", "thousandths"]) -> tuple[Box, ...]:
    """Boxes of a judge's evidence as shares of the source's sides, 0 to 1; those that lie outside it are left out.

    counted: `JudgeSettings.boxes`. A box whose numbers are all within 0 and 1 is taken to be shares already.
    """
    if not boxes:
        return ()
    width, height = 1000, 1000
    if counted == "pixels":
        own_height, own_width = decode_rgb(source).shape[:2]
        width, height = bounded_size(own_width, own_height, MAX_JUDGED_PIXELS)
    found = []
    for box in boxes:
        left, top, right, bottom = (
            box if max(box) <= 1 else (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
        )
        if left < 1 and top < 1:
            found.append((left, top, min(right, 1.0), min(bottom, 1.0)))
    return tuple(found)


MEASURED_PIXELS = 512 * 512
"""Pictures are compared at no more than this size."""


def _shows_no_change(source_HW3: np.ndarray, image: bytes) -> bool:
    return unseen(measure_change(*to_same_size(source_HW3, decode_rgb(image), MEASURED_PIXELS)))


def _judge_parts(settings: RewardSettings) -> list[Part]:
    if settings.value != "categories":
        return [Part(settings.value, 1.0)]
    return [Part(category, weight) for category, weight in zip(CATEGORIES, settings.weights, strict=True) if weight > 0]


def judgment_reward(grade: Grade, settings: RewardSettings) -> float | None:
    """What one judgment alone is worth, 0 to 10: the sum of its parts; None when what is rewarded is missing."""
    own = _judge_values(grade, settings)
    return (
        None
        if own is None
        else _weighted(list(zip((part.weight for part in _judge_parts(settings)), own, strict=True)))
    )


def _share_followed(grade: Grade) -> float | None:
    """Share of the instruction that was followed, 0 to 1; the score stands in where no principle asks about it."""
    if grade.score is None:
        return None
    return grade.score / 10 if grade.categories[0] is None else grade.categories[0]


def _judge_values(grade: Grade, settings: RewardSettings) -> list[float | None] | None:
    """The judge's parts, 0 to 10, gated; None when what is rewarded is missing."""
    share = _share_followed(grade)
    if settings.value == "score":
        # As a gate of 0 or 1: a product with the share would count the instruction twice.
        least = settings.gate_threshold if settings.gate == "threshold" else 0.0
        shut = settings.gate != "none" and share is not None and (share == 0 or share < least)
        return None if grade.score is None else [0.0 if shut else grade.score]
    if share is None or grade.categories[0] is None:
        return None
    follow, *others = [None if mean is None else 10 * mean for mean in grade.categories]
    closed = [
        None if value is None else gated(value, share, settings.gate, settings.gate_threshold) for value in others
    ]
    values = zip(settings.weights, [follow, *closed], strict=True)
    weighted = [(weight, value) for weight, value in values if weight > 0]
    return [_weighted(weighted)] if settings.value == "verdicts" else [value for _, value in weighted]


def _weighted(values: Sequence[tuple[float, float | None]]) -> float:
    """Weighted mean of the values that are there, at least one; a single one comes back as it is."""
    present = [(weight, value) for weight, value in values if value is not None]
    if len(present) == 1:
        return present[0][1]
    return fsum(weight * value for weight, value in present) / fsum(weight for weight, _ in present)
