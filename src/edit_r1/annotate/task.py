"""What a task's folder asks to be compared, whatever form it has.

- `pairs.jsonl` or `pairs.parquet`: a row per pair, {"source", "instruction", "first", "second"} and optionally "id",
  "principles", "gold" ("first", "second" or "same"), "category", "split", "first_editor", "second_editor". In JSONL a
  picture is a path relative to the file; in Parquet it may be encoded bytes.
- our data set `pairs` (preferences, whose answers are not looked at), or `contexts` and `candidates` (what `edit-r1
  curate run` writes), of which pairs are drawn.
- a study of two editors: `samples.jsonl` with {"id", "source", "instruction"} and optionally "principles", "category",
  and two folders with a picture ID.png (or .jpg, .jpeg, .webp) per sample.
- beside any of them `gold.jsonl`, rows as in `pairs.jsonl` whose "gold" is the right answer.

In the records made here every picture is the id (ASCII) under which `Pictures` keeps it, not its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_args

from edit_r1.annotate.pictures import Pictures
from edit_r1.annotate.settings import AnnotateSettings, Begun
from edit_r1.preferences.pairs import collect
from edit_r1.processes import cores
from edit_r1.records import Candidate, Choice, Context, Preference, Principle, Sample
from edit_r1.store import CANDIDATES, CONTEXTS, PREFERENCES, Dataset, StoreError, Table
from edit_r1.verifier.inputs import check_unicode, open_data, picture_of, principles_of, raw_rows
from edit_r1.verifier.prompts import check_instruction

PAIR_COLUMNS = ("source", "instruction", "first", "second")
SAMPLE_COLUMNS = ("id", "source", "instruction")
_OPTIONAL = ("id", "principles", "gold", "category", "split", "first_editor", "second_editor")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MAX_ID_CHARS = 200
_CHUNK = 32
"""Rows whose pictures are decoded side by side."""
_REFERENCES = "has further source images, which the page does not show: leave it out"
DATA_REMEDY = (
    "write pairs.jsonl there, a row {source, instruction, first, second} each (docs/annotate.md), or name the pairs by "
    "--pairs, or a study by --study NEW OTHER"
)


Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class TaskPair:
    """One comparison to be made."""

    id: str
    """Unique in its task and stable."""
    pair: Preference
    """Context and the two candidates; its answer and annotator mean nothing."""
    gold: Choice | None = None
    """The right answer of a gold pair."""

    def swap(self) -> TaskPair:
        """The same comparison with its two edits named the other way round."""
        gold = None if self.gold is None else replace(self.pair, choice=self.gold).swap().choice
        return TaskPair(self.id, self.pair.swap(), gold)


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be used."""

    place: str
    """File and number of the row, from 1."""
    reason: str


@dataclass(frozen=True)
class TaskData:
    """Where a task's pairs come from."""

    directory: Path
    pairs: Path | None
    """A file of rows, a data set of preferences, or None for DIR's contexts and candidates."""
    study: tuple[Path, Path] | None

    @property
    def gold(self) -> Path | None:
        path = self.directory / "gold.jsonl"
        return path if path.is_file() else None

    def files(self) -> list[Path]:
        """Every file that says which pairs there are; of a study the edits too."""
        found = [] if self.gold is None else [self.gold]
        if self.study is not None:
            # The new editor's first: the two folders named the other way round are another study.
            edits = [
                sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS) for folder in self.study
            ]
            return [*found, self.directory / "samples.jsonl", *edits[0], *edits[1]]
        if self.pairs is not None and self.pairs.is_file():
            return [*found, self.pairs]
        names = ["contexts", "candidates"] if self.pairs is None else [self.pairs.name]
        parent = self.directory if self.pairs is None else self.pairs.parent
        return [*found, *(parent / f"{name}.done.json" for name in names)]


def find_data(root: Path, settings: AnnotateSettings) -> TaskData:
    """The one form that the folder has, or that the settings name.

    Raises:
        ValueError: when there is none, or a named file or folder is not there.
    """
    if settings.study is not None:
        for folder in settings.study:
            if not folder.is_dir():
                raise ValueError(f"{folder}: no such folder: --study needs two folders of edits")
        if not (root / "samples.jsonl").is_file():
            raise ValueError(f"{root}: holds no samples.jsonl: a study needs one, {{id, source, instruction}} a row")
        return TaskData(root, None, settings.study)
    if settings.pairs is not None:
        if not settings.pairs.is_file() and not _is_dataset(settings.pairs):
            raise ValueError(f"--pairs {settings.pairs}: neither a file nor a finished data set: check the path")
        return TaskData(root, settings.pairs, None)
    for name in ("pairs.jsonl", "pairs.parquet"):
        if (root / name).is_file():
            return TaskData(root, root / name, None)
    if _is_dataset(root / "pairs"):
        return TaskData(root, root / "pairs", None)
    if _is_dataset(root / "contexts") and _is_dataset(root / "candidates"):
        return TaskData(root, None, None)
    raise ValueError(f"{root}: holds nothing to compare: {DATA_REMEDY}")


