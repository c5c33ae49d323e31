"""`edit-r1 curate intake`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edit_r1.commands.shared import Json, print_json


def curate_intake(
    recipe: tyro.conf.Positional[str],
    /,
    out: Path,
    retry_failed: bool = False,
    budget: float | None = None,
    budget_requests: int | None = None,
    budget_tokens: int | None = None,
    json: Json = False,
) -> int:
    """Look at a recipe's data and curate nothing: what is taken in, and why other rows are not.

    No model is asked but the filter of a Hard subset. `curate run` with the same --out finds all of it.

    Args:
        recipe: path/file.py:function.
        out: folder of the curation, into which `curate run` goes on.
        retry_failed: look again at rows that failed.
        budget: what the filter may cost, in the currency of its prices, what was spent in DIR before included. When it
            is spent the pass ends with all answers kept. Each of the three replaces the recipe's.
        budget_requests: likewise, requests to it.
        budget_tokens: likewise, tokens of prompts and answers.
    """
    from edit_r1.curate.keeping import budget_row, budget_told, open_ledger, spent_table
    from edit_r1.curate.run import at_work, refuse_foreign
    from edit_r1.curate.stage import Prepared
    from edit_r1.recipes.curated import bar_of_steps
    from edit_r1.recipes.load import load_curation
    from edit_r1.report.terminal import spent_grid
    from edit_r1.store import read_json

    stage = load_curation(recipe, budget, budget_requests, budget_tokens)
    if not isinstance(stage.samples, Prepared):
        raise ValueError(
            f"{recipe}: its samples are made by the recipe itself: there is nothing to look at before a run"
        )
    refuse_foreign(out)
    ledger = open_ledger(out, stage)
    with at_work(out), budget_told(out), bar_of_steps(quiet=json) as bar:
        task = bar.add_task("intake", total=None)
        stage.prepare(out, retry_failed, lambda done, total: bar.update(task, completed=done, total=total), ledger)
        ledger.close()
    document: dict[str, Any] = read_json(out / "intake.json")
    spent = spent_table(out)
    if json:
        print_json(document | {"spent": spent})
    else:
        parts = document.get("parts", [document])
        for number, counts in enumerate(parts, start=1):
            Console().print(_table(counts, f"part {number}" if len(parts) > 1 else "intake"))
        if spent["models"]:
            Console().print(spent_grid(spent | {"whole_cost": None, "budget": budget_row(stage.budget)}))
    return 0


def _table(counts: dict[str, Any], title: str) -> Table:
    """What intake.json tells of one part, for a person."""
    table = Table(title=title, title_justify="left", show_header=False, expand=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for name, value in counts.items():
        if isinstance(value, dict):
            for cause, count in value.items():
                table.add_row(Text(f"{name}: {cause}"), str(count))
        elif value:
            table.add_row(name.replace("_", " "), str(value))
    return table
