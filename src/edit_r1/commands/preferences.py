"""`edit-r1 preferences import|export|principles|pool|audit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from edit_r1.commands.shared import PACKAGED, USAGE, Json, Models, check_file, complain, print_json
from edit_r1.preferences.kinds import Kind, Target

Folder = tyro.conf.Positional[Path]
Texts = tyro.conf.UseAppendAction[tuple[str, ...]]
Folders = tyro.conf.UseAppendAction[tuple[Path, ...]]


def preferences_import(
    kind: tyro.conf.Positional[Kind],
    source: tyro.conf.Positional[Path],
    /,
    out: Path,
    broken: Literal["refuse", "skip"] = "refuse",
    split: str = "",
    aspect: Texts = (),
    most_rows: int = 0,
    allow_outside: bool = False,
    json: Json = False,
) -> int:
    """Read public preference data into our Parquet format.

    Args:
        kind: the format of the data; docs/preferences.md describes each.
        source: a file of rows, or the folder of the downloaded data set.
        out: new data set of preferences; NAME.done.json is written beside it.
        broken: what a row that cannot be used does: end the import, or be named, counted and left out.
        split: split of every pair; by default what a row says, else "test" for benchmarks and "train" for the others.
        aspect: keep only pairs that compare this (repeatable); "overall" is the edit as a whole.
        most_rows: read no more than this many rows; 0 reads all.
        allow_outside: read pictures outside the data's folder too.
    """
    from edit_r1.preferences.importing import ImportOptions, import_preferences
    from edit_r1.report.totals import batch_progress

    options = ImportOptions(broken, split, aspect, most_rows, allow_outside)
    with batch_progress("importing") as bar:
        summary = import_preferences(kind, source, out, options, lambda rows: bar(rows, None))
    if json:
        print_json(asdict(summary))
        return 0
    print(f"{summary.written} pairs in {out}: {summary.decided} with a winner, {summary.same} same", end="")
    print(f"; {summary.left_out} of other aspects left out" if summary.left_out else "")
    for one in summary.reasons:
        print(f"left out: {one.file}: row {one.row}: {one.reason}")
    if summary.broken:
        print(f"{summary.broken} of {summary.rows} rows left out; all in {out.name}.broken.jsonl")
    return 0


def preferences_export(
    kind: tyro.conf.Positional[Target],
    folder: Folder,
    /,
    out: Path,
    split: str = "",
    blind: bool = False,
    image_prefix: str | None = None,
    json: Json = False,
) -> int:
    """Write preferences for TRL, for Label Studio, or as JSON lines with picture files.

    Args:
        kind: what is written; docs/preferences.md describes each.
        folder: a data set of preferences.
        out: new folder; with trl also a file that ends in .parquet.
        split: only pairs of this split.
        blind: Label Studio's tasks without the answers and the editors' names, to be annotated anew.
        image_prefix: what stands before a picture's path in Label Studio's tasks.
    """
    from edit_r1.preferences.exporting import export_preferences
    from edit_r1.report.totals import batch_progress

    with batch_progress("exporting") as bar:
        summary = export_preferences(kind, folder, out, split, blind, image_prefix, bar)
    if json:
        print_json(asdict(summary))
        return 0
    what = "tasks" if kind == "label-studio" else "rows"
    print(f"{summary.written} {what} in {out}, from {summary.rows} answers, {summary.same} of them same")
    return 0


def preferences_principles(folder: Folder, /, out: Path, models: Models = PACKAGED, json: Json = False) -> int:
    """Write principles for pairs that have none, as training and evaluation need them.

    Args:
        folder: a data set of preferences.
        out: new data set, with principles in every row.
    """
    from edit_r1.preferences.principles import write_principles
    from edit_r1.report.totals import batch_progress
    from edit_r1.zoo.packaged import open_chosen

    models.check()
    if models.model is None and models.principles_model is None:
        complain("preferences principles needs a model: add --model PATH, or --endpoint URL --model NAME")
        return USAGE
    other = models.principles_model is not None
    with models.principles_verifier() if other else open_chosen(models) as verifier, batch_progress("asking") as bar:
        summary = write_principles(folder, out, verifier, bar)
    if json:
        print_json(asdict(summary))
        return 0
    print(f"{summary.written} of {summary.rows} pairs in {out}; asked about {summary.contexts} contexts", end="")
    print(f", {summary.failed} failed: {summary.reason}" if summary.failed else "")
    return 0


def preferences_pool(folders: tyro.conf.Positional[tuple[Path, ...]], /, out: Path, json: Json = False) -> int:
    """Make one row of all answers to a pair, with a soft label, and estimate how often answers are flipped.

    Args:
        folders: data sets of preferences, one or several.
        out: new data set, a row for each pair.
    """
    from edit_r1.preferences.votes import pool
    from edit_r1.report.totals import batch_progress

    if not folders:
        complain("preferences pool needs at least one data set; edit-r1 preferences pool --help tells more")
        return USAGE
    with batch_progress("pooling") as bar:
        summary = pool(folders, out, bar)
    if json:
        print_json(asdict(summary))
        return 0
    print(f"{summary.pairs} pairs in {out}, from {summary.rows} answers: {summary.several} with a soft label, ", end="")
    print(f"{summary.same} even")
    rate = summary.flip_rate
    if rate is None:
        print("flip rate: unknown, no pair has two decided answers by different annotators")
    else:
        interval = "" if rate.ci95 is None else f" (95 % interval {rate.ci95[0]:.3f} to {rate.ci95[1]:.3f})"
        print(f"flip rate: {rate.rate:.3f}{interval}, from {rate.pairs} pairs")
    return 0


def preferences_audit(
    folder: Folder,
    /,
    against: Folders = (),
    html: Path | None = None,
    threshold: int | None = None,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Examine preferences: balance, biases of winners, contradictions, cycles, label noise, overlap with a benchmark.

    Args:
        folder: a data set of preferences.
        against: a data set, Parquet file or folder of pictures that must not be in it (repeatable).
        html: file for a page with all of it and examples.
        threshold: most bits of 256 by which a copy's perceptual hash differs.
        seed: of the bootstrap.
    """
    from edit_r1.algo.picture_hash import NEAR, SIDE
    from edit_r1.preferences.audit import audit, audit_json, example_rows, read_examples
    from edit_r1.report.totals import batch_progress

    bits = NEAR if threshold is None else threshold
    if not 0 <= bits < SIDE * SIDE // 2:
        raise ValueError(f"--threshold {bits}: copies differ by 0 to {SIDE * SIDE // 2 - 1} of {SIDE * SIDE} bits")
    if html is not None:
        check_file(html)
    with batch_progress("reading") as progress:
        found = audit(folder, against, seed, bits, progress)
    if html is not None:
        from edit_r1.report.audit_page import write_audit_page

        write_audit_page(html, found, read_examples(folder, example_rows(found)))
    if json:
        print_json(audit_json(found))
    else:
        from edit_r1.report.audit_terminal import audit_table

        Console().print(audit_table(audit_json(found)))
    return 0
