"""One chunk of samples through all steps: every row found or made, and what was counted.

    samples -> contexts -> candidates -> traces -> gold -> decisions -> selected

Each step's rows lie in shards (`curate.shards`), one per actor. `.work/chunks/NUMBER.json` tells how far a chunk is,
and which shards hold its rows.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edit_r1.curate.chunk_file import ChunkFile, chunk_file, shards_there
from edit_r1.curate.coverage import CHECKS
from edit_r1.curate.decompose import decompose_again, decompose_each
from edit_r1.curate.edit import check_editors, draw_jobs, paint_units
from edit_r1.curate.ensemble import Ensemble, pool_votes
from edit_r1.curate.failures import Failure, causes, check_outage
from edit_r1.curate.findings import FINDINGS, ContextFinding, context_findings
from edit_r1.curate.inputs import Contents, asked, contents_of, edition_of, identity, moved_chunks, with_weights
from edit_r1.curate.keeping import Keeping, open_ledger, paid_models
from edit_r1.curate.pick import usable
from edit_r1.curate.reason import but_readable, reason_units
from edit_r1.curate.retry import turned
from edit_r1.curate.select import Decision, select
from edit_r1.curate.shards import Made, Make, Shard, Shards, failures_among, made_of, ready, unit_key
from edit_r1.curate.stage import CurateStage
from edit_r1.curate.summary import COUNTED, Tally
from edit_r1.curate.tables import DECISIONS
from edit_r1.curate.together import together
from edit_r1.curate.verify import references_of, verify_read
from edit_r1.editors.protocol import PaidEditor
from edit_r1.records import Candidate, Context, GoldVerdicts, PoolTrace, Quadruple, Sample, Trace
from edit_r1.store import (
    CANDIDATES,
    CONTEXTS,
    GOLD_VERDICTS,
    POOL_TRACES,
    QUADRUPLES,
    SAMPLES,
    Table,
    write_json,
)
from edit_r1.vlm.paid import PaidVLM
from edit_r1.vlm.protocol import VLM

T = TypeVar("T")
Tell = Callable[[str, int], None]
"""Called with (step, number of the chunk) when a step of a chunk is done."""

TABLES: dict[str, Table[Any]] = {
    "samples": SAMPLES,
    "contexts": CONTEXTS,
    "candidates": CANDIDATES,
    "traces": POOL_TRACES,
    "gold": GOLD_VERDICTS,
    "decisions": DECISIONS,
    "selected": QUADRUPLES,
}
"""By step, in the order in which they are made."""
STEPS = tuple(TABLES)
BESIDE: dict[str, Table[Any]] = {"findings": FINDINGS, "votes": GOLD_VERDICTS}
"""What is kept beside the steps' rows; votes where several verifiers make gold."""


class Stopped(Exception):
    """The run ends; what is made is kept."""


