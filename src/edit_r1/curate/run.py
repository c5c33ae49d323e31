"""The four steps in order, each a Parquet dataset, resumable shard by shard.

    samples -> contexts -> candidates -> traces -> gold -> decisions -> selected

Shard i of a step is made from shard i of the steps before, so a run that was killed goes on after the
last finished shard, and ends with the same datasets. What a step could not make is kept beside its
dataset (`STEP.failures/part-00000.json`) with its cause: nothing is dropped without a line there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from edit_r1.curate.decompose import decompose
from edit_r1.curate.edit import edit
from edit_r1.curate.failures import Failure, causes, check_outage
from edit_r1.curate.pick import usable
from edit_r1.curate.reason import PoolMember, lost, reason
from edit_r1.curate.select import Decision, Selection, TieBreak, select
from edit_r1.curate.summary import Tally
from edit_r1.curate.tables import DECISIONS
from edit_r1.curate.verify import verify
from edit_r1.editors.protocol import Editor
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Quadruple, Sample, Trace
from edit_r1.store import (
    CANDIDATES,
    CONTEXTS,
    GOLD_VERDICTS,
    POOL_TRACES,
    QUADRUPLES,
    SAMPLES,
    Dataset,
    Table,
    read_json,
    read_rows,
    write_json,
)
from edit_r1.verifier.prompts import PROMPT_VERSIONS, Variant
from edit_r1.vlm.protocol import VLM, Sampling

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with (step, shards done, shards in all)."""

DECOMPOSE_SAMPLING = Sampling(1024, temperature=0.7, top_p=0.95)
VERIFY_SAMPLING = Sampling(4096, temperature=0.0)
STEPS = ("samples", "contexts", "candidates", "traces", "gold", "decisions", "selected")
"""In the order in which they are made. "decisions" only sorts what is there, and reports no progress of its own."""


