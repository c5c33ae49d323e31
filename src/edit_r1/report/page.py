"""One self-contained HTML page about a run: no script, no font, no picture is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edit_r1.report.charts import bars_svg, curve_svg
from edit_r1.report.data import ReportData
from edit_r1.report.pictures import data_uri
from edit_r1.store import write_text

VERIFIER_NAMES = {
    "base": ("base (sees, does not judge)", "base"),
    "sft": ("SFT", "SFT"),
    "sft_continued": ("SFT continued, same compute (control)", "SFT continued"),
    "gcpo": ("SFT + GCPO", "SFT + GCPO"),
}
"""Each one's name in the table and, short, in the chart."""
EDITOR_NAMES = {
    "before": ("before RL", "before RL"),
    "after": ("after RL, reward: GCPO verifier", "after RL"),
    "sft_reward": ("after RL, reward: SFT verifier (control)", "reward: SFT verifier"),
    "best_of_g": ("fine-tuned on the best of G (control)", "best of G"),
}


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(pair: list[float] | None, scale: float = 1.0, digits: int = 1) -> str:
    return "–" if pair is None else f"{scale * pair[0]:.{digits}f} to {scale * pair[1]:.{digits}f}"


def _of_read(value: Any, row: Mapping[str, Any]) -> Any:
    """None where no pair of the row could be read: what an answer is worth that was never given is no number."""
    return value if row["unparsed"] < row["pairs"] else None


def _signed(value: float, scale: float = 1.0, digits: int = 1) -> str:
    return f"{scale * value:+.{digits}f}"


def write_report(data: ReportData, path: Path) -> Path:
    """Draw `data` as one HTML file at `path`, whole or not at all."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        uri=data_uri, number=_number, percent=_percent, interval=_interval, signed=_signed, of_read=_of_read
    )
    template = environment.from_string(files("edit_r1.report").joinpath("page.html.j2").read_text("utf-8"))
    write_text(path, template.render(data=data, **_drawn(data)))
    return path


def _drawn(data: ReportData) -> dict[str, Any]:
    verifier, editor = data.metrics["verifier"], data.metrics["editor"]
    verifiers = {names: verifier[key] for key, names in VERIFIER_NAMES.items() if key in verifier}
    editors = {names: editor[key] for key, names in EDITOR_NAMES.items() if key in editor}
    # A verifier of which no pair could be read has no accuracy to draw.
    judging = {short: row["tasks"] for (_, short), row in verifiers.items() if row["unparsed"] < row["pairs"]}
    painting = {short: row["categories"] for (_, short), row in editors.items()}
    return {
        "verifiers": [(name, row) for (name, _), row in verifiers.items()],
        "editors": [(name, row) for (name, _), row in editors.items()],
        "tasks": [(short, row) for (_, short), row in verifiers.items() if short in judging and "tasks_ci95" in row],
        "against": [
            (name, editor[f"after_minus_{key}"])
            for key, (name, _) in EDITOR_NAMES.items()
            if f"after_minus_{key}" in editor
        ],
        "curves": [Markup(curve_svg(curve)) for curve in data.curves],  # our own SVG, made from numbers
        "verifier_bars": _bars("Half-credit accuracy by kind of edit", judging, 1.0, 0.5),
        "editor_bars": _bars("Oracle score by kind of edit", painting, 10.0),
    }


def _bars(title: str, series: Mapping[str, Mapping[str, float]], limit: float, chance: float | None = None) -> str:
    """A bar for each series and kind of edit; empty without any."""
    kinds = sorted({kind for values in series.values() for kind in values})
    rows = {kind: {name: values[kind] for name, values in series.items() if kind in values} for kind in kinds}
    return Markup(bars_svg(title, rows, limit, chance)) if rows else ""
