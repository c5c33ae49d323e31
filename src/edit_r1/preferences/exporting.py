"""Our preferences for other tools: JSON lines with picture files, Label Studio's tasks, TRL's preference rows.

- jsonl: what `import jsonl` reads, without loss but for `hidden` columns of simulated worlds and decomposers' names.
- label-studio: tasks.json and labeling_config.xml. One task a pair of pictures with an annotation for every answer;
  who answered stands in the task's data, because annotations name people by Label Studio's own user ids. The answer is
  a `Choices` of first, second and same: its `Pairwise` tag knows no "same".
- trl: rows {images, prompt, chosen, rejected} for `DPOTrainer`. A row needs one prompt and two answers to it, so a pair
  of pictures becomes a question about both, [source, first, second], whose chosen answer names the better one. That
  trains a judge of pairs. Judges of one edit learn from pairs by GCPO, which reads our own format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edit_r1.images import picture_mime
from edit_r1.preferences.kinds import Target
from edit_r1.preferences.votes import pair_key
from edit_r1.records import Preference
from edit_r1.store import (
    PREFERENCES,
    Dataset,
    Features,
    Row,
    StoreError,
    Table,
    new_folder,
    stream_dataset,
    stream_rows,
    write_text,
    writing,
)

_SUFFIX = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif", "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}  # fmt: skip

LABELING_CONFIG = """\
<View>
  <Header value="Which edit is better: more faithful to the instruction, and of better quality?"/>
  <Text name="instruction" value="$instruction"/>
  <Image name="source" value="$source"/>
  <View style="display: flex; gap: 1em">
    <View style="flex: 1"><Header value="first"/><Image name="first" value="$first"/></View>
    <View style="flex: 1"><Header value="second"/><Image name="second" value="$second"/></View>
  </View>
  <Choices name="choice" toName="first" choice="single-radio" required="true" showInline="true">
    <Choice value="first"/>
    <Choice value="second"/>
    <Choice value="same"/>
  </Choices>
