"""An editor benchmark on disk: every edit and every grade is a file of its own as soon as it is there.

OUT/benchmark.json                              which tasks, and their revision
OUT/editors/EDITOR/editor.json                  what made the edits
OUT/editors/EDITOR/edits/TASK-sSEED.png         (.jpg, .webp: as the editor encoded it)
OUT/editors/EDITOR/grades/JUDGE/judge.json      who graded them
OUT/editors/EDITOR/grades/JUDGE/TASK-sSEED.json

Files appear whole or not at all, so a run may be killed at any time; the same command makes what is missing and pays
for nothing twice. Another editor or judge adds files. What was made by other settings under the same name is refused.
A grade names the SHA-256 of the picture that it is of, so that a picture that was replaced is graded anew.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edit_r1.editors.protocol import Editor
from edit_r1.evaluate.editor_benchmarks import EditorBenchmark, Task
from edit_r1.evaluate.editor_judges import EditJudge, Grade, JudgedEdit
from edit_r1.images import ImageError, decode_pil, picture_mime
from edit_r1.store import StoreError, read_json, write_bytes, write_json

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
GIVE_UP = 3
"""Calls of an editor in a row without any picture, after which a run ends."""
EditKey = tuple[str, int]
"""(sample id, seed)."""


@dataclass(frozen=True)
class MadeEdit:
    """One edit of a run; its picture stays on the disk, as there may be thousands."""

    task: Task
    seed: int
    path: Path | None
    """Of the picture; None when the editor made none."""
    error: str | None = None

    @property
    def key(self) -> EditKey:
        return self.task.sample.id, self.seed

    def image(self) -> bytes:
        """The encoded picture. Raises StoreError (a ValueError) when there is none, or it is gone."""
        if self.path is None:
            raise StoreError(f"task {self.task.sample.id}, seed {self.seed}: there is no picture ({self.error})")
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read ({error.strerror or error}): run the editor again"
            ) from error


@dataclass(frozen=True)
class GradedEdit:
    """One edit with a judge's word on it."""

    edit: MadeEdit
    grade: Grade | None
    """None without a picture, and where no answer came."""
    reason: str | None = None
    """Why there is no grade."""


def slug(name: str) -> str:
    """A file name that tells `name` apart from every other one, at most 60 characters."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if plain and plain == name and len(plain) <= 60:
        return plain
    return f"{plain[:48].strip('-.') or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def begin(out: Path, benchmark: EditorBenchmark) -> None:
    """Claims `out` for a benchmark. Raises StoreError (a ValueError) when it holds another, or cannot be written."""
    _same(
        out / "benchmark.json",
        {"benchmark": benchmark.name, "revision": benchmark.revision},
        "of another benchmark or other data",
    )


def sample_edits(
    out: Path,
    editor: Editor,
    about: Mapping[str, Any],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    at_once: int = 8,
    refresh: bool = False,
    progress: Progress | None = None,
) -> list[MadeEdit]:
    """Every task edited with every seed, tasks outermost; what is on disk already is read.

    Args:
        about: what shapes the editor's pictures (JSON); a folder made by others is refused.
        at_once: edits asked for in one call, and lost at most by a kill.
        refresh: ask for all again and replace pictures that differ: for editors that only read files.

    An edit that failed is told and not kept: the next run tries again. Raises StoreError (a ValueError) as `begin`, and
    ValueError when `GIVE_UP` calls in a row gave no picture at all: an endpoint that is gone is not asked a thousand
    times.
    """
    folder = editor_folder(out, editor.name)
    _same(folder / "editor.json", {"editor": editor.name, **about}, "by an editor of other settings")
    work = [(task, seed) for task in tasks for seed in seeds]
    made: dict[int, MadeEdit] = {}
    for place, (task, seed) in enumerate(work):
        path = None if refresh else edit_path(folder, task, seed)
        if path is not None:
            made[place] = MadeEdit(task, seed, path)
    missing = [place for place in range(len(work)) if place not in made]
    in_vain = 0
    for start in range(0, len(missing), at_once):
        if progress is not None:
            progress(len(made), len(work))
        chunk = missing[start : start + at_once]
        edits = editor.edit([work[place][0].sample for place in chunk], [work[place][1] for place in chunk])
        for place, edit in zip(chunk, edits, strict=True):
            task, seed = work[place]
            made[place] = MadeEdit(task, seed, *_kept(folder, task, seed, edit.image, edit.error))
        in_vain = 0 if any(made[place].path for place in chunk) else in_vain + 1
        if in_vain == GIVE_UP and not refresh:
            raise ValueError(f"{editor.name} makes no pictures ({made[chunk[0]].error}); the same command goes on")
    if progress is not None:
        progress(len(made), len(work))
    return [made[place] for place in range(len(work))]


def _kept(
    folder: Path, task: Task, seed: int, image: bytes | None, error: str | None
) -> tuple[Path | None, str | None]:
    """Writes a picture that can be read, and gives its path; (None, reason) for any other."""
    if image is None:
        return None, error or "the editor made no picture"
    try:
        decode_pil(image)
        suffix = _SUFFIXES.get(picture_mime(image), ".png")
    except ImageError as bad:
        return None, f"the editor's picture cannot be read ({bad})"
    path = folder / "edits" / f"{_stem(task, seed)}{suffix}"
    before = edit_path(folder, task, seed)
    if before != path or before.read_bytes() != image:
        write_bytes(path, image)
    if before is not None and before != path:
        before.unlink(missing_ok=True)
    return path, None


def editor_folder(out: Path, name: str) -> Path:
    return out / "editors" / slug(name)


def known_editors(out: Path) -> list[str]:
    """Names of the editors whose edits `out` holds."""
    files = sorted((out / "editors").glob("*/editor.json"))
    return [str(read_json(file).get("editor")) for file in files]


def edit_path(folder: Path, task: Task, seed: int) -> Path | None:
    """Where an editor's folder has the picture; None when it does not."""
    paths = [folder / "edits" / f"{_stem(task, seed)}{suffix}" for suffix in _SUFFIXES.values()]
    return next((path for path in paths if path.is_file()), None)


