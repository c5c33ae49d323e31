"""The verdict of `evaluate readiness`: what a judge must reach before an editor is trained on it, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edit_r1.evaluate.readiness import Lift, ProbeCost, Reliability
from edit_r1.stats import Estimate


@dataclass(frozen=True)
class ReadinessThresholds:
    """What a judge must reach before an editor is trained on it; None asks nothing. All are ours, with their reason."""

    max_unparsed: float | None = 0.05
    """Share of traces without a score. Each is an edit that was paid for and teaches nothing, and what cannot be parsed
    is rarely a random choice of edits."""
    min_reliability: float | None = 0.5
    """Of the reward as it is given, the mean of the traces. Below a half, an advantage is more of the judge's dice than
    of the edit."""
    max_no_spread: float | None = 0.3
    """Share of groups without spread. Their edits are sampled and judged for nothing: at 0.3 a run costs 1.4 times."""
    min_lift: float | None = 0.0
    """Points that the best of a group by the judge must gain on the group's mean, by the reference, else by other
    traces of the same judge; the whole interval must lie above. RL moves towards what is chosen: where choosing gains
    nothing, training gains nothing."""
    min_rank_correlation: float | None = 0.3
    """Within groups, with the reference; the interval must lie above 0 too. Were both jointly normal, choosing would
    gain this share of what there is to gain."""
    min_near_accuracy: float | None = 0.5
    """On near-equal pairs of a group, with the reference; the whole interval must lie above. A coin has 0.5."""
    min_no_edit_cost: float | None = 4.0
    """Points that an unedited copy, another image's edit, a swapped instruction and a black image must cost, each, in
    the mean: half of the way from nearly usable (8) to unusable (0), where they belong. They need no editing at all, so
    what they are paid is the shortest way for an editor to please the judge."""
    min_damage_cost: float | None = 0.0
    """Points that blur, a border and a tint must cost, each; the whole interval must lie above. Free damage is where
    rewards are hacked later: over-sharpened, framed, tinted pictures."""
    min_probed: int = 8
    """Contexts with a good edit to probe, for each probe those where both have a score; fewer say too little."""
    min_per_second: float | None = None
    """Edits judged a second. Depends on the machine, so nothing is asked unless you do."""


MORE = "give more contexts, or more edits of each"
"""The remedy where there was too little to measure."""


def looser(told: Mapping[str, Any], required: ReadinessThresholds) -> list[str]:
    """Thresholds of a verdict, by name, that ask less than `required`, in words. What is not told is not compared.

    Raises TypeError for what is no number.
    """
    found = []
    for name, least in asdict(required).items():
        if least is None or name not in told:
            continue
        was = told[name]
        if was is None or not (was <= least if name.startswith("max_") else was >= least):
            found.append(f"{name} {'off' if was is None else was} there, {least:g} required")
    return found


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    value: float | None
    """None when it could not be measured, which passes no threshold."""
    ci95: list[float] | None
    threshold: float | None
    """None: reported, not required."""
    passed: bool | None
    """None where nothing is required."""
    told: str
    """What was measured, for a person."""
    remedy: str
    """What to do where it failed."""
    asked: str = "not required"
    """What the threshold asks, in words."""


@dataclass(frozen=True)
class Measured:
    """Everything that the verdict looks at."""

    traces: int
    """N, whose mean is the reward."""
    unparsed: float
    """Share of all traces without a score, 0 to 1."""
    reliability: Reliability
    no_spread: Estimate | None
    lift: Lift | None
    lift_by: str
    """Who measured the lift: the reference's name, or "other traces of the judge"."""
    rank: Estimate | None
    rank_flat: int
    near: Estimate | None
    near_points: float
    """Largest reference gap of a near-equal pair."""
    reference: str | None
    probes: tuple[ProbeCost, ...]
    probed: int
    """Contexts whose edit was good enough to be probed."""
    per_second: float | None


