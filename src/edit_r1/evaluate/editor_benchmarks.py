"""Benchmarks of image editors, read into tasks: GEdit-Bench, ImgEdit-Bench (basic), and a person's own folder.

gedit    the rows of `stepfun-ai/GEdit-Bench`: a Parquet file, a folder of them (or with a folder data/ of them, as on
         the hub), a folder that `datasets` saved, or the hub id.
imgedit  a folder that holds basic_edit.json ({key: {"id": path of the source, "prompt", "edit_type"}}) and the
         sources below it, as Benchmark.tar unpacks; or that JSON file.
folder   a .jsonl or .parquet file (or a folder with one) of {"source", "instruction"}, optionally "id", "category",
         "language", "principles"; or a folder that one of our stages wrote (contexts).

Every picture is decoded once while reading, so that a broken one is told before an editor is opened. Pictures are
resized by neither side: editors and judges have their own rules.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edit_r1.images import ImageError
from edit_r1.records import Principle, Sample
from edit_r1.store import CONTEXTS, read_dataset, read_json
from edit_r1.verifier.hub_tables import hub_table, is_saved, saved_table, table_rows
from edit_r1.verifier.inputs import check_unicode, open_data, picture_of, principles_of, raw_rows
from edit_r1.verifier.items import check_pictures, context_key
from edit_r1.verifier.prompts import check_instruction

GEDIT, IMGEDIT, FOLDER, EDITWORLD = "gedit", "imgedit", "folder", "editworld"
GEDIT_COLUMNS = ("task_type", "key", "instruction", "instruction_language", "input_image", "input_image_raw",
                 "Intersection_exist")  # fmt: skip
_LANGUAGES = {"zh": "cn", "cn": "cn", "en": "en"}
"""GEdit's rows say "cn", its published script looks for "zh": both are one language."""
_FOLDER_COLUMNS = ("source", "instruction", "id", "category", "language", "principles")
_TOLD = 3
"""Broken rows that a message names."""


@dataclass(frozen=True)
class Task:
    """One edit that a benchmark asks for. `sample.category` is the benchmark's own task type."""

    sample: Sample
    language: str = ""
    """Of the instruction, "en" or "cn"; "" where the benchmark does not say."""
    intersection: bool | None = None
    """GEdit: in the subset that every editor of its paper answered; None elsewhere."""
    ready: tuple[str, ...] = ()
    """Where the official layout keeps an editor's picture of it: paths without ending, relative to its folder."""
    principles: tuple[Principle, ...] | None = None
    """What a verifier judges by; None lets it write them."""


@dataclass(frozen=True)
class EditorBenchmark:
    """The tasks of one benchmark."""

    name: str
    tasks: tuple[Task, ...]
    revision: str
    """SHA-256 over ids, sources and instructions of all tasks, 16 digits: the same for the same content."""

    def part(self, most: int) -> EditorBenchmark:
        """At most `most` tasks (0: all), taken at even distances, so that every kind stays in."""
        if most < 0:
            raise ValueError(f"--most {most}: use 0 (all tasks) or more")
        if not most or most >= len(self.tasks):
            return self
        places = np.unique(np.linspace(0, len(self.tasks) - 1, most).round().astype(int))
        return replace(self, tasks=tuple(self.tasks[place] for place in places))

    def of_language(self, language: str | None) -> EditorBenchmark:
        """The tasks of one language; all for None. Raises ValueError where there is none."""
        if language is None:
            return self
        tasks = tuple(task for task in self.tasks if task.language == language)
        if not tasks:
            there = ", ".join(sorted({task.language for task in self.tasks} - {""})) or "none"
            raise ValueError(f"--language {language}: {self.name} has no such task; languages are {there}")
        return replace(self, tasks=tasks)


