"""Rows that were paid for, found again by what they were made from.

A *unit* is what a model is asked for at once for one row: a context, a picture, one judge's traces of one candidate,
the gold of one candidate. Its key is a hash of all its inputs (`unit_key`). A *shard* holds the units of one actor (a
model with its settings) for one chunk of samples:

    STEP/ACTOR-CHUNK/HASH.parquet   rows; the file's metadata tells keys, rows a unit, row hashes, and by unit what
                                    could not be made

HASH is that of the keys (and of the edition, where rows carry what no key counts): only a retry of what failed changes
a shard, and as rows and failures are one file, a kill leaves both or neither. (Older shards have their failures in
HASH.failures.json.) When other units are wanted of the same actor and chunk (a candidate was added, a judge reads more
principles), those that lie in older shards are taken from there and only the rest are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from edit_r1.curate.failures import Failure
from edit_r1.store import StoreError, Table, read_json, read_rows, row_hash, write_rows
from edit_r1.store.parquet import read_key

T = TypeVar("T")
U = TypeVar("U")


def unit_key(*inputs: object) -> str:
    """Hash of anything that JSON holds, 32 hexadecimal digits; bytes count by their own hash."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=_digest)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest(value: object) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    raise TypeError(f"{value!r}: not an input that a key can be made of")


@dataclass(frozen=True)
class Made(Generic[T]):
    """What came of a unit."""

    rows: tuple[T, ...]
    failures: tuple[Failure, ...] = ()
    turn: int = 0
    """How often an answer that could not be used had been asked for anew before this; told of units with failures."""


Make = Callable[[list[U], int], Sequence[Made[T]]]
"""What comes of units that are wanted, in order; the number is their `Made.turn`."""


def made_of(one: T | Failure) -> Made[T]:
    """Of a unit of one row."""
    return Made((), (one,)) if isinstance(one, Failure) else Made((one,))


def failures_among(made: Sequence[object]) -> list[Failure]:
    return [one for one in made if isinstance(one, Failure)]


def ready(made: list[Made[T]], _: int = 0) -> list[Made[T]]:
    """For `Shards.fill`: units that cost nothing and are made already."""
    return made


@dataclass(frozen=True)
class Shard(Generic[T]):
    """A whole shard in memory."""

    path: Path
    units: dict[str, Made[T]]
    """By key, in order."""
    hashes: tuple[str, ...]
    """`row_hash` of each row, in order."""
    new: int = 0
    """Units that were made now, and not found."""
    new_rows: int = 0
    """Rows of these."""

    @property
    def rows(self) -> list[T]:
        return [row for unit in self.units.values() for row in unit.rows]

    @property
    def failures(self) -> list[Failure]:
        return [failure for unit in self.units.values() for failure in unit.failures]


