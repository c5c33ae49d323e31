"""An audit of preferences as one self-contained HTML page: no script runs, nothing is fetched.

Instructions, names and reasons come from data made by others: escaped, and without control characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from edit_r1.images import thumbnail
from edit_r1.preferences.audit import WINNER_IS, Audit, audit_json
from edit_r1.records import Preference
from edit_r1.report.pictures import data_uri
from edit_r1.report.text import plain
from edit_r1.store import write_text

THUMBNAIL_PIXELS = 160 * 160
EXAMPLES = 8
"""Shown of each kind; the JSON names more."""


@dataclass(frozen=True)
class Shown:
    """A picture of an example."""

    image: bytes
    caption: str
    mark: str = ""
    """"won", "lost", "same" or nothing."""


@dataclass(frozen=True)
class Example:
    """Pictures that belong together."""

    title: str
    note: str
    pictures: list[Shown]


def write_audit_page(path: Path, found: Audit, rows: Mapping[int, Preference]) -> Path:
    """Draws an audit at `path`, whole or not at all; `rows` are those of `audit.example_rows`.

    Raises:
        StoreError: (a ValueError) when the file cannot be written.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        uri=data_uri, plain=plain, share=_share, interval=_interval, place=_place, span=_span, thousands=_thousands
    )
    template = environment.from_string(files("edit_r1.report").joinpath("audit.html.j2").read_text("utf-8"))
    document = audit_json(found)
    write_text(path, template.render(audit=document, groups=_examples(found, rows), winner_is=WINNER_IS, most=30))
    _thumbnail.cache_clear()
    return path


def _examples(found: Audit, rows: Mapping[int, Preference]) -> list[tuple[str, str, list[Example]]]:
    """(heading, explanation, examples) of each kind that has any."""
    groups = [
        (
            "Answered both ways",
            "The same two pictures of one context, and each of them won at least once.",
            [_answers(group, rows) for group in found.repeats.examples[:EXAMPLES]],
        ),
        (
            "Cycles",
            "Each picture beats the next, and the last beats the first.",
            [_cycle(cycle.rows, cycle.component, rows) for cycle in found.cycles.examples[:EXAMPLES]],
        ),
        (
            "Nothing to choose",
            "Two identical pictures with a winner, or a copy of the source that won.",
            [_answers(group, rows) for group in found.no_choices.examples[:EXAMPLES]],
        ),
    ]
    for other in found.overlaps:
        shared = [_shared(one.row, one.role, one.other, one.bits, one.exact, rows) for one in other.examples[:EXAMPLES]]
        told = f"At most {other.threshold} of 256 bits of the perceptual hash differ; 0 of the same pixels."
        groups.append((f"Shared with {plain(other.against)}", told, shared))
    return [group for group in groups if group[2]]


def _answers(group: Sequence[int], rows: Mapping[int, Preference]) -> Example:
    first = rows[group[0]]
    # Of several answers none is the one that a frame could show: they stand in the note.
    pictures = [Shown(_thumbnail(first.context.sample.source), "source"), *_sides(first, len(group) == 1)]
    told = []
    for row in group[:6]:
        answer = rows[row]
        # What stands first may change between the answers; pictures are named as in the first of them.
        turned = answer.first.image != first.first.image
        told.append(f"row {row + 1}: {(answer.swap() if turned else answer).choice} ({answer.annotator or 'unnamed'})")
    return Example(first.context.sample.instruction, "; ".join(told), pictures)


def _sides(preference: Preference, marked: bool) -> list[Shown]:
    marks = {"first": ("won", "lost"), "second": ("lost", "won"), "same": ("same", "same")}[preference.choice]
    return [
        Shown(
            _thumbnail(candidate.image),
            f"{side}{f': {candidate.editor}' if candidate.editor else ''}",
            mark if marked else "",
        )
        for side, candidate, mark in zip(("first", "second"), (preference.first, preference.second), marks, strict=True)
    ]


def _cycle(steps: Sequence[int], component: int, rows: Mapping[int, Preference]) -> Example:
    start = rows[steps[0]]
    pictures = [Shown(_thumbnail(start.context.sample.source), "source")]
    for number, row in enumerate(steps):
        winner = rows[row].winner
        assert winner is not None, "a step of a cycle is a decided row"
        beats = number + 2 if number + 1 < len(steps) else 1
        name = f" ({winner.editor})" if winner.editor else ""
        pictures.append(Shown(_thumbnail(winner.image), f"{number + 1}{name} beats {beats}, row {row + 1}"))
    note = f"{len(steps)} pictures in the shortest cycle, {component} in the knot"
    return Example(start.context.sample.instruction, note, pictures)


def _shared(row: int, role: str, other: str, bits: int, exact: bool, rows: Mapping[int, Preference]) -> Example:
    preference = rows[row]
    images = {
        "source": preference.context.sample.source, "first": preference.first.image, "second": preference.second.image,
    }  # fmt: skip
    how = "the same pixels" if exact else f"{bits} bits apart"
    title = f"row {row + 1}, {role}"
    return Example(title, f"{how}: {other}", [Shown(_thumbnail(images[role]), role)])


@lru_cache(maxsize=512)
def _thumbnail(data: bytes) -> bytes:
    """A small PNG; pictures of an audited set are readable, or their rows would not be examples."""
    return thumbnail(data, THUMBNAIL_PIXELS)


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "–" if pair is None else f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}"


def _place(value: float) -> str:
    """A share's place on the bar, percent of its width."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}"


def _span(pair: Sequence[float]) -> str:
    return f"{100 * max(pair[1] - pair[0], 0.002):.2f}"


def _thousands(value: Any) -> str:
    return f"{value:,}"
