"""What the command line shows of `evaluate editor` and `evaluate readiness`; the rules are `report.terminal`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edit_r1.report.text import plain


def editor_table(document: Mapping[str, Any]) -> RenderableType:
    """The JSON of `evaluate editor`: means per kind of edit, what has no score, and the comparison."""
    parts = list(document["mean"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("kind of edit", overflow="fold")
    table.add_column("edits", justify="right", no_wrap=True)
    for part in parts:
        table.add_column(_short(part), justify="right", no_wrap=True)
    for label, whole in kind_tables(document):
        if label:
            table.add_row(Text(plain(label), "bold"))
        for name, row in whole["categories"].items():
            means = [_number(row["mean"][part]) for part in parts]
            table.add_row(Text(plain(name) or "unknown"), _counted(row), *means)
        table.add_section()
    table.add_row("mean over kinds (official)", _counted(document), *[_number(document["official"][p]) for p in parts])
    for name, row in document["languages"].items():
        table.add_row(Text(f"  in {plain(name)}"), _counted(row), *[_number(row["official"][part]) for part in parts])
    if document["intersection"] is not None:
        row = document["intersection"]
        table.add_row("  intersection", _counted(row), *[_number(row["official"][part]) for part in parts])
    table.add_row("mean over edits", "", *[_number(document["mean"][part]) for part in parts])
    intervals = f"over kinds {_interval(document['official_ci95'])}, over edits {_interval(document['ci95'])}"
    lines: list[RenderableType] = [
        Text(f"{plain(document['benchmark'])}: {plain(document['editor'])}", "bold"),
        table,
        Text(f"{document['main']}, 95 % intervals: {intervals}"),
    ]
    lost = [
        f"{document[key]} {words}"
        for key, words in (
            ("no_picture", "without a picture"),
            ("no_answer", "without an answer"),
            ("unparsed", f"whose answer could not be read after {document['retries']} retries"),
        )
        if document[key]
    ]
    if lost:
        lines.append(Text(f"without a score, and in no mean: {', '.join(lost)}", "yellow"))
    if document["comparison"] is not None:
        lines += _comparison(document["comparison"])
    lines.append(Text(plain(document["judge"]["note"]), "dim"))
    return Group(*lines)


ALL = "in all languages"


def kind_tables(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(heading, part) of the tables by kind of edit; where there are several languages each has one, as in papers."""
    languages = document["languages"]
    if len(languages) < 2:
        return [("", document)]
    return [*((f"in {name}", part) for name, part in languages.items()), (ALL, document)]


def _comparison(row: Mapping[str, Any]) -> list[RenderableType]:
    """Two editors beside each other, by kind of edit and in all."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("kind of edit", overflow="fold")
    for name in ("A", "B", "A minus B (95 %)", "G/S/B", "GSB %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in row["kinds"].items():
        means, share = (_number(one["editor"]), _number(one["against"])), f"{100 * one['gsb']:+.0f}"
        table.add_row(Text(plain(name) or "unknown"), *means, _difference(one), _outcomes(one), share)
    table.add_section()
    official = {"difference": row["official_difference"], "ci95": row["official_ci95"]}
    table.add_row("mean over kinds", "", "", _difference(official))
    table.add_row("mean over edits", "", "", _difference(row), _outcomes(row), f"{100 * row['gsb']:+.0f}")
    head = f"A: {plain(row['editor'])}, B: {plain(row['against'])}, {row['pairs']} pairs"
    if row["unpaired"]:
        head += f", {row['unpaired']} edits without a partner"
    ends = row["gsb_ci95"]
    told = "" if ends is None else f" (95 % {100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
    counts = f"{row['good']} good, {row['same']} same, {row['bad']} bad (within {row['same_band']:g} points)"
    return [Text(), Text(head, "bold"), table, Text(f"GSB {100 * row['gsb']:+.1f} %{told}: {counts}")]


def _difference(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.2f}" + ("" if row["ci95"] is None else f" ({_interval(row['ci95'])})")


def _outcomes(row: Mapping[str, Any]) -> str:
    return f"{row['good']}/{row['same']}/{row['bad']}"


_MARKS = {True: ("ok  ", "green"), False: ("FAIL", "bold red"), None: ("-   ", "dim")}


def readiness_list(document: Mapping[str, Any]) -> RenderableType:
    """The JSON of `evaluate readiness`: every check with what it asks, then the verdict."""
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for check in document["checks"]:
        word, style = _MARKS[check["passed"]]
        text = Text(plain(check["told"]))
        if check["ci95"] is not None:
            text.append(f" (95 % {_interval(check['ci95'])})", "dim")
        if check["passed"] is False:
            text.append(f"\n{plain(check['asked'])}; {plain(check['remedy'])}", "bold")
        grid.add_row(Text(word, style), Text(plain(check["name"])), text)
    failed = sum(check["passed"] is False for check in document["checks"])
    end = Text("ready", "bold green") if document["ready"] else Text(f"not ready: {failed} failed", "bold red")
    judge = document["judge"]
    traces = f"{judge['traces']} {'trace' if judge['traces'] == 1 else 'traces'}"
    about = f"{judge['model']}, {traces}, rewarded: {judge['value']}; {document['editor']}; "
    about += f"{document['contexts']} contexts of {document['group']} edits"
    missing = what_is_missing(document)
    return Group(grid, Text(), end, Text(plain(about), "dim"), *([Text(missing, "yellow")] if missing else []))


def what_is_missing(document: Mapping[str, Any]) -> str:
    """What `evaluate readiness` could not look at, for a person; empty for nothing."""
    told = [
        f"{document[key]} {words}"
        for key, words in (("no_picture", "edits have no picture"), ("lost", "traces never came"))
        if document[key]
    ]
    return f"Measured without them: {', '.join(told)}. The same command asks again." if told else ""


def _counted(row: Mapping[str, Any]) -> str:
    return str(row["scored"]) if row["scored"] == row["edits"] else f"{row['scored']} of {row['edits']}"


def _short(part: str) -> str:
    return {"Instruction Following": "Follow", "Feature Preservation": "Keep", "Image Quality": "Quality"}.get(
        part, part
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "none" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"
