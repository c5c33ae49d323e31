"""Reward benchmarks for people: the documents of `evaluate reward` as tables, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def reward_tables(document: Mapping[str, Any]) -> RenderableType:
    """The JSON of `evaluate reward --json`: the official number, what stands beside it, and per task."""
    data, judge = document["dataset"], document["judge"]
    traces = f"{judge['traces']} {'trace' if judge['traces'] == 1 else 'traces'}"
    title = document["benchmark"] + (f", {document['dimension']}" if document["dimension"] else "")
    lines = [
        ("judge", judge["kind"], f"{PurePath(_text(judge['model'])).name}, {traces}"),
        ("rows", str(data["rows"]), f"hash {data['hash'][:12]}, revision {(data['revision'] or 'unknown')[:12]}"),
        ("official number", _share(document["official"]), _interval(document["official_ci95"])),
    ]
    if "untuned" in document:
        lines += [
            ("without a tuned threshold", _share(document["untuned"]), _interval(document["untuned_ci95"])),
            (
                "strict ranking of the script",
                _share(document["script_strict_ranking"]),
                f"tuned threshold: {document['script_threshold']:g}",
            ),
            ("pairs alone, by the script", _share(document["script_pairwise"]), ""),
        ]
    lines += [
        ("accuracy, ties count half", _share(document["half_credit"]), _interval(document["ci95"])),
        ("ties", _share(document["tie_rate"]), f"of {document['preferences']} pairs with a winner"),
        ("pairs without both scores", str(document["unparsed"]), f"of {document['pairs']}"),
        ("edits judged", str(document["edits"]), f"{document['cached']} known before, {document['failed']} failed"),
        ("same order by new traces", _share(document["trace_consistency"]), ""),
        ("larger gap, surer order", _share(document["calibration"]["gap_auc"]), "0.5: the gap says nothing"),
    ]
    parts: list[RenderableType] = [Text(_text(title), "bold"), _grid(lines), Text()]
    parts.append(_shares("task", "official", document["official_tasks"], "half credit", document["tasks"]))
    if len(document["dimensions"]) > 1:
        official = {name: own["official"] for name, own in document["dimensions"].items()}
        half = {name: own["half_credit"] for name, own in document["dimensions"].items()}
        parts.append(_shares("dimension", "official", official, "half credit", half))
    bins = _table("gap of scores", "pairs", "right")
    for one in document["calibration"]["bins"]:
        bins.add_row(f"above {one['from']:g} to {one['to']:g}", str(one["pairs"]), _share(one["right"]))
    return Group(*parts, bins)


def comparison_table(document: Mapping[str, Any]) -> RenderableType:
    """The JSON of `evaluate reward --compare --json`."""
    table = _table("", "official", "half credit", "unparsed")
    for side in ("a", "b"):
        own = document[side]
        name = f"{side.upper()}: {_text(own['judge'])}"
        table.add_row(Text(name), _share(own["official"]), _share(own["half_credit"]), str(own["unparsed"]))
    lines = []
    told = {"official": "official number", "untuned": "untuned", "half_credit": "accuracy, ties count half"}
    for name, found in document["difference"].items():
        if found is not None:
            lines.append((f"A minus B, {told.get(name, name)}", f"{found['mean']:+.3f}", _interval(found["ci95"])))
    return Group(Text(f"{document['benchmark']}, {document['pairs']} pairs", "bold"), table, _grid(lines))


def _shares(kind: str, first: str, one: Mapping[str, Any], second: str, other: Mapping[str, Any]) -> Table:
    table = _table(kind, first, second)
    for name in sorted({*one, *other}):
        table.add_row(Text(_text(name) or "unknown"), _share(one.get(name)), _share(other.get(name)))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _grid(lines: list[tuple[str, str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right", overflow="fold")
    grid.add_column(style="dim")
    for name, value, note in lines:
        grid.add_row(Text(name), Text(value, "bold"), Text(note))
    return grid


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ci95: list[float] | None) -> str:
    return f"95 % interval {ci95[0]:.3f} to {ci95[1]:.3f}" if ci95 else ""


def _text(text: object) -> str:
    """One line without control characters."""
    return "".join(sign for sign in " ".join(str(text).split()) if sign.isprintable())
