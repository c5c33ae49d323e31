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

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edit_r1.curate.failures import Failure, by_cause
from edit_r1.curate.intake.checks import IntakeChecks, Seen, check_size, check_text
from edit_r1.curate.intake.draw import Draw, Wave, Waves, take
from edit_r1.curate.intake.facts import Facts, Looked
from edit_r1.curate.intake.hard import HardFilter, Picks, with_weights
from edit_r1.curate.intake.rows import Reader, read_category, read_edits, read_row
from edit_r1.curate.shards import unit_key
from edit_r1.curate.tables import Pick
from edit_r1.images import ImageError
from edit_r1.records import Sample
from edit_r1.store import StoreError, read_json, write_bytes, write_json
from edit_r1.verifier.items import context_key
from edit_r1.vlm.budget import Ledger

Tell = Callable[[int, int], None]
_VERSION = 2
"""Of the checks and draws: raised when the same settings would pick other rows."""
_FIRST_ASKED = 256
"""Requests of the first wave of a filter, which tells how many are hard."""

_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("row", pa.string()),
        ("content", pa.string()),
        ("category", pa.string()),
        ("licence", pa.string()),
        ("subset", pa.string()),
        ("step", pa.string()),
        ("model", pa.string()),
        ("reason", pa.string()),
        ("failed_call", pa.bool_()),
    ]
)
"""Of what was picked: a sample's id in `row`, and for a failure its origin there and a `reason`."""


class _Entry(NamedTuple):
    """A row of `_SCHEMA`."""

    number: int
    row: str
    content: str = ""
    category: str = ""
    licence: str = ""
    subset: str = ""
    step: str | None = None
    model: str | None = None
    reason: str | None = None
    failed_call: bool = False


class _Batch(NamedTuple):
    """Rows that the filter is asked about."""

    asked: list[Facts]
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
        self.without: Set[str] = frozenset()
        """Ids that are taken elsewhere, as `prepare` was told."""
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
        rules = [asdict(self.checks), asdict(self.draw), hard, self.licence, self.split, sorted(self.without)]
        return unit_key(_VERSION, self.reader.fingerprint, rules)

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
        without: Set[str] = frozenset(),
    ) -> None:
        """As `curate.stage.Prepared`. without: ids that are taken elsewhere; rows of these are failures.

        Raises ValueError for data that cannot be opened, or give no sample though nothing is taken elsewhere;
        StoreError when the disk refuses; OutageError when the filter answers nothing at all; BudgetError when the
        budget is spent, and what was answered by then is found again.
        """
        if self._picked is not None and self._out == out:
            return
        self.without = without
        self.hard = None if self.hard is None else with_weights(self.hard, out)
        work = out / ".work" / "intake"
        self.reader.prepare(work)
        self._looked = looked = Looked(work, self.reader)
        path = work / f"picked-{self._asked()[:16]}.parquet"
        if not path.exists() or (retry and (_failed(_read(path)) or looked.changed())):
            table, counts = _Pass(self, out, looked, retry, tell, ledger).run()
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            write_json(path.with_suffix(".json"), counts)
            write_bytes(path, sink.getvalue().to_pybytes())  # last: its being there says that the pass has ended
        picked = _read(path)
        self.counts = read_json(path.with_suffix(".json"))
        write_json(out / "intake.json", self.counts)
        if picked["reason"].null_count == 0 and not without:
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


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: damaged: remove it and run again, the rows are looked at anew") from error


def _failed(table: pa.Table) -> bool:
    return bool(table["reason"].null_count < len(table))


