"""A team's rows as the samples of a curation: read, checked, drawn, filtered; streamed by number afterwards.

What needs all rows (copies, a draw, the filter) is one pass before the curation begins. It keeps what it saw:

    .work/intake/looked-KEY/     facts of the rows that were looked at (`intake.facts`)
    .work/intake/picked-KEY.parquet, .json   the numbers of the rows that became samples, and why others did not
    .work/picks/, picks/         decisions of the Hard filter (`intake.hard`)
    intake.json                  counts

A pass that was stopped goes on with the facts and decisions that are there. A row that fails is a `Failure` among the
samples; a row that was not drawn, or is not hard, is counted in intake.json.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from edit_r1.curate.failures import Failure, by_cause
from edit_r1.curate.intake.checks import IntakeChecks, Seen, check_size, check_text
from edit_r1.curate.intake.draw import Draw, Wave, Waves, take
from edit_r1.curate.intake.facts import Facts, Looked
from edit_r1.curate.intake.hard import HardFilter, Picks, with_weights
from edit_r1.curate.intake.limits import Mark
from edit_r1.curate.intake.picked import (
    CheckedRow,
    Entry,
    PassedRow,
    WaitingRow,
    any_failed,
    entry_of,
    read_picked,
    write_picked,
)
from edit_r1.curate.intake.rows import Reader, read_category, read_edits, read_row
from edit_r1.curate.shards import unit_key
from edit_r1.curate.tables import Pick
from edit_r1.images import ImageError
from edit_r1.records import Sample
from edit_r1.store import read_json, write_json
from edit_r1.verifier.items import context_key
from edit_r1.vlm.budget import Ledger

Tell = Callable[[int, int], None]
_VERSION = 2
"""Of the checks and draws: raised when the same settings would pick other rows."""
_FIRST_ASKED = 256
"""Requests of the first wave of a filter, which tells how many are hard."""


class _Batch(NamedTuple):
    """Rows that the filter is asked about."""

    asked: list[CheckedRow]
    picks: Future[list[Pick | Failure]]


class TeamSamples:
    """Samples of a team's data (`curate.stage.Samples` and `Prepared`)."""

    def __init__(
        self,
        reader: Reader,
        checks: IntakeChecks | None = None,
        draw: Draw | None = None,
        hard: HardFilter | None = None,
        licence: str = "",
        split: str = "train",
    ) -> None:
        """
        Args:
            reader: of the rows, such as `intake.open.open_rows` gives.
            draw: which of the rows that pass; None takes all of them.
            hard: a filter that is asked about each.
            licence: of rows that have none in the data.
            split: of every sample.
        """
        self.reader, self.checks, self.draw, self.hard = reader, checks or IntakeChecks(), draw or Draw(), hard
        self.licence, self.split = licence, split
        self._picked: pa.Table | None = None
        self._digest = ""
        self._earlier: list[str] = []
        """Hash of what the parts before this one hold; none without such a part."""
        self.counts: dict[str, Any] = {}
        """What intake.json holds, once prepared."""
        self._out: Path | None = None
        self._looked: Looked | None = None
        self._numbers: dict[str, int] | None = None

    @property
    def fingerprint(self) -> str:
        return unit_key(self._asked(), self._digest)

    def _asked(self) -> str:
        """Hash of the data and of everything that is asked of them."""
        hard = None if self.hard is None else [self.hard.key, self.hard.keep, self.hard.most_asked]
        rules = [asdict(self.checks), asdict(self.draw), hard, self.licence, self.split, self._earlier]
        limited = self.checks.most_per_picture or self.checks.most_per_instruction
        # Limits counted rows that were not taken: where there may be such, an older pass picked others.
        counted = limited and (self.hard or self.draw.equal_shares or self.draw.most_per_category)
        return unit_key(_VERSION, self.reader.fingerprint, rules, *(["taken"] if counted else []))

    @property
    def filters(self) -> list[HardFilter]:
        """As `curate.stage.Prepared`."""
        return [] if self.hard is None else [self.hard]

    def prepare(
        self,
        out: Path,
        retry: bool = False,
        tell: Tell | None = None,
        ledger: Ledger | None = None,
        earlier: Sequence[TeamSamples] = (),
    ) -> None:
        """As `curate.stage.Prepared`. earlier: parts of the same data set, prepared; rows with an id of theirs, and
        copies of their rows, are failures, and limits count theirs too.

        Raises ValueError for data that cannot be opened, or give no sample though there is no part before;
        StoreError when the disk refuses; OutageError when the filter answers nothing at all; BudgetError when the
        budget is spent, and what was answered by then is found again.
        """
        if self._picked is not None and self._out == out:
            return
        self._earlier = [unit_key([part.contents() for part in earlier])] if earlier else []
        self.hard = None if self.hard is None else with_weights(self.hard, out)
        work = out / ".work" / "intake"
        self.reader.prepare(work)
        self._looked = looked = Looked(work, self.reader)
        path = work / f"picked-{self._asked()[:16]}.parquet"
        if not path.exists() or (retry and (any_failed(read_picked(path)) or looked.changed())):
            entries, counts = _Pass(self, out, looked, retry, tell, ledger, earlier).run()
            write_json(path.with_suffix(".json"), counts)
            write_picked(path, entries)  # last: its being there says that the pass has ended
        picked = read_picked(path)
        self.counts = read_json(path.with_suffix(".json"))
        write_json(out / "intake.json", self.counts)
        if picked["reason"].null_count == 0 and not earlier:
            told = f" (the first: {picked['model'][0]}, {picked['reason'][0]})" if len(picked) else ""
            raise ValueError(f"{out}: no row of the data became a sample{told}: see intake.json there")
        self._picked, self._out, self._numbers = picked, out, None
        self._digest = unit_key(*(self._picked[name].to_pylist() for name in ("row", "content", "reason")))

    def __len__(self) -> int:
        """Samples and failures; before `prepare`, the most that there can be."""
        if self._picked is not None:
            return len(self._picked)
        return min(len(self.reader), self.draw.count or len(self.reader))

    def rows(self, start: int, stop: int) -> Iterator[Sample | Failure]:
        """As `Samples.rows`. Raises ValueError before `prepare`."""
        for picked in self._table().slice(start, max(0, stop - start)).to_pylist():
            yield self.sample_of(picked)

    def ready_edits(self, sample: Sample) -> list[bytes]:
        """The edits that the data has of a sample (`Columns.edits`), in order.

        Raises ValueError before `prepare`, for a sample of other data, and for an edit that cannot be read.
        """
        if self._numbers is None:
            self._numbers = dict(zip(self.ids(), self._good()["number"].to_pylist(), strict=True))
        if sample.id not in self._numbers:
            raise ValueError(f"sample {sample.id} is none of this data")
        return read_edits(self.reader, self._numbers[sample.id])

    def ids(self) -> list[str]:
        """Of all samples, in their order. Raises ValueError before `prepare`."""
        names: list[str] = self._good()["row"].to_pylist()
        return names

    def contents(self) -> list[list[str]]:
        """Ids, and hashes of content, of all samples. Raises ValueError before `prepare`."""
        good = self._good()
        return [good["row"].to_pylist(), good["content"].to_pylist()]

    def taken(self) -> Iterator[Facts]:
        """What is known of the rows that are samples, in order. Raises ValueError before `prepare`."""
        numbers = self._good()["number"].to_pylist()
        return iter(()) if self._looked is None else self._looked.look(numbers)

    def _good(self) -> pa.Table:
        table = self._table()
        return table.filter(pc.is_null(table["reason"]))

    def _table(self) -> pa.Table:
        if self._picked is None:
            raise ValueError("these samples are not prepared yet: a curation does it when it begins")
        return self._picked

    def sample_of(self, picked: dict[str, Any]) -> Sample | Failure:
        """What a picked row is, read now."""
        if picked["reason"] is not None:
            return Failure(picked["step"], picked["row"], picked["model"], picked["reason"], picked["failed_call"])
        try:
            row = read_row(self.reader, picked["number"])
        except ValueError as error:
            cause = "source image" if isinstance(error, ImageError) else "row"
            return Failure("samples", picked["row"], cause, str(error))
        if context_key(row.sources, row.instruction)[:32] != picked["content"]:
            if self._looked is not None:
                self._looked.note_changed(picked["number"])
            reason = "changed since it was looked at: --retry-failed looks at it anew"
            return Failure("samples", picked["row"], "row", reason)
        return Sample(
            picked["row"], row.sources[0], row.instruction, picked["category"], picked["subset"], self.split,
            references=row.sources[1:], origin=row.origin, licence=picked["licence"],
        )  # fmt: skip


