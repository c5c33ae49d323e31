"""What the cold start's traces are worth: output mode and filter as two axes, also with a pool half of which is bad.

    python bench/cold_start_ablation.py --runs runs/seeds --out runs/cold-start-ablation --sizes small base

`--runs` holds runs of `bench/demo_seeds.py`, whose curated traces, gold and held-out pairs are used: nothing is drawn
anew, so every cell learns from the same quadruples.

- mode: a selected trace projected onto what it saw and a score (think), bare verdicts and a score (verify), or all
  (both). Matched by samples (as many traces) or by tokens (as many tokens of answers, so more of the shorter traces).
- both, shuffled: verdicts and score stay, what was seen comes from another quadruple's trace with as many principles.
- filter: off (any parsed trace), on with the neutral tie-break, on with the draft's lenient one.
- pool: the demo's three judges with two traces each; or half bad: each judge's second trace is one that it wrote about
  another edit of the same context, as a judge would that does not look.

Every cell is a verifier trained from the pretrained one and judged greedily, in its own mode, on its seed's held-out
pairs. Resumable, and in pieces: `--minutes` begins no further cell after so long. Prints Markdown and writes
`study.json`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import tyro
from held_out import COLUMNS, cells, gain, judged, markdown, pooled, shown
from transformers import AutoTokenizer

from edit_r1.curate.select import TieBreak, select
from edit_r1.recipes.tiny import SIZES, tiny_sft
from edit_r1.records import Candidate, Context, GoldVerdicts, OutputMode, PoolTrace, Quadruple, Trace, Verdict
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import CANDIDATES, CONTEXTS, GOLD_VERDICTS, POOL_TRACES, read_dataset, read_json, write_json
from edit_r1.train.processes import in_processes
from edit_r1.train.sft import trace_text, train_sft
from edit_r1.train.verifier_run import Progress
from edit_r1.verifier.traces import write_trace
from edit_r1.zoo.packaged import weights

Filter = Literal["off", "neutral", "lenient"]
RULES: dict[Filter, tuple[TieBreak, bool]] = {
    "off": ("neutral", False), "neutral": ("neutral", True), "lenient": ("lenient", True),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One way to make the SFT data."""

    mode: OutputMode
    filter: Filter
    shuffled: bool = False
    tokens: bool = False
    """Matched by tokens of answers in place of samples."""
    half_bad: bool = False

    @property
    def name(self) -> str:
        parts = [self.mode + (", shuffled" if self.shuffled else ""), f"filter {self.filter}"]
        parts += ["as many tokens"] if self.tokens else []
        parts += ["half of the pool bad"] if self.half_bad else []
        return "; ".join(parts)

    @property
    def folder(self) -> str:
        return self.name.replace(";", "").replace(",", "").replace(" ", "-")


BASE = Cell("both", "neutral")
CELLS: tuple[Cell, ...] = (
    BASE, Cell("both", "off"), Cell("both", "lenient"),
    Cell("think", "neutral"), Cell("verify", "neutral"), Cell("both", "neutral", shuffled=True),
    Cell("both", "neutral", half_bad=True), Cell("both", "off", half_bad=True), Cell("both", "lenient", half_bad=True),
    Cell("think", "neutral", tokens=True), Cell("verify", "neutral", tokens=True),
    Cell("think", "off"), Cell("verify", "off"), Cell("think", "lenient"), Cell("verify", "lenient"),
)  # fmt: skip
"""The most telling first, for studies in pieces."""


def main(
    runs: Path,
    out: Path,
    sizes: tuple[Literal["small", "base"], ...] = ("small", "base"),
    seeds: tuple[int, ...] = (0, 1, 2),
    which: tuple[int, ...] = tuple(range(len(CELLS))),
    steps: int = 500,
    size: str = "demo",
    processes: int = 2,
    minutes: float = 1e9,
    resamples: int = 2000,
) -> None:
    """runs: folder of seed-0, seed-1, ... which: of `CELLS`. steps: of each SFT, 8 traces each. size: of the runs."""
    quiet_libraries()
    deadline = time.monotonic() + 60 * minutes
    found: dict[str, dict[str, dict[int, Any]]] = {one: defaultdict(dict) for one in sizes}
    for verifier in sizes:
        for cell in (CELLS[number] for number in which):
            for seed in seeds:
                folder = out / verifier / cell.folder / f"seed-{seed}"
                if not (folder / "judged.json").exists():
                    if time.monotonic() > deadline:
                        print(f"left for another call: {verifier}, {cell.name}, seed {seed}", flush=True)
                        continue
                    run = runs / f"seed-{seed}"
                    training = partial(train, cell, verifier, run, folder, steps, processes, size, seed)
                    in_processes(processes, training, partial(told, f"{verifier}, {cell.name}, seed {seed}"))
                    write_json(folder / "judged.json", judged(run, folder / "model", size, seed, cell.mode))
                found[verifier][cell.name][seed] = read_json(folder / "judged.json")
    study: dict[str, Any] = {"steps": steps, "seeds": list(seeds), "sizes": {}}
    for verifier, by_cell in found.items():
        rows = {name: row(by_seed, by_cell.get(BASE.name), resamples) for name, by_seed in by_cell.items()}
        study["sizes"][verifier] = rows
        print("\n".join(["", f"verifier-{verifier}", "", *table(rows)]))
    write_json(out / "study.json", study)


# --- data -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curated:
    """One run's cold-start data before selection."""

    contexts: Mapping[str, Context]
    candidates: Sequence[Candidate]
    traces: Mapping[str, Sequence[PoolTrace]]
    """By candidate."""
    gold: Mapping[str, GoldVerdicts]


