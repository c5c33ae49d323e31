"""An editor benchmark as one self-contained HTML page: tables, and pictures side by side, sorted by the difference.

Instructions and names are untrusted: escaped, stripped of control characters, on a page that runs and fetches nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edit_r1.evaluate.editor_runs import GradedEdit
from edit_r1.evaluate.editor_tables import paired
from edit_r1.images import bounded_size, decode_pil
from edit_r1.report.evaluation import kind_tables
from edit_r1.report.pictures import data_uri
from edit_r1.report.text import plain
from edit_r1.store import write_text

SHOWN_PIXELS = 448 * 448
"""Pictures are shown at this size at most: a hundred rows stay below some 20 MB."""
SMALL = 128
"""Pictures narrower than this are enlarged pixel by pixel, and kept as PNG."""
MOST = 100
"""Rows on a page; of more, both ends are shown."""


@dataclass(frozen=True)
class Shown:
    """One picture of a row."""

    name: str
    image: bytes
    told: str = ""
    """Its score and parts."""
    small: bool = False


def write_editor_page(
    path: Path,
    document: Mapping[str, Any],
    graded: Sequence[GradedEdit],
    other: Mapping[str, Any] | None = None,
    other_graded: Sequence[GradedEdit] = (),
    most: int = MOST,
) -> Path:
    """Draws `evaluate editor`'s document (with a comparison where `other` is given) at `path`, whole or not at all.

    Rows are the edits of both editors by their difference, the largest gain first; of one editor by score, the best
    first. Raises StoreError (a ValueError) when a picture is gone or the page cannot be written.
    """
    rows = _pair_rows(document, graded, other_graded) if other is not None else _rows(document, graded)
    shown, left_out = _both_ends(rows, most)
    title = f"{document['editor']} against {other['editor']}" if other is not None else str(document["editor"])
    parts = list(document["mean"])
    page = environment().from_string(_data("editor.html.j2")).render(
        title=title,
        document=document,
        documents=[document, *([] if other is None else [other])],
        other=other,
        parts=parts if other is None else [document["main"]],
        rows=[row() for row in shown],
        left_out=left_out,
        tables=kind_tables(document),
        style=Markup(_data("evaluation.css")),  # ours
    )  # fmt: skip
    write_text(path, page)
    return path


def environment() -> Environment:
    """Jinja with the filters of the evaluation pages."""
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(
        uri=data_uri, plain=plain, number=number, signed=signed, interval=interval, kind_mean=_kind_mean
    )
    return made


def _kind_mean(document: Mapping[str, Any], label: str, kind: str, part: str) -> float | None:
    """Mean of a part over the edits of one kind, of the table that `label` heads (`kind_tables`)."""
    whole = dict(kind_tables(document)).get(label)
    row = None if whole is None else whole["categories"].get(kind)
    return None if row is None else row["mean"].get(part)


def _data(name: str) -> str:
    return files("edit_r1.report").joinpath(name).read_text("utf-8")


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    return f"{0:.{digits}f}" if abs(value) < 0.5 * 10**-digits else f"{value:+.{digits}f}"


def interval(pair: Sequence[float] | None, digits: int = 2) -> str:
    return "–" if pair is None else f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"


@dataclass(frozen=True)
class _Row:
    """A row that is drawn when it is called: only the shown ones read their pictures."""

    value: float
    heading: str
    tone: str
    edits: tuple[tuple[str, GradedEdit], ...]
    """(editor's name, edit), as shown."""

    def __call__(self) -> dict[str, Any]:
        first = self.edits[0][1].edit
        sample = first.task.sample
        pictures = [shown("source", sample.source)]
        pictures += [shown(name, one.edit.image(), _told(one)) for name, one in self.edits]
        return {
            "heading": self.heading, "tone": self.tone, "instruction": sample.instruction, "category": sample.category,
            "task": sample.id, "seed": first.seed, "pictures": pictures,
        }  # fmt: skip


def _pair_rows(
    document: Mapping[str, Any], graded: Sequence[GradedEdit], other_graded: Sequence[GradedEdit]
) -> list[_Row]:
    names = (document["comparison"]["against"], document["comparison"]["editor"])
    band = document["comparison"]["same_band"]
    rows = []
    for after, before in paired(graded, other_graded):
        gap = _score(after) - _score(before)
        tone = "" if abs(gap) <= band else "yes" if gap > 0 else "no"
        rows.append(_Row(gap, signed(gap), tone, ((names[0], before), (names[1], after))))
    return sorted(rows, key=lambda row: -row.value)


def _rows(document: Mapping[str, Any], graded: Sequence[GradedEdit]) -> list[_Row]:
    scored = [one for one in graded if one.grade is not None and one.grade.score is not None]
    rows = [_Row(_score(one), number(_score(one)), "", ((document["editor"], one),)) for one in scored]
    return sorted(rows, key=lambda row: -row.value)


def _score(one: GradedEdit) -> float:
    assert one.grade is not None
    assert one.grade.score is not None
    return one.grade.score


def _told(one: GradedEdit) -> str:
    parts = {} if one.grade is None else one.grade.parts
    return ", ".join(f"{name} {number(value, 1)}" for name, value in parts.items())


def _both_ends(rows: Sequence[_Row], most: int) -> tuple[list[_Row], int]:
    """At most `most` rows, half from each end, and how many are left out."""
    if len(rows) <= most:
        return list(rows), 0
    head = (most + 1) // 2
    return [*rows[:head], *rows[len(rows) - (most - head) :]], len(rows) - most


def shown(name: str, image: bytes, told: str = "") -> Shown:
    """A picture as a page holds it: at most `SHOWN_PIXELS`; JPEG, but PNG where it is small."""
    picture = decode_pil(image)
    picture = picture.resize(bounded_size(*picture.size, SHOWN_PIXELS))
    small = picture.width <= SMALL
    return Shown(name, _encoded(picture, "PNG" if small else "JPEG"), told, small)


def _encoded(picture: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"quality": 88} if kind == "JPEG" else {}))
    return buffer.getvalue()
