"""What the cold start's traces are worth: output mode and filter as two axes, also with a pool half of which is bad.

    python bench/cold_start_ablation.py --runs runs/seeds --out runs/cold-start-ablation --sizes small base

`--runs` holds runs of `bench/demo_seeds.py`, whose curated traces, gold and held-out pairs are used: nothing is drawn
anew, so every cell learns from the same quadruples.

- mode: a selected trace projected onto what it saw and a score (think), bare verdicts and a score (verify), or all
  (both). Matched by samples (as many traces, so as many updates) or by tokens of answers (shorter ones for more
  passes). Tokens and updates cannot both be matched, so "both" and "think" are also trained long, for as many updates
  as "verify" takes then; and so are the filters, as a few hundred updates may hide what the data are worth.
- both, shuffled: verdicts and score stay, what was seen comes from another quadruple's trace with as many principles.
- filter: off (any parsed trace), on with the neutral tie-break, on with the draft's lenient one.
- pool: the demo's three judges with two traces each; or half bad: each judge's second trace is one that it wrote about
  another edit of the same context, as a judge would that does not look.

Every cell is a verifier trained from the pretrained one and judged greedily, in its own mode, on its seed's held-out
pairs. Resumable, and in pieces: `--minutes` begins no further cell after so long; several calls with one `--out` share
the cells. A cell that fails is told, and the others go on. Prints Markdown for `--sizes`, and writes `study.json`, both
of all that is judged in `--out`, whichever call did it: `--minutes 0` judges nothing and makes them anew.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import tyro
from held_out import COLUMNS, DIFFERENCES, cells, difference, difference_cells, judged, markdown, pooled
from transformers import AutoTokenizer

from edit_r1.curate.select import TieBreak, select
from edit_r1.recipes.tiny import SIZES, tiny_sft
from edit_r1.records import Candidate, Context, GoldVerdicts, OutputMode, PoolTrace, Quadruple, Trace, Verdict
from edit_r1.report.terminal import quiet_libraries
from edit_r1.store import CANDIDATES, CONTEXTS, GOLD_VERDICTS, POOL_TRACES, read_dataset, read_json, write_json
from edit_r1.store.files import BusyError, locked
from edit_r1.store.fingerprints import fingerprint
from edit_r1.train.processes import in_processes
from edit_r1.train.sft import trace_text, train_sft
from edit_r1.train.verifier_run import Progress
from edit_r1.verifier.traces import write_trace
from edit_r1.zoo.packaged import weights

Filter = Literal["off", "neutral", "lenient"]
Found = dict[str, dict["Cell", dict[int, Any]]]
"""Of each verifier's cells by seed: what `held_out.judged` gives, and of what it was made; seeds ascend."""
VERIFIERS: tuple[Literal["small", "base"], ...] = ("small", "base")
RULES: dict[Filter, tuple[TieBreak, bool]] = {
    "off": ("neutral", False), "neutral": ("neutral", True), "lenient": ("lenient", True),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One way to make the SFT data."""

    mode: OutputMode
    filter: Filter
    shuffled: bool = False
    half_bad: bool = False
    length: Literal["samples", "tokens", "long"] = "samples"
    """As many traces as every cell, as many tokens of answers as `BASE`, or as many updates as `VERIFY_TOKENS`."""

    @property
    def name(self) -> str:
        parts = [self.mode + (", shuffled" if self.shuffled else ""), f"filter {self.filter}"]
        parts += {"samples": [], "tokens": ["as many tokens"], "long": ["long"]}[self.length]
        parts += ["half of the pool bad"] if self.half_bad else []
        return "; ".join(parts)

    @property
    def folder(self) -> str:
        return self.name.replace(";", "").replace(",", "").replace(" ", "-")


BASE = Cell("both", "neutral")
VERIFY_TOKENS = Cell("verify", "neutral", length="tokens")
CELLS: tuple[Cell, ...] = (
    BASE, Cell("both", "off"), Cell("both", "lenient"),
    Cell("think", "neutral"), Cell("verify", "neutral"), Cell("both", "neutral", shuffled=True),
    Cell("both", "neutral", half_bad=True), Cell("both", "off", half_bad=True), Cell("both", "lenient", half_bad=True),
    VERIFY_TOKENS, Cell("both", "neutral", length="long"),
    Cell("think", "off"), Cell("verify", "off"), Cell("think", "lenient"), Cell("verify", "lenient"),
    Cell("think", "neutral", half_bad=True), Cell("think", "off", half_bad=True),
    Cell("verify", "neutral", half_bad=True), Cell("verify", "off", half_bad=True),
    Cell("think", "lenient", half_bad=True), Cell("verify", "lenient", half_bad=True),
    Cell("think", "neutral", length="tokens"),
    Cell("think", "neutral", length="long"), Cell("both", "off", length="long"), Cell("both", "lenient", length="long"),
    Cell("think", "lenient", length="long"),
)  # fmt: skip
"""The most telling first, for studies in pieces."""


def questions() -> dict[str, list[tuple[Cell, Cell]]]:
    """What is asked of the study: (cell, what it is compared with) under each question."""
    asked: dict[str, list[tuple[Cell, Cell]]] = {"mode": [], "length": [], "filter": [], "pool": []}
    for cell in CELLS:
        if cell.mode != "both" or cell.shuffled:
            longer = cell.length == "long" or cell == VERIFY_TOKENS
            length: Literal["long", "samples"] = "long" if longer else "samples"
            asked["mode"].append((cell, replace(cell, mode="both", shuffled=False, length=length)))
        if cell == replace(BASE, length="long"):
            asked["length"].append((cell, BASE))
        if cell.filter != "neutral":
            asked["filter"].append((cell, replace(cell, filter="neutral")))
        if cell.half_bad:
            asked["pool"].append((cell, replace(cell, half_bad=False)))
    return asked


def main(
    runs: Path,
    out: Path,
    sizes: tuple[Literal["small", "base"], ...] = VERIFIERS,
    seeds: tuple[int, ...] = (0, 1, 2),
    which: tuple[int, ...] = tuple(range(len(CELLS))),
    steps: int = 500,
    size: str = "demo",
    processes: int = 2,
    minutes: float = 1e9,
    resamples: int = 2000,
) -> None:
    """runs: folder of seed-0, seed-1, ... which: of `CELLS`. steps: of each SFT, 8 traces each. size: of the runs.
    processes: of each training, a core each; two calls at once with 1 do more in an hour than one with 2."""
    quiet_libraries()
    deadline = time.monotonic() + 60 * minutes

    def job(cell: Cell, verifier: str, seed: int) -> Job:
        folder = out / verifier / cell.folder / f"seed-{seed}"
        return Job(cell, verifier, runs / f"seed-{seed}", folder, steps, processes, size, seed)

    jobs = [job(CELLS[n], one, seed) for n in which for seed in seeds for one in sizes]
    failed = sum(not worked_at(one, deadline) for one in jobs)
    found, refused = judged_in(out, job)
    by_size = {verifier: verifier_study(by_cell, resamples) for verifier, by_cell in found.items()}
    for verifier in (one for one in by_size if one in sizes):
        print(f"\nverifier-{verifier}\n\n{tables(by_size[verifier])}", flush=True)
    if not refused:  # a call with other settings must not replace what was found with these
        all_seeds = {seed for by_cell in found.values() for by_seed in by_cell.values() for seed in by_seed}
        write_json(out / "study.json", {"steps": steps, "seeds": sorted(all_seeds), "sizes": by_size})
    if failed or refused:
        raise SystemExit(f"{failed + refused} cells failed: see above; the same call tries them again")


def worked_at(job: Job, deadline: float) -> bool:
    """Judges the cell, or leaves it for another call. False when it failed, which is told."""
    try:
        if (job.out / "judged.json").exists():
            return True
        if time.monotonic() > deadline:
            print(f"left for another call: {job.name}", flush=True)
            return True
        with locked(job.out.with_name(f"{job.out.name}.lock"), "another call is at it"):
            judge_cell(job)
    except BusyError:
        print(f"another call is at it: {job.name}", flush=True)
    except Exception as error:  # one cell of a night's work: told, and the others go on
        print(f"FAILED: {job.name}: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def judged_in(out: Path, job: Callable[[Cell, str, int], Job]) -> tuple[Found, int]:
    """Every result that lies in `out`, cells and seeds in order, and how many are of other settings, which is told."""
    found: Found = {}
    refused = 0
    for verifier, cell in ((one, cell) for one in VERIFIERS for cell in CELLS):
        folders = (out / verifier / cell.folder).glob("seed-*/judged.json")
        # In order: tables list them by seed, and calls that share the cells from both ends name seeds in any order.
        for seed in sorted(int(path.parent.name.removeprefix("seed-")) for path in folders):
            try:
                found.setdefault(verifier, {}).setdefault(cell, {})[seed] = result_of(job(cell, verifier, seed))
            except ValueError as error:
                print(f"FAILED: {job(cell, verifier, seed).name}: {type(error).__name__}: {error}", flush=True)
                refused += 1
    return found, refused


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
    """What was seen handed on among quadruples of other contexts with as many principles; verdicts and scores stay. A
    context alone with its number of principles hands on among its own edits (4 rows of 1,920 in seed 0 of the demo)."""
    by_length: dict[int, list[Quadruple]] = defaultdict(list)
    for row in rows:
        by_length[len(row.context.principles)].append(row)
    given: dict[str, Quadruple] = {}
    for alike in by_length.values():
        # Moved on by the size of the largest context, nobody gets what was seen in a context of its own where there
        # are others.
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


def facts(mode: OutputMode, data: Curated, rows: Sequence[Quadruple], base: Sequence[Quadruple]) -> dict[str, float]:
    """What a cell learns from. Of its verdicts: the share that gold says too, and of gold's 0 the share that it has."""
    right: list[bool] = []
    failed: list[bool] = []
    for row in rows:
        assert row.target is not None and row.target.verdicts is not None
        gold = data.gold[row.candidate.id].gold
        own = [verdict.value for verdict in row.target.verdicts]
        right += [value == true.value for value, true in zip(own, gold, strict=True)]
        failed += [value == 0 for value, true in zip(own, gold, strict=True) if true.value == 0]
    return {
        "agreement": fmean(right), "failed_caught": fmean(failed),
        "score": fmean(row.target.score for row in rows if row.target),
        "unlike_base": fmean(_said(row) != _said(other) for row, other in zip(rows, base, strict=True)),
        "tokens": answer_tokens(rows, mode) / len(rows),
    }  # fmt: skip


def _said(row: Quadruple) -> tuple[float, list[int]]:
    assert row.target is not None
    return row.target.score, [verdict.value for verdict in row.target.verdicts or ()]


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One verifier to train and judge."""

    cell: Cell
    verifier: str
    run: Path
    out: Path
    steps: int
    processes: int
    size: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.verifier}, {self.cell.name}, seed {self.seed}"

    @property
    def made(self) -> dict[str, Any]:
        """What shapes its result, and cannot be seen from its folder's name."""
        data = read_json(self.run / "data/cold/selected.done.json")["meta"]["hash"]
        return {"steps": self.steps, "size": self.size, "data": data, "weights": pretrained(self.verifier)}


@cache
def pretrained(verifier: str) -> str:
    """Which weights every cell begins with."""
    return fingerprint(weights(f"verifier-{verifier}"))


def judge_cell(job: Job) -> None:
    """Trains and judges, and writes what was found; nothing where another call has done so."""
    path = job.out / "judged.json"
    if path.exists():
        return
    in_processes(job.processes, partial(train, job), partial(told, job.name))
    result = judged(job.run, job.out / "model", job.size, job.seed, job.cell.mode, job.processes)
    data = curated(job.run)
    rows, base = quadruples(job.cell, data, job.seed), quadruples(BASE, data, job.seed)
    steps = updates(job, base)
    passes = {"updates": steps, "passes": steps * SIZES[job.size].sft_batch / len(rows)}
    learned = facts(job.cell.mode, data, rows, base) | passes
    write_json(path, result | {"facts": learned, "made": job.made})


def result_of(job: Job) -> dict[str, Any]:
    """What `judge_cell` wrote. Raises ValueError for a result of other settings, data or pretrained weights."""
    path = job.out / "judged.json"
    result: dict[str, Any] = read_json(path)
    made = job.made
    # Results before 2026-11-23 do not tell their weights: they are taken to be of these.
    if {"weights": made["weights"], **result["made"]} != made:
        raise ValueError(f"{path}: was made with {result['made']}, this is {made}: choose another --out")
    return result


def train(job: Job, *, progress: Progress | None) -> Path:
    quiet_libraries()
    data = curated(job.run)
    stage = tiny_sft(weights(f"verifier-{job.verifier}"), str(job.out), SIZES[job.size], job.seed)
    stage = replace(
        stage, mode=job.cell.mode, steps=updates(job, quadruples(BASE, data, job.seed)), decompose=False,
        batch_size=stage.batch_size // job.processes, save_every=250,
    )  # fmt: skip
    return train_sft(stage, quadruples(job.cell, data, job.seed), resume=True, progress=progress)


def updates(job: Job, base: Sequence[Quadruple]) -> int:
    """Of the cell's training; `base` are the quadruples of `BASE`, whose traces every cell's are as long as."""
    mode = {"samples": "both", "tokens": job.cell.mode, "long": "verify"}[job.cell.length]
    return round(job.steps * answer_tokens(base, "both") / answer_tokens(base, cast(OutputMode, mode)))


def answer_tokens(rows: Sequence[Quadruple], mode: OutputMode) -> int:
    """Tokens of all targets in this mode."""
    tokenizer = AutoTokenizer.from_pretrained(weights("verifier-small"))
    texts = [trace_text(row, mode, "compact") for row in rows]
    return sum(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])  # the token that ends an answer