class _Pass:
    """One pass over the rows."""

    def __init__(
        self, source: TeamSamples, out: Path, looked: Looked, retry: bool, tell: Tell | None, ledger: Ledger | None,
        earlier: Sequence[TeamSamples],
    ) -> None:  # fmt: skip
        self.source, self.retry, self.tell = source, retry, tell
        self.looked, self.picks = looked, Picks(out, ledger)
        self.seen = Seen(source.checks)
        self.elsewhere = {name for part in earlier for name in part.ids()}
        for facts in (facts for part in earlier for facts in part.taken() if not facts.problem):
            self.seen.add(facts.hashes, facts.instruction)
        self.kept: Counter[str] = Counter()
        self.by_category: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.entries: list[Entry] = []
        self.planned = 0

    def run(self) -> tuple[list[Entry], dict[str, Any]]:
        """What became of every row that was looked at, by number; and counts."""
        source = self.source
        waves = Waves(len(source.reader), source.draw, lambda number: read_category(source.reader, number))
        while len((wave := waves.next(self.kept, self._rate(), self._left())).numbers) and not self._asked_enough():
            self.planned += len(wave.numbers)
            if wave.ranks is None and source.hard is None:  # each is known at once
                for row in self._passing(wave):
                    self._settle([row], wave)
            else:
                self._settle(self._passing(wave), wave)
        self.picks.assemble()
        if source.hard is not None:
            self.picks.finish(source.hard)
        self.entries.sort(key=lambda entry: entry.number)
        return self.entries, self._told()

    def _settle(self, rows: Iterable[CheckedRow], wave: Wave) -> None:
        """Takes of rows what is needed. Those for which there was no room beside others that passed have another turn
        where these were not taken."""
        turns = count()
        while True:
            passed, waiting = self._turns(rows, turns)
            wave = wave.after(self._take(passed, wave))
            again = []
            for one in waiting:
                if self.seen.limits.full(one.mark):
                    self._crowded(one)
                elif wave.wants(one.number):
                    again.append(one)
                else:
                    self.counts["more than needed"] += 1
            if not again:
                return
            rows = self._again(again)

    def _turns(self, rows: Iterable[CheckedRow], turns: Iterator[int]) -> tuple[list[PassedRow], list[WaitingRow]]:
        """The rows that pass, and those for which they leave no room. What is asked in a turn is known before its
        answers, so that it is the same however many batches are under way."""
        limits, passed, closed = self.seen.limits, list[PassedRow](), list[WaitingRow]()
        for turn in turns:
            waiting: list[WaitingRow] = []
            found = list(self._judged(self._admitted(rows, turn, waiting)))
            limits.end_turn(one.mark for one in found)
            passed += found
            closed += [one for one in waiting if limits.closed(one.mark)]
            if not (ready := [one for one in waiting if not limits.closed(one.mark)]):
                break
            rows = self._again(ready)
        return passed, sorted(closed)

    def _admitted(self, rows: Iterable[CheckedRow], turn: int, waiting: list[WaitingRow]) -> Iterator[CheckedRow]:
        for row in rows:
            if self.seen.limits.admit(row.mark, turn):
                yield row
            else:
                waiting.append(WaitingRow(row.facts.number, row.mark))

    def _again(self, waiting: Sequence[WaitingRow]) -> Iterator[CheckedRow]:
        """Rows of which numbers alone were kept: there may be as many as the data have."""
        found = self.looked.look(one.number for one in waiting)
        return (self._row(facts, one.mark) for facts, one in zip(found, waiting, strict=True))

    def _row(self, facts: Facts, mark: Mark) -> CheckedRow:
        return CheckedRow(replace(facts, licence=facts.licence or self.source.licence), mark)

    def _take(self, passed: Sequence[PassedRow], wave: Wave) -> list[int]:
        """The numbers of those that become samples."""
        taken = take(
            [(one.entry.number, one.entry.category) for one in passed], wave, self.kept, self.by_category,
            self.source.draw.most_per_category, lambda place: self.seen.limits.take(passed[place].mark),
        )  # fmt: skip
        self.seen.limits.settle()
        self.counts["full category"] += taken.full
        self.counts["more than needed"] += len(passed) - len(taken.places) - taken.full - len(taken.crowded)
        for place in taken.crowded:
            self._crowded(WaitingRow(passed[place].entry.number, passed[place].mark))
        self.entries += [passed[place].entry for place in taken.places]
        return [passed[place].entry.number for place in taken.places]

    def _crowded(self, one: WaitingRow) -> None:
        origin, reason = self.source.reader.origin(one.number), self.seen.limits.full(one.mark)
        self._fail(one.number, Failure("samples", origin, "copy", reason or "is one row too many"))

    def _rate(self) -> float:
        looked = self.counts["looked at"]
        if not looked:
            # Nothing is known of a filter yet; what it is asked in vain costs money.
            wanted = self.source.draw.count
            return max(1.0, wanted / _FIRST_ASKED) if self.source.hard is not None and wanted else 1.0
        return sum(self.kept.values()) / looked

    def _left(self) -> int:
        """Requests that may still be asked, 0 for any number."""
        most = self.source.hard.most_asked if self.source.hard is not None else 0
        return max(0, most - self.counts["asked"])

    def _asked_enough(self) -> bool:
        most = self.source.hard.most_asked if self.source.hard is not None else 0
        return bool(most) and self.counts["asked"] >= most

    def _passing(self, wave: Wave) -> Iterator[CheckedRow]:
        """The rows of a wave that pass every check, by number; the others become failures."""
        for facts in self.looked.look((int(number) for number in wave.numbers), self.retry):
            self.counts["looked at"] += 1
            if self.tell is not None:
                self.tell(self.counts["looked at"], self.planned)
            found = self._refused(facts)
            if isinstance(found, Failure):
                self._fail(facts.number, found)
            else:
                yield self._row(facts, found)

    def _refused(self, facts: Facts) -> Failure | Mark:
        checks = self.source.checks
        if facts.problem:
            return Failure("samples", facts.origin, facts.cause, facts.problem)
        for label, picture in zip(("source image", *["reference image"] * 8), facts.pictures, strict=False):
            if reason := check_size(picture.width, picture.height, checks):
                return Failure("samples", facts.origin, label, reason)
        if reason := check_text(facts.instruction, checks):
            return Failure("samples", facts.origin, "instruction", reason)
        if facts.id in self.elsewhere:
            return Failure("samples", facts.origin, "copy", "has the id of a row of an earlier part of the data")
        found = self.seen.refuse(facts.id, facts.hashes, facts.instruction)
        return Failure("samples", facts.origin, "copy", found) if isinstance(found, str) else found

    def _judged(self, rows: Iterator[CheckedRow]) -> Iterator[PassedRow]:
        """The rows that the filter lets pass, with its category; all where there is none."""
        hard = self.source.hard
        if hard is None:
            yield from (PassedRow(entry_of(row.facts, "random"), row.mark) for row in rows)
            return
        with ThreadPoolExecutor(hard.batches) as threads:
            under_way: deque[_Batch] = deque()
            batch: list[CheckedRow] = []
            try:
                for row in rows:
                    if hard.most_asked and self.counts["asked"] + len(batch) >= hard.most_asked:
                        self.counts["not asked"] += 1
                        continue
                    batch.append(row)
                    if len(batch) == hard.at_once:
                        under_way.append(self._ask(batch, hard, threads))
                        batch = []
                    if len(under_way) == hard.batches:
                        yield from self._decided(under_way.popleft(), hard)
                under_way.append(self._ask(batch, hard, threads))
                while under_way:
                    yield from self._decided(under_way.popleft(), hard)
            except BaseException as error:
                threads.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):  # Ctrl-C
                    self.picks.give_up(hard)
                raise

    def _ask(self, batch: list[CheckedRow], hard: HardFilter, threads: Executor) -> _Batch:
        samples, asked = [], []
        for row in batch:
            found = self.source.sample_of(entry_of(row.facts, "random")._asdict())
            if isinstance(found, Failure):
                self._fail(row.facts.number, replace(found, row=row.facts.origin))
            else:
                samples.append(found)
                asked.append(row)
        self.counts["asked"] += len(asked)
        return _Batch(asked, threads.submit(self.picks.judge, samples, hard, self.retry))

    def _decided(self, batch: _Batch, hard: HardFilter) -> Iterator[PassedRow]:
        for (facts, mark), pick in zip(batch.asked, batch.picks.result(), strict=True):
            if isinstance(pick, Failure):
                self._fail(facts.number, replace(pick, row=facts.origin))
            elif pick.hard is None:
                self._fail(facts.number, Failure("pick", facts.origin, pick.model, pick.reason))
            elif pick.hard or hard.keep == "all":
                subset = "hard" if pick.hard else "random"
                yield PassedRow(entry_of(replace(facts, category=pick.category), subset), mark)
            else:
                self.counts["simple"] += 1

    def _fail(self, number: int, failure: Failure) -> None:
        told = (failure.step, failure.model, failure.reason, failure.failed_call)
        self.entries.append(Entry(number, failure.row, "", "", "", "", *told))

    def _told(self) -> dict[str, Any]:
        """intake.json."""
        samples = [entry for entry in self.entries if entry.reason is None]
        failures = [entry for entry in self.entries if entry.reason is not None]
        rows, looked = len(self.source.reader), self.counts["looked at"]
        return {
            "rows": rows,
            "looked_at": looked,
            "not_drawn": rows - looked,
            "wanted": self.source.draw.count or None,
            "samples": len(samples),
            "failed": by_cause(Counter(f"{entry.model}: {entry.reason}" for entry in failures)),
            "asked": self.counts["asked"],
            "simple": self.counts["simple"],
            "not_asked": self.counts["not asked"],
            "category_full": self.counts["full category"],
            "more_than_needed": self.counts["more than needed"],
            "subsets": _counted(entry.subset for entry in samples),
            "categories": _counted(entry.category or "unknown" for entry in samples),
            "licences": _counted(entry.licence or "unknown" for entry in samples),
        }


def _counted(values: Iterator[str]) -> dict[str, int]:
    counted = Counter(values)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
