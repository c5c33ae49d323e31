"""An audit of preferences for people at a terminal; readable at 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edit_r1.preferences.audit import WINNER_IS
from edit_r1.report.text import plain

SHOWN = 12
"""Rows of a table; the rest is in the JSON and on the page."""


def audit_table(document: Mapping[str, Any]) -> RenderableType:
    """The document of `preferences audit --json`: counts, then what deserves a look, then the tables."""
    parts: list[RenderableType] = [Text(plain(document["data"]), "bold"), _counts(document), Text()]
    parts += [Text(f"! {plain(sentence)}", "yellow") for sentence in document["findings"]]
    if not document["findings"]:
        parts.append(Text("nothing was flagged", "green"))
    parts += [Text(), _shares(document)]
    for name in ("categories", "editors"):
        if len(document[name]) > 1:
            parts += [Text(), _balance(document, name)]
    return Group(*parts)


def _counts(document: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    repeats, cycles, rate = document["repeats"], document["cycles"], document["flip_rate"]
    unreadable = f", {document['unreadable']} unreadable" if document["unreadable"] else ""
    lines = [
        ("answers", str(document["rows"]), f"{document['decided']} with a winner, {document['same']} same{unreadable}"),
        ("contexts", str(document["contexts"]), f"{document['sources']} sources, {document['pictures']} edits"),
        ("pairs answered again", str(repeats["answered_again"]), f"{repeats['contradictory']} of them both ways"),
        ("contexts with a cycle", str(cycles["cyclic"]), f"of {cycles['contexts']} that could have one"),
    ]
    if rate is None:
        lines.append(("flip rate", "?", "no pair has two decided answers by different annotators"))
    else:
        lines.append(("flip rate", f"{rate['rate']:.3f}", f"{_interval(rate['ci95'], 3)}, {rate['pairs']} pairs"))
    for other in document["overlaps"]:
        near, exact = other["near"], other["exact"]
        lines.append((f"overlap with {plain(other['against'])}", str(near["rows"]),
                      f"rows; the same pixels: {exact['sources']} sources, {exact['edits']} edits"))  # fmt: skip
    for name, value, note in lines:
        grid.add_row(Text(name), Text(value, "bold"), Text(note))
    return grid


def _shares(document: Mapping[str, Any]) -> Table:
    """Who wins, as shares that would be one half."""
    table = _table()
    table.add_column("the winner")
    for heading in ("share", "95 % interval", "pairs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    position = {**document["position"], "flagged": document["position"]["flagged"] and document["order"] != "drawn"}
    _add_share(table, "stands first" + (" (order drawn)" if document["order"] == "drawn" else ""), position)
    for bias in document["measures"]:
        _add_share(table, f"is {WINNER_IS[bias['measure']]}", bias["share"])
    return table


def _balance(document: Mapping[str, Any], name: str) -> Table:
    table = _table()
    effective = document[f"effective_{name}"]
    table.add_column(f"{name} ({len(document[name])}, as varied as {effective:.1f})", overflow="fold")
    if name == "editors":
        for heading in ("wins", "95 % interval", "pairs"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for editor in document[name][:SHOWN]:
            _add_share(table, plain(editor["name"]) or "unnamed", editor["wins"])
    else:
        for heading in ("pairs", "share", "same"):
            table.add_column(heading, justify="right", no_wrap=True)
        for kind in document[name][:SHOWN]:
            table.add_row(Text(plain(kind["name"]) or "unnamed"), str(kind["pairs"]), f"{kind['share']:.1%}",
                          str(kind["same"]))  # fmt: skip
    if len(document[name]) > SHOWN:
        table.add_row(Text(f"{len(document[name]) - SHOWN} more", "dim"))
    return table


def _add_share(table: Table, name: str, share: Mapping[str, Any]) -> None:
    value = "–" if share["share"] is None else f"{share['share']:.3f}"
    mark = Text("look", "bold yellow") if share["flagged"] else Text()
    table.add_row(Text(name), value, _interval(share["ci95"], 3), str(share["n"]), mark)


def _interval(pair: list[float] | None, digits: int) -> str:
    return "–" if pair is None else f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