class Shards(Generic[T]):
    """The shards of one step."""

    def __init__(self, folder: Path, table: Table[T]) -> None:
        """folder: of the step; made when the first shard is written."""
        self.folder, self.table = folder, table

    def fill(
        self,
        family: str,
        wanted: Mapping[str, U],
        make: Make[U, T],
        older: Iterable[str] = (),
        retry: bool = False,
        edition: str = "",
        renewed: Callable[[U, Made[T]], Made[T]] | None = None,
        covered: Iterable[str] = (),
        again: Callable[[U, Made[T]], U] | None = None,
    ) -> Shard[T]:
        """The shard of the wanted units, in their order; those that are nowhere are made, and the shard is written.

        Args:
            family: "ACTOR-CHUNK".
            wanted: by key, what `make` needs to know.
            make: what came of each, in order.
            older: further families whose shards may hold wanted units.
            retry: make those again of which something failed; those of which an answer came that could not be used with
                a turn more, since the same question would bring the same answer of a model that honours its seed.
            edition: hash of what rows carry and no key counts (a sample's licence); "" where there is nothing of it.
            renewed: brings a found unit to this edition.
            covered: further keys that the wanted units stand for: older shards of these alone are removed.
            again: with `retry`, what `make` needs to know of a unit of which something failed, and something did not.

        Raises:
            StoreError: when the disk refuses, or a shard is damaged.
        """
        path = self.folder / family / f"{unit_key(*wanted, *([edition] if edition else []))}.parquet"
        whole = self._read(path) if path.exists() else None
        if whole is not None and not (retry and whole.failures):
            return whole
        known = dict(whole.units) if whole is not None else self._known(family, older, wanted)
        asked = dict(wanted)
        turns: dict[str, int] = {}
        if retry:
            turns = {key: _next_turn(unit) for key, unit in known.items() if unit.failures}
            if again is not None:
                asked |= {key: again(wanted[key], unit) for key, unit in known.items() if unit.failures}
            known = {key: unit for key, unit in known.items() if not unit.failures}
        if renewed is not None:
            known = {key: renewed(wanted[key], unit) for key, unit in known.items()}
        missing = [key for key in wanted if key not in known]
        for turn in sorted({turns.get(key, 0) for key in missing}):
            own = [key for key in missing if turns.get(key, 0) == turn]
            made = make([asked[key] for key in own], turn)
            known |= {key: replace(unit, turn=turn) for key, unit in zip(own, made, strict=True)}
        self._write(path, {key: known[key] for key in wanted})
        shard = self._read(path)
        self._drop_covered(path, {*shard.units, *covered})
        new_rows = sum(len(known[key].rows) for key in missing)
        return Shard(path, shard.units, shard.hashes, len(missing), new_rows)

    def answered(self, actor: str) -> bool:
        """Whether a model has given anything that could be used, in any chunk. actor: as families begin.

        Raises StoreError for a damaged shard.
        """
        for path in self.folder.glob(f"{actor}-*/*.parquet"):
            try:
                index = _index(path)
            except StoreError:
                if path.exists():
                    raise
                continue  # another process has written it anew meanwhile
            lost = _failures(path, index)
            if any(count > len(lost.get(key, ())) for key, count in index["units"]):
                return True
        return False

    def _known(self, family: str, older: Iterable[str], wanted: Mapping[str, Any]) -> dict[str, Made[T]]:
        """Units of older shards; of one that lies in several, as it was when least of it failed."""
        found: dict[str, Made[T]] = {}
        whole: set[str] = set()
        for name in dict.fromkeys((family, *older)):
            for path in sorted((self.folder / name).glob("*.parquet")):
                if _keys(path).isdisjoint(wanted.keys() - whole):
                    continue
                for key, unit in self._read(path).units.items():
                    if key in wanted and (key not in found or len(unit.failures) < len(found[key].failures)):
                        found[key] = unit
                        if not unit.failures:
                            whole.add(key)
        return found

    def _write(self, path: Path, units: Mapping[str, Made[T]]) -> None:
        rows = [self.table.to_row(row) for unit in units.values() for row in unit.rows]
        index = {
            "units": [[key, len(unit.rows)] for key, unit in units.items()],
            "hashes": [row_hash(row) for row in rows],
            "failures": {key: [asdict(one) for one in unit.failures] for key, unit in units.items() if unit.failures},
        }
        if turns := {key: unit.turn for key, unit in units.items() if unit.failures and unit.turn}:
            index["turns"] = turns
        write_rows(path, rows, self.table.features, json.dumps(index))
        _failures_of(path).unlink(missing_ok=True)

    def _read(self, path: Path) -> Shard[T]:
        index = _index(path)
        failures, turns = _failures(path, index), index.get("turns", {})
        rows = iter([self.table.from_row(row) for row in read_rows(path)])
        units = {
            key: Made(
                tuple(next(rows) for _ in range(count)),
                tuple(Failure(**failure) for failure in failures.get(key, ())),
                turns.get(key, 0),
            )
            for key, count in index["units"]
        }
        return Shard(path, units, tuple(index["hashes"]))

    def _drop_covered(self, kept: Path, keys: Iterable[str]) -> None:
        """Removes older shards of the family that hold nothing else."""
        covered = set(keys)
        for path in kept.parent.glob("*.parquet"):
            if path != kept and _keys(path) <= covered:
                path.unlink(missing_ok=True)
                _failures_of(path).unlink(missing_ok=True)


def _next_turn(unit: Made[Any]) -> int:
    """What no answer came to is asked as it was: the data are then those of a run in which all was well."""
    return unit.turn + (not all(failure.failed_call for failure in unit.failures))


def _failures(path: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """By unit, what could not be made."""
    found: dict[str, Any] = index["failures"] if "failures" in index else read_json(_failures_of(path))
    return found


def _failures_of(path: Path) -> Path:
    """Of an older shard."""
    return path.with_name(f"{path.stem}.failures.json")


def _keys(path: Path) -> set[str]:
    return {key for key, _ in _index(path)["units"]}


def _index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(read_key(path))
    except ValueError as error:
        reason = " ".join(str(error.__cause__ or error).split())  # a StoreError's remedy is not that of a shard
        raise StoreError(f"{path}: not a shard of a curation ({reason}): remove it, its rows are made again") from error
    if not isinstance(index, dict) or not {"units", "hashes"} <= index.keys():
        raise StoreError(f"{path}: not a shard of a curation: remove it, its rows are made again")
    return index


def read_shard_failures(path: Path) -> list[Failure]:
    """What could not be made of a shard's units. Raises StoreError for a damaged file."""
    return [Failure(**one) for own in _failures(path, _index(path)).values() for one in own]


def read_shard_hashes(path: Path) -> list[str]:
    """`row_hash` of each row of a shard, in order. Raises StoreError for what is no shard."""
    return [str(one) for one in _index(path)["hashes"]]