def read_pairs(
    data: TaskData, pictures: Pictures, begun: Begun, allow_outside: bool = False
) -> Iterator[TaskPair | BrokenRow]:
    """Every pair of a task, its pictures checked and kept; a row that cannot be used is one with a reason.

    Args:
        begun: how pairs are drawn of contexts.
        allow_outside: read pictures outside the data's folder too.

    Raises:
        ValueError: for files that hold no rows at all, or a data set of another kind.
    """
    if data.study is not None:
        yield from _study(data, data.study, pictures, allow_outside)
    elif data.pairs is None:
        yield from _drawn(data.directory, pictures, begun)
    elif data.pairs.is_file():
        yield from _rows(data.pairs, pictures, allow_outside, gold=False)
    else:
        yield from _preferences(data.pairs, pictures)
    if data.gold is not None:
        yield from _rows(data.gold, pictures, allow_outside, gold=True)


def _is_dataset(path: Path) -> bool:
    return path.with_name(f"{path.name}.done.json").is_file()


def _each(
    make: Callable[[Item], Made], items: Iterable[Item], place: Callable[[Item], str]
) -> Iterator[Made | BrokenRow]:
    """`make` of every item, in order, on as many threads as there are cores, because pictures are decoded in it.

    An item of which it raises ValueError is a broken row at its `place`. A StoreError is raised: of a disk that is full
    no row is to blame.
    """

    def tried(item: Item) -> Made | BrokenRow:
        try:
            return make(item)
        except StoreError:
            raise
        except ValueError as error:
            return BrokenRow(place(item), str(error))

    remaining = iter(items)
    with ThreadPoolExecutor(cores()) as threads:
        while chunk := list(islice(remaining, _CHUNK)):
            yield from threads.map(tried, chunk)


def _rows(file: Path, pictures: Pictures, allow_outside: bool, gold: bool) -> Iterator[TaskPair | BrokenRow]:
    """gold: every row needs a right answer."""
    found = raw_rows(open_data(file, PAIR_COLUMNS), (*PAIR_COLUMNS, *_OPTIONAL))

    def pair(numbered: tuple[int, Any]) -> TaskPair:
        return _pair_of(numbered[1], file.parent, pictures, allow_outside, gold)

    yield from _each(pair, enumerate(found, start=1), lambda numbered: f"{file.name} row {numbered[0]}")


def _pair_of(row: Any, root: Path, pictures: Pictures, allow_outside: bool, needs_gold: bool) -> TaskPair:
    context = _context_of(row, root, pictures, allow_outside, PAIR_COLUMNS)
    edits = [pictures.keep(picture_of(row[side], side, root, allow_outside)) for side in ("first", "second")]
    gold = row.get("gold")
    if gold not in (None, *get_args(Choice)):
        raise ValueError(f"gold {gold!r}: write first, second or same, or leave it out")
    if needs_gold and gold is None:
        raise ValueError("has no gold: write first, second or same")
    own = hashlib.sha256("\n".join([context.sample.id, *sorted(edits)]).encode()).hexdigest()[:16]
    candidates = [
        Candidate(f"{context.sample.id}-{edit[:16]}", context.sample.id, edit.encode(), _text(row, f"{side}_editor"), 0)
        for edit, side in zip(edits, ("first", "second"), strict=True)
    ]
    return TaskPair(_given_id(row) or own, Preference(context, candidates[0], candidates[1], "same", ""), gold)


def _study(
    data: TaskData, folders: tuple[Path, Path], pictures: Pictures, allow_outside: bool
) -> Iterator[TaskPair | BrokenRow]:
    file = data.directory / "samples.jsonl"
    names = [folder.resolve().name for folder in folders]
    if names[0] == names[1]:
        names = [str(folder) for folder in folders]

    def pair(numbered: tuple[int, Any]) -> TaskPair:
        context = _context_of(numbered[1], file.parent, pictures, allow_outside, SAMPLE_COLUMNS)
        name = _given_id(numbered[1])
        if not name:
            raise ValueError("has an empty id: a study finds the edits by it")
        edits = [
            Candidate(f"{editor}/{name}", context.sample.id, pictures.keep(_edit(folder, name)).encode(), editor, 0)
            for folder, editor in zip(folders, names, strict=True)
        ]
        return TaskPair(name, Preference(context, edits[0], edits[1], "same", ""))

    rows = enumerate(raw_rows(open_data(file, SAMPLE_COLUMNS), ()), start=1)
    yield from _each(pair, rows, lambda numbered: f"{file.name} row {numbered[0]}")