@dataclass(frozen=True)
class CurateStage:
    """What a curation is made of; models are objects, so that a recipe can mix local, served and simulated ones."""

    samples: tuple[Sample, ...]
    decomposer: VLM
    editors: tuple[Editor, ...]
    pool: tuple[PoolMember, ...]
    verifier: VLM
    candidates_per_context: int = 4
    """The paper's 2M quadruples from 200K contexts are about 10."""
    variant: Variant = "full"
    """Of the decomposer's and the verifier's prompts; members of the pool have their own."""
    decompose_sampling: Sampling = DECOMPOSE_SAMPLING
    verify_sampling: Sampling = VERIFY_SAMPLING
    tie_break: TieBreak = "neutral"
    """Neutral by default: among equally accurate traces the draft's rule prefers the lenient one."""
    filter_on: bool = True
    """False draws the target among the parsed traces, whatever gold says."""
    shard_size: int = 64
    """Samples per shard: what a kill can cost at most."""
    seed: int = 0
    introduce: Callable[[Sequence[Candidate]], None] | None = None
    """Shown a shard's candidates before its judges are asked: how simulated judges come to know a rendered world."""

    def __post_init__(self) -> None:
        if not self.samples or not self.editors or not self.pool:
            raise ValueError(
                f"{len(self.samples)} samples, {len(self.editors)} editors, {len(self.pool)} judges: "
                "a curation needs at least one of each"
            )
        twice = [sample_id for sample_id, count in Counter(s.id for s in self.samples).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} samples are given twice, the first {twice[0]}: give each sample once")
        if self.shard_size < 1 or self.candidates_per_context < 1:
            raise ValueError(
                f"shard_size={self.shard_size}, candidates_per_context={self.candidates_per_context}: "
                "both must be at least 1"
            )
        ways = [(m.vlm.name, m.sampling, m.variant, m.system) for m in self.pool]
        same = [way for way in ways if ways.count(way) > 1]
        if same:
            raise ValueError(
                f"two judges of the pool ask {same[0][0]} in the same way and would write the same traces: "
                "change a seed, temperature or system text, or raise `traces` of one"
            )

    def key(self) -> str:
        """Hash of everything that shapes the datasets: a folder made under another key is refused."""
        settings = {
            "samples": [sample.id for sample in self.samples],
            "models": [self.decomposer.name, self.verifier.name, *[editor.name for editor in self.editors]],
            "pool": [[m.vlm.name, m.traces, asdict(m.sampling), m.variant, m.system] for m in self.pool],
            "rules": [self.candidates_per_context, self.variant, self.tie_break, self.filter_on, self.shard_size],
            "sampling": [asdict(self.decompose_sampling), asdict(self.verify_sampling)],
            "seed": self.seed,
            "prompts": sorted({PROMPT_VERSIONS[v] for v in (self.variant, *[m.variant for m in self.pool])}),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class Curation:
    """A curation on disk: one dataset per step, its failures, and the work between them."""

    def __init__(self, stage: CurateStage, out: Path) -> None:
        self.stage, self.out = stage, out
        key = stage.key()
        self.samples: Dataset[Sample] = Dataset(out, "samples", SAMPLES, key)
        self.contexts: Dataset[Context] = Dataset(out, "contexts", CONTEXTS, key)
        self.candidates: Dataset[Candidate] = Dataset(out, "candidates", CANDIDATES, key)
        self.traces: Dataset[PoolTrace] = Dataset(out, "traces", POOL_TRACES, key)
        self.gold: Dataset[GoldVerdicts] = Dataset(out, "gold", GOLD_VERDICTS, key)
        self.decisions: Dataset[Decision] = Dataset(out, "decisions", DECISIONS, key)
        self.selected: Dataset[Quadruple] = Dataset(out, "selected", QUADRUPLES, key)
        size = stage.shard_size
        self.shards = [stage.samples[start : start + size] for start in range(0, len(stage.samples), size)]

    # Each step: the records of shard `number`, and what could not be made.

    def make_samples(self, number: int) -> tuple[list[Sample], list[Failure]]:
        return usable(self.shards[number])

    def make_contexts(self, number: int) -> tuple[list[Context], list[Failure]]:
        stage = self.stage
        samples = _part(self.samples, number)
        contexts, failures = decompose(samples, stage.decomposer, stage.variant, stage.decompose_sampling)
        check_outage(failures, {context.decomposer for context in contexts})
        return contexts, failures

    def make_candidates(self, number: int) -> tuple[list[Candidate], list[Failure]]:
        stage = self.stage
        contexts = _part(self.contexts, number)
        candidates, failures = edit(contexts, stage.editors, stage.candidates_per_context, stage.seed)
        check_outage(failures, {candidate.editor for candidate in candidates})
        return candidates, failures

    def make_traces(self, number: int) -> tuple[list[PoolTrace], list[Failure]]:
        traces = reason(self._contexts(number), self._introduced(number), self.stage.pool)
        failures = lost(traces)
        check_outage(failures, {trace.judge for trace in traces if isinstance(trace.outcome, Trace)})
        return traces, failures

    def make_gold(self, number: int) -> tuple[list[GoldVerdicts], list[Failure]]:
        stage, contexts = self.stage, self._contexts(number)
        candidates, traces = self._introduced(number), _part(self.traces, number)
        gold, failures = verify(contexts, candidates, traces, stage.verifier, stage.variant, stage.verify_sampling)
        check_outage(failures, {item.verifier for item in gold})
        return gold, failures

    def make_decisions(self, number: int) -> tuple[list[Decision], list[Failure]]:
        return [decision for _, selection in self.selections(number) for decision in selection.decisions], []

    def make_selected(self, number: int) -> tuple[list[Quadruple], list[Failure]]:
        contexts, kept, failures = self._contexts(number), [], []
        for candidate, selection in self.selections(number):
            if selection.selected is not None and isinstance(selection.selected.outcome, Trace):
                kept.append(Quadruple(contexts[candidate.sample_id], candidate, selection.selected.outcome))
            else:
                parsed = any(decision.cause != "unparsed" for decision in selection.decisions)
                cause = "no gold to select by" if parsed else "no trace could be parsed"
                failures.append(Failure("select", candidate.id, "selector", cause))
        return kept, failures

    def selections(self, number: int) -> Iterator[tuple[Candidate, Selection]]:
        """What the selector does with each quadruple of a shard."""
        stage = self.stage
        for candidate, traces, gold in self.quadruples(number):
            yield candidate, select(traces, gold, stage.tie_break, stage.filter_on, stage.seed)

    def quadruples(self, number: int) -> Iterator[tuple[Candidate, list[PoolTrace], GoldVerdicts | None]]:
        """Each candidate of a shard with its traces, and with gold where the verifier gave it."""
        traces: dict[str, list[PoolTrace]] = defaultdict(list)
        for trace in _part(self.traces, number):
            traces[trace.candidate_id].append(trace)
        gold = {item.candidate_id: item for item in _part(self.gold, number)}
        for candidate in _part(self.candidates, number):
            yield candidate, traces[candidate.id], gold.get(candidate.id)

    def _introduced(self, number: int) -> list[Candidate]:
        candidates = _part(self.candidates, number)
        if self.stage.introduce is not None:
            self.stage.introduce(candidates)
        return candidates

    def _contexts(self, number: int) -> dict[str, Context]:
        return {context.sample.id: context for context in _part(self.contexts, number)}

    def run_step(
        self, dataset: Dataset[T], make: Callable[[int], tuple[list[T], list[Failure]]], progress: Progress | None
    ) -> None:
        """Make the shards of one step that are not there yet, and finish its dataset."""
        if not dataset.done():
            for number in range(dataset.parts(), len(self.shards)):
                records, failures = make(number)
                # Failures first: a part that is there always has its failures beside it.
                write_json(_failures_path(self.out, dataset.name, number), [asdict(item) for item in failures])
                dataset.append(records)
                if progress is not None:
                    progress(dataset.name, number + 1, len(self.shards))
            dataset.finish({"failed": causes(read_failures(self.out, dataset.name))})
        elif progress is not None:
            progress(dataset.name, len(self.shards), len(self.shards))


def curate(stage: CurateStage, out: Path, progress: Progress | None = None) -> Curation:
    """Run all steps into `out`; continues a run that was stopped, and returns at once when all is done.

    Raises:
        StoreError: when `out` holds a curation with other settings, or cannot be written.
        OutageError: when a model answers nothing at all; the unfinished shard is asked for again by the next run.
    """
    curation = Curation(stage, out)
    curation.run_step(curation.samples, curation.make_samples, progress)
    curation.run_step(curation.contexts, curation.make_contexts, progress)
    curation.run_step(curation.candidates, curation.make_candidates, progress)
    curation.run_step(curation.traces, curation.make_traces, progress)
    curation.run_step(curation.gold, curation.make_gold, progress)
    curation.run_step(curation.decisions, curation.make_decisions, None)
    curation.run_step(curation.selected, curation.make_selected, progress)
    write_json(out / "summary.json", summarise(curation))
    return curation


def summarise(curation: Curation) -> dict[str, Any]:
    """The summary of a finished curation, as JSON.

    Rows, hashes and failures by cause of each step; per judge its traces, unparsed ones, agreement with gold
    and traces selected; decisions by cause; and what each selection rule makes of the same traces.
    """
    datasets: tuple[Dataset[Any], ...] = (
        curation.samples, curation.contexts, curation.candidates, curation.traces, curation.gold,
        curation.decisions, curation.selected,
    )  # fmt: skip
    tally = Tally(curation.stage.seed)
    for number in range(len(curation.shards)):
        tally.add_decisions(_part(curation.decisions, number))
        for _, traces, gold in curation.quadruples(number):
            if gold is not None:
                tally.add_quadruple(traces, gold)
    metas = {dataset.name: dataset.meta() for dataset in datasets}
    return {
        "given": len(curation.stage.samples),
        "rows": {name: meta["rows"] for name, meta in metas.items()},
        "hashes": {name: meta["hash"] for name, meta in metas.items()},
        "failed": {name: meta["failed"] for name, meta in metas.items()},
        **tally.as_dict(),
    }


def read_failures(out: Path, step: str) -> list[Failure]:
    """What a step could not make so far."""
    return [
        Failure(**row) for path in sorted((out / f"{step}.failures").glob("part-*.json")) for row in read_json(path)
    ]


def read_status(out: Path) -> list[dict[str, Any]]:
    """Per step: finished or not, shards, rows when finished, failures by cause.

    Raises:
        ValueError: when `out` holds no curation.
    """
    if not (out / "samples").is_dir():
        raise ValueError(f"{out}: holds no curation; start one with `edit-r1 curate run RECIPE --out {out}`")
    rows = []
    for step in STEPS:
        marker = out / f"{step}.done.json"
        meta = read_json(marker) if marker.exists() else {}
        rows.append(
            {
                "step": step,
                "finished": bool(meta),
                "shards": len(list((out / step).glob("part-*.parquet"))),
                "rows": meta.get("meta", meta).get("rows"),
                "failed": causes(read_failures(out, step)),
            }
        )
    return rows


def _part(dataset: Dataset[T], number: int) -> list[T]:
    """The records of one shard of a finished or unfinished dataset."""
    path = dataset.folder / f"part-{number:05d}.parquet"
    table: Table[T] = dataset.table
    return [table.from_row(row) for row in read_rows(path)]


def _failures_path(out: Path, step: str, number: int) -> Path:
    return out / f"{step}.failures" / f"part-{number:05d}.json"