def told(name: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    if done % 100 == 0:
        print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {total}, loss {numbers.get('loss', 0):.3f}", flush=True)


# --- measuring ------------------------------------------------------------------------------------------------------


def verifier_study(by_cell: Mapping[Cell, Mapping[int, Any]], resamples: int) -> dict[str, Any]:
    """Of one verifier, cells by name: what they learned from, what came of it, and the differences asked for."""
    return {
        "data": {cell.name: mean_facts(list(by_seed.values())) for cell, by_seed in by_cell.items()},
        "results": {cell.name: pooled(by_seed, resamples) for cell, by_seed in by_cell.items()},
        "differences": compared(by_cell, resamples),
    }


def tables(study: Mapping[str, Any]) -> str:
    """Of `verifier_study`, as Markdown."""
    parts = data_table(study["data"]), results_table(study["results"]), differences_table(study["differences"])
    return "\n\n".join("\n".join(part) for part in parts)


def mean_facts(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: fmean(one["facts"][name] for one in results) for name in results[0]["facts"]}


def compared(by_cell: Mapping[Cell, Mapping[int, Any]], resamples: int) -> list[dict[str, Any]]:
    """Every difference that `questions` asks for and both sides of which are done, on the seeds that both have."""
    rows = []
    for question, pairs in questions().items():
        for cell, other in pairs:
            seeds = [seed for seed in by_cell.get(cell, {}) if seed in by_cell.get(other, {})]
            if not seeds:
                continue
            new, old = ({seed: by_cell[one][seed] for seed in seeds} for one in (cell, other))
            names = {"question": question, "cell": cell.name, "minus": other.name}
            rows.append(names | difference(new, old, resamples))
    return rows


def data_table(data: Mapping[str, Mapping[str, float]]) -> list[str]:
    head = ("learned from", "verdicts as gold %", "gold's 0 caught %", "mean score", "unlike the first %",
            "tokens an answer", "updates", "passes")  # fmt: skip
    return markdown(head, [
        [name, f"{100 * one['agreement']:.1f}", f"{100 * one['failed_caught']:.1f}", f"{one['score']:.2f}",
         f"{100 * one['unlike_base']:.0f}", f"{one['tokens']:.0f}", f"{one['updates']:.0f}", f"{one['passes']:.1f}"]
        for name, one in data.items()
    ])  # fmt: skip


def results_table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return markdown(("", *COLUMNS), [[name, *cells(one)] for name, one in results.items()])


def differences_table(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ("question", "cell", "minus")
    return markdown(
        (*names, *DIFFERENCES), [[*(one[name] for name in names), *difference_cells(one)] for one in differences]
    )


if __name__ == "__main__":
    tyro.cli(main)