def benchmark_of(name: str, tasks: Sequence[Task]) -> EditorBenchmark:
    """A benchmark of these tasks. Raises ValueError for none, and for an id that two of them have."""
    if not tasks:
        raise ValueError(f"{name}: holds no task")
    digest = hashlib.sha256()
    seen: set[str] = set()
    for task in tasks:
        sample = task.sample
        if sample.id in seen:
            raise ValueError(f"{name}: two tasks have the id {sample.id!r}: an id names one task")
        seen.add(sample.id)
        key = context_key((sample.source, *sample.references), sample.instruction)
        digest.update(f"{sample.id}\0{sample.category}\0{task.language}\0{key}\n".encode())
    return EditorBenchmark(name, tuple(tasks), digest.hexdigest()[:16])


def read_benchmark(name: str, data: str, allow_outside: bool = False) -> EditorBenchmark:
    """The benchmark `name` (gedit, imgedit or folder) from `data`, a path or, for gedit, a hub id.

    allow_outside: read pictures that lie outside the data's folder too.
    Raises ValueError (StoreError and ImageError are some) that names data, row and remedy.
    """
    readers: dict[str, Callable[[str, bool], Iterator[Task | ValueError]]] = {
        GEDIT: _gedit, IMGEDIT: _imgedit, FOLDER: _folder,
    }  # fmt: skip
    tasks: list[Task] = []
    broken: list[str] = []
    pictures: dict[bytes, bytes] = {}
    for number, found in enumerate(readers[name](data, allow_outside), start=1):
        if isinstance(found, Task):
            try:
                source = found.sample.source
                if source not in pictures:
                    check_pictures((source,), "source image")
                check_instruction(found.sample.instruction)
                # GEdit has every picture once a language: in memory it is held once.
                sample = replace(found.sample, source=pictures.setdefault(source, source))
                tasks.append(replace(found, sample=sample))
                continue
            except ValueError as error:
                found = error
        broken.append(f"row {number}: {found}")
    if broken:
        more = f"; and {len(broken) - _TOLD} more" if len(broken) > _TOLD else ""
        raise ValueError(f"{data}: {len(broken)} rows cannot be used ({'; '.join(broken[:_TOLD])}{more}): mend them")
    if not tasks:
        raise ValueError(f"{data}: holds no rows of the benchmark {name}")
    return benchmark_of(name, tasks)


# --- GEdit-Bench ------------------------------------------------------------------------------------------------


def _gedit(data: str, allow_outside: bool) -> Iterator[Task | ValueError]:
    for row, root in _table_rows(data, GEDIT_COLUMNS[:4]):
        try:
            yield _gedit_task(row, root, allow_outside)
        except ValueError as error:
            yield error


def _gedit_task(row: Any, root: Path, allow_outside: bool) -> Task:
    if isinstance(row, ValueError):
        raise row
    kind, key, instruction, language = (_text(row, name) for name in GEDIT_COLUMNS[:4])
    if language not in _LANGUAGES:
        raise ValueError(f"instruction_language {language!r}: expected one of {', '.join(_LANGUAGES)}")
    # The raw picture is what published runs edit; older copies of the data set have the resized one alone.
    image = row.get("input_image_raw") or row.get("input_image")
    if not image:
        raise ValueError("has neither input_image_raw nor input_image")
    inside = row.get("Intersection_exist")
    sample = Sample(f"{language}-{key}", picture_of(image, "input_image", root, allow_outside), instruction, kind)
    places = tuple(f"{top}{kind}/{language}/{key}" for top in ("fullset/", ""))
    return Task(sample, _LANGUAGES[language], inside if isinstance(inside, bool) else None, places)


def _table_rows(data: str, needed: Sequence[str]) -> Iterator[tuple[Any, Path]]:
    """(row, folder that its paths start from) of Parquet, of a saved dataset, or of one on the hub."""
    path = Path(data)
    nested = path / "data"
    if is_saved(path):
        yield from _arrow_rows(saved_table(path), data, needed, path)
    elif path.is_file() or (path.is_dir() and any(one.suffix in (".jsonl", ".parquet") for one in path.iterdir())):
        yield from _file_rows(path, needed)
    elif nested.is_dir():
        yield from _file_rows(nested, needed)
    elif not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", data):
        table, root = hub_table(data, "train")
        yield from _arrow_rows(table, data, needed, root)
    else:
        raise ValueError(f"{data}: no Parquet file, folder of them or data set on the hub (OWNER/NAME): check the path")


