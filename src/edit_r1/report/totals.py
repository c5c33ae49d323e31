"""What the command line tells of a judgment or of many beside their scores: progress, ties, repetitions, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from edit_r1.report.text import plain


@contextmanager
def batch_progress(doing: str = "judging") -> Iterator[Callable[[int, int | None], None]]:
    """A bar with the time left on stderr, while its terminal lasts; inside, call it with (rows finished, rows).

    rows: None where nobody knows how many there are.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(doing, total=None, start=False)

    def show(done: int, total: int | None) -> None:
        if not bar.tasks[task].started:  # what an earlier call finished says nothing of this one's speed
            bar.start_task(task)
        bar.update(task, completed=done, total=total)

    with bar:
        yield show


def notes(usage: Mapping[str, Any] | None, repeated: int = 0, ties: Mapping[str, Any] | None = None) -> list[Text]:
    """Lines below a judgment or a ranking.

    repeated: principles that the model wrote twice. ties: `TieRates`. usage: what was taken of endpoints.
    """
    told = [*repetitions(repeated), *_ties(ties)]
    if usage is not None:
        told.append("; ".join(_taken(usage)))
    return [Text(line, style="dim") for line in told]


def repetitions(count: int) -> list[str]:
    """What was left out of a model's principles; nothing where nothing was."""
    if not count:
        return []
    return ["1 question left out: the model wrote it twice" if count == 1 else f"{count} repeated questions left out"]


def _ties(ties: Mapping[str, Any] | None) -> list[str]:
    if ties is None or not ties["pairs"]:
        return []
    pairs = f"{ties['pairs']:,} {'pair' if ties['pairs'] == 1 else 'pairs'}"
    told = f"ties: {ties['tie_rate']:.1%} of {pairs}"
    if ties["tie_rate_expected"] is not None:
        told += f", {ties['tie_rate_expected']:.1%} with the expected score"
    return [told]


def _taken(usage: Mapping[str, Any]) -> list[str]:
    parts = [f"{usage['prompt_tokens']:,} tokens in, {usage['completion_tokens']:,} out"]
    if usage["unmetered"]:
        parts[0] += f" ({usage['unmetered']} of {usage['requests']} answers without counts)"
    if usage["cost"] is not None:
        parts.append(f"cost {usage['cost']:.4f}")
    if usage["retries"]:
        parts.append(f"{usage['retries']} retries")
    return parts


def batch_line(summary: Mapping[str, Any]) -> str:
    """The JSON of `score-many --json` on one line."""
    counts = [f"{summary['scored']} scored"]
    if summary["unparsed"]:
        counts.append(f"{summary['unparsed']} unparsed")
    if summary["failed"]:
        causes = ", ".join(f"{count} {cause}" for cause, count in summary["failed"].items())
        counts.append(f"{sum(summary['failed'].values())} failed ({causes})")
    parts = [f"{summary['rows']} edits: {', '.join(counts)}"]
    usage = summary["usage"]
    if usage is None:
        parts.append(f"{summary['tokens']:,} tokens generated")
    else:
        parts += _taken(usage)
    parts += [f"{told} (edits of one source and instruction)" for told in _ties(summary["ties"])]
    parts += repetitions(summary["repeated"])
    if summary["edits_per_second"] is not None:
        parts.append(f"{summary['edits_per_second']:.2f} edits/s")
    return plain("; ".join([*parts, summary["out"]]))
