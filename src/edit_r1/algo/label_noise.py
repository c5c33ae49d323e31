"""How often preference labels are wrong, and what a label is worth then."""

from __future__ import annotations

import math


def flip_rate(disagreement: float) -> float:
    """The flip rate e of annotators who err alike and independently: two of them disagree with d = 2e(1 - e).

    disagreement: d, the share of doubly judged pairs whose two decided answers differ, [0, 1]. Returns e in [0, 0.5];
    0.5 where they disagree as often as coins do. Errors that annotators share are not seen.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    if not 0 <= disagreement <= 1:
        raise ValueError(f"disagreement={disagreement}: a share of doubly judged pairs, 0 to 1")
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def after_flips(label: float, rate: float) -> float:
    """The probability that the winner is the better one, when a label of probability `label` is flipped at `rate`."""
    return label * (1 - rate) + (1 - label) * rate