def _edit(folder: Path, name: str) -> bytes:
    """The picture of a sample in an editor's folder."""
    if "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"id {name!r}: a file name is made of it; use no slash and no leading dot")
    for ending in _ENDINGS:
        if (folder / f"{name}{ending}").exists():
            return picture_of(f"{name}{ending}", f"edit in {folder.name}", folder, allow_outside=False)
    raise ValueError(f"{folder} holds no edit {name}.png (.jpg, .jpeg, .webp)")


def _preferences(path: Path, pictures: Pictures) -> Iterator[TaskPair | BrokenRow]:
    """The distinct pairs of a data set of preferences, whatever was answered and in whatever order they stood."""

    def pair(given: Preference) -> TaskPair:
        context = _kept_context(given.context, pictures)
        first, second = (_kept_candidate(one, pictures) for one in (given.first, given.second))
        return TaskPair(f"{first.id} {second.id}", Preference(context, first, second, "same", ""))

    yield from _each(pair, _distinct(_dataset(path, PREFERENCES)), lambda given: f"sample {given.context.sample.id}")


def _distinct(preferences: Iterable[Preference]) -> Iterator[Preference]:
    """The first row of each pair of candidates."""
    seen: set[frozenset[str]] = set()
    for preference in preferences:
        sides = frozenset({preference.first.id, preference.second.id})
        if sides not in seen:
            seen.add(sides)
            yield preference


def _drawn(root: Path, pictures: Pictures, begun: Begun) -> Iterator[TaskPair | BrokenRow]:
    """Pairs of candidates as `preferences.collect` draws them."""
    contexts, candidates = [], []
    for context in _each(lambda one: _kept_context(one, pictures), _dataset(root / "contexts", CONTEXTS), _sample_of):
        if isinstance(context, BrokenRow):
            yield context
        else:
            contexts.append(context)
    made = _dataset(root / "candidates", CANDIDATES)
    for candidate in _each(lambda one: _kept_candidate(one, pictures), made, lambda one: f"candidate {one.id}"):
        if isinstance(candidate, BrokenRow):
            yield candidate
        else:
            candidates.append(candidate)
    for pair in collect(contexts, candidates, [_Nobody()], begun.pairs_per_context, begun.seed):
        yield TaskPair(f"{pair.first.id} {pair.second.id}", pair)


class _Nobody:
    """Stands for the people who are still to be asked."""

    name = ""
    simulated = False

    def choose(self, context: Context, first: Candidate, second: Candidate) -> Choice:
        return "same"


def _dataset(path: Path, table: Table[Any]) -> Dataset[Any]:
    return Dataset(path.parent, path.name, table)


def _sample_of(context: Context) -> str:
    return f"sample {context.sample.id}"


def _kept_context(context: Context, pictures: Pictures) -> Context:
    if context.sample.references:
        raise ValueError(_REFERENCES)
    return replace(context, sample=replace(context.sample, source=pictures.keep(context.sample.source).encode()))


def _kept_candidate(candidate: Candidate, pictures: Pictures) -> Candidate:
    return replace(candidate, image=pictures.keep(candidate.image).encode())


def _context_of(row: Any, root: Path, pictures: Pictures, allow_outside: bool, needed: tuple[str, ...]) -> Context:
    """The context in a row of JSONL or Parquet. Raises ValueError for a malformed row."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"a row of type {type(row).__name__}: write an object with {', '.join(needed)}")
    if missing := [name for name in needed if row.get(name) is None]:
        raise ValueError(f"has no {', '.join(missing)}: a row needs {', '.join(needed)}")
    instruction = check_instruction(_text(row, "instruction"))
    source = pictures.keep(picture_of(row["source"], "source", root, allow_outside))
    rows = row.get("principles")
    principles: tuple[Principle, ...] = () if rows is None else principles_of(rows)
    own = hashlib.sha256(f"{source}\n{instruction}".encode()).hexdigest()[:16]
    split = _text(row, "split") or "train"
    sample = Sample(f"sample-{own}", source.encode(), instruction, _text(row, "category"), split=split)
    return Context(sample, principles, "given" if principles else "")


def _text(row: dict[str, Any], name: str) -> str:
    """A text of a row, "" where it has none."""
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} of type {type(value).__name__}: write a text")
    check_unicode(name, value)
    return value


def _given_id(row: dict[str, Any]) -> str:
    value = row.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = _text({"id": value}, "id")
    if len(text) > MAX_ID_CHARS:
        raise ValueError(f"an id of {len(text)} characters: use at most {MAX_ID_CHARS}")
    return text
