"""How well a verifier writes principles itself: its questions for held-out EditWorld contexts against the exact ones.

    python bench/decomposition.py [--model runs/demo/gcpo/model] [--contexts 100]

A question counts as found when it is word for word one of the world's own, which are what its training showed it.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from edit_r1.demo.showing import exact_principles
from edit_r1.recipes.tiny import role_samples
from edit_r1.report.terminal import quiet_libraries
from edit_r1.stats import bootstrap_ci
from edit_r1.verifier.scoring import UnparsedPrinciples, Verifier
from edit_r1.zoo.packaged import weights


def main(model: Path | None = None, contexts: int = 100, seed: int = 0) -> None:
    """model: folder of a verifier; without it the packaged one. seed: of the contexts, split test."""
    quiet_libraries()
    samples = role_samples("test", contexts, seed)
    found, wanted, written, repeated, exact, unparsed = [], [], [], [], 0, 0
    with Verifier.load(model or weights("verifier-small-rrm"), batch_size=1, cache=None) as verifier:
        for sample in samples:
            right = {principle.question for principle in exact_principles(sample)}
            try:
                own = {principle.question for principle in verifier.principles([sample.source], sample.instruction)}
            except UnparsedPrinciples:
                own = set()
                unparsed += 1
            found.append(len(own & right))
            wanted.append(len(right))
            written.append(len(own))
            repeated.append(verifier.repeated([sample.source], sample.instruction))
            exact += own == right
    print(f"{contexts} contexts, {unparsed} unparsed, {exact} lists exactly right")
    print(f"{sum(repeated)} questions left out as repetitions, in {sum(count > 0 for count in repeated)} lists")
    for name, totals in (("recall", wanted), ("precision", written)):
        shares = [hit / max(1, total) for hit, total in zip(found, totals, strict=True)]
        estimate = bootstrap_ci(shares)
        low, high = estimate.ci95 or (float("nan"), float("nan"))
        print(f"{name}: mean over contexts {estimate.mean:.3f} ({low:.3f} to {high:.3f}), "
              f"over questions {sum(found) / max(1, sum(totals)):.3f}")  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main)
