"""Measures for `evaluate readiness`: groups of one editor's edits, repeated traces, a reference, probes.

OUT/benchmark.json, OUT/editors/...        the edits, as `evaluate.editor_runs` keeps them
OUT/judgments/JUDGE/HASH.json              every judgment, named after what was asked, as soon as it is there

A run that was stopped goes on: what is on disk is neither edited nor judged again. The traces of a judgment that a
stopped run lost are drawn anew, so its numbers are another draw of the same law.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_r1.evaluate import probes
from edit_r1.evaluate.editor_benchmarks import Task
from edit_r1.evaluate.editor_runs import MadeEdit, Progress
from edit_r1.evaluate.readiness import (
    Reliability,
    best_of_g_lift,
    near_pair_accuracy,
    no_spread,
    probe_cost,
    rank_correlation,
    reliability,
)
from edit_r1.evaluate.readiness_verdict import Measured
from edit_r1.records import Judgment, Principle, Unparsed
from edit_r1.stats import Estimate
from edit_r1.store import StoreError, read_json, write_json
from edit_r1.store.tables import outcome_from_row, outcome_to_row
from edit_r1.verifier.head_judge import HEAD_VERSION, HeadJudge
from edit_r1.verifier.items import ScoreItem, question_key
from edit_r1.verifier.judgments import aggregate
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.verifier.scoring import Verifier
from edit_r1.vlm.paid import named

RewardOf = Callable[[Judgment], float | None]
"""What an editor's training rewards of a judgment, 0 to 10; None when it is missing."""
REPEATS = 4
"""Traces sampled beside a greedy one, whose own spread between repeats is none."""
GOOD = 5.0
"""Least score of an edit that is probed: below "partly usable" there is nothing to take points for."""
NEAR = 2.0
"""Points of the reference within which two edits are near-equal."""
CHUNK = 64
"""Judgments asked for in one call, and lost at most by a kill."""


@dataclass(frozen=True)
class JudgeAsked:
    """How the judge is asked, as in training."""

    traces: int
    """N; 1 is greedy."""
    seed: int = 0
    draws: bool = True
    """False for a judge that samples nothing (a discriminative head): asked again it says the same, so its repeats are
    its one answer, and no other draw of it can measure what its choice gains."""


class JudgmentStore:
    """A judge whose judgments are kept in a folder."""

    def __init__(self, folder: Path, judge: Verifier | HeadJudge, progress: Progress | None = None) -> None:
        self.folder, self.judged_by, self.progress = folder, judge, progress
        self.done = self.planned = 0

    def judge(self, items: Sequence[ScoreItem], traces: int, temperature: float | None, seed: int) -> list[Judgment]:
        """One judgment per item, in order; each different question is asked once.

        Raises ValueError when a whole chunk gets no answer: the model is gone, and the same call goes on. StoreError
        for a disk, or a file that is not ours.
        """
        names = [question_key(item, traces, temperature, seed)[:32] for item in items]
        found: dict[str, Judgment] = {}
        missing: dict[str, ScoreItem] = {}
        for name, item in zip(names, items, strict=True):
            if name in found or name in missing:
                continue
            kept = self._read(name, item)
            if kept is None:
                missing[name] = item
            else:
                found[name] = kept
        self._told(len(found))
        order = list(missing)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            judged = self.judged_by.score_many([missing[name] for name in chunk], traces, temperature, seed + start)
            for name, judgment in zip(chunk, judged, strict=True):
                found[name] = judgment
                if not _failed_calls(judgment):
                    self._write(name, judgment)
            if all(_unanswered(judgment) for judgment in judged):
                reason = next(one.reason for one in judged[0].outcomes if isinstance(one, Unparsed))
                raise ValueError(f"{self.judged_by.vlm.name} gives no answers ({reason}); the same command goes on")
            self._told(len(chunk))
        return [found[name] for name in names]

    def _told(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, max(self.planned, self.done))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, name: str, judgment: Judgment) -> None:
        principles = [{"question": one.question, "category": one.category} for one in judgment.principles]
        rows = [outcome_to_row(outcome) for outcome in judgment.outcomes]
        write_json(self._path(name), {"principles": principles, "outcomes": rows, "seconds": judgment.seconds})

    def _read(self, name: str, item: ScoreItem) -> Judgment | None:
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            row = read_json(path)
            principles = [Principle(one["question"], one["category"]) for one in row["principles"]]
            outcomes = [outcome_from_row(one) for one in row["outcomes"]]
            asked = item.principles or principles
            model = self.judged_by.vlm
            return aggregate(outcomes, asked, model.name, row["seconds"], model.simulated)
        except (KeyError, TypeError, StoreError) as error:
            raise StoreError(f"{path}: not a judgment that was written here ({error}): remove it") from error


