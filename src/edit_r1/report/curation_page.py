"""Quadruples of a curation as one self-contained HTML page: what every judge said beside gold, and why it was rejected.

All text in the data is untrusted: escaped, stripped of control characters, and on a page whose content security policy
lets nothing run but its own script (named by its hash) and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edit_r1.curate.look import Looked
from edit_r1.images import thumbnail
from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING, PoolTrace, Trace, Verdict
from edit_r1.report.judgment_page import lines
from edit_r1.report.pictures import data_uri
from edit_r1.report.text import plain
from edit_r1.store import write_text

PIXELS = 288 * 288
"""A picture on the page has at most so many."""
SHORT = {INSTRUCTION_FOLLOWING: "follow", FEATURE_PRESERVATION: "keep", IMAGE_QUALITY: "quality"}
UNNAMED = "unknown"
TITLES = {
    None: "A random draw",
    "low-agreement": "Lowest agreement with gold",
    "rejected": "Rejected furthest below the kept trace",
    "disagreement": "Judges contradict each other",
    "failed": "Nothing was selected",
    "unparsed": "Traces that could not be read",
    "findings": "Principles with faults",
}
"""By filter."""


def write_curation_page(path: Path, name: str, which: str | None, rows: Sequence[Looked], summary: Any) -> Path:
    """Draws quadruples at `path`, whole or not at all.

    Args:
        name: of the curation.
        which: the filter by which they were chosen, a key of `TITLES`.
        summary: of summary.json; None while the curation is under way.

    Raises:
        edit_r1.images.ImageError: (a ValueError) for a picture that cannot be read.
        edit_r1.store.StoreError: (a ValueError) when the file cannot be written.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(uri=data_uri, plain=plain, lines=lines, share=_share, number=_number)
    folder = files("edit_r1.report")
    template = environment.from_string(folder.joinpath("curation.html.j2").read_text("utf-8"))
    script = folder.joinpath("curation.js").read_text("utf-8")
    cards = [_card(row) for row in rows]
    page = template.render(
        name=name,
        title=TITLES[which],
        cards=cards,
        judges=_judges(summary),
        rows=summary["rows"] if summary else None,
        choices={
            "judge": _sorted(judge for row in rows for judge in {trace.judge for trace in row.traces}),
            "editor": _sorted(row.candidate.editor for row in rows),
            "category": _sorted(row.context.sample.category or UNNAMED for row in rows),
            "cause": _sorted(one.cause for row in rows for one in row.decisions),
        },
        simulated=any(trace.simulated for row in rows for trace in row.traces),
        script=Markup(script),  # ours
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    write_text(path, page)
    return path


def _sorted(values: Any) -> list[str]:
    return sorted({plain(value) for value in values})


def _card(row: Looked) -> dict[str, Any]:
    sample, gold = row.context.sample, row.gold
    decisions = {one.index: one for one in row.decisions}
    columns = [
        *([{"head": "gold", "kind": "gold", "marks": [_mark(v) for v in gold.gold]}] if gold is not None else []),
        *({"head": vote.verifier, "kind": "vote", "marks": [_mark(v) for v in vote.gold]} for vote in row.votes),
        *(_trace_column(trace) for trace in row.traces if _verdicts(trace)),
    ]
    told = [
        {
            "question": principle.question,
            "category": SHORT[principle.category],
            "reason": gold.gold[place].evidence if gold is not None else None,
            "marks": [
                {"mark": column["marks"][place], "kind": column["kind"], "against": _against(column, place, gold)}
                for column in columns
            ],
        }
        for place, principle in enumerate(row.context.principles)
    ]
    return {
        "instruction": sample.instruction,
        "category": plain(sample.category or UNNAMED),
        "editor": plain(row.candidate.editor),
        "ids": f"{sample.id} / {row.candidate.id}",
        "pictures": [
            *(
                (f"source {place}" if len(sample.sources) > 1 else "source", thumbnail(image, PIXELS))
                for place, image in enumerate(sample.sources, start=1)
            ),
            ("edit", thumbnail(row.candidate.image, PIXELS)),
        ],
        "origin": " ".join(part for part in (sample.origin, sample.licence) if part),
        "columns": columns,
        "principles": told,
        "traces": [_told(trace, decisions.get(trace.index)) for trace in row.traces],
        "findings": row.findings,
        "agreement": row.agreement,
        "disagreement": row.disagreement,
        "verifier": gold.verifier if gold is not None else None,
        "said": json.dumps(
            [[plain(t.judge), decisions[t.index].cause if t.index in decisions else ""] for t in row.traces]
        ),
    }


def _verdicts(trace: PoolTrace) -> tuple[Verdict, ...] | None:
    return trace.outcome.verdicts if isinstance(trace.outcome, Trace) else None


def _trace_column(trace: PoolTrace) -> dict[str, Any]:
    verdicts = _verdicts(trace) or ()
    return {"head": f"{trace.index + 1} {trace.judge}", "kind": "trace", "marks": [_mark(v) for v in verdicts]}


def _mark(verdict: Verdict) -> tuple[str, str, str]:
    """(class, sign, word)."""
    return ("yes", "✓", "yes") if verdict.value else ("no", "✗", "no")


def _against(column: Mapping[str, Any], place: int, gold: Any) -> bool:
    """Whether a vote or trace says otherwise than gold."""
    return gold is not None and column["kind"] != "gold" and column["marks"][place] != _mark(gold.gold[place])


def _told(trace: PoolTrace, decision: Any) -> dict[str, Any]:
    outcome = trace.outcome
    score = f", score {outcome.score:g}" if isinstance(outcome, Trace) else ""
    return {
        "heading": f"{trace.index + 1} {trace.judge}{score}",
        "reason": decision.reason if decision is not None else "",
        "kept": decision is not None and decision.cause == "kept",
        "text": outcome.text,
    }


def _judges(summary: Any) -> list[dict[str, Any]]:
    """A row per judge of summary.json."""
    if not summary:
        return []
    gold, repeats = summary["agreement"]["gold"], summary["agreement"]["repeats"]
    return [
        {
            "name": name,
            **row,
            "gold": gold.get(name),
            "repeats": repeats.get(name),
        }
        for name, row in summary["judges"].items()
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