class ChunkWork:
    """Works through chunks of a curation, one after the other or in several threads."""

    def __init__(
        self, stage: CurateStage, out: Path, retry: bool = False, moved: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """retry: make again what failed. moved: by sample id, all chunks that held it in earlier runs."""
        check_editors(stage.editors, stage.candidates_per_context)
        stage.prepare(out)
        stage = with_weights(stage, out)
        self.stage, self.out, self.retry, self.moved = stage, out, retry, moved or {}
        self.moved_from = moved_chunks(out)
        self.shards = {step: Shards(out / ".work" / step, table) for step, table in (TABLES | BESIDE).items()}
        self.actors, self.run_key = stage.actors(), stage.run_key()
        self.ledger = open_ledger(out, stage)
        self._stopping = threading.Event()

    def stop(self, at_once: bool = False) -> None:
        """Chunks at work end after the step that they are in, by `Stopped`. Called from another thread.

        at_once: those that wait for a paid model end too; what is in flight is lost, and may be paid for.
        """
        self._stopping.set()
        if at_once:
            self.give_up()

    def give_up(self) -> None:
        """Ends what threads ask of paid models."""
        self.ledger.stop()
        for model in paid_models(self.stage):
            model.give_up()

    def check(self) -> None:
        """Raises Stopped after `stop`."""
        if self._stopping.is_set():
            raise Stopped

    def run(self, number: int, tell: Tell | None = None) -> dict[str, Any]:
        """Everything of chunk `number`; returns what its file holds. A chunk that is done is only looked up.

        Raises:
            OutageError: when a model answers nothing at all; what is made by then is kept.
            BudgetError: when the budget is spent; likewise.
            StoreError: when the disk refuses.
            Stopped: after `stop`.
        """
        stage = self.stage
        found = list(stage.samples.rows(number * stage.chunk_size, (number + 1) * stage.chunk_size))
        key = unit_key(stage.key(), [identity(one) if isinstance(one, Sample) else asdict(one) for one in found])
        contents = contents_of(stage.editors, found)
        for more in (edition := edition_of(found), contents):
            key = unit_key(key, more) if more else key
        file = chunk_file(self.out, number)
        kept = file.read()
        counted = kept.get("tally", {}).get("counted") == COUNTED and kept.get("checks") == CHECKS
        whole = counted and shards_there(self.out, kept)
        if kept.get("key") == key and kept.get("done") and whole and not self._to_retry(kept):
            if kept["run"] != self.run_key:
                write_json(file.path, kept := kept | {"run": self.run_key})
            if tell is not None:
                for step in STEPS:
                    tell(step, number)
            return kept
        older = self.held([one.id for one in found if isinstance(one, Sample)]) - {number}
        keeping = Keeping(stage, self.out, number, self.ledger, older, number in self.moved_from)
        try:
            return _Chunk(self, keeping, number, key, edition, contents, file, tell).run(found)
        finally:
            keeping.close()

    def held(self, ids: Sequence[str]) -> set[int]:
        """Chunks that held some of these samples in earlier runs."""
        return {number for one in ids for number in self.moved.get(one, ())}

    def _to_retry(self, kept: Mapping[str, Any]) -> bool:
        return self.retry and any(step["failed"] for step in kept["steps"].values())


class _Chunk:
    """One chunk at work."""

    def __init__(
        self,
        work: ChunkWork,
        keeping: Keeping,
        number: int,
        key: str,
        edition: str,
        contents: Contents,
        file: ChunkFile,
        tell: Tell | None,
    ) -> None:
        self.work, self.keeping, self.stage = work, keeping, keeping.stage
        self.number, self.edition, self.contents, self.file, self.tell = number, edition, contents, file, tell
        self.told: dict[str, Any] = {"run": work.run_key, "key": key, "checks": CHECKS}
        self.told |= {"ids": [], "steps": {}, "done": False}
        self.identities: dict[str, str] = {}
        """Of the samples, by id."""
        self.started = time.monotonic()

    def run(self, found: Sequence[Sample | Failure]) -> dict[str, Any]:
        stage = self.stage
        samples = self.samples(found)
        if stage.introduce is not None:
            stage.introduce(samples, [])
        contexts = self.contexts(samples)
        findings = self.findings(contexts)
        candidates = self.candidates(contexts)
        if stage.introduce is not None:
            stage.introduce([], candidates)
        by_sample = {context.sample.id: context for context in contexts}
        pairs = [(by_sample[candidate.sample_id], candidate) for candidate in candidates]
        traces = self.traces(pairs)
        gold, votes = self.gold(pairs, traces)
        tally = self.selection(pairs, traces, gold, votes)
        for context in contexts:
            tally.findings.add(context, findings[context.sample.id])
            tally.add_context(context, (one.editor for one in candidates if one.sample_id == context.sample.id))
        self.told |= {"tally": tally.counts(), "done": True}
        write_json(self.file.path, self.told)
        return self.told

    # Each step: its rows, in the order of the samples.

    def samples(self, found: Sequence[Sample | Failure]) -> list[Sample]:
        wanted = {unit_key(identity(one) if isinstance(one, Sample) else asdict(one)): one for one in found}
        self.identities = {one.id: key for key, one in wanted.items() if isinstance(one, Sample)}
        self.told["ids"] = list(self.identities)

        def make(given: list[Sample | Failure], _: int) -> list[Made[Sample]]:
            made = []
            for one in given:
                kept, failures = usable([one]) if isinstance(one, Sample) else ([], [one])
                made.append(Made(tuple(kept), tuple(failures)))
            return made

        shards = self.work.shards["samples"]
        return self.done("samples", [shards.fill(self.family("given"), wanted, make, (), False, self.edition, _given)])

    def contexts(self, samples: Sequence[Sample]) -> list[Context]:
        stage = self.stage
        [actor] = self.work.actors["contexts"]

        def make(given: list[Sample], turn: int) -> list[Made[Context]]:
            sampling = turned(stage.decompose_sampling, turn)
            made = decompose_each(given, stage.decomposer, stage.variant, sampling)
            answered = {one.decomposer for one in made if isinstance(one, Context)}
            check_outage(failures_among(made), answered, self.before("contexts", actor))
            return [made_of(one) for one in made]

        def renewed(sample: Sample, unit: Made[Context]) -> Made[Context]:
            return replace(unit, rows=tuple(replace(row, sample=sample) for row in unit.rows))

        wanted = {unit_key(actor, identity(sample)): sample for sample in samples}
        shard = self.fill("contexts", actor, wanted, make, self.edition, renewed)
        if stage.redecompose:
            shard = self.contexts_again(shard)
        return self.done("contexts", [shard])

    def contexts_again(self, first: Shard[Context]) -> Shard[Context]:
        """The same, those with faults asked for once more. What was asked first stays where it is found again."""
        stage, actor = self.stage, unit_key(self.work.actors["contexts"], "again", CHECKS)
        wanted = {unit_key(actor, key): unit for key, unit in first.units.items()}

        def make(given: list[Made[Context]], _: int) -> list[Made[Context]]:
            whole = [one for unit in given for one in unit.rows]
            again = decompose_again(whole, stage.decomposer, stage.variant, stage.decompose_sampling)
            better = {one.sample.id: one for one in again}
            return [Made(tuple(better[one.sample.id] for one in unit.rows), unit.failures) for unit in given]

        def renewed(now: Made[Context], unit: Made[Context]) -> Made[Context]:
            samples = {row.sample.id: row.sample for row in now.rows}
            return replace(unit, rows=tuple(replace(row, sample=samples[row.sample.id]) for row in unit.rows))

        return self.fill("contexts", actor, wanted, make, self.edition, renewed)

    def findings(self, contexts: Sequence[Context]) -> dict[str, list[ContextFinding]]:
        """By sample."""
        wanted = {unit_key(CHECKS, context.sample.instruction, asked(context), context.sample.id): context
                  for context in contexts}  # fmt: skip

        def make(given: list[Context], _: int) -> list[Made[ContextFinding]]:
            return [Made(tuple(context_findings(context))) for context in given]

        by_sample: dict[str, list[ContextFinding]] = {context.sample.id: [] for context in contexts}
        shard = self.work.shards["findings"].fill(self.family("checks"), wanted, make)
        for finding in self.done("findings", [shard]):
            by_sample[finding.sample_id].append(finding)
        return by_sample

    def candidates(self, contexts: Sequence[Context]) -> list[Candidate]:
        stage, names = self.stage, [editor.name for editor in self.stage.editors]
        jobs: dict[int, dict[str, tuple[Sample, int]]] = defaultdict(dict)
        order: dict[tuple[str, str, int], int] = {}
        by_name: dict[int, set[str]] = defaultdict(set)
        """Keys of earlier versions, which did not count what ready edits hold."""
        for context in contexts:
            sample = context.sample
            for editor, seed in draw_jobs(sample.id, names, stage.candidates_per_context, stage.seed):
                inputs = self.work.actors["candidates"][editor], identity(sample), seed
                content = self.contents.get(names[editor], {}).get(sample.id)
                key = unit_key(*inputs, content) if content else unit_key(*inputs)
                jobs[editor][key] = (sample, seed)
                by_name[editor].add(unit_key(*inputs))
                order[sample.id, names[editor], seed] = len(order)
        parts: list[tuple[bool, Callable[[], Shard[Candidate]]]] = []
        for number, wanted in sorted(jobs.items()):
            actor = self.work.actors["candidates"][number]
            before = self.before("candidates", actor)
            make = partial(paint_units, editor=stage.editors[number], before=before)
            fill = partial(self.fill, "candidates", actor, wanted, make, covered=by_name[number])
            parts.append((isinstance(self.work.stage.editors[number], PaidEditor), fill))
        rows = self.done("candidates", together(parts, self.work.give_up))
        return sorted(rows, key=lambda row: order[row.sample_id, row.editor, row.seed])

    def traces(self, pairs: Sequence[tuple[Context, Candidate]]) -> dict[str, list[PoolTrace]]:
        """By candidate."""
        parts: list[tuple[bool, Callable[[], Shard[PoolTrace]]]] = []
        first = 0
        members = zip(self.stage.pool, self.work.stage.pool, self.work.actors["traces"], strict=True)
        for member, given_member, actor in members:
            before = self.before("traces", actor)
            make = partial(reason_units, member=member, first=first, before=before)
            wanted = {unit_key(actor, *self.judged(one, two)): (one, two, ()) for one, two in pairs}
            paid = isinstance(given_member.vlm, PaidVLM)
            fill = partial(self.fill, "traces", actor, wanted, make, again=but_readable if paid else None)
            parts.append((paid, fill))
            first += member.traces
        by_candidate: dict[str, list[PoolTrace]] = defaultdict(list)
        for trace in self.done("traces", together(parts, self.work.give_up)):
            by_candidate[trace.candidate_id].append(trace)
        return by_candidate

    def gold(
        self, pairs: Sequence[tuple[Context, Candidate]], traces: Mapping[str, list[PoolTrace]]
    ) -> tuple[dict[str, GoldVerdicts], dict[str, list[GoldVerdicts]]]:
        """By candidate: gold, and the votes that it was made of, where there are several verifiers."""
        stage, actors = self.stage, self.work.actors["gold"]
        paid = [isinstance(vlm, PaidVLM) for vlm in self.work.stage.verifiers]
        asked_each = [partial(self.verified, *one, pairs, traces) for one in zip(stage.verifiers, actors, strict=True)]
        shards = together(list(zip(paid, asked_each, strict=True)), self.work.give_up)
        votes: dict[str, list[GoldVerdicts]] = defaultdict(list)
        if stage.ensemble is not None:
            if stage.ensemble.pool:
                made = {unit_key([asdict(one) for one in own]): Made(tuple(pool_votes(own))) for own in traces.values()}
                shards.append(self.work.shards["gold"].fill(self.family("pool"), made, ready))
            for vote in self.done("votes", shards):
                votes[vote.candidate_id].append(vote)
            shards = [self.voted(stage.ensemble, pairs, votes)]
        return {row.candidate_id: row for row in self.done("gold", shards)}, votes

    def verified(
        self,
        verifier: VLM,
        actor: str,
        pairs: Sequence[tuple[Context, Candidate]],
        traces: Mapping[str, list[PoolTrace]],
    ) -> Shard[GoldVerdicts]:
        stage = self.stage

        def make(given: list[tuple[Context, Candidate, list[PoolTrace]]], turn: int) -> list[Made[GoldVerdicts]]:
            sampling, before = turned(stage.verify_sampling, turn), self.before("gold", actor)
            return [made_of(one) for one in verify_read(given, verifier, stage.variant, sampling, before)]

        wanted = {
            unit_key(actor, *self.judged(context, candidate), references_of(traces[candidate.id])): (
                context, candidate, traces[candidate.id]
            )
            for context, candidate in pairs
        }  # fmt: skip
        return self.fill("gold", actor, wanted, make)

    def voted(
        self, ensemble: Ensemble, pairs: Sequence[tuple[Context, Candidate]], votes: Mapping[str, list[GoldVerdicts]]
    ) -> Shard[GoldVerdicts]:
        """Gold by the votes; it costs nothing, and a candidate on which nobody voted has none."""
        rule, made = ensemble.rule(), {}
        for _, candidate in pairs:
            own = votes.get(candidate.id, [])
            gold = ensemble.decide(own)
            reason = Failure("verify", candidate.id, "ensemble", "no member's vote")
            unit: Made[GoldVerdicts] = Made((), (reason,)) if gold is None else Made((gold,))
            made[unit_key(rule, candidate.id, [asdict(vote) for vote in own])] = unit
        return self.work.shards["gold"].fill(self.family(unit_key(rule)), made, ready)

    def selection(
        self,
        pairs: Sequence[tuple[Context, Candidate]],
        traces: Mapping[str, list[PoolTrace]],
        gold: Mapping[str, GoldVerdicts],
        votes: Mapping[str, list[GoldVerdicts]],
    ) -> Tally:
        """Decisions and targets; they cost nothing, and are made anew whenever something before them changed."""
        stage, tally = self.stage, Tally(self.stage.seed)
        decisions: dict[str, Made[Decision]] = {}
        kept: dict[str, Made[Quadruple]] = {}
        rules = [stage.tie_break, stage.filter_on, stage.seed, *([self.edition] if self.edition else [])]
        for context, candidate in pairs:
            own, truth = traces[candidate.id], gold.get(candidate.id)
            chosen = select(own, truth, stage.tie_break, stage.filter_on, stage.seed)
            tally.add_candidate(context, candidate, own, truth, chosen.decisions, stage.filter_on)
            tally.verifiers.add_votes(context, votes.get(candidate.id, ()), truth)
            key = unit_key(rules, *self.judged(context, candidate), [asdict(t) for t in own], truth and asdict(truth))
            decisions[key] = Made(tuple(chosen.decisions))
            if chosen.selected is not None and isinstance(chosen.selected.outcome, Trace):
                kept[key] = Made((Quadruple(context, candidate, chosen.selected.outcome),))
            else:
                parsed = any(decision.cause != "unparsed" for decision in chosen.decisions)
                cause = "no gold to select by" if parsed else "no trace could be parsed"
                kept[key] = Made((), (Failure("select", candidate.id, "selector", cause),))
        self.done("decisions", [self.work.shards["decisions"].fill(self.family("selector"), decisions, ready)])
        self.done("selected", [self.work.shards["selected"].fill(self.family("selector"), kept, ready)])
        return tally

    # ---

    def judged(self, context: Context, candidate: Candidate) -> tuple[Any, ...]:
        """What a judgment depends on. The sample's id may be its owner's own, and an edit that lay ready stay as it was
        while source or instruction were changed."""
        return candidate.id, self.identities[candidate.sample_id], asked(context)

    def before(self, step: str, actor: str) -> Callable[[], bool]:
        """For `check_outage`."""
        return partial(self.work.shards[step].answered, actor[:12])

    def family(self, actor: str) -> str:
        return f"{actor[:12]}-{self.number:06d}"

    def fill(
        self,
        step: str,
        actor: str,
        wanted: Mapping[str, Any],
        make: Make[Any, T],
        edition: str = "",
        renewed: Callable[[Any, Made[T]], Made[T]] | None = None,
        covered: Iterable[str] = (),
        again: Callable[[Any, Made[T]], Any] | None = None,
    ) -> Shard[T]:
        older = [f"{actor[:12]}-{number:06d}" for number in sorted(self.work.held(self.told["ids"]) - {self.number})]
        shards = self.work.shards[step]
        shard = shards.fill(self.family(actor), wanted, make, older, self.work.retry, edition, renewed, covered, again)
        if shard.new:
            self.keeping.forget(step, actor)
        return shard

    def done(self, step: str, shards: Sequence[Shard[T]]) -> list[T]:
        """Notes a step and returns its rows."""
        failures = [failure for shard in shards for failure in shard.failures]
        now = time.monotonic()
        self.told["steps"][step] = {
            "shards": [str(shard.path.relative_to(self.work.out)) for shard in shards],
            "rows": sum(len(shard.hashes) for shard in shards),
            "failed": causes(failures),
            "new": sum(shard.new for shard in shards),
            "new_rows": sum(shard.new_rows for shard in shards),
            "seconds": now - self.started,
            "spent": self.keeping.finish(step, any(shard.new for shard in shards) or not failures),
        }
        self.started = now
        write_json(self.file.path, self.told)
        if self.tell is not None and step in TABLES:
            self.tell(step, self.number)
        self.work.check()
        return [row for shard in shards for row in shard.rows]


def _given(one: Sample | Failure, unit: Made[Sample]) -> Made[Sample]:
    return replace(unit, rows=(one,)) if isinstance(one, Sample) and unit.rows else unit