</View>
"""

TRL_FEATURES: Features = {
    "images": "images",
    "prompt": {"role": "string", "content": "string"},
    "chosen": {"role": "string", "content": "string"},
    "rejected": {"role": "string", "content": "string"},
}


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    kind: str
    out: str
    rows: int
    """Preferences read."""
    written: int
    """Rows or tasks."""
    same: int
    """Read as "same"; TRL has no place for them, the others keep them."""
    left_out: int
    """Of other splits than asked for."""


@dataclass
class _Counts:
    rows: int = 0
    same: int = 0
    left_out: int = 0
    written: int = 0


def export_preferences(
    kind: Target,
    folder: Path,
    out: Path,
    split: str = "",
    blind: bool = False,
    image_prefix: str | None = None,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> ExportSummary:
    """Writes the data set `folder` as `out`: a folder, or with trl also one .parquet file.

    Args:
        split: only pairs of this split; "": all.
        blind: Label Studio's tasks without the answers and the editors' names, to be annotated anew.
        image_prefix: what stands before a picture's path in Label Studio's tasks; None for its local files, served
            from the folder that holds `out`.
        progress: called with (rows read, rows in all).

    Raises:
        StoreError: (a ValueError) for a data set that cannot be read, `out` that exists, or a disk that refuses.
        ValueError: when there is nothing to write.
    """
    if out.exists():
        raise StoreError(f"{out}: exists already: remove it or choose another name")
    counts = _Counts()
    rows = _rows(Dataset(folder.parent, folder.name, PREFERENCES), split, counts, progress)
    if kind == "trl":
        _write_trl(rows, folder, out, counts)
    elif kind == "jsonl":
        with new_folder(out) as partial, open(partial / "pairs.jsonl", "w", encoding="utf-8") as file:
            for preference in rows:
                file.write(json.dumps(jsonl_row(preference, partial), ensure_ascii=False) + "\n")
                counts.written += 1
            _check_any(folder, counts)
    else:
        prefix = f"/data/local-files/?d={quote(out.name)}/" if image_prefix is None else image_prefix
        with new_folder(out) as partial:
            _write_tasks(rows, partial, prefix, blind, counts)
            _check_any(folder, counts)
    return ExportSummary(kind, str(out), counts.rows, counts.written, counts.same, counts.left_out)


def _rows(
    dataset: Dataset[Preference], split: str, counts: _Counts, progress: Callable[[int, int], None]
) -> Iterator[Preference]:
    total = int(dataset.meta()["rows"])
    for preference in dataset:
        counts.rows += 1
        progress(counts.rows, total)
        if split and preference.context.sample.split != split:
            counts.left_out += 1
            continue
        counts.same += preference.choice == "same"
        yield preference


def _check_any(folder: Path, counts: _Counts) -> None:
    if counts.written == 0:
        raise ValueError(
            f"{folder}: nothing to write: of {counts.rows} pairs {counts.left_out} are of other splits and "
            f'{counts.same} are "same"'
        )


def _picture(image: bytes, folder: Path) -> str:
    """Writes a picture once, named by its content; its path relative to `folder`, with slashes."""
    name = hashlib.sha256(image).hexdigest()[:24]
    path = folder / "images" / name[:2] / f"{name}{_SUFFIX[picture_mime(image)]}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return path.relative_to(folder).as_posix()


def jsonl_row(preference: Preference, folder: Path) -> dict[str, Any]:
    """The row that `import jsonl` reads; pictures are written into `folder`. What is empty is left out."""
    sample = preference.context.sample
    sources = [_picture(source, folder) for source in (sample.source, *sample.references)]
    row: dict[str, Any] = {
        "id": preference.origin,
        "source": sources if len(sources) > 1 else sources[0],
        "first": _picture(preference.first.image, folder),
        "second": _picture(preference.second.image, folder),
        "instruction": sample.instruction,
        "choice": preference.choice,
        "annotator": preference.annotator,
        "simulated": preference.simulated or None,
        "aspect": preference.aspect,
        "category": sample.category,
        "split": sample.split,
        "first_editor": preference.first.editor,
        "second_editor": preference.second.editor,
        "first_seed": preference.first.seed or None,
        "second_seed": preference.second.seed or None,
        "principles": [{"question": p.question, "category": p.category} for p in preference.context.principles],
        "ratings": {one.name: [one.first, one.second] for one in preference.ratings},
        "soft_label": preference.soft_label,
        "votes": preference.votes,
    }
    return {name: value for name, value in row.items() if value not in (None, "", [], {})}


def _write_tasks(rows: Iterator[Preference], folder: Path, prefix: str, blind: bool, counts: _Counts) -> None:
    """tasks.json and labeling_config.xml; the texts of all tasks are in memory at once, their pictures are not."""
    tasks: dict[bytes, dict[str, Any]] = {}
    turned: dict[bytes, bool] = {}
    for preference in rows:
        key = pair_key(preference)
        if key.digest not in tasks:
            tasks[key.digest] = {"data": _task_data(preference, folder, prefix, blind)}
            turned[key.digest] = key.turned
        if not blind:
            task = tasks[key.digest]
            shown = preference if key.turned == turned[key.digest] else preference.swap()
            task.setdefault("annotations", []).append({"result": [_answer(shown.choice)]})
            task["data"].setdefault("annotators", []).append(shown.annotator)
    with open(folder / "tasks.json", "w", encoding="utf-8") as file:
        for number, task in enumerate(tasks.values()):
            file.write("[\n" if number == 0 else ",\n")
            file.write(json.dumps(task, ensure_ascii=False))
        file.write("\n]\n")
    counts.written = len(tasks)
    write_text(folder / "labeling_config.xml", LABELING_CONFIG)


def _task_data(preference: Preference, folder: Path, prefix: str, blind: bool) -> dict[str, Any]:
    sample = preference.context.sample
    pictures = {"source": sample.source, "first": preference.first.image, "second": preference.second.image}
    paths = {name: prefix + quote(_picture(image, folder)) for name, image in pictures.items()}
    further = [prefix + quote(_picture(image, folder)) for image in sample.references]
    named: dict[str, Any] = {
        "instruction": sample.instruction, "id": preference.origin, "sample": sample.id, "category": sample.category,
        "aspect": preference.aspect, "references": further,
    }  # fmt: skip
    if not blind:
        named |= {"first_editor": preference.first.editor, "second_editor": preference.second.editor}
    return paths | {name: value for name, value in named.items() if value not in ("", [])}


def _answer(choice: str) -> dict[str, Any]:
    return {"from_name": "choice", "to_name": "first", "type": "choices", "value": {"choices": [choice]}}


def _write_trl(rows: Iterator[Preference], folder: Path, out: Path, counts: _Counts) -> None:
    def decided() -> Iterator[Row]:
        for preference in rows:
            if preference.choice != "same":
                counts.written += 1
                yield trl_row(preference)
        _check_any(folder, counts)

    if out.suffix == ".parquet":
        found = decided()
        first = next(found)  # so that nothing to write leaves no folder
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        stream_rows(out, chain([first], found), TRL_FEATURES)
    else:
        stream_dataset(out, decided(), Table(TRL_FEATURES, dict, dict), lambda: {"kind": "trl"})


def trl_row(preference: Preference) -> Row:
    """A row of TRL's conversational preference format with pictures, of a preference with a winner.

    The content of a message is text, before which TRL puts the pictures in order (`prepare_multimodal_messages`).
    """
    sample = preference.context.sample
    sources = (sample.source, *sample.references)
    first = len(sources) + 1
    shown = "Picture 1 is the source" if len(sources) == 1 else f"Pictures 1 to {len(sources)} are the sources"
    what = f", compared by {preference.aspect}" if preference.aspect else ""
    asked = (
        f'{shown} for the edit "{sample.instruction}". Pictures {first} and {first + 1} are two edits of it. '
        f"Which is better{what or ', by faithfulness to the instruction and by quality'}? "
        f'Answer "first" for picture {first}, "second" for picture {first + 1}.'
    )
    other = {"first": "second", "second": "first"}[preference.choice]
    return {
        "images": [*sources, preference.first.image, preference.second.image],
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [{"role": "assistant", "content": preference.choice}],
        "rejected": [{"role": "assistant", "content": other}],
    }