class _Pass:
    """One pass over the rows."""

    def __init__(
        self, source: TeamSamples, out: Path, looked: Looked, retry: bool, tell: Tell | None, ledger: Ledger | None
    ) -> None:
        self.source, self.retry, self.tell = source, retry, tell
        self.looked, self.picks = looked, Picks(out, ledger)
        self.seen = Seen(source.checks)
        self.kept: Counter[str] = Counter()
        self.by_category: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.entries: list[_Entry] = []
        self.planned = 0

    def run(self) -> tuple[pa.Table, dict[str, Any]]:
        """What became of every row that was looked at, by number; and counts."""
        source = self.source
        waves = Waves(len(source.reader), source.draw, lambda number: read_category(source.reader, number))
        while len((wave := waves.next(self.kept, self._rate(), self._left())).numbers) and not self._asked_enough():
            self.planned += len(wave.numbers)
            passed = [_entry(facts, subset) for facts, subset in self._judged(self._passing(wave))]
            places, full = take(
                [(entry.number, entry.category) for entry in passed], wave, self.kept, self.by_category,
                source.draw.most_per_category,
            )  # fmt: skip
            self.counts["full category"] += full
            self.counts["more than needed"] += len(passed) - len(places) - full
            self.entries += [passed[place] for place in places]
        self.picks.assemble()
        if source.hard is not None:
            self.picks.finish(source.hard)
        self.entries.sort(key=lambda entry: entry.number)
        columns = zip(*self.entries, strict=True) if self.entries else [()] * len(_SCHEMA)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=_SCHEMA), self._told()

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

    def _passing(self, wave: Wave) -> Iterator[Facts]:
        """The rows of a wave that pass every check, by number; the others become failures."""
        for facts in self.looked.look((int(number) for number in wave.numbers), self.retry):
            self.counts["looked at"] += 1
            if self.tell is not None:
                self.tell(self.counts["looked at"], self.planned)
            failure = self._refused(facts)
            if failure is None:
                yield replace(facts, licence=facts.licence or self.source.licence)
            else:
                self._fail(facts, failure)

    def _refused(self, facts: Facts) -> Failure | None:
        checks = self.source.checks
        if facts.problem:
            return Failure("samples", facts.origin, facts.cause, facts.problem)
        for label, picture in zip(("source image", *["reference image"] * 8), facts.pictures, strict=False):
            if reason := check_size(picture.width, picture.height, checks):
                return Failure("samples", facts.origin, label, reason)
        if reason := check_text(facts.instruction, checks):
            return Failure("samples", facts.origin, "instruction", reason)
        if facts.id in self.source.without:
            return Failure("samples", facts.origin, "copy", "has the id of a row of an earlier part of the data")
        pictures = [(one.exact, one.near) for one in facts.pictures]
        if reason := self.seen.refuse(facts.id, pictures, facts.instruction):
            return Failure("samples", facts.origin, "copy", reason)
        return None

    def _judged(self, rows: Iterator[Facts]) -> Iterator[tuple[Facts, str]]:
        """(row, subset) of the rows that the filter lets pass, with its category; of all where there is none."""
        hard = self.source.hard
        if hard is None:
            yield from ((facts, "random") for facts in rows)
            return
        with ThreadPoolExecutor(hard.batches) as threads:
            under_way: deque[_Batch] = deque()
            batch: list[Facts] = []
            try:
                for facts in rows:
                    if hard.most_asked and self.counts["asked"] + len(batch) >= hard.most_asked:
                        self.counts["not asked"] += 1
                        continue
                    batch.append(facts)
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

    def _ask(self, batch: list[Facts], hard: HardFilter, threads: Executor) -> _Batch:
        samples, asked = [], []
        for facts in batch:
            found = self.source.sample_of(_entry(facts, "random")._asdict())
            if isinstance(found, Failure):
                self._fail(facts, replace(found, row=facts.origin))
            else:
                samples.append(found)
                asked.append(facts)
        self.counts["asked"] += len(asked)
        return _Batch(asked, threads.submit(self.picks.judge, samples, hard, self.retry))

    def _decided(self, batch: _Batch, hard: HardFilter) -> Iterator[tuple[Facts, str]]:
        for facts, pick in zip(batch.asked, batch.picks.result(), strict=True):
            if isinstance(pick, Failure):
                self._fail(facts, replace(pick, row=facts.origin))
            elif pick.hard is None:
                self._fail(facts, Failure("pick", facts.origin, pick.model, pick.reason))
            elif pick.hard or hard.keep == "all":
                yield replace(facts, category=pick.category), "hard" if pick.hard else "random"
            else:
                self.counts["simple"] += 1

    def _fail(self, facts: Facts, failure: Failure) -> None:
        told = (failure.step, failure.model, failure.reason, failure.failed_call)
        self.entries.append(_Entry(facts.number, failure.row, "", "", "", "", *told))

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


def _entry(facts: Facts, subset: str) -> _Entry:
    return _Entry(
        facts.number, facts.id, facts.content[:32], sys.intern(facts.category), sys.intern(facts.licence), subset
    )