def _failed_calls(judgment: Judgment) -> list[Unparsed]:
    """Traces of it that are none. With any, it is not kept, and a later run asks for all of them again."""
    return [one for one in judgment.outcomes if isinstance(one, Unparsed) and one.failed_call]


def lost_calls(judgment: Judgment) -> int:
    """How many of its traces never came, as opposed to those of an edit that could not be asked about."""
    return sum("no answer came" in one.reason for one in _failed_calls(judgment))


def _unanswered(judgment: Judgment) -> bool:
    return 0 < len(judgment.outcomes) == lost_calls(judgment)


def judged_as(judge: Verifier | HeadJudge, identity: str) -> str:
    """Name of the folder of a judge's judgments: everything about it that shapes them, hashed.

    identity: of its model, and of who writes its principles (`judge_identity.answering_identity`).
    """
    if isinstance(judge, HeadJudge):
        told = [identity, HEAD_VERSION, judge.max_pixels]
    else:
        told = [identity, judge.mode, judge.variant, judge.max_new_tokens, judge.max_pixels, judge.principles_vlm.name]
        told += [PROMPT_VERSIONS[variant] for variant in (judge.variant, judge.principles_variant)]
        told += named(judge.vlm)[1:]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Groups:
    """One editor's edits of every context, judged: rewards_CG[c][g], None where there is none."""

    tasks: tuple[Task, ...]
    edits: tuple[tuple[MadeEdit, ...], ...]
    """Those with a picture; groups may be ragged."""
    rewards_CG: tuple[tuple[float | None, ...], ...]
    repeats_CGN: tuple[tuple[tuple[float, ...], ...], ...]
    """The reward of each parsed trace alone."""
    unparsed: int
    """Traces without a score, those that never came left out."""
    traces: int
    """All but those that never came."""
    seconds: float
    """Of all judgments that the reward is made of."""
    lost: int = 0
    """Traces that never came: nothing is known of them."""
    draws: bool = True
    """As `JudgeAsked.draws`."""

    @property
    def judged(self) -> int:
        return sum(len(group) for group in self.edits)


def judge_groups(
    store: JudgmentStore, groups: Sequence[Sequence[MadeEdit]], asked: JudgeAsked, reward: RewardOf
) -> Groups:
    """Judges every edit as training would, and by repeated traces. Raises ValueError as `JudgmentStore.judge`."""
    kept = [[edit for edit in group if edit.path is not None] for group in groups]
    items = [score_item(edit.task, edit.image()) for group in kept for edit in group]
    sampled_beside = asked.draws and asked.traces == 1
    store.planned += len(items) * (2 if sampled_beside else 1)
    judgments = store.judge(items, asked.traces, None, asked.seed)
    repeated = store.judge(items, REPEATS, 1.0, asked.seed) if sampled_beside else judgments
    rewards = iter([reward(judgment) for judgment in judgments])
    times = 1 if asked.draws else 2
    repeats = iter([times * tuple(trace_rewards(judgment, reward)) for judgment in repeated])
    lost = sum(lost_calls(judgment) for judgment in repeated)
    return Groups(
        tuple(group[0].task for group in groups),
        tuple(tuple(group) for group in kept),
        tuple(tuple(next(rewards) for _ in group) for group in kept),
        tuple(tuple(next(repeats) for _ in group) for group in kept),
        sum(judgment.unparsed for judgment in repeated) - lost,
        sum(judgment.traces for judgment in repeated) - lost,
        sum(judgment.seconds for judgment in judgments),
        lost,
        asked.draws,
    )


