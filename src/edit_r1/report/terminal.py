"""What the command line shows to people: judgments, rankings, a curation so far, accuracy on pairs.

Everything is readable at 80 columns, without colour (a mark or a word says what the colour says) and on
terminals that know ASCII only. Texts of models and file names are shown as they are: never read as markup,
and without the control characters by which they could move a terminal's cursor.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edit_r1.records import CATEGORIES
from edit_r1.report.text import plain
from edit_r1.verifier.judgments import places_by_score

SHORT = dict(zip(CATEGORIES, ("Follow", "Keep", "Quality"), strict=True))
"""Headings of narrow columns."""
MAX_CAUSES = 5
"""Failures shown per step; the rest is counted."""

_DIGITS = {
    "0": ("┏━┓", "┃ ┃", "┗━┛"),
    "1": (" ╻ ", " ┃ ", " ╹ "),
    "2": ("╺━┓", "┏━┛", "┗━╸"),
    "3": ("╺━┓", " ━┫", "╺━┛"),
    "4": ("╻ ╻", "┗━┫", "  ╹"),
    "5": ("┏━╸", "┗━┓", "╺━┛"),
    "6": ("┏━╸", "┣━┓", "┗━┛"),
    "7": ("╺━┓", "  ┃", "  ╹"),
    "8": ("┏━┓", "┣━┫", "┗━┛"),
    "9": ("┏━┓", "┗━┫", "╺━┛"),
    ".": (" ", " ", "•"),
}
"""Three rows high; width 3, the point 1."""


@dataclass(frozen=True)
class _Mark:
    """A sign for a mean verdict, in words of one character where the terminal knows no others."""

    verdict: float | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ascii_only = options.ascii_only
        if self.verdict is None:
            yield Text("?", style="dim")
        elif self.verdict == 1:
            yield Text("y" if ascii_only else "✓", style="bold green")
        elif self.verdict == 0:
            yield Text("n" if ascii_only else "✗", style="bold red")
        else:
            yield Text("~", style="bold yellow")


@dataclass(frozen=True)
class _Score:
    """The score three rows high, with spread and counts to its right."""

    score: float | None
    notes: tuple[Text, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.score is None:
            yield Text("no score", "bold red")
            yield from self.notes[1:]
            return
        if options.ascii_only:
            yield Text(" ").join([Text(f"{self.score:.1f}", _style(self.score)), self.notes[0]])
            yield from self.notes[1:]
            return
        glyphs = [_DIGITS[sign] for sign in f"{self.score:.1f}"]
        rows = ["".join(glyph[row] for glyph in glyphs) for row in range(3)]
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(vertical="bottom")
        grid.add_row(Text("\n".join(rows), _style(self.score)), Group(*self.notes))
        yield grid


def checklist(document: Mapping[str, Any]) -> RenderableType:
    """One judgment (the JSON of `score --json`): the score, then every principle with its evidence.

    Principles stand under their category with its mean verdict (0 to 1). With several traces each line
    ends with its mean verdict; a principle on which traces disagree is marked ~.
    """
    traces, unparsed = int(document["traces"]), int(document["unparsed"])
    parts: list[RenderableType] = [_Score(document["score"], _notes(document))]
    for category in CATEGORIES:
        results = [result for result in document["principles"] if result["category"] == category]
        if not results:
            continue
        mean = document["categories"].get(category)
        heading = Text.assemble((category, "bold"), (f"  {_number(mean)}" if mean is not None else "", "dim"))
        parts += [Text(), heading, Padding(_lines(results, traces - unparsed > 1), (0, 0, 0, 2))]
    seconds = f", {document['seconds']:.1f} s" if document["seconds"] else ""
    parts += [Text(), Text(f"{plain(document['model'])}{seconds}", style="dim")]
    return Group(*parts)


def _notes(document: Mapping[str, Any]) -> tuple[Text, ...]:
    """What stands beside the score: its range, its spread, and what could not be parsed."""
    traces, unparsed, spread = document["traces"], document["unparsed"], document["score_std"]
    notes = [Text("of 10", style="dim")]
    if spread is not None:
        notes.append(Text(f"+/- {spread:.2f} over {traces - unparsed} traces"))
    if unparsed:
        notes.append(Text(f"{unparsed} of {traces} {'trace' if traces == 1 else 'traces'} unparsed", style="yellow"))
    return tuple(notes)


def _lines(results: Sequence[Mapping[str, Any]], with_means: bool) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=1)
    grid.add_column(ratio=1, overflow="fold")
    if with_means:
        grid.add_column(justify="right", vertical="top", width=4)
    for result in results:
        text = Text(plain(result["question"]))
        if result["evidence"]:
            text.append("\n" + plain(result["evidence"]), style="dim")
        mean = [Text(_number(result["verdict"]), style="dim")] if with_means else []
        grid.add_row(_Mark(result["verdict"]), text, *mean)
    return grid


def ranking_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The rows of `rank --json`, best first: score with spread, and the mean verdict of each category."""
    table = _table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("edited", overflow="fold", ratio=1)
    table.add_column("score", justify="right", no_wrap=True)
    several = any(row["score_std"] is not None for row in rows)
    if several:
        table.add_column("+/-", justify="right", no_wrap=True)
    for category in CATEGORIES:
        table.add_column(SHORT[category], justify="right", no_wrap=True)
    unparsed = any(row["unparsed"] for row in rows)
    if unparsed:
        table.add_column("unparsed", justify="right", no_wrap=True)
    for place, row in enumerate(rows, start=1):
        score = row["score"]
        cells = [Text(str(place)) if score is not None else Text("-"), Text(plain(row["path"]))]
        cells.append(Text("none", "red") if score is None else Text(f"{score:.2f}", _style(score)))
        if several:
            cells.append(Text(_number(row["score_std"])))
        cells += [Text(_number(row["categories"].get(category))) for category in CATEGORIES]
        if unparsed:
            cells.append(Text(f"{row['unparsed']} of {row['traces']}", "yellow" if row["unparsed"] else "dim"))
        table.add_row(*cells)
    return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_table(status: Mapping[str, Any]) -> RenderableType:
    """The steps of a curation (`curate status --json`), and below them what failed, by cause."""
    table = _table(expand=False)
    table.add_column("step", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for heading in ("chunks", "rows", "rows/s", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    parts: list[RenderableType] = [table]
    left = f"about {_duration(status['seconds_left'])} left" if status["seconds_left"] else ""
    stopped = not (status["finished"] or status["at_work"])
    if stopped:
        parts.append(Text(f"no run is at work here; the same command goes on{left and f', with {left}'}"))
    elif left:
        parts.append(Text(left))
    if status["spent"]["models"]:
        parts += [Text(), spent_grid(status["spent"])]
    for row in status["steps"]:
        failed: Mapping[str, int] = row["failed"]
        total = sum(failed.values())
        if row["finished"]:
            state = Text("done", "green")
        else:
            begun = Text("stopped" if stopped else "under way", "yellow")
            state = begun if row["chunks"] else Text("waiting", "dim")
        table.add_row(
            Text(plain(row["step"])),
            state,
            Text(f"{row['chunks']} of {row['of']}"),
            Text(str(row["rows"])),
            Text("-" if row["per_second"] is None else f"{row['per_second']:.3g}"),
            Text(str(total), "red" if total else "dim"),
        )
        if failed:
            parts += [Text(), Text(f"{plain(row['step'])}: {total} failed", "bold"), _causes(failed)]
    return Group(*parts)


def reliability_table(document: Mapping[str, Any]) -> RenderableType:
    """Members against a gold set (`curate weigh --json`)."""
    table = _table(expand=False)
    table.add_column("member", overflow="fold", min_width=18)
    for heading in ("verdicts", "yes right", "no right", "weight", "of yes", "of no"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in document["members"]:
        shares = ("-" if one[name] is None else f"{one[name]:.3f}" for name in ("yes_right", "no_right"))
        numbers = (f"{one[name]:.2f}" for name in ("weight", "yes_weight", "no_weight"))
        table.add_row(Text(plain(one["member"])), str(one["verdicts"]), *shares, *numbers)
    told = (
        f"{document['gold']} candidates in the gold set. Yes right: share of its 1 that the member said; no right: of "
        f"its 0. Weights are made of these after {document['shrinkage']:g} verdicts of chance were added to each."
    )
    parts: list[RenderableType] = [table, Text(told, "dim")]
    if document["left_out"]:
        names = ", ".join(map(plain, document["left_out"]))
        parts.append(
            Text(f"Left out are traces of {names}: a verifier has that name, and its row is of its gold alone.")
        )
    return Group(*parts)


def spent_grid(spent: Mapping[str, Any]) -> RenderableType:
    """What paid models took, and what the whole is going to cost."""
    table = _table(expand=False)
    table.add_column("paid model")
    for heading in ("requests", "retries", "tokens in", "out", "cost", "at once"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in spent["models"].items():
        table.add_row(
            Text(plain(name)),
            *(Text(f"{row[key]:,}") for key in ("requests", "retries", "prompt_tokens", "completion_tokens")),
            Text("-" if row["cost"] is None else f"{row['cost']:,.2f}"),
            Text("-" if row["concurrency"] is None else str(row["concurrency"])),
        )
    told = [] if spent["cost"] is None else [f"{spent['cost']:,.2f} spent"]
    if spent["whole_cost"] is not None:
        told.append(f"about {spent['whole_cost']:,.2f} for the whole")
    bounds = {name: bound for name, bound in (spent["budget"] or {}).items() if bound is not None}
    told += [f"budget {bound:,} ({name})" for name, bound in bounds.items()]
    return Group(table, Text(", ".join(told)))


def _causes(failed: Mapping[str, int]) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    most = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
    for cause, count in most[:MAX_CAUSES]:
        grid.add_row(Text(str(count)), Text(plain(cause)))
    if len(most) > MAX_CAUSES:
        rest = most[MAX_CAUSES:]
        grid.add_row(Text(str(sum(count for _, count in rest))), Text(f"of {len(rest)} other causes", "dim"))
    return Padding(grid, (0, 0, 0, 2))


def pairs_table(result: Mapping[str, Any]) -> RenderableType:
    """Accuracy on preference pairs (the JSON of `evaluate reward --json`), in all and per category of edit."""
    ci95 = result["ci95"]
    lines = [
        ("pairs", str(result["pairs"]), ""),
        ("accuracy, ties count half", f"{result['half_credit']:.3f}",
         f"95 % interval {ci95[0]:.3f} to {ci95[1]:.3f}" if ci95 else ""),
        ("accuracy, ties are wrong", f"{result['official']:.3f}", ""),
        ("ties", f"{result['tie_rate']:.1%}", ""),
        ("pairs without both scores", str(result["unparsed"]), ""),
    ]  # fmt: skip
    for margin, share in result["at_margin"].items():
        lines.append((f"won by more than {margin} points", f"{share:.1%}", ""))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim")
    for name, value, note in lines:
        grid.add_row(Text(name), Text(value, "bold"), Text(note))
    tasks = _table(expand=False)
    tasks.add_column("category", overflow="fold")
    tasks.add_column("accuracy", justify="right", no_wrap=True)
    for name, value in sorted(result["tasks"].items(), key=lambda item: (item[1], item[0])):
        tasks.add_row(Text(plain(name) or "unknown"), Text(f"{value:.3f}"))
    return Group(Text(plain(result["benchmark"]), "bold"), grid, Text(), tasks)


def attempts_table(document: Mapping[str, Any]) -> RenderableType:
    """The attempts of `best-of --json`, best first, each round's instruction below, and where the best lies."""
    rows = [{"score": None, "path": "none", "error": None, **row} for row in document["attempts"]]
    judged = [row for row in rows if row["path"] is not None]
    order = places_by_score([(row["score"], row["expected_score"]) for row in judged])
    parts: list[RenderableType] = [ranking_table([judged[place] for place in order])]
    asked = dict.fromkeys((row["round"], row["instruction"]) for row in rows)
    if len(asked) > 1:
        for number, instruction in asked:
            parts += [Text(f"round {number}: {plain(instruction)}", style="dim")]
    parts += [Text(f"no picture, seed {row['seed']}: {plain(row['error'])}", "red") for row in rows if row["error"]]
    if document["best"] is not None:
        parts.append(Text(f"best: {plain(document['best'])}", "bold"))
    return Group(*parts)


_STATUS = {
    "ok": ("ok  ", "green"), "warn": ("warn", "bold yellow"), "fail": ("FAIL", "bold red"), "skipped": ("skip", "dim"),
}  # fmt: skip


def findings_list(findings: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The checks of `doctor --json`: status, name, what was measured, what to change; then how many failed."""
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for finding in findings:
        word, style = _STATUS[finding["status"]]
        text = Text(plain(finding["measured"]), style="dim" if finding["status"] == "skipped" else "")
        if finding["remedy"]:
            text.append(f"\n{plain(finding['remedy'])}", style="bold")
        grid.add_row(Text(word, style), Text(plain(finding["name"])), text)
    counts = {status: sum(finding["status"] == status for finding in findings) for status in _STATUS}
    failed, warned = counts["fail"], counts["warn"]
    end = Text("nothing failed", "green") if not failed else Text(f"{failed} failed", "bold red")
    if warned:
        end.append(f", {warned} {'warning' if warned == 1 else 'warnings'}", "yellow")
    return Group(grid, Text(), end)


# --- what they share --------------------------------------------------------------------------------------------


def _table(expand: bool = True) -> Table:
    return Table(box=box.SIMPLE_HEAD, expand=expand, pad_edge=False, header_style="bold")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _style(score: float) -> str:
    """Colour of a score: the thirds of the range."""
    if score >= 20 / 3:
        return "bold green"
    return "bold yellow" if score >= 10 / 3 else "bold red"


def quiet_if_loaded() -> None:
    """`quiet_libraries` where a model's library was imported; it is not imported for that."""
    if sys.modules.get("transformers") is not None:
        quiet_libraries()


def quiet_libraries() -> None:
    """No progress bars and warnings of a model's library: what goes wrong is told in our one line.

    A library that is not installed says nothing either; who needs it is told so where it is needed.
    """
    with suppress(ImportError):
        from huggingface_hub.utils.logging import set_verbosity_error

        set_verbosity_error()  # each of the hub's tries to be reached would be a line
    with suppress(ImportError):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    # transformers warns of its own older names, which TRL still uses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    # torch, of RMSNorm under autocast on a CPU, where it has no fused one.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    # Processes that a training starts are to be as quiet.
    os.environ |= {
        "PYTHONWARNINGS": "ignore::FutureWarning", "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    with suppress(ImportError):
        from diffusers.utils import logging as diffusers_logging

        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
