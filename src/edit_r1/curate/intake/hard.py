"""The Hard subset: a VLM is asked for each request whether it is hard, why, and of which kind; every word is kept.

.work/picks/00003.parquet    decisions in the order in which they were paid for, found again by what was asked
.work/picks/weights.json     the weights of local filters when they were first asked
picks/                       the same as a data set
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from edit_r1.curate.failures import Failure, by_cause, check_outage
from edit_r1.curate.pick import FILTER_SAMPLING, HardVerdict, judge_hard
from edit_r1.curate.retry import turned
from edit_r1.curate.shards import unit_key
from edit_r1.curate.tables import PICKS, Pick
from edit_r1.records import Sample
from edit_r1.store import Dataset, Row, read_json, read_rows, row_hash, write_json, write_rows
from edit_r1.verifier.hard_filter import FILTER_VERSION
from edit_r1.vlm.budget import Ledger
from edit_r1.vlm.kept import KeptVLM
from edit_r1.vlm.paid import PaidVLM, named
from edit_r1.vlm.protocol import VLM, Sampling
from edit_r1.vlm.weights import weights_of

AHEAD = 4
"""Requests in batches for each in flight: with fewer, a few that stall would leave a paid model idle."""


@dataclass(frozen=True)
class HardFilter:
    """Who is asked, and what becomes of the answer."""

    judge: VLM
    sampling: Sampling = FILTER_SAMPLING
    keep: Literal["hard", "all"] = "hard"
    """"all" keeps simple requests too, and takes only the category from the answer."""
    most_asked: int = 0
    """Most requests that are judged in all, as each is paid for; 0 is no limit."""
    at_once: int = 64
    """Requests that are asked together; their pictures are in memory. Of a paid model several such batches are under
    way (`batches`), because each waits for its last answer."""
    weights_before: str = ""
    """The judge's weights when the output first had it; a pass sets it. With these, or with unknown ones, it is known
    by its name, else by its weights too (as `CurateStage.weights_before`)."""

    def __post_init__(self) -> None:
        if self.most_asked < 0 or self.at_once < 1:
            raise ValueError(f"most_asked={self.most_asked}, at_once={self.at_once}: give 0 (no limit) or more, and 1")

    @property
    def batches(self) -> int:
        """How many are asked at a time: `AHEAD` requests for each that may be in flight, of a local model one batch."""
        if not isinstance(self.judge, PaidVLM):
            return 1
        return max(2, -(-AHEAD * self.judge.capacity // self.at_once))

    @property
    def key(self) -> str:
        """Hash of everything that shapes a decision, but what is asked."""
        weights = weights_of(self.judge)
        other = [f"weights {weights}"] if weights and self.weights_before not in ("", weights) else []
        return unit_key(*named(self.judge), FILTER_VERSION, asdict(self.sampling), *other)


def with_weights(hard: HardFilter, out: Path) -> HardFilter:
    """The filter, told the weights that its judge had when the output first had it; its own are noted before it is
    asked for the first time. Raises StoreError when the disk refuses."""
    name, own = hard.judge.name, weights_of(hard.judge)
    if not own:
        return hard
    path = out / ".work" / "picks" / "weights.json"
    known: dict[str, str] = read_json(path) if path.exists() else {}
    if name not in known:
        known |= {name: _weights_of_run(out).get(f"model {name}", own)}
        write_json(path, known)
    return replace(hard, weights_before=known[name])


def _weights_of_run(out: Path) -> dict[str, str]:
    """Those that a run noted, which older versions did without noting a filter's."""
    path = out / ".work" / "run.json"
    weights: dict[str, str] = read_json(path).get("weights", {}) if path.exists() else {}
    return weights


