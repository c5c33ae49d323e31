"""Gold verdicts and utility of a candidate, from its scene graph. `perceive.py` is the way in from pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edit_r1.world.checks import Check, checks_for, core_checks, holds
from edit_r1.world.edits import Edit
from edit_r1.world.frozen import COLLATERAL_CHANGE, MISSED_SIDE_POINT, QUALITY_COST
from edit_r1.world.scenes import Damage, Scene


@dataclass(frozen=True)
class Gold:
    """The oracle's word on one candidate."""

    checks: tuple[Check, ...]
    values: tuple[int, ...]
    """0 or 1 per check."""
    utility: float
    """0 to 10."""


def utility(checks: Sequence[Check], values: Sequence[int], cores: Sequence[Check]) -> float:
    """0 to 10 under the paper's rules, as a function of the verdicts alone.

    Nothing of the core done (an unedited or hardly edited picture, the wrong thing edited) is 0, and so
    is a white border. A step of several counts in proportion. Every missed side point, collateral change
    and damage then costs what `frozen.py` says.
    """
    by_check = dict(zip(checks, values, strict=True))
    share = sum(by_check[core] for core in cores) / len(cores)
    if share == 0 or not by_check.get(Check("border"), 1):
        return 0.0
    score = 10.0 * share
    for check, value in by_check.items():
        if value or check in cores:
            continue
        if check.kind in QUALITY_COST:
            score -= QUALITY_COST[check.kind]
        elif check.kind.startswith(("keep", "nothing")):
            score -= COLLATERAL_CHANGE
        else:
            score -= MISSED_SIDE_POINT
    return max(0.0, score)


def judge(source: Scene, edit: Edit, edited: Scene, damage: Damage) -> Gold:
    """Gold verdict of every principle of (source, edit), and the utility."""
    checks = checks_for(source, edit)
    values = [int(holds(check, source, edited, damage)) for check in checks]
    return Gold(tuple(checks), tuple(values), utility(checks, values, core_checks(source, edit)))