def _file_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[Any, Path]]:
    found = open_data(path, needed)
    for row in raw_rows(found, (*GEDIT_COLUMNS, *_FOLDER_COLUMNS)):
        yield row, found.files[0].parent


def _arrow_rows(table: Any, data: str, needed: Sequence[str], root: Path) -> Iterator[tuple[Any, Path]]:
    """Rows without a picture decoded on the way."""
    names = list(getattr(table, "column_names", []))
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(f"{data}: has no column {', '.join(missing)}; it has {', '.join(map(str, names)) or 'none'}")
    for row in table_rows(table, (*GEDIT_COLUMNS, *_FOLDER_COLUMNS)):
        yield row, root


# --- ImgEdit-Bench ----------------------------------------------------------------------------------------------

_IMGEDIT_JSON = ("basic_edit.json", "singleturn.json")
"""Names that releases of the benchmark have for the same file."""


def _imgedit(data: str, allow_outside: bool) -> Iterator[Task | ValueError]:
    path = _imgedit_json(Path(data))
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected an object of keys, found {type(entries).__name__}")
    for key, entry in entries.items():
        try:
            yield _imgedit_task(str(key), entry, path.parent, allow_outside)
        except ValueError as error:
            yield error


def _imgedit_json(path: Path) -> Path:
    if path.is_file():
        return path
    folders = [path, *(sorted(one for one in path.iterdir() if one.is_dir()) if path.is_dir() else ())]
    for folder in folders:
        for name in _IMGEDIT_JSON:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"{path}: holds no {' or '.join(_IMGEDIT_JSON)}: give the folder that Benchmark.tar unpacks to")


def _imgedit_task(key: str, entry: Any, root: Path, allow_outside: bool) -> Task:
    name, prompt, kind = (_text(entry, field) for field in ("id", "prompt", "edit_type"))
    try:
        source = picture_of(name, "id", root, allow_outside)
    except ImageError as error:
        raise ImageError(f"{key}: {error}") from error
    return Task(Sample(key, source, prompt, kind), ready=(key,))


# --- one's own --------------------------------------------------------------------------------------------------


def _folder(data: str, allow_outside: bool) -> Iterator[Task | ValueError]:
    path = Path(data)
    if path.is_dir() and path.with_name(f"{path.name}.done.json").exists():
        for context in read_dataset(path.parent, path.name, CONTEXTS):
            yield Task(context.sample, ready=(context.sample.id,), principles=context.principles or None)
        return
    for row, root in _table_rows(data, ("source", "instruction")):
        try:
            yield _folder_task(row, root, allow_outside)
        except ValueError as error:
            yield error


def _folder_task(row: Any, root: Path, allow_outside: bool) -> Task:
    if isinstance(row, ValueError):
        raise row
    instruction = _text(row, "instruction")
    if not row.get("source"):
        raise ValueError("has no source: a row needs source and instruction")
    images = row["source"] if isinstance(row["source"], list) else [row["source"]]
    sources = [picture_of(image, "source", root, allow_outside) for image in images]
    known = {
        name: _text(row, name) if row.get(name) not in (None, "") else "" for name in ("id", "category", "language")
    }
    principles = row.get("principles")
    sample = Sample(
        id=known["id"] or context_key(sources, instruction)[:16],
        source=sources[0],
        instruction=instruction,
        category=known["category"],
        references=tuple(sources[1:]),
    )
    given = None if principles in (None, "", []) else principles_of(principles)
    return Task(sample, known["language"], ready=(sample.id,), principles=given)


def _text(row: Any, name: str) -> str:
    """A text, or a whole number as one. Raises ValueError where there is none."""
    value = row.get(name) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"has no {name}: a row needs it as a text")
    text = str(value)
    check_unicode(name, text)
    return text