def verdict(measured: Measured, thresholds: ReadinessThresholds, no_edit: Sequence[str]) -> list[Check]:
    """Every check, in the order of the page; `no_edit` names the probes to which `min_no_edit_cost` applies."""
    t, m = thresholds, measured
    icc = m.reliability.of_mean(m.traces)
    traces = f"{m.traces} {'trace' if m.traces == 1 else 'traces'} an edit"
    checks = [
        _check(
            "unparsed traces",
            (m.unparsed, None),
            t.max_unparsed,
            lambda value: f"{value:.1%} of the traces have no score",
            "train the format, raise the token limit, or take another judge",
            most=True,
        ),
        _check(
            "reliability",
            None if icc is None else (icc, m.reliability.ci95_of_mean(m.traces)),
            t.min_reliability,
            lambda value: f"{value:.2f} of the variance within groups is the edits', {traces}",
            "average more traces (their noise falls with their number), or train the judge",
        ),
        _check(
            "groups without spread",
            _of(m.no_spread),
            t.max_no_spread,
            lambda value: f"{value:.1%} of the groups have one reward for all edits",
            "average more traces, reward verdicts, or take other contexts",
            most=True,
        ),
        _check(
            "lift of best of G",
            _of(None if m.lift is None else m.lift.gain),
            t.min_lift,
            lambda value: f"{value:+.2f} points over the group's mean{_share(m.lift)}, by {m.lift_by}",
            "the judge's favourites are no better than the rest: train the judge before the editor",
            above=t.min_lift,
            more="give a reference, or more edits of each context",
        ),
    ]
    if m.reference is not None:
        checks += [
            _check(
                "rank correlation",
                _of(m.rank),
                t.min_rank_correlation,
                lambda value: (
                    f"{value:.2f} with {m.reference} within groups"
                    + (f"; {m.rank_flat} on which the judge is flat count as 0" if m.rank_flat else "")
                ),
                "a judge that orders groups badly trains something else: train it on pairs of this editor",
                above=0.0,
                more=f"{m.reference} tells no two edits of a group apart: {MORE}",
            ),
            _check(
                "near-equal pairs",
                _of(m.near),
                t.min_near_accuracy,
                lambda value: (
                    f"{value:.1%} right of {0 if m.near is None else m.near.n} pairs at most {m.near_points:g} points "
                    f"apart by {m.reference}"
                ),
                "RL compares near-equal edits: train the judge on such pairs, or give more contexts if they are few",
                above=t.min_near_accuracy,
                more=f"{m.reference} has no two edits of a group so near: {MORE}",
            ),
        ]
    checks += [_probe_check(probe, m.probed, t, probe.name in no_edit) for probe in m.probes]
    checks.append(
        _check(
            "speed",
            None if m.per_second is None else (m.per_second, None),
            t.min_per_second,
            lambda value: f"{value:.2f} edits judged a second",
            "serve the judge, on more GPUs",
        )
    )
    return checks


def _probe_check(probe: ProbeCost, probed: int, t: ReadinessThresholds, no_edit: bool) -> Check:
    asked = t.min_no_edit_cost if no_edit else t.min_damage_cost
    remedy = f"{probe.name} must cost points: train the judge on such edits, or guard against them"
    scored = 0 if probe.cost is None else probe.cost.n
    if min(probed, scored) < t.min_probed and asked is not None:
        told, more = _too_few(probe, probed, t)
        return Check(probe.name, None, None, asked, False, told, more, _asked(asked, False, None if no_edit else asked))

    def told_of(value: float) -> str:
        lost = f", {probe.unscored} more have no score" if probe.unscored else ""
        return f"costs {value:.1f} points of a good edit, something on {probe.lower or 0:.0%} of {scored}{lost}"

    return _check(probe.name, _of(probe.cost), asked, told_of, remedy, above=None if no_edit else asked)


def _too_few(probe: ProbeCost, probed: int, t: ReadinessThresholds) -> tuple[str, str]:
    """Why a probe says too little, and what gives more."""
    needed = f"{t.min_probed} are needed"
    if probed < t.min_probed:
        return f"{probed} contexts have an edit good enough to probe, {needed}", "give more contexts"
    scored = 0 if probe.cost is None else probe.cost.n
    if scored + probe.unscored < t.min_probed:
        told = f"{scored + probe.unscored} contexts have another one with another source and instruction, {needed}"
        return told, "give contexts of more sources"
    told = f"{scored} of {scored + probe.unscored} have a score both with and without it, {needed}"
    return told, "raise the token limit, train the format, or give more contexts"


def _share(lift: Lift | None) -> str:
    return "" if lift is None or lift.share is None else f", {lift.share:.0%} of what there was to gain"


Value = tuple[float, list[float] | None]
"""What was measured, and its interval."""


def _of(estimate: Estimate | None) -> Value | None:
    return None if estimate is None else (estimate.mean, estimate.ci95)


def _check(
    name: str,
    found: Value | None,
    threshold: float | None,
    told: Callable[[float], str],
    remedy: str,
    most: bool = False,
    above: float | None = None,
    more: str = MORE,
) -> Check:
    """most: the threshold is an upper bound. above: the whole interval must lie above this too. more: the remedy where
    nothing could be measured."""
    asked = _asked(threshold, most, above)
    if found is None:
        missed = None if threshold is None else False
        return Check(name, None, None, threshold, missed, "could not be measured", more, asked)
    value, ci95 = found
    passed = None
    if threshold is not None:
        passed = value <= threshold if most else value >= threshold
        if above is not None:
            passed = passed and ci95 is not None and ci95[0] > above
    return Check(name, value, ci95, threshold, passed, told(value), remedy, asked)


def _asked(threshold: float | None, most: bool, above: float | None) -> str:
    if threshold is None:
        return "not required"
    if above == threshold:
        return f"required: the whole interval above {threshold:g}"
    bound = f"required: at {'most' if most else 'least'} {threshold:g}"
    return bound if above is None else f"{bound}, and the whole interval above {above:g}"
