"""`edit-r1 curate run|status|look|weigh`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from edit_r1.commands.shared import Json, print_json

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.curate.engine import Engine
    from edit_r1.curate.stage import CurateStage

Recipe = tyro.conf.Positional[str]


def curate_run(
    recipe: Recipe,
    /,
    out: Path,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    chunks_at_once: int = 1,
    address: str | None = None,
    gpus: float = 0.0,
    retry_failed: bool = False,
    budget: float | None = None,
    budget_requests: int | None = None,
    budget_tokens: int | None = None,
) -> int:
    """Run the curation steps of a recipe; a run that was stopped continues, and one that has grown makes what is new.

    Args:
        recipe: a built-in name, or path/file.py:function.
        out: folder of the data; a curation that lies there is continued.
        engine: where the steps run: on this machine, or on Ray Data (pip install 'edit-r1[ray]').
        workers: processes, or Ray's actors; each opens the recipe's models.
        chunks_at_once: of one local process: what keeps endpoints busy. So many chunks of samples are in memory.
        address: of a Ray cluster, or "auto" for the one that this machine is of; else Ray is started here.
        gpus: of each of Ray's actors, for models that run in it.
        retry_failed: ask again for what failed.
        budget: what paid models may cost, in the currency of their prices, what was spent in DIR before included. When
            it is spent the run ends; with a higher one it goes on. Each of the three replaces the recipe's.
        budget_requests: likewise, requests to paid models.
        budget_tokens: likewise, tokens of prompts and answers.
    """
    from edit_r1.recipes.curated import run_curation
    from edit_r1.recipes.load import load_curation

    build = partial(load_curation, recipe, budget, budget_requests, budget_tokens)
    chosen = _engine(engine, build, workers, chunks_at_once, address, gpus)  # first: a recipe may open models
    run_curation(build(), out, chosen, retry_failed)
    print(_told(out))
    return 0


def _engine(
    name: str, build: Callable[[], CurateStage], workers: int, chunks_at_once: int, address: str | None, gpus: float
) -> Engine:
    """Raises ValueError for options that are the other engine's."""
    if name == "ray":
        if chunks_at_once != 1:
            raise ValueError("--chunks-at-once is of one local process: with --engine ray give more --workers")
        from edit_r1.curate.ray_engine import OnRay

        return OnRay(build, workers, address, gpus=gpus)
    if address is not None or gpus:
        raise ValueError("--address and --gpus are Ray's: add --engine ray")
    from edit_r1.curate.engine import Local

    return Local(workers, chunks_at_once, build if workers > 1 else None)


def _told(out: Path) -> str:
    """What a finished run holds, in a line. Raises ValueError, with the first cause, where nothing was selected."""
    from edit_r1.curate.failures import told_of_nothing
    from edit_r1.store import read_json

    summary = read_json(out / "summary.json")
    failed = [(step, *one) for step, causes in summary["failed"].items() for one in causes.items()]
    if not (selected := summary["rows"]["selected"]):
        cause = told_of_nothing(summary["rows"], summary["failed"]) or "no candidate was asked for"
        raise ValueError(
            f"{out}: nothing was selected; {cause}; mend the cause and run again with --retry-failed (`edit-r1 curate "
            f"status {out}` has all of them)"
        )
    steps = ", ".join(dict.fromkeys(step for step, _, _ in failed))
    count = sum(count for _, _, count in failed)
    told = f" and {count:,} failures in {steps} (--retry-failed asks again)" if failed else ""
    return f"done: {out} holds {selected:,} selected edits{told}; `edit-r1 curate status {out}` has the counts"


def curate_status(folder: tyro.conf.Positional[Path], /, json: Json = False) -> int:
    """Show how far a curation is: counts, rates, failures by cause, money spent and to come.

    Args:
        folder: what `curate run` wrote, finished or not.
    """
    from edit_r1.curate.status import read_status
    from edit_r1.report.terminal import status_table

    status = read_status(folder)
    if json:
        print_json(status)
    else:
        Console().print(status_table(status))
    return 0


def curate_look(
    folder: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    filter: Literal["low-agreement", "rejected", "disagreement", "failed", "unparsed", "findings"] | None = None,
    count: int = 50,
    seed: int = 0,
) -> int:
    """Draw a page of a curation's edits with what every judge said of them; it works while the curation runs too.

    Args:
        folder: what `curate run` wrote, finished or not.
        out: file of the page; look.html in the folder when not given.
        filter: what to look at, the worst first; without one a random draw.
        count: edits on the page.
        seed: of the draw, and of the order of what is equally bad.
    """
    from edit_r1.curate.look import look
    from edit_r1.report.curation_page import write_curation_page
    from edit_r1.store import read_json

    rows = look(folder, filter, count, seed)
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else None
    page = write_curation_page(out or folder / "look.html", folder.resolve().name, filter, rows, summary)
    print(f"{page}: {len(rows)} edits" + ("" if rows else "; nothing fits this filter"))
    return 0


def curate_weigh(
    folder: tyro.conf.Positional[Path],
    /,
    gold: Path,
    out: Path | None = None,
    shrinkage: float = 4.0,
    json: Json = False,
) -> int:
    """Tell how far each verifier and judge of a curation is right on known verdicts: weights of an ensemble.

    Args:
        folder: what `curate run` wrote to its end.
        gold: JSONL of {"candidate_id", "gold": [0 or 1, ...]}, or a data set of gold verdicts.
        out: file for the weights, which `curate.weigh.read_weights` reads in a recipe.
        shrinkage: verdicts of either kind, half of them right, that each is taken to have given beside its own.
    """
    from dataclasses import asdict

    from edit_r1.curate.weigh import judges_left_out, read_gold_set, reliabilities, votes_of
    from edit_r1.report.terminal import reliability_table
    from edit_r1.store import write_json

    known = read_gold_set(gold)
    members = reliabilities(votes_of(folder), known, shrinkage)
    document = {
        "gold": len(known),
        "shrinkage": shrinkage,
        "members": [asdict(one) for one in members],
        "left_out": judges_left_out(folder),
    }
    if out is not None:
        write_json(out, document)
    if json:
        print_json(document)
    else:
        Console().print(reliability_table(document))
    return 0