class Picks:
    """Decisions on disk, and in memory without their reasons: some 200 bytes each. Threads may share it."""

    def __init__(self, out: Path, ledger: Ledger | None = None) -> None:
        """ledger: where paid decisions are booked. Raises StoreError for a damaged file."""
        self._out, self._folder, self._ledger = out, out / ".work" / "picks", ledger
        self._known: dict[str, Pick] = {}
        self._undecided: dict[str, int] = {}
        """By key, the number of the file that holds an answer without a decision."""
        self._writing = threading.Lock()
        for path in self._paths():
            self._add([PICKS.from_row(row) for row in read_rows(path)], int(path.stem))

    def judge(self, samples: Sequence[Sample], hard: HardFilter, retry: bool) -> list[Pick | Failure]:
        """The decision on each sample, in order: found, or asked for and kept.

        An answer without a decision is kept too, and asked for again when `retry`. A call that failed is kept nowhere.

        Raises OutageError when the model answers nothing at all, BudgetError when the budget is spent.
        """
        keys = [unit_key(hard.key, list(sample.sources), sample.instruction) for sample in samples]
        new = [
            place
            for place, key in enumerate(keys)
            if key not in self._known or (retry and self._known[key].hard is None)
        ]
        failed: dict[int, Failure] = {}
        if new:
            kept = self._kept(hard) / keys[new[0]]
            found: dict[int, HardVerdict | Failure] = {}
            for turn in sorted({self._turn(keys[place]) for place in new}):
                own = [place for place in new if self._turn(keys[place]) == turn]
                told = replace(hard, sampling=turned(hard.sampling, turn))
                answers = self._ask([samples[place] for place in own], told, kept)
                found |= dict(zip(own, answers, strict=True))
            check_outage(
                [one for one in found.values() if isinstance(one, Failure)],
                {one.model for one in found.values() if isinstance(one, HardVerdict)},
                lambda: any(
                    one.hard is not None and one.model == hard.judge.name for one in list(self._known.values())
                ),
            )
            made = []
            for place, one in sorted(found.items()):
                if isinstance(one, Failure) and one.failed_call:
                    failed[place] = one
                else:
                    made.append(_pick(keys[place], samples[place], one, hard.judge))
            if made:
                with self._writing:
                    self._write(made)
                shutil.rmtree(kept, ignore_errors=True)  # what a retry asks must be asked
        return [failed.get(place) or self._known[key] for place, key in enumerate(keys)]

    def assemble(self) -> None:
        """Writes the data set `picks`, the last decision of each key. Raises StoreError when the disk refuses."""
        parts: list[tuple[Path, list[str]]] = []
        failed: Counter[str] = Counter()
        later: set[str] = set()
        for path in self._paths()[::-1]:
            # A retry that was killed after it had written new decisions left the older ones in the files before.
            rows = self._drop(later, path)
            later.update(row["key"] for row in rows)
            parts.insert(0, (path, [row_hash(row) for row in rows]))
            failed.update(f"{row['model']}: {row['reason']}" for row in rows if row["hard"] is None)
        if parts:
            Dataset(self._out, "picks", PICKS).assemble(parts, {"failed": by_cause(failed)})

    def give_up(self, hard: HardFilter) -> None:
        """Ends what other threads ask of a paid model; what is in flight is lost, and may be paid for."""
        if self._ledger is not None:
            self._ledger.stop()
        if isinstance(hard.judge, PaidVLM):
            hard.judge.give_up()

    def finish(self, hard: HardFilter) -> None:
        """After a pass: what was kept of batches that a killed pass cut otherwise goes."""
        shutil.rmtree(self._kept(hard), ignore_errors=True)

    def _ask(self, samples: Sequence[Sample], hard: HardFilter, folder: Path) -> list[HardVerdict | Failure]:
        """A paid model's answers are kept one by one, in a folder of the batch, until the batch is written."""
        if not isinstance(hard.judge, PaidVLM):
            return judge_hard(samples, hard.judge, hard.sampling)
        older = [path for path in (folder.parent, *sorted(folder.parent.glob("*/"))) if path != folder]
        kept = KeptVLM(hard.judge, folder, self._ledger, older)
        try:
            return judge_hard(samples, kept, hard.sampling)
        finally:
            kept.close()

    def _kept(self, hard: HardFilter) -> Path:
        return self._out / ".work" / "kept" / f"picks-{hard.key[:12]}"

    def _write(self, made: Sequence[Pick]) -> None:
        paths = self._paths()
        number = int(paths[-1].stem) + 1 if paths else 0
        write_rows(self._folder / f"{number:06d}.parquet", [PICKS.to_row(one) for one in made], PICKS.features)
        asked_again = {one.key for one in made} & self._known.keys()
        for path in paths if asked_again else ():
            self._drop(asked_again, path)
        self._add(made, number)

    def _drop(self, keys: Set[str], path: Path) -> list[Row]:
        """The rows of a file without those of these keys, which are taken out of it."""
        rows = read_rows(path)
        kept = [row for row in rows if row["key"] not in keys]
        if len(kept) < len(rows):
            write_rows(path, kept, PICKS.features)
        return kept

    def _turn(self, key: str) -> int:
        """For `retry.turned`: 0, or for what had no decision another one after each retry that was written."""
        return 1 + self._undecided[key] % 1_000 if key in self._undecided else 0

    def _add(self, picks: Sequence[Pick], number: int) -> None:
        for pick in picks:
            self._undecided.pop(pick.key, None)
            if pick.hard is None:
                self._undecided[pick.key] = number
            short = pick if pick.hard is None else Pick(pick.key, "", "", "", pick.hard, pick.category, "", pick.model)
            self._known[pick.key] = short

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))


def _pick(key: str, sample: Sample, found: HardVerdict | Failure, judge: VLM) -> Pick:
    asked = (key, sample.id, sample.origin, sample.instruction)
    if isinstance(found, Failure):
        return Pick(*asked, None, "", found.reason, judge.name, judge.simulated)
    return Pick(*asked, found.hard, found.category, found.reason, found.model, found.simulated)