def read_edits(out: Path, editor: str, tasks: Sequence[Task], seeds: Sequence[int]) -> list[MadeEdit]:
    """What `sample_edits` left of an editor. Raises ValueError for an editor that `out` does not hold."""
    folder = editor_folder(out, editor)
    if not (folder / "editor.json").is_file():
        raise ValueError(f"{out} holds no editor {editor!r}; it has {', '.join(known_editors(out)) or 'none'}")
    return [
        MadeEdit(task, seed, path, None if path is not None else "not made yet")
        for task in tasks
        for seed in seeds
        for path in [edit_path(folder, task, seed)]
    ]


def _stem(task: Task, seed: int) -> str:
    return f"{slug(task.sample.id)}-s{seed}"


# --- grades -----------------------------------------------------------------------------------------------------


def judge_slug(judge: EditJudge, identity: str) -> str:
    """The folder name of a judge's grades: its kind, its model's name, and a hash of everything that shapes them."""
    told = hashlib.sha256(f"{judge.kind}|{identity}|{sorted(judge.settings.items())!r}".encode()).hexdigest()[:8]
    return f"{judge.kind}-{slug(judge.name)}-{told}"


def grade_edits(
    out: Path,
    editor: str,
    judge: EditJudge,
    identity: str,
    edits: Sequence[MadeEdit],
    retries: int = 2,
    at_once: int = 16,
    progress: Progress | None = None,
) -> list[GradedEdit]:
    """A grade for every edit with a picture; those on disk are read.

    Args:
        identity: of the judge's model beyond its name, such as `judge_identity` gives it.
        retries: how often an answer that cannot be read is asked for again. An edit without a score that was kept with
            fewer retries is judged again.
        at_once: edits judged in one call, and lost at most by a kill.

    Raises StoreError for a disk, and ValueError when a whole chunk got no answer: the model is gone, what is graded
    is kept, and the same call goes on.
    """
    folder = editor_folder(out, editor) / "grades" / judge_slug(judge, identity)
    about = {"kind": judge.kind, "model": judge.name, "identity": identity, "settings": judge.settings}
    _same(folder / "judge.json", about, "by another judge")
    graded: dict[int, GradedEdit] = {}
    for place, edit in enumerate(edits):
        if edit.path is None:
            graded[place] = GradedEdit(edit, None, edit.error)
        elif (grade := _read_grade(folder, edit, retries)) is not None:
            graded[place] = GradedEdit(edit, grade, grade.reason)
    missing = [place for place in range(len(edits)) if place not in graded]
    for start in range(0, len(missing), at_once):
        if progress is not None:
            progress(len(graded), len(edits))
        places = missing[start : start + at_once]
        asked = [JudgedEdit(edits[place].task, edits[place].image()) for place in places]
        began = time.monotonic()
        grades = judge.grade(asked, retries)
        seconds = (time.monotonic() - began) / len(places)
        for place, one, grade in zip(places, asked, grades, strict=True):
            gone = grade.failed_call and grade.score is None
            graded[place] = GradedEdit(edits[place], None if gone else grade, grade.reason)
            if not grade.failed_call:
                _write_grade(folder, edits[place], one.image, grade, retries, seconds)
        if all(grade.failed_call and grade.score is None for grade in grades):
            raise ValueError(f"{judge.name} gives no answers ({grades[0].reason}); the same command goes on from here")
    if progress is not None:
        progress(len(graded), len(edits))
    return [graded[place] for place in range(len(edits))]


def _grade_path(folder: Path, edit: MadeEdit) -> Path:
    return folder / f"{_stem(edit.task, edit.seed)}.json"


def _write_grade(folder: Path, edit: MadeEdit, image: bytes, grade: Grade, retries: int, seconds: float) -> None:
    told = asdict(grade)
    told.pop("failed_call")
    about = {"task": edit.task.sample.id, "seed": edit.seed, "edit": hashlib.sha256(image).hexdigest()}
    write_json(_grade_path(folder, edit), {**about, **told, "retries": retries, "seconds": seconds})


def _read_grade(folder: Path, edit: MadeEdit, retries: int) -> Grade | None:
    """The grade on disk; None where there is none, where it is of another picture or asked less often than now."""
    path = _grade_path(folder, edit)
    if not path.is_file():
        return None
    try:
        row = read_json(path)
        if row["edit"] != hashlib.sha256(edit.image()).hexdigest() or (
            row["score"] is None and row["retries"] < retries
        ):
            return None
        return Grade(row["score"], row["parts"], row["unparsed"], False, row["reason"], tuple(row["texts"]))
    except (KeyError, TypeError, StoreError) as error:
        raise StoreError(f"{path}: not a grade that was written here ({error}): remove it, it is made anew") from error


def _same(path: Path, told: Mapping[str, Any], odd: str) -> None:
    """Writes a record, or checks that it is what an earlier run wrote. Raises StoreError where it is not."""
    if not path.is_file():
        write_json(path, dict(told))
        return
    before = read_json(path)
    if before != dict(told):
        names = [name for name in told if not isinstance(before, dict) or before.get(name) != told[name]]
        raise StoreError(
            f"{path.parent}: was made {odd} ({', '.join(names) or 'settings'} differ): choose another --out or --name"
        )
