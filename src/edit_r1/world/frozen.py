"""The frozen numbers of EditWorld: rates, thresholds, weights. Version 1, fixed on 2026-11-21.

They were written down before any verifier or editor was trained on the world, and are never tuned to
make a result come out. A change needs a new version, new weights in the zoo, and new results; every
dataset made by the world records `VERSION`.

What a word means (from which blur on a picture is "blurry", ...) is in `describe.py`, with the words.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1

# --- the oracle's utility, 0 to 10 (paper.md section 2, "Rules the judge's prompt must carry") -------------

MISSED_SIDE_POINT: Final = 1.5
"""Cost of each failed Instruction Following principle that is not a step's core."""
COLLATERAL_CHANGE: Final = 2.5
"""Cost of each failed Feature Preservation principle: more than a missed side point."""
QUALITY_COST: Final = {"sharp": 3.0, "colours": 2.0}
"""Cost of each failed Image Quality principle; a white border makes the utility 0."""

# --- imperfect editors ---------------------------------------------------------------------------------------

CAREFUL_FLAW_RATE: Final = 0.2
"""How often the editor that is usually right has one random flaw."""
SMALL_SHIFT: Final = (3.2, 5.0)
"""A weak move displaces by this much, px; the request asks for 32 px, and 10 % of the picture is 6.4 px."""
WEAK_BLEND: Final = 0.3
"""Share of the new colour or background in a weak recolouring."""
WEAK_OPACITY: Final = 0.35
"""Opacity of a thing that was removed or added too weakly."""
WEAK_STRENGTH: Final = 0.3
"""Strength of a tone or style applied too weakly."""
WEAK_GROWTH: Final = 0.27
"""Share of the way from the old radius to the new one in a weak resizing."""
NOISE_RANGE: Final = (0.05, 0.09)
BLUR_RANGE: Final = (1.3, 2.0)
BORDER_RANGE: Final = (3, 6)
SATURATION_RANGE: Final = (1.9, 2.5)
DRIFT_RATE: Final = 0.5
"""How often a candidate also drifts below every threshold, which no principle asks about and annotators notice."""
DRIFT_SHIFT: Final = 1.6
DRIFT_TONE: Final = 0.2
DRIFT_BACKGROUND: Final = 0.15
DRIFT_NOISE: Final = 0.010

# --- the tiny editor's pretraining ------------------------------------------------------------------------------

FLAWED_TARGET_SHARE: Final = 0.25
"""Share of flawed targets in the editor's pretraining pairs, so that RL has something to mend."""
FLAWED_TARGET_PROFILES: Final = ("lazy", "leaky", "timid", "repainter", "rough")

# --- the simulated decomposer, judges and verifier -----------------------------------------------------------------

DECOMPOSER_OMITS: Final = 0.04
"""Chance of each Feature Preservation or Image Quality principle to be left out."""
DECOMPOSER_DOUBLES: Final = 0.03
"""Chance of a decomposition to hold one principle twice."""

SHARED_BLIND_SPOTS: Final = ("shifted", "leaked", "damage")
"""What judges and verifier alike are too kind to: the paper's one model decomposes, judges and verifies."""
JUDGE_PASSES: Final[dict[str, dict[str, float]]] = {
    "lenient": {"shifted": 0.90, "leaked": 0.80, "damage": 0.80, "weak": 0.75, "background": 0.45, "other": 0.15},
    "hasty": {"shifted": 0.85, "leaked": 0.85, "damage": 0.55, "weak": 0.50, "background": 0.60, "other": 0.25},
    "fussy": {"shifted": 0.65, "leaked": 0.55, "damage": 0.45, "weak": 0.35, "background": 0.20, "other": 0.08},
}
"""Per judge: chance that a failed principle is passed, by the kind of failure. The evidence stays what is seen."""
JUDGE_FAILS: Final[dict[str, float]] = {"lenient": 0.01, "hasty": 0.04, "fussy": 0.06}
"""Per judge: chance that a fulfilled principle is failed."""
JUDGE_UNPARSED: Final[dict[str, float]] = {"lenient": 0.02, "hasty": 0.05, "fussy": 0.01}
"""Per judge: chance that a trace breaks off and cannot be parsed."""
JUDGE_SCORE_NOISE: Final[dict[str, float]] = {"lenient": 0.5, "hasty": 1.0, "fussy": 0.5}
"""Standard deviation of what each judge adds to the score its own verdicts give."""
JUDGE_SCORE_OFFSET: Final[dict[str, float]] = {"lenient": 0.8, "hasty": 0.0, "fussy": -0.6}
VERIFIER_PASSES: Final = {
    "shifted": 0.70,
    "leaked": 0.50,
    "damage": 0.50,
    "weak": 0.30,
    "background": 0.10,
    "other": 0.04,
}
"""The external verifier is better than the judges, shares their blind spots, and is not perfect."""
VERIFIER_FAILS: Final = 0.01

# --- simulated annotators -----------------------------------------------------------------------------------------

ANNOTATOR_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "ada": {"done": 4.0, "collateral": 1.6, "shift": 0.9, "background": 1.2, "look": 1.2, "noise": 1.4, "blur": 1.4,
            "border": 2.5, "saturation": 0.9, "drift": 0.5, "contrast": 0.2},
    "ben": {"done": 3.2, "collateral": 2.0, "shift": 1.2, "background": 1.0, "look": 0.9, "noise": 1.8, "blur": 1.8,
            "border": 2.5, "saturation": 0.6, "drift": 0.7, "contrast": 0.1},
    "cleo": {"done": 4.5, "collateral": 1.4, "shift": 0.7, "background": 1.4, "look": 1.5, "noise": 1.0, "blur": 1.2,
             "border": 2.0, "saturation": 1.2, "drift": 0.4, "contrast": 0.3},
}  # fmt: skip
"""Per annotator: what each departure costs, and what a fulfilled instruction earns, in units of the choice's logit."""
ANNOTATOR_TEMPERATURE: Final = 0.45
"""Divides the difference of utilities before the Bradley-Terry choice."""
ANNOTATOR_SAME_BAND: Final = 0.35
"""Differences of utility below this are answered "same" with `ANNOTATOR_SAME_RATE`."""
ANNOTATOR_SAME_RATE: Final = 0.8
