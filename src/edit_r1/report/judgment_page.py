"""One judgment as a self-contained HTML page: pictures, their difference, the checklist, what the model wrote.

Instruction, questions, evidence and traces are untrusted: escaped, stripped of control characters, and on a page whose
content security policy lets nothing run but its own script (named by its hash) and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edit_r1.images import bounded_size, decode_pil, decode_rgb, encode_png, to_same_size
from edit_r1.records import CATEGORIES, Judgment, PrincipleResult, Trace, Unparsed
from edit_r1.report.pictures import data_uri
from edit_r1.report.text import plain
from edit_r1.store import write_text

GAIN = 4
"""Differences are shown this many times as large."""
VISIBLE = 8
"""A pixel counts as changed when a channel differs by more than this many of 255 levels: JPEG at quality 90 and an
autoencoder stay mostly below."""
MAX_PIXELS = 1_048_576
"""Pictures are shown at this size at most, pixels."""
SMALL = 360
"""Pictures narrower than this are enlarged to it, pixel by pixel."""

SCRIPT = """\
const slide = document.getElementById('cut'), stage = document.getElementById('stage');
const set = () => stage.style.setProperty('--cut', slide.value + '%');
slide.addEventListener('input', set); set();
for (const part of document.querySelectorAll('.needs-script')) part.classList.remove('needs-script');
"""
"""The slider; everything else works without a script."""


@dataclass(frozen=True)
class Compared:
    """A source and an edit at one size, and their difference."""

    source: bytes
    edited: bytes
    difference: bytes
    """Absolute difference times `GAIN`; grey where the edit has no pixels."""
    size: tuple[int, int]
    """Width and height shown, pixels."""
    mean: float
    """Mean absolute difference, 0 to 255, where both have pixels."""
    changed: float
    """Share of those pixels that changed by more than `VISIBLE`, 0 to 1."""
    note: str | None
    """What was done to compare them; None when nothing was."""


def write_judgment_page(
    path: Path, judgment: Judgment, sources: Sequence[bytes], edited: bytes, instruction: str
) -> Path:
    """Draws a judgment as one HTML file at `path`, whole or not at all.

    Raises:
        edit_r1.images.ImageError: (a ValueError) for a picture that cannot be read.
        edit_r1.store.StoreError: (a ValueError) when the file cannot be written.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(uri=data_uri, plain=plain, lines=lines, number=_number, mark=_mark)
    template = environment.from_string(files("edit_r1.report").joinpath("judgment.html.j2").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    page = template.render(
        judgment=judgment,
        instruction=instruction,
        compared=compare(sources[0], edited),
        others=[_bounded(source) for source in sources[1:]],
        groups=_groups(judgment.principles),
        traces=[_trace(outcome) for outcome in judgment.outcomes],
        level=_level(judgment.score),
        gain=GAIN,
        visible=VISIBLE,
        small=SMALL,
        script=Markup(SCRIPT),  # ours
        script_hash=f"sha256-{digest}",
    )
    write_text(path, page)
    return path


def compare(source: bytes, edited: bytes) -> Compared:
    """Both pictures at the source's size, at most `MAX_PIXELS`. Raises ImageError for one that cannot be read."""
    source_HWC, edited_HWC = decode_rgb(source), decode_rgb(edited)
    a_HWC, b_HWC = to_same_size(source_HWC, edited_HWC, MAX_PIXELS)
    # Where the edit has pixels: what a white picture of its size leaves white.
    cover_HWC = to_same_size(source_HWC, np.full_like(edited_HWC, 255), MAX_PIXELS)[1]
    inside_HW = (cover_HWC == 255).all(axis=-1)
    gap_HWC = np.abs(a_HWC.astype(np.int64) - b_HWC.astype(np.int64))
    shown_HWC = np.where(inside_HW[..., None], np.minimum(gap_HWC * GAIN, 255), 127).astype(np.uint8)
    height, width = a_HWC.shape[:2]
    return Compared(
        encode_png(a_HWC),
        encode_png(b_HWC),
        encode_png(shown_HWC),
        (width, height),
        float(gap_HWC[inside_HW].mean()),
        float((gap_HWC[inside_HW].max(axis=-1) > VISIBLE).mean()),
        _note(source_HWC.shape[:2], edited_HWC.shape[:2], (height, width), bool(inside_HW.all())),
    )


def _note(source: tuple[int, ...], edited: tuple[int, ...], shown: tuple[int, int], whole: bool) -> str | None:
    """Sizes are (height, width)."""
    if source == edited == shown:
        return None
    told = f"Source {source[1]} × {source[0]}, edit {edited[1]} × {edited[0]} pixels, both shown at "
    told += f"{shown[1]} × {shown[0]}."
    if source != edited:
        told += " Their sizes differ: the edit was resampled, and part of the difference comes from that."
        if not whole:
            told += " Grey is where the edit, with its own proportions, has no pixels."
    return told


def _bounded(image: bytes) -> bytes:
    picture = decode_pil(image)
    return encode_png(picture.resize(bounded_size(*picture.size, MAX_PIXELS)))


def _groups(principles: Sequence[PrincipleResult]) -> list[tuple[str, list[PrincipleResult]]]:
    """(category, its principles), without empty ones."""
    groups = [(category, [one for one in principles if one.category == category]) for category in CATEGORIES]
    return [(category, members) for category, members in groups if members]


def _trace(outcome: Trace | Unparsed) -> tuple[bool, str, str]:
    """(parsed, heading, text)."""
    if isinstance(outcome, Trace):
        length = f", {outcome.tokens} tokens" if outcome.tokens else ""
        return True, f"score {outcome.score:g}{length}", outcome.text
    return False, f"unparsed: {outcome.reason}", outcome.text


def _level(score: float | None) -> str:
    """The third of the range that a score lies in, as the command line colours it."""
    if score is None:
        return "none"
    return "high" if score >= 20 / 3 else "middle" if score >= 10 / 3 else "low"


def _mark(verdict: float | None) -> tuple[str, str, str]:
    """(class, sign, word) of a mean verdict."""
    if verdict is None:
        return "unknown", "?", "no verdict"
    if verdict == 1:
        return "yes", "✓", "fulfilled"
    if verdict == 0:
        return "no", "✗", "not fulfilled"
    return "mixed", "~", "traces disagree"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def lines(text: object) -> str:
    """The same, with the text's line breaks."""
    return "\n".join(
        "".join(sign for sign in line.replace("\t", "    ") if sign.isprintable()) for line in str(text).splitlines()
    )
