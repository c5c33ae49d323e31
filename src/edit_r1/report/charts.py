"""Charts as inline SVG, in the page's own type and colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from edit_r1.report.data import Curve

COLOURS = ("#2457c5", "#d9480f", "#2b8a3e", "#862e9c", "#5c677d")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#adb5bd",
    "axes.labelcolor": "#495057",
    "xtick.color": "#495057",
    "ytick.color": "#495057",
    "svg.fonttype": "none",
    "svg.hashsalt": "edit-r1",
}


def _svg(figure: plt.Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values, so that the line never looks into the future."""
    return [sum(values[max(0, n + 1 - width) : n + 1]) / min(n + 1, width) for n in range(len(values))]


def curve_svg(curve: Curve) -> str:
    """Thin raw lines under their running means."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 2.5))
        for (name, points), colour in zip(curve.series.items(), COLOURS, strict=False):
            x, y = [point[0] for point in points], [point[1] for point in points]
            width = max(1, len(y) // 12)
            if width > 1:
                axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(x, _smooth(y, width), color=colour, linewidth=1.8, label=name)
        axes.set_title(curve.title, fontsize=10, loc="left", color="#212529")
        axes.set_xlabel(curve.x_label)
        if len(curve.series) > 1:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def bars_svg(title: str, rows: Mapping[str, Mapping[str, float]], limit: float, chance: float | None = None) -> str:
    """Grouped horizontal bars: rows name -> {series: value}, from 0 to `limit`; what is missing has no bar.

    chance: where a dotted line stands, in the values' unit.
    """
    with plt.rc_context(_STYLE):
        series = list(dict.fromkeys(name for values in rows.values() for name in values))
        figure, axes = plt.subplots(figsize=(4.6, 0.13 * len(rows) * max(2, len(series)) + 0.9))
        _draw_bars(axes, rows, series)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlim(0, limit)
        if chance is not None:
            axes.axvline(chance, color="#adb5bd", linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=10, loc="left", color="#212529")
        # Below the axes, so that the bars have the whole width of a phone.
        below = -0.36 / axes.get_position().height / figure.get_figheight()
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, below), ncols=2)
        return _svg(figure)


def _draw_bars(axes: Axes, rows: Mapping[str, Mapping[str, float]], series: Sequence[str]) -> None:
    height = 0.8 / len(series)
    for index, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
        shown = [(row, values[name]) for row, values in enumerate(rows.values()) if name in values]
        places = [row - 0.4 + (index + 0.5) * height for row, _ in shown]
        axes.barh(places, [value for _, value in shown], height * 0.9, color=colour, label=name)
