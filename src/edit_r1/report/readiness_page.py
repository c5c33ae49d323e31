"""The verdict of `evaluate readiness` as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from edit_r1.evaluate.readiness_run import Probed
from edit_r1.report.editor_page import environment, number, shown
from edit_r1.report.evaluation import what_is_missing
from edit_r1.store import write_text

EXAMPLES = 3
"""Contexts whose probes are shown."""


def write_readiness_page(path: Path, document: Mapping[str, Any], probed: Sequence[Probed]) -> Path:
    """Draws the document at `path`, whole or not at all.

    Examples are the contexts whose cheapest probe costs least: what an editor would find first. Raises StoreError (a
    ValueError) when a picture is gone or the page cannot be written.
    """
    template = files("edit_r1.report").joinpath("readiness.html.j2").read_text("utf-8")
    passed = [check["passed"] for check in document["checks"]]
    page = environment().from_string(template).render(
        document=document,
        missing=what_is_missing(document),
        failed=sum(one is False for one in passed),
        required=sum(one is not None for one in passed),
        examples=[_example(one) for one in sorted(probed, key=_least_cost)[:EXAMPLES]],
        style=Markup(files("edit_r1.report").joinpath("evaluation.css").read_text("utf-8")),  # ours
    )  # fmt: skip
    write_text(path, page)
    return path


def _least_cost(one: Probed) -> float:
    costs = [one.score - score for score in one.scores.values() if one.score is not None and score is not None]
    return min(costs, default=0.0)


def _example(one: Probed) -> dict[str, Any]:
    pictures = [shown("source", one.task.sample.source), shown("edit", one.edit.image(), number(one.score, 1))]
    pictures += [shown(name, image, number(one.scores[name], 1)) for name, image in one.pictures.items()]
    return {"instruction": one.task.sample.instruction, "swapped": one.swapped, "pictures": pictures}
