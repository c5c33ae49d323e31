"""What `edit-r1 annotate status` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def figures(document: Mapping[str, Any]) -> RenderableType:
    """The document of `annotate status --json`: progress, agreement, a row per annotator, and a study's GSB."""
    agreement = document["agreement"]
    lines = [
        f"{document['complete']} of {document['pairs']} pairs have {document['wanted']} answers; "
        f"{document['answers']} answers, {document['open']} still wanted, {document['per_minute']:.1f} a minute",
        f"raw agreement {_share(agreement['raw'])}; Krippendorff's alpha {_alpha(agreement['alpha_nominal'])} nominal, "
        f"{_alpha(agreement['alpha_ordinal'])} ordinal, over {agreement['alpha_nominal']['units']} pairs",
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("annotator", overflow="fold")
    for title in ("answers", "skipped", "median s", "left", "others", "gold"):
        table.add_column(title, justify="right")
    for one in document["annotators"]:
        gold = one["gold"]
        right = "-"
        if gold["asked"]:
            told = {True: "", False: ", like guessing", None: ", too few to tell"}[gold["better_than_guessing"]]
            right = f"{gold['right']} of {gold['asked']}{told}"
        seconds = "-" if one["median_seconds"] is None else f"{one['median_seconds']:.1f}"
        table.add_row(
            Text(one["name"]),
            str(one["answers"]),
            str(one["skipped"]),
            seconds,
            _share(one["left"]),
            _share(one["others"]),
            Text(right),
        )
    parts: list[RenderableType] = [*map(Text, lines), table]
    study = document["gsb"]
    if study is not None:
        result = "no answers yet"
        if study["gsb"] is not None:
            interval = "" if study["ci95"] is None else f" [{study['ci95'][0]:+.1%}, {study['ci95'][1]:+.1%}]"
            result = f"{study['gsb']:+.1%}{interval} ({study['good']} good, {study['same']} same, {study['bad']} bad)"
        parts.append(Text(f"GSB of {study['new']} against {study['other']}: {result}", "bold"))
    return Group(*parts)


def _share(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    interval = estimate["ci95"]
    return f"{estimate['mean']:.0%}" + ("" if interval is None else f" ({interval[0]:.0%}-{interval[1]:.0%})")


def _alpha(alpha: Mapping[str, Any]) -> str:
    if alpha["alpha"] is None:
        return "-"
    interval = alpha["ci95"]
    return f"{alpha['alpha']:.2f}" + ("" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]")
