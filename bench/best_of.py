"""What best of N by the verifier is worth, and what a repaired instruction adds: EditWorld's oracle decides.

    python bench/best_of.py --contexts 48 --out runs/best_of.json

Contexts of the validation split, the packaged editor and verifier. Four ways to spend edits on each: the first one; the
best of N; the best of N and of N more asked with the repaired instruction (`best_of` with `retry=1`); and, at the same
cost, the best of 2 N asked as given. The last N of both have the same seeds, so they differ in the instruction alone.
Differences are paired by context, with 95 % bootstrap intervals over contexts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro

from edit_r1.editors.protocol import Editor
from edit_r1.evaluate.best_of import Attempt, best_attempt, best_of
from edit_r1.images import decode_rgb
from edit_r1.recipes.tiny import tiny_editor
from edit_r1.records import Principle, Sample
from edit_r1.report.terminal import quiet_libraries
from edit_r1.stats import Estimate, bootstrap_ci, paired_difference
from edit_r1.store import write_json
from edit_r1.verifier.repair import MAX_CHARS
from edit_r1.verifier.scoring import Verifier
from edit_r1.world.checks import checks_for, principle
from edit_r1.world.perceive import judge_pixels
from edit_r1.world.samples import edit_of, make_samples, scene_of
from edit_r1.zoo.packaged import packaged_verifier


@dataclass(frozen=True)
class Row:
    """The oracle's scores of one context, 0 to 10."""

    id: str
    category: str
    first: float
    mean: float
    """Of the N as given: what a random choice would be worth."""
    best: float
    """Best of N by the verifier."""
    repaired: float
    """Best of N and of N repaired; `best` where nothing had failed by the verifier."""
    twice: float
    """Best of 2 N as given; `best` where nothing was repaired, so that both cost the same."""
    ceiling: float
    """Best of N by the oracle itself."""
    second_round: tuple[float, float] | None
    """Mean of the N repaired and of the N as given with the same seeds; None where nothing was repaired."""
    instruction: str
    asked: str | None
    """The repaired instruction."""


def main(
    contexts: int = 48,
    samples: int = 4,
    traces: int = 1,
    seed: int = 0,
    max_chars: int = MAX_CHARS,
    out: Path = Path("runs/best_of.json"),
) -> None:
    """Prints a table and writes every number.

    Args:
        contexts: of the validation split, drawn from `seed`.
        samples: N.
        traces: of the verifier for each edit; 1 is greedy.
        max_chars: longest repaired instruction.
    """
    quiet_libraries()
    start = time.monotonic()
    editor, verifier = tiny_editor(), packaged_verifier()
    rows = [
        measure(editor, verifier, sample, samples, traces, max_chars)
        for sample in make_samples(contexts, "validation", seed)
    ]
    table = summary(rows)
    for name, estimate in table.items():
        low, high = estimate.ci95 or (float("nan"), float("nan"))
        print(f"{name:48} {estimate.mean:6.2f}  ({low:.2f} to {high:.2f}), n {estimate.n}")
    read = editor.pipeline.tokenizer_2.model_max_length
    cut = sum(len(editor.pipeline.tokenizer_2(row.asked).input_ids) > read for row in rows if row.asked is not None)
    print(f"{sum(row.asked is not None for row in rows)} of {len(rows)} contexts repaired; {cut} of their instructions "
          f"are longer than the {read} tokens that the editor reads; {time.monotonic() - start:.0f} s")  # fmt: skip
    settings = {"contexts": contexts, "samples": samples, "traces": traces, "seed": seed, "max_chars": max_chars}
    shown = {name: {"mean": one.mean, "ci95": one.ci95, "n": one.n} for name, one in table.items()}
    read_and_cut = {"tokens_read": read, "cut": cut}
    write_json(out, {**settings, **read_and_cut, "summary": shown, "rows": [asdict(row) for row in rows]})


def measure(editor: Editor, verifier: Verifier, sample: Sample, samples: int, traces: int, max_chars: int) -> Row:
    """All ways on one context, judged by its exact principles."""
    checks = checks_for(scene_of(sample), edit_of(sample))
    principles = tuple(principle(check) for check in checks)
    attempts = best_of(editor, verifier, sample, samples, 1, principles, traces, max_chars=max_chars)
    given, repaired = attempts[:samples], attempts[samples:]
    oracle = {attempt.image: utility(sample, attempt) for attempt in attempts}
    plain: Sequence[Attempt] = ()
    if repaired:
        plain = second_plain(editor, verifier, sample, samples, traces, principles)
        oracle |= {attempt.image: utility(sample, attempt) for attempt in plain}
    scores = [oracle[attempt.image] for attempt in given]
    rounds = None
    if repaired:
        means = [sum(oracle[attempt.image] for attempt in part) / samples for part in (repaired, plain)]
        rounds = (means[0], means[1])
    return Row(
        sample.id, sample.category, scores[0], sum(scores) / samples, chosen(given, oracle), chosen(attempts, oracle),
        chosen([*given, *plain], oracle), max(scores), rounds, sample.instruction,
        repaired[0].instruction if repaired else None,
    )  # fmt: skip


def second_plain(
    editor: Editor, verifier: Verifier, sample: Sample, samples: int, traces: int, principles: Sequence[Principle]
) -> tuple[Attempt, ...]:
    """N more as given, with the seeds of the repaired round."""
    more = best_of(editor, verifier, sample, samples, 0, principles, traces, seed=samples)
    return tuple(replace(attempt, round=1) for attempt in more)


def chosen(attempts: Sequence[Attempt], oracle: dict[bytes | None, float]) -> float:
    """The oracle's score of what the verifier chose; of the first where it could judge none."""
    return oracle[(best_attempt(attempts) or attempts[0]).image]


def utility(sample: Sample, attempt: Attempt) -> float:
    """By the oracle, from pixels alone. Raises ValueError for an edit that failed: it has no score."""
    if attempt.image is None:
        raise ValueError(f"the editor made no picture for {sample.id}: {attempt.error}")
    return judge_pixels(scene_of(sample), edit_of(sample), decode_rgb(attempt.image)).utility


def summary(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Means, then paired differences."""
    arms = {name: [getattr(row, name) for row in rows] for name in
            ("first", "mean", "best", "repaired", "twice", "ceiling")}  # fmt: skip
    table = {f"oracle score, {name}": bootstrap_ci(values) for name, values in arms.items()}
    for new, old in (
        ("best", "first"),
        ("best", "mean"),
        ("repaired", "best"),
        ("twice", "best"),
        ("repaired", "twice"),
    ):
        table[f"{new} - {old}"] = paired_difference(arms[new], arms[old])
    rounds = [row.second_round for row in rows if row.second_round is not None]
    if rounds:
        table["mean edit: repaired - as given, same seeds"] = paired_difference(*map(list, zip(*rounds, strict=True)))
    return table


if __name__ == "__main__":
    tyro.cli(main)