def trace_rewards(judgment: Judgment, reward: RewardOf) -> list[float]:
    """The reward of every parsed trace as if it were the only one."""
    principles = [Principle(one.question, one.category) for one in judgment.principles]
    alone = [
        reward(aggregate([outcome], principles, judgment.model, 0.0))
        for outcome in judgment.outcomes
        if not isinstance(outcome, Unparsed)
    ]
    return [value for value in alone if value is not None]


def score_item(task: Task, edited: bytes) -> ScoreItem:
    """An edit of a task as the verifier is asked about it."""
    return ScoreItem(task.sample.sources, edited, task.sample.instruction, task.principles)


# --- probes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probed:
    """One good edit and its probes, judged in one batch."""

    task: Task
    edit: MadeEdit
    score: float | None
    """Of the edit, judged again beside its probes."""
    pictures: Mapping[str, bytes]
    """By probe; a swapped instruction has the edit's own picture."""
    scores: Mapping[str, float | None]
    swapped: str
    """The instruction that the edit was judged by under "swapped instruction"."""


def probe_edits(
    store: JudgmentStore,
    groups: Groups,
    reference_CG: Sequence[Sequence[float | None]] | None,
    asked: JudgeAsked,
    reward: RewardOf,
) -> list[Probed]:
    """The best edit of every context under every probe of `evaluate.probes`.

    The best is chosen by the reference, else by the judge's own reward, and must reach `GOOD` there. It is judged again
    beside its probes, with other seeds: chosen for its score it would lose points by that alone.
    """
    chosen: list[tuple[Task, MadeEdit]] = []
    for c, task in enumerate(groups.tasks):
        values = groups.rewards_CG[c] if reference_CG is None else reference_CG[c]
        ranked = [(value, -g) for g, value in enumerate(values) if value is not None and value >= GOOD]
        if ranked:
            chosen.append((task, groups.edits[c][-max(ranked)[1]]))
    if not chosen:
        return []
    others = [_other(place, chosen) for place in range(len(chosen))]
    pictures = [
        _pictures(task, edit, None if other is None else other[1])
        for (task, edit), other in zip(chosen, others, strict=True)
    ]
    items: list[ScoreItem] = []
    keys: list[tuple[int, str]] = []
    for place, ((task, edit), other) in enumerate(zip(chosen, others, strict=True)):
        items.append(score_item(task, edit.image()))
        keys.append((place, ""))
        for name, picture in pictures[place].items():
            judged_task = other[0] if name == probes.SWAPPED and other is not None else task
            by = judged_task.sample.instruction, judged_task.principles
            items.append(ScoreItem(task.sample.sources, picture, *by))
            keys.append((place, name))
    store.planned += len(items)
    # A seed of its own: the edit is not judged by the very traces that it was chosen by.
    judgments = dict(zip(keys, store.judge(items, asked.traces, None, asked.seed + 500_000), strict=True))
    return [
        Probed(
            task, edit, reward(judgments[place, ""]), pictures[place],
            {name: reward(judgments[place, name]) for name in pictures[place]},
            "" if (other := others[place]) is None else other[0].sample.instruction,
        )
        for place, (task, edit) in enumerate(chosen)
    ]  # fmt: skip


def _other(place: int, chosen: Sequence[tuple[Task, MadeEdit]]) -> tuple[Task, MadeEdit] | None:
    """The next context with another source and another instruction, of another kind of edit where there is one."""
    own = chosen[place][0].sample
    turned = [chosen[(place + step) % len(chosen)] for step in range(1, len(chosen))]
    differ = [
        one
        for one in turned
        if one[0].sample.source != own.source and one[0].sample.instruction.casefold() != own.instruction.casefold()
    ]
    kinds = [one for one in differ if one[0].sample.category != own.category]
    pool = kinds or differ
    return pool[0] if pool else None