@cache
def curated(run: Path) -> Curated:
    folder = run / "data/cold"
    traces: dict[str, list[PoolTrace]] = defaultdict(list)
    for trace in read_dataset(folder, "traces", POOL_TRACES):
        traces[trace.candidate_id].append(trace)
    return Curated(
        {context.sample.id: context for context in read_dataset(folder, "contexts", CONTEXTS)},
        read_dataset(folder, "candidates", CANDIDATES),
        traces,
        {gold.candidate_id: gold for gold in read_dataset(folder, "gold", GOLD_VERDICTS)},
    )


def half_bad(data: Curated) -> dict[str, list[PoolTrace]]:
    """By candidate: the second trace of every judge is what that judge wrote about the context's next candidate."""
    of_context: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in data.candidates:
        if candidate.sample_id in data.contexts:
            of_context[candidate.sample_id].append(candidate)
    pool: dict[str, list[PoolTrace]] = {}
    for candidates in of_context.values():
        for place, candidate in enumerate(candidates):
            other = candidates[(place + 1) % len(candidates)]
            theirs = {trace.index: trace for trace in data.traces[other.id]}
            seen: set[str] = set()
            own = []
            for trace in sorted(data.traces[candidate.id], key=lambda trace: trace.index):
                if trace.judge in seen:
                    trace = replace(theirs[trace.index], candidate_id=candidate.id)
                seen.add(trace.judge)
                own.append(trace)
            pool[candidate.id] = own
    return pool


def quadruples(cell: Cell, data: Curated, seed: int) -> list[Quadruple]:
    """Every quadruple that each rule and pool has a target for, so that all cells hold the same ones."""
    pools = {False: data.traces, True: half_bad(data)}
    rows = []
    for candidate in data.candidates:
        context = data.contexts.get(candidate.sample_id)
        if context is None:
            continue
        chosen = {
            (bad, rule): select(pool[candidate.id], data.gold.get(candidate.id), *RULES[rule], seed).selected
            for bad, pool in pools.items()
            for rule in RULES
        }
        target = chosen[cell.half_bad, cell.filter]
        if all(chosen.values()) and target is not None and isinstance(target.outcome, Trace):
            rows.append(Quadruple(context, candidate, target.outcome))
    return shuffled(rows) if cell.shuffled else rows


def shuffled(rows: Sequence[Quadruple]) -> list[Quadruple]:
    """What was seen handed on among quadruples of other contexts with as many principles; verdicts and scores stay."""
    by_length: dict[int, list[Quadruple]] = defaultdict(list)
    for row in rows:
        by_length[len(row.context.principles)].append(row)
    given: dict[str, Quadruple] = {}
    for alike in by_length.values():
        # Moved on by the size of the largest context, nobody gets what was seen in a context of its own.
        order = sorted(alike, key=lambda row: (row.context.sample.id, row.candidate.id))
        largest = max(Counter(row.context.sample.id for row in order).values())
        for place, row in enumerate(order):
            given[row.candidate.id] = order[(place + largest) % len(order)]
    return [replace(row, target=_told(row, given[row.candidate.id])) for row in rows]


def _told(row: Quadruple, other: Quadruple) -> Trace:
    mine, theirs = row.target, other.target
    assert mine is not None and mine.verdicts is not None and theirs is not None and theirs.verdicts is not None
    evidence = [verdict.evidence for verdict in theirs.verdicts]
    text = write_trace(evidence, [verdict.value for verdict in mine.verdicts], mine.score, "both", "compact")
    verdicts = tuple(Verdict(own.value, seen) for own, seen in zip(mine.verdicts, evidence, strict=True))
    return replace(mine, text=text, verdicts=verdicts, tokens=0)


# --- training -------------------------------------------------------------------------------------------------------


def train(
    cell: Cell, verifier: str, run: Path, out: Path, steps: int, processes: int, size: str, seed: int,
    *, progress: Progress | None,
) -> Path:  # fmt: skip
    quiet_libraries()
    data = quadruples(cell, curated(run), seed)
    stage = tiny_sft(weights(f"verifier-{verifier}"), str(out), SIZES[size], seed)
    if cell.tokens:
        steps = round(steps * answer_tokens(data, "both") / answer_tokens(data, cell.mode))
    stage = replace(
        stage, mode=cell.mode, steps=steps, decompose=False, batch_size=stage.batch_size // processes, save_every=250
    )
    return train_sft(stage, data, resume=True, progress=progress)


def answer_tokens(rows: Sequence[Quadruple], mode: OutputMode) -> int:
    """Tokens of all targets in this mode."""
    tokenizer = AutoTokenizer.from_pretrained(weights("verifier-small"))
    texts = [trace_text(row, mode, "compact") for row in rows]
    return sum(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])  # the token that ends an answer


def told(name: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    if done % 100 == 0:
        print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {total}, loss {numbers.get('loss', 0):.3f}", flush=True)


# --- measuring ------------------------------------------------------------------------------------------------------


def row(by_seed: Mapping[int, Any], base: Mapping[int, Any] | None, resamples: int) -> dict[str, Any]:
    """Of all seeds that are done, and against `BASE` where that has the same seeds."""
    known = base is not None and by_seed.keys() <= base.keys()
    return pooled(by_seed, resamples) | {"minus_base": gain(by_seed, base, resamples) if known and base else None}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    head = ("", *COLUMNS, f"- ({BASE.name})")
    return markdown(
        head,
        [[name, *cells(one), "" if name == BASE.name else shown(one["minus_base"], "+")] for name, one in rows.items()],
    )


if __name__ == "__main__":
    tyro.cli(main)
