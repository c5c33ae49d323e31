"""Guards against an editor that learns to please its judge instead of editing better.

After every iteration some edits are measured by their pixels: unedited copies, changes outside the region that an edit
is about, brightness, saturation, sharpness. Every few iterations the same validation contexts are edited with the full
number of steps, kept as one picture, measured, and judged by the training reward and by a held-out one (another judge,
or principles that are never trained on). What moved too far is an alert in metrics.jsonl; a trained reward that rises
while the held-out one falls stops the run, and the weights that the held-out reward liked best are its result.

Everything a guard decides is a function of metrics.jsonl, so that a resumed run decides alike. In several processes
each measures its own edits, all sample the validation contexts (a sharded model needs all of them), and the first
judges and decides for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import fsum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edit_r1.algo.edit_change import UNSEEN_SHIFT, Box, EditChange, box_mask, measure_change
from edit_r1.algo.reward_hacking import change_since_start, divergence
from edit_r1.editors.protocol import EditedImage
from edit_r1.images import decode_rgb, to_same_size
from edit_r1.records import Context, Sample
from edit_r1.train.data_parallel import ALONE, Team
from edit_r1.train.editor_stage import Reward
from edit_r1.train.guard_pictures import write_grid
from edit_r1.train.reward_queue import Judging
from edit_r1.train.rewards import MEASURED_PIXELS, EditReward

GLOBAL_EDITS = frozenset({
    "background change", "style transfer", "tone transformation",  # the paper
    "background", "style", "style change", "tone transfer",  # ImgEdit, GEdit-Bench
})  # fmt: skip
"""Kinds of edits that may change every pixel, in lower case, with spaces."""


@dataclass(frozen=True)
class GuardSettings:
    """What is watched. Limits are changes since the start of the run: of training edits, last window less first."""

    measured: int = 4
    """Edits of every group that are measured in an iteration; 0 measures none."""
    window: int = 10
    """Iterations over which training edits are averaged."""
    copy_shift: float = UNSEEN_SHIFT
    """An edit counts as an unedited copy when no cell's mean colour changed by more (`EditChange.shift`), levels of
    0..255: nine in ten round trips of the tiny editor's autoencoder stay below, and no edit that its oracle likes does
    (bench/copies.py). Edits of texture alone, such as sharpening, count too: their share alerts when it rises."""
    max_copies: float = 0.2
    """Rise of the share of copies that is an alert."""
    max_outside: float = 0.2
    """Rise of the share of pixels changed outside the region of the edit."""
    max_brightness: float = 20.0
    """Change of the mean brightness, levels of 0..255."""
    max_saturation: float = 20.0
    """Change of the mean saturation, levels of 0..255."""
    max_sharpness: float = 0.5
    """Change of sharpness, octaves: 1 is twice as sharp or half as sharp."""
    paired: float = 0.4
    """The share of the limits of brightness, saturation and sharpness that is an alert in validation edits: the same
    contexts and seeds every time, so that they drift by training alone (docs/results/reward_hack.md)."""
    max_timid: float = 0.1
    """Fall of the largest change that a validation edit makes (`EditChange.shift`, mean), as a share of the first."""
    max_failed: float = 0.5
    """Share of failed judgments in the last window; also of validation edits without a trained or a held-out reward."""
    validate_every: int = 10
    """Iterations between validations; also before the first and after the last. 0: those two alone."""
    early: tuple[int, ...] = (2, 4)
    """Further iterations after which to validate, where `validate_every` is not 0: what can be gamed is gamed at
    once. Rounded up to optimiser steps."""
    contexts: int = 8
    """Validation contexts, the first of those given; 0 validates nothing, and of 1 no divergence can be told."""
    seed: int = 0
    """Of the validation edits, the same every time."""
    least_rise: float = 0.1
    """The trained reward has risen when it did so by more, points, and ..."""
    least_fall: float = 0.25
    """... the held-out one has fallen when it did so by at least this, points, and ..."""
    errors: float = 2.0
    """... by this many standard errors, paired by context. Both since the held-out reward stood highest."""
    patience: int = 2
    """Validations in a row that must say so before the run stops."""
    stop: bool = True
    """Stop a run whose rewards diverge. False only alerts."""
    keep_best: bool = True
    """Keep the state at the highest held-out reward in the folder best, and end a stopped run with it. The run's own
    state is then saved at every validation too."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            # Not "below 0": nan is neither, and a limit of nan would never tell.
            if not (min(value, default=0) if isinstance(value, tuple) else value) >= 0:
                raise ValueError(f"{one.name}={value}: must be 0 or more")
        if self.window < 1 or self.patience < 1:
            raise ValueError(f"window={self.window} and patience={self.patience} must be at least 1")

    def due(self, done: int, last: bool, accumulate: int = 1) -> bool:
        """Whether to validate after `done` iterations, of which so many are an optimiser step."""
        early = {-(-one // accumulate) * accumulate for one in self.early} if self.validate_every else set()
        return done == 0 or last or done in early or (self.validate_every > 0 and done % self.validate_every == 0)


class FullEditor(Protocol):
    """What validation needs: edits with the full number of steps."""

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]: ...


class Guard:
    """The guard of one run; see the module."""

    def __init__(
        self,
        settings: GuardSettings,
        reward: Reward,
        validation: Sequence[Context],
        heldout: Reward | None = None,
        heldout_contexts: Sequence[Context | None] | None = None,
        regions: Mapping[str, Sequence[Box] | np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            reward: the training reward, asked about validation edits too.
            validation: contexts that are not trained on, with the principles that the training reward reads.
            heldout: the held-out reward; None watches pixels only.
            heldout_contexts: `validation` with the principles that `heldout` reads; None for a context without any.
            regions: by sample id, where its edit may change something: boxes, or a bool mask [H, W]. Without an entry
                the boxes in the judge's evidence count; without those, or for a global edit, nothing is "outside".
        """
        self.settings, self.reward, self.heldout = settings, reward, heldout
        self.validation = list(validation[: settings.contexts])
        given = self.validation if heldout_contexts is None else heldout_contexts[: settings.contexts]
        if len(given) != len(self.validation):
            raise ValueError(
                f"{len(given)} held-out contexts for {len(self.validation)} validation contexts: give as many"
            )
        self.heldout_contexts = list(given)
        self.regions = dict(regions or {})
        self.accumulate = 1
        self.steps: list[dict[str, Any]] = []
        self.validations: list[dict[str, Any]] = []

    # --- what is remembered --------------------------------------------------------------------------------------

    def restore(self, lines: Sequence[dict[str, Any]]) -> None:
        """The lines of metrics.jsonl that a resumed run keeps; iterations without a guard are left out.

        Raises ValueError when they were validated on another number of contexts.
        """
        self.steps = [line for line in lines if line["kind"] == "step" and "guard" in line]
        self.validations = [line for line in lines if line["kind"] == "validation"]
        counts = {len(line["reward"]) for line in self.validations}
        if counts - {len(self.validation)}:
            raise ValueError(
                f"this run was validated on {sorted(counts)} contexts and the guard has {len(self.validation)}: give "
                "it the same ones, or start in a new folder"
            )

    @property
    def stopped(self) -> bool:
        """Whether the run has ended by this guard's decision."""
        return self.settings.stop and bool(self.validations) and bool(self.validations[-1]["stop"])

    @property
    def best_is_last(self) -> bool:
        """Whether the newest validation has the highest held-out reward so far."""
        means = [line["heldout_mean"] for line in self.validations]
        return bool(means) and means[-1] is not None and all(one is None or one < means[-1] for one in means[:-1])

    # --- after an iteration --------------------------------------------------------------------------------------

    def measure(self, judging: Judging, rewards_N: Sequence[float | None], team: Team = ALONE) -> dict[str, Any]:
        """Pixel measures of an iteration's edits, of all processes: means over the measured ones."""
        own: dict[int, EditChange] = {}
        for edit, image in zip(judging.edits, judging.images, strict=True):
            if edit % judging.group_size < self.settings.measured:
                context, reward = judging.contexts_B[edit // judging.group_size], rewards_N[edit]
                own[edit] = self._change(context, image, reward.boxes if isinstance(reward, EditReward) else ())
        everyones = team.gathered(own)
        return self._means([everyones[edit] for edit in sorted(everyones)])

    def after_step(self, line: dict[str, Any]) -> dict[str, Any]:
        """Adds the alerts of an iteration to its line and remembers it; in the first process."""
        self.steps.append(line)
        line["alerts"] = self._drifts([one["guard"] for one in self.steps], self.settings.window, 1, "training edits")
        recent = self.steps[-self.settings.window :]
        failed = sum(one["failed_judgments"] for one in recent) / max(1, sum(one["edits"] for one in recent))
        if failed > self.settings.max_failed:
            line["alerts"].append(
                _alert("failures", failed, self.settings.max_failed, "is the share of judgments that failed")
            )
        if lost := line.get("lost_updates", 0):
            line["alerts"].append(
                _alert("lost updates", lost, 0, "updates had a gradient that is not finite: left out")
            )
        return line

    # --- validation ----------------------------------------------------------------------------------------------

    def check_rhythm(self, accumulate: int) -> None:
        """Raises ValueError where a validation would fall between two optimiser steps of so many iterations each."""
        every, self.accumulate = self.settings.validate_every, accumulate
        if self.validation and every % accumulate:
            raise ValueError(
                f"validate_every={every}: not a multiple of accumulate={accumulate}, so that it would fall between two "
                "optimiser steps; make it one"
            )

    def due(self, done: int, last: bool) -> bool:
        """Whether to validate after `done` iterations."""
        return bool(self.validation) and self.settings.due(done, last, self.accumulate)

    def validate(self, done: int, editor: FullEditor, out: Path, team: Team = ALONE) -> dict[str, Any] | None:
        """The line of one validation, which is remembered; None in other processes than the first."""
        samples = [context.sample for context in self.validation]
        edits = editor.edit(samples, [self.settings.seed + place for place in range(len(samples))])
        if not team.first:
            return None
        images = [edit.image for edit in edits]
        write_grid(out / "validation" / f"step-{done:06d}.png", [sample.source for sample in samples], images)
        trained = _judged(self.reward, self.validation, images)
        heldout = [None] * len(images) if self.heldout is None else _judged(self.heldout, self.heldout_contexts, images)
        changes = [
            self._change(context, image, reward.boxes if isinstance(reward, EditReward) else ())
            for context, image, reward in zip(self.validation, images, trained, strict=True)
            if image is not None
        ]
        line: dict[str, Any] = {
            "kind": "validation", "step": done,
            "reward": trained, "heldout": heldout, "reward_mean": _mean(trained), "heldout_mean": _mean(heldout),
            "guard": self._means(changes),
        }  # fmt: skip
        return self.decide(line)

    def decide(self, line: dict[str, Any]) -> dict[str, Any]:
        """Adds to a validation's line what it comes to beside those before it, and remembers it."""
        self.validations.append(line)
        measures = [one["guard"] for one in self.validations]
        line["alerts"] = self._drifts(measures, 1, self.settings.paired, "validation edits") + self._timid(measures)
        line["alerts"] += self._unjudged(line)
        found = divergence([one["reward"] for one in self.validations], [one["heldout"] for one in self.validations])
        line["diverges"] = found is not None and found.alarming(
            self.settings.least_rise, self.settings.least_fall, self.settings.errors
        )
        if found is not None and line["diverges"]:
            line["alerts"].append(
                _alert(
                    "divergence", found.fall, -self.settings.least_fall,
                    f"points is the change of the held-out reward since step {self.validations[found.best]['step']}, "
                    f"while the trained one changed by {found.rise:+.2f}: the judge is being gamed",
                )
            )  # fmt: skip
        patience = self.settings.patience
        recent = self.validations[-patience:]
        line["stop"] = self.settings.stop and len(recent) == patience and all(one["diverges"] for one in recent)
        return line

    # --- measures ------------------------------------------------------------------------------------------------

    def _change(self, context: Context, image: bytes, boxes: Sequence[Box]) -> EditChange:
        source_HW3 = decode_rgb(context.sample.source)
        height, width = source_HW3.shape[:2]
        before_HW3, after_HW3 = to_same_size(source_HW3, decode_rgb(image), MEASURED_PIXELS)
        mask_HW = self._mask(context.sample, boxes, height, width)
        if mask_HW is not None and mask_HW.shape != before_HW3.shape[:2]:
            rows = np.arange(before_HW3.shape[0]) * mask_HW.shape[0] // before_HW3.shape[0]
            columns = np.arange(before_HW3.shape[1]) * mask_HW.shape[1] // before_HW3.shape[1]
            mask_HW = mask_HW[np.ix_(rows, columns)]
        return measure_change(before_HW3, after_HW3, mask_HW)

    def _mask(self, sample: Sample, boxes: Sequence[Box], height: int, width: int) -> np.ndarray | None:
        if re.sub(r"[\s_-]+", " ", sample.category).strip().lower() in GLOBAL_EDITS:
            return None
        region = self.regions.get(sample.id, boxes)
        if isinstance(region, np.ndarray):
            return region.astype(bool)
        return box_mask(region, height, width) if len(region) else None

    def _means(self, changes: Sequence[EditChange]) -> dict[str, float | None]:
        """Means over edits; None where none has the measure."""
        rows = [asdict(change) for change in changes]
        means = {one.name: _mean([row[one.name] for row in rows]) for one in fields(EditChange)}
        copies = [float(change.shift <= self.settings.copy_shift) for change in changes]
        return {"copies": _mean(copies), **means}

    def _drifts(
        self, measures: Sequence[dict[str, float | None]], window: int, share: float, of: str
    ) -> list[dict[str, Any]]:
        """Alerts for what changed by more than its limit; copies and changes outside count when they rise.

        share: of the limits of the pictures' look.
        """
        limits = {
            "copies": (self.settings.max_copies, "is the rise of the share of unedited copies"),
            "outside": (self.settings.max_outside, "is the rise of the share of pixels changed outside the edit"),
            "brightness": (share * self.settings.max_brightness, "levels is the change of brightness"),
            "saturation": (share * self.settings.max_saturation, "levels is the change of saturation"),
            "sharpness": (share * self.settings.max_sharpness, "octaves is the change of sharpness"),
        }
        alerts = []
        for name, (limit, words) in limits.items():
            change = change_since_start([one[name] for one in measures], window)
            size = None if change is None else change if name in ("copies", "outside") else abs(change)
            if change is not None and size is not None and size > limit:
                alerts.append(_alert(name, change, limit, f"{words} in {of} since the start"))
        return alerts

    def _timid(self, measures: Sequence[dict[str, float | None]]) -> list[dict[str, Any]]:
        """An alert where edits change their source by less than at the start."""
        shifts = [one["shift"] for one in measures if one["shift"] is not None]
        if not shifts or not shifts[0]:
            return []
        fall, limit = 1 - shifts[-1] / shifts[0], self.settings.max_timid
        words = "of what validation edits changed of a source at the start is no longer changed"
        return [_alert("timid", fall, limit, words)] if fall > limit else []

    def _unjudged(self, line: dict[str, Any]) -> list[dict[str, Any]]:
        """An alert where too few validation edits have a reward to tell by: a guard must not fall silent unseen."""
        asked = {"reward": "a reward: the judge failed, or the edit did"}
        if self.heldout is not None:
            asked["heldout"] = (
                "a held-out reward, so that nothing tells whether the other is earned: see that the held-out judge "
                "answers, or give one (--heldout.address); one principle of Instruction Following alone is not held out"
            )
        for name, words in asked.items():
            share = sum(one is None for one in line[name]) / max(1, len(line[name]))
            if share > self.settings.max_failed:
                words = f"is the share of validation edits without {words}"
                return [_alert(f"no {name}", share, self.settings.max_failed, words)]
        return []


def _judged(reward: Reward, contexts: Sequence[Context | None], images: Sequence[bytes | None]) -> list[float | None]:
    """The reward of every image that is there, None for the others."""
    asked = [
        (place, context, image)
        for place, (context, image) in enumerate(zip(contexts, images, strict=True))
        if context is not None and image is not None
    ]
    values = reward([context for _, context, _ in asked], [image for _, _, image in asked]) if asked else []
    found: list[float | None] = [None] * len(images)
    for (place, _, _), value in zip(asked, values, strict=True):
        found[place] = None if value is None or value != value else value
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None


def _alert(name: str, value: float, limit: float, words: str) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "message": f"{value:.3g} {words} (limit {limit:g})"}