def _pictures(task: Task, edit: MadeEdit, other: MadeEdit | None) -> dict[str, bytes]:
    image = edit.image()
    made = {name: make(image) for name, make in probes.PICTURES.items()}
    made[probes.COPY] = task.sample.source
    if other is not None:
        made |= {probes.OTHER: other.image(), probes.SWAPPED: image}
    return {name: made[name] for name in probes.PROBES if name in made}


# --- everything together ------------------------------------------------------------------------------------------


def measure(
    groups: Groups,
    probed: Sequence[Probed],
    traces: int,
    reference_CG: Sequence[Sequence[float | None]] | None,
    reference: str | None,
    near: float = NEAR,
    seed: int = 0,
) -> Measured:
    """All numbers of the verdict. `reference` names who gave `reference_CG`; edits that either lacks are left out."""
    rewards = [[value for value in group if value is not None] for group in groups.rewards_CG]
    icc: Reliability = reliability(groups.repeats_CGN, seed)
    rank: tuple[Estimate | None, int, int] = (None, 0, 0)
    accuracy = None
    if reference_CG is not None:
        both = [_both(a, b) for a, b in zip(groups.rewards_CG, reference_CG, strict=True)]
        judged, truths = [pair[0] for pair in both], [pair[1] for pair in both]
        lift = best_of_g_lift(judged, truths, seed)
        rank = rank_correlation(judged, truths, seed)
        accuracy = near_pair_accuracy(judged, truths, near, seed)
        lift_by = str(reference)
    else:
        halves = [_halves(group) for group in groups.repeats_CGN] if groups.draws else []
        lift = best_of_g_lift([half[0] for half in halves], [half[1] for half in halves], seed)
        lift_by = "other traces of the judge"
    costs = tuple(
        probe_cost(
            name,
            [one.score for one in probed if name in one.scores],
            [one.scores[name] for one in probed if name in one.scores],
            seed,
        )
        for name in probes.PROBES
    )
    return Measured(
        traces=traces,
        unparsed=groups.unparsed / groups.traces if groups.traces else 1.0,
        reliability=icc,
        no_spread=no_spread(rewards, seed),
        lift=lift,
        lift_by=lift_by,
        rank=rank[0],
        rank_flat=rank[2],
        near=accuracy,
        near_points=near,
        reference=reference if reference_CG is not None else None,
        probes=costs,
        probed=len(probed),
        per_second=groups.judged / groups.seconds if groups.seconds > 0 else None,
    )


def _both(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[list[float], list[float]]:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _halves(group: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean of the even traces, and of the odd ones, of every edit that has both."""
    kept = [traces for traces in group if len(traces) >= 2]
    return [sum(t[0::2]) / len(t[0::2]) for t in kept], [sum(t[1::2]) / len(t[1::2]) for t in kept]


def stamp() -> str:
    """When a verdict was made, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def numbers(measured: Measured) -> dict[str, Any]:
    """What stands behind the checks, as JSON."""
    icc = measured.reliability
    lift = measured.lift
    return {
        "reliability": {
            "single_trace": icc.single,
            "single_trace_ci95": icc.single_ci95,
            "mean_of_traces": icc.of_mean(measured.traces),
            "variance_between_edits": icc.var_edits,
            "variance_between_traces": icc.var_traces,
            "edits": icc.edits,
            "traces": icc.traces,
        },
        "lift": None if lift is None else {
            "gain": lift.gain.mean, "ci95": lift.gain.ci95, "possible": lift.possible, "share": lift.share,
            "by": measured.lift_by,
        },
        "probes": {
            probe.name: {
                "cost": None if probe.cost is None else probe.cost.mean,
                "ci95": None if probe.cost is None else probe.cost.ci95,
                "mean_score": probe.mean,
                "lower_share": probe.lower,
                "unscored": probe.unscored,
            }
            for probe in measured.probes
        },
        "probed_contexts": measured.probed,
    }  # fmt: skip
