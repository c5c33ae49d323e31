"""One self-contained HTML page about a run: no script, no font, no picture is fetched from anywhere."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edit_r1.records import FEATURE_PRESERVATION, IMAGE_QUALITY, INSTRUCTION_FOLLOWING
from edit_r1.report.charts import bars_svg, curve_svg
from edit_r1.report.data import ReportData
from edit_r1.report.pictures import data_uri
from edit_r1.store import write_text

SHORT = {INSTRUCTION_FOLLOWING: "follow", FEATURE_PRESERVATION: "keep", IMAGE_QUALITY: "quality"}

VERIFIER_NAMES = {
    "base": "base (sees, does not judge)",
    "sft": "SFT",
    "sft_continued": "SFT continued, same compute (control)",
    "gcpo": "SFT + GCPO",
}
EDITOR_NAMES = {
    "before": "before RL",
    "after": "after RL, reward: GCPO verifier",
    "sft_reward": "after RL, reward: SFT verifier (control)",
    "best_of_g": "fine-tuned on the best of G (control)",
}


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(pair: list[float] | None, scale: float = 1.0, digits: int = 1) -> str:
    return "–" if pair is None else f"{scale * pair[0]:.{digits}f} to {scale * pair[1]:.{digits}f}"


def _signed(value: float, scale: float = 1.0, digits: int = 1) -> str:
    return f"{scale * value:+.{digits}f}"


def write_report(data: ReportData, path: Path) -> Path:
    """Draw `data` as one HTML file at `path`, whole or not at all."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        uri=data_uri, number=_number, percent=_percent, interval=_interval, signed=_signed, short=SHORT.__getitem__
    )
    template = environment.from_string(files("edit_r1.report").joinpath("page.html.j2").read_text("utf-8"))
    write_text(path, template.render(data=data, **_drawn(data)))
    return path


def _drawn(data: ReportData) -> dict[str, Any]:
    verifier, editor = data.metrics["verifier"], data.metrics["editor"]
    shown = {name: verifier[name] for name in VERIFIER_NAMES if name in verifier}
    categories = sorted({category for result in shown.values() for category in result.get("tasks", {})})
    by_category = {
        category: {
            VERIFIER_NAMES[name].split(" (")[0]: result["tasks"][category]
            for name, result in shown.items()
            if category in result.get("tasks", {})
        }
        for category in categories
    }
    editors = {name: editor[name] for name in EDITOR_NAMES if name in editor}
    kinds = sorted({kind for result in editors.values() for kind in result.get("categories", {})})
    by_kind = {
        kind: {EDITOR_NAMES[name].split(",")[0]: result["categories"][kind] for name, result in editors.items()}
        for kind in kinds
        if all(kind in result.get("categories", {}) for result in editors.values())
    }
    return {
        "verifiers": [(VERIFIER_NAMES[name], result) for name, result in shown.items()],
        "editors": [(EDITOR_NAMES[name], result) for name, result in editors.items()],
        "curves": [Markup(curve_svg(curve)) for curve in data.curves],  # our own SVG, made from numbers
        "verifier_bars": Markup(bars_svg("Half-credit accuracy by kind of edit", by_category, 1.0, 0.5))
        if by_category
        else "",
        "editor_bars": Markup(bars_svg("Oracle score by kind of edit", by_kind, 10.0)) if by_kind else "",
    }
