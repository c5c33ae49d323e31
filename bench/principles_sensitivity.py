"""How much a verifier's score depends on who wrote the principles.

    python bench/principles_sensitivity.py --data runs/demo/data/test --contexts 60 --out runs/principles.json
    python bench/principles_sensitivity.py --data DIR --a recorded --b mine.json --model path/to/verifier

Writers: `recorded` (the principles that stand in the data; in the demo's, those of the simulated decomposer),
`exact` (EditWorld's own, complete), `reversed` (the recorded ones, last first), `model` (the verifier's own
decomposition), or a JSON file {sample id: [{"question", "category"}]}. Prints Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import tyro

from edit_r1.evaluate.principles import Interval, Sensitivity, principles_sensitivity
from edit_r1.records import Candidate, Context, Principle
from edit_r1.store import PREFERENCES, read_dataset, write_json
from edit_r1.verifier.scoring import ScoreItem, Verifier
from edit_r1.world.checks import checks_for, principle
from edit_r1.world.samples import edit_of, scene_of
from edit_r1.zoo.packaged import weights


def main(
    data: Path,
    a: str = "recorded",
    b: tuple[str, ...] = ("exact", "reversed"),
    contexts: int = 60,
    model: Path | None = None,
    traces: int = 1,
    out: Path | None = None,
) -> None:
    """
    Args:
        data: a finished dataset of preferences; its candidates are the edits.
        a: who wrote the principles that others are compared with.
        b: the other writers.
        contexts: the first so many sources.
        model: folder of a verifier; the packaged one when not given.
        traces: 1 is greedy.
        out: where the numbers go, JSON.
    """
    groups = grouped(data, contexts)
    verifier = Verifier.load(model or weights("verifier-small-rrm"), cache=None)
    items = [
        ScoreItem((context.sample.source,), candidate.image, context.sample.instruction)
        for context, candidates in groups
        for candidate in candidates
    ]
    sources = [context.sample.id for context, candidates in groups for _ in candidates]
    written = {name: per_item(name, groups, verifier) for name in (a, *b)}
    reports = {name: principles_sensitivity(verifier, items, sources, written[a], written[name], traces) for name in b}
    print("\n".join(table(a, reports)))
    if out is not None:
        write_json(out, {f"{a} against {name}": asdict(report) for name, report in reports.items()})


def grouped(data: Path, count: int) -> list[tuple[Context, list[Candidate]]]:
    """The first `count` contexts of the data with all their candidates."""
    groups: dict[str, tuple[Context, dict[str, Candidate]]] = {}
    for preference in read_dataset(data.parent, data.name, PREFERENCES):
        _, candidates = groups.setdefault(preference.context.sample.id, (preference.context, {}))
        candidates |= {candidate.id: candidate for candidate in (preference.first, preference.second)}
    return [(context, list(candidates.values())) for context, candidates in list(groups.values())[:count]]


def per_item(
    writer: str, groups: Sequence[tuple[Context, Sequence[Candidate]]], verifier: Verifier
) -> list[tuple[Principle, ...]]:
    """The writer's principles of every edit. ValueError when a context has none."""
    file = json.loads(Path(writer).read_bytes()) if writer.endswith(".json") else {}
    by_context: list[tuple[Principle, ...]] = []
    for context, _ in groups:
        sample = context.sample
        if writer == "recorded":
            by_context.append(context.principles)
        elif writer == "reversed":
            by_context.append(context.principles[::-1])
        elif writer == "exact":
            by_context.append(tuple(principle(check) for check in checks_for(scene_of(sample), edit_of(sample))))
        elif writer == "model":
            by_context.append(verifier.principles([sample.source], sample.instruction))
        elif sample.id in file:
            by_context.append(tuple(Principle(row["question"], row["category"]) for row in file[sample.id]))
        else:
            raise ValueError(f"{writer}: no principles for {sample.id}; use recorded, exact, reversed, model or a file")
    return [written for written, (_, candidates) in zip(by_context, groups, strict=True) for _ in candidates]


def table(a: str, reports: dict[str, Sensitivity]) -> list[str]:
    """Markdown, a column per writer."""
    rows = {
        "edits, unscored": lambda r: f"{r.edits}, {r.unscored}",
        "mean absolute difference, points": lambda r: shown(r.difference),
        "mean difference, points": lambda r: shown(r.shift, sign="+"),
        "rank correlation within a source": lambda r: (
            f"{r.correlation.mean:.3f} ({r.correlation.ci95[0]:.3f} to {r.correlation.ci95[1]:.3f}), "
            f"{r.correlation.used} sources"
            if r.correlation.mean is not None and r.correlation.ci95
            else "none"
        ),
        "pairs in the other order": lambda r: shown(r.reversed, percent=True),
        "pairs that now tie": lambda r: shown(r.tied, percent=True),
    }
    lines = [f"| against {a} | " + " | ".join(reports) + " |", "| --- " * (len(reports) + 1) + "|"]
    return lines + [
        f"| {name} | " + " | ".join(cell(r) for r in reports.values()) + " |" for name, cell in rows.items()
    ]


def shown(value: Interval | None, sign: str = "", percent: bool = False) -> str:
    """ "0.42 (0.31 to 0.55)"."""
    if value is None:
        return "none"
    low, high = value.ci95 or (float("nan"), float("nan"))
    form, scale, unit = (f"{sign}.1f", 100, " %") if percent else (f"{sign}.2f", 1, "")
    n = f" of {value.n}" if percent else ""
    return f"{scale * value.mean:{form}}{unit}{n} ({scale * low:{form}} to {scale * high:{form}})"


if __name__ == "__main__":
    tyro.cli(main)
