"""The card of a curation: README.md in its folder, as the Hub shows it, with a few pictures beside it.

Everything in it is a fact of the run: of summary.json, of the stage, and of the few rows that it shows.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edit_r1 import __version__
from edit_r1.curate.agreement import EVERYTHING
from edit_r1.curate.chunk import STEPS
from edit_r1.curate.intake.hard import HardFilter
from edit_r1.curate.look import Looked, look
from edit_r1.curate.stage import CurateStage, Prepared
from edit_r1.curate.tables import PICKS
from edit_r1.images import thumbnail
from edit_r1.records import CATEGORIES, Trace
from edit_r1.store import Dataset, read_json, write_bytes, write_json, write_text
from edit_r1.store.cards import (
    LICENCE_LINE,
    NOT_SIMULATED,
    SIMULATED,
    data_head,
    markdown_table,
    markdown_text,
    public_text,
)
from edit_r1.verifier.hard_filter import FILTER_VERSION
from edit_r1.verifier.prompts import PROMPT_VERSIONS
from edit_r1.vlm.protocol import Sampling

EXAMPLES = 6
EXAMPLE_PIXELS = 192 * 192
"""Of an example's picture, at most."""
CAUSES = 15
"""Causes of failures that a card names."""
EXAMPLES_FOLDER = "card-examples"
SHOWN = {
    "samples": "sources and instructions",
    "contexts": "with their principles",
    "candidates": "edits",
    "traces": "what the judges wrote",
    "gold": "gold verdicts",
    "decisions": "what became of each trace, and why",
    "selected": "quadruples with the selected trace: what `edit-r1 train sft` reads",
    "findings": "what the checks of the principles found",
    "picks": "decisions of the filter for hard instructions, with its reasons",
    "votes": "verdicts of each verifier, of which gold was made",
}


def write_card(stage: CurateStage, out: Path) -> Path:
    """Writes the card of a finished curation, and its examples' pictures; returns its path.

    A README.md that somebody wrote or changed (a licence was chosen in it) stays, with its pictures; the card is then
    CARD.md, and has others.

    Raises:
        StoreError: when the disk refuses, or the curation is not finished.
    """
    summary = read_json(out / "summary.json")
    rows = look(out, None, EXAMPLES, stage.seed) if summary["rows"]["candidates"] else []
    noted = out / ".work" / "card.json"
    path, folder = out / "README.md", EXAMPLES_FOLDER
    present = _digest(path.read_bytes()) if path.exists() else ""
    if present and (not noted.exists() or present not in read_json(noted).values()):
        path, folder = out / "CARD.md", f"new-{EXAMPLES_FOLDER}"
    shutil.rmtree(out / folder, ignore_errors=True)
    text = "\n\n".join(_parts(stage, out, folder, summary, rows)) + "\n"
    if path.name == "README.md":  # a kill before the card is written leaves the one before it, which is ours too
        write_json(noted, {"sha256": _digest(text.encode()), "before": present})
    write_text(path, text)
    return path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parts(
    stage: CurateStage, out: Path, folder: str, summary: Mapping[str, Any], rows: Sequence[Looked]
) -> Iterator[str]:
    """folder: of the examples' pictures, in `out`."""
    beside = {name: told["rows"] for name, told in summary["beside"].items()}
    failed = dict(summary["failed"])
    if (picks := Dataset(out, "picks", PICKS)).done():
        beside = {"picks": picks.meta()["rows"], **beside}
        failed["picks"] = picks.meta().get("failed", {})  # of a data set before they were counted there is none
    held = {**{step: summary["rows"][step] for step in ("selected", *STEPS)}, **beside}
    simulated = _simulated(stage)
    yield data_head(
        {name: f"{name}/*.parquet" for name, count in held.items() if count}, ["simulated"] if simulated else []
    )
    yield f"# {markdown_text(out.resolve().name)}: judged image edits"
    yield (
        "Sources and instructions, principles (yes/no questions) made of them, edits, traces in which judges verify "
        "the principles and give a score from 0 to 10, gold verdicts, and for each edit the trace that agrees best "
        "with gold. "
        f"Curated by edit-r1 {__version__} after the four steps of Edit-R1 (arXiv 2604.27505, section 2)."
    )
    yield SIMULATED if simulated else NOT_SIMULATED
    yield LICENCE_LINE
    yield "## What it holds"
    yield markdown_table(
        ["data set", "rows", "failed", "what"],
        [
            [f"`{name}`", f"{held[name]:,}", f"{sum(failed.get(name, {}).values()):,}", SHOWN[name]]
            for name in (*STEPS, *beside)
        ],
    )
    yield f"Given were {summary['given']:,} samples. What failed lies with its cause in `NAME.failures`."
    yield from _intake(out)
    if causes := _causes(summary["failed"]):
        yield causes
    yield from _contents(summary["contents"])
    yield "## How it was made"
    yield _made(stage)
    yield "## Agreement"
    yield from _agreement(summary)
    yield "## What the filters keep"
    yield from _filters(summary)
    yield "## Principles"
    yield from _principles(summary["findings"])
    if rows:
        yield "## Examples"
        yield f"{len(rows)} edits drawn at random."
        for number, row in enumerate(rows):
            yield _example(out, folder, number, row)


def _intake(out: Path) -> Iterator[str]:
    """What became of the rows of the data that samples were picked from, where they were picked (`curate.intake`)."""
    path = out / "intake.json"
    if not path.exists():
        return
    document = read_json(path)
    for counts in document.get("parts", [document]):
        rows = [
            [name.replace("_", " "), f"{count:,}"] for name, count in counts.items() if isinstance(count, int) and count
        ]
        yield markdown_table(["intake", "rows"], rows)


def _causes(failed: Mapping[str, Mapping[str, int]]) -> str:
    """What was left out by which check or model, the most frequent first; "" when nothing was."""
    found = [(count, step, cause) for step, causes in failed.items() for cause, count in causes.items()]
    most = sorted(found, key=lambda one: (-one[0], one[1], one[2]))
    rows = [[f"`{step}`", markdown_text(cause, 160), f"{count:,}"] for count, step, cause in most[:CAUSES]]
    if len(most) > CAUSES:
        rest = sum(count for count, _, _ in most[CAUSES:])
        rows.append(["", f"{len(most) - CAUSES} other causes", f"{rest:,}"])
    return markdown_table(["left out at", "cause", "rows"], rows) if rows else ""


def _hard_filters(stage: CurateStage) -> Sequence[HardFilter]:
    """Those that chose the samples."""
    return stage.samples.filters if isinstance(stage.samples, Prepared) else ()


def _simulated(stage: CurateStage) -> bool:
    models = [stage.decomposer, *stage.verifiers, *(member.vlm for member in stage.pool)]
    models += [one.judge for one in _hard_filters(stage)]
    return any(model.simulated for model in models) or any(editor.simulated for editor in stage.editors)


def _contents(contents: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    names = {"category": "kind of edit", "subset": "subset", "split": "split", "licence": "licence of picture and text"}
    for part, name in names.items():
        counts = contents.get(part, {})
        if part == "category" or len(counts) > 1 or (part == "licence" and counts.keys() - {"unknown"}):
            most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            rows = [[markdown_text(key), f"{count:,}"] for key, count in most[:40]]
            if len(most) > 40:
                rows.append([f"{len(most) - 40} others", f"{sum(count for _, count in most[40:]):,}"])
            yield markdown_table([name, "contexts"], rows)
    editors = sorted(contents.get("editor", {}).items(), key=lambda item: (-item[1], item[0]))
    yield markdown_table(["editor", "edits"], [[markdown_text(key), f"{count:,}"] for key, count in editors])


def _made(stage: CurateStage) -> str:
    version = PROMPT_VERSIONS[stage.variant]
    lines = [
        *(
            f"- Filter of hard instructions: {_model(one.judge)}, prompts {FILTER_VERSION}, {_sampling(one.sampling)}"
            + ("; simple ones are kept too" if one.keep == "all" else "")
            for one in _hard_filters(stage)
        ),
        f"- Decomposer: {_model(stage.decomposer)}, prompts {version}, {_sampling(stage.decompose_sampling)}"
        + ("; asked once more where the checks found faults" if stage.redecompose else ""),
        f"- Editors: {', '.join(_model(editor) for editor in stage.editors)}; {stage.candidates_per_context} edits a "
        "context",
        *(
            f"- Judge: {_model(member.vlm)}, {member.traces} {'trace' if member.traces == 1 else 'traces'} an edit, "
            f"prompts {PROMPT_VERSIONS[member.variant]}, {_sampling(member.sampling)}"
            + (", a system text of its own" if member.system else "")
            for member in stage.pool
        ),
        *(
            f"- Verifier: {_model(verifier)}, prompts {version}, {_sampling(stage.verify_sampling)}"
            for verifier in stage.verifiers
        ),
    ]
    if stage.ensemble is not None:
        rule = "weighted by agreement with a gold set" if stage.ensemble.weights else "a vote each"
        voters = "the verifiers and of the judges" if stage.ensemble.pool else "the verifiers"
        lines.append(f"- Gold by the votes of {voters}: {rule}, a tie is 0")
    rule = (
        f"the trace that agrees best with gold, ties {stage.tie_break}" if stage.filter_on else "a draw, without filter"
    )
    return "\n".join([*lines, f"- Selection: {rule}; seed {stage.seed}"])


def _model(model: Any) -> str:
    return f"{markdown_text(public_text(model.name))}{' (simulated)' if model.simulated else ''}"


def _sampling(sampling: Sampling) -> str:
    if sampling.temperature <= 0:
        return f"greedy, {sampling.max_new_tokens} tokens at most"
    return (
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, seed {sampling.seed}, "
        f"{sampling.max_new_tokens} tokens at most"
    )


def _agreement(summary: Mapping[str, Any]) -> Iterator[str]:
    found = summary["agreement"]
    yield (
        "Raw agreement is the share of pairs of verdicts that are the same; alpha is Krippendorff's (1 perfect, 0 as "
        "by chance). Intervals at 95 % go by sources. Between judges each counts by its first trace."
    )
    yield markdown_table(
        ["against gold", "verdicts", "raw", "alpha", "right on gold's 1", "right on its 0"],
        [
            [markdown_text(name), f"{row['units']:,}", _with(row, "raw"), _with(row, "alpha"),
             _number(row["yes_right"]), _number(row["no_right"])]
            for name, row in found["gold"].items()
        ],
    )  # fmt: skip
    others = [
        *(("all judges" if name == EVERYTHING else name, row) for name, row in found["between"].items()),
        *((f"{name}, asked again", row) for name, row in found["repeats"].items()),
        *((f"verifiers: {name}", row) for name, row in summary["verifiers"]["between"].items()),
    ]
    if others:
        yield markdown_table(
            ["between", "verdicts", "raw", "alpha", *CATEGORIES],
            [
                [
                    markdown_text(name), f"{row['units']:,}", _with(row, "raw"), _with(row, "alpha"),
                    *(_number(row["principles"].get(category, {}).get("alpha")) for category in CATEGORIES),
                ]
                for name, row in others
            ],
        )  # fmt: skip
        yield "The last columns are alpha by the category of the principle; `summary.json` has it by kind of edit too."


def _filters(summary: Mapping[str, Any]) -> Iterator[str]:
    gates = summary["filters"]
    yield (
        "Traces that pass one gate after the other: parsed; of an edit that has gold; as accurate as the edit's best; "
        "kept after the tie-break. Moved is how far the shares of kinds of edit and of judges are from those at the "
        "gate before (0 none, 1 all)."
    )
    yield markdown_table(
        ["gate", "traces", "of before", "edits", "mean score", "yes", *(f"yes, {name}" for name in CATEGORIES),
         "kinds moved", "judges moved"],
        [
            [gate, f"{row['traces']:,}", _number(row["of_before"]), f"{row['quadruples']:,}",
             _number(row["mean_score"], 2), _number(row["yes"]),
             *(_number(row["yes_by_category"].get(name)) for name in CATEGORIES), _number(row["moved"]["edits"]),
             _number(row["moved"]["judges"])]
            for gate, row in gates.items()
        ],
    )  # fmt: skip
    yield "What each rule of selection would keep of the same traces:"
    yield markdown_table(
        ["rule", "selected", "mean score", "yes", "agreement with gold", "failed points passed"],
        [
            [name, f"{row['selected']:,}", _number(row["mean_score"], 2), _number(row["yes"]),
             _number(row["agreement"]), _number(row["failed_points_passed"])]
            for name, row in summary["selectors"].items()
        ],
    )  # fmt: skip


def _principles(findings: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{findings['faulty']:,} of {findings['contexts']:,} contexts have a fault that the checks of words find. "
        "Nothing was left out for one; `findings` names them."
    )
    yield markdown_table(
        ["finding", "contexts", "findings"],
        [[kind, f"{row['contexts']:,}", f"{row['findings']:,}"] for kind, row in findings["kinds"].items()],
    )
    yield markdown_table(
        ["principles a context", "contexts by number"],
        [
            [category, ", ".join(f"{size}: {count:,}" for size, count in sizes.items())]
            for category, sizes in findings["principles"].items()
        ],
    )


def _example(out: Path, folder: str, number: int, row: Looked) -> str:
    """A table of the pictures, and below it the checklist by gold and by the kept trace."""
    names = {}
    for role, image in (("source", row.context.sample.source), ("edit", row.candidate.image)):
        names[role] = f"{folder}/{number + 1}-{role}.png"
        write_bytes(out / names[role], thumbnail(image, EXAMPLE_PIXELS))
    kept = next((one for one in row.decisions if one.cause == "kept"), None)
    trace = next((one.outcome for one in row.traces if kept is not None and one.index == kept.index), None)
    verdicts, score = (trace.verdicts or (), trace.score) if isinstance(trace, Trace) else ((), None)
    head = f"**{markdown_text(row.context.sample.instruction)}** {markdown_text(row.candidate.editor)}"
    if kept is not None:
        head += f"; kept {markdown_text(kept.judge)}" + (f", score {score:g}" if score is not None else "")
    pictures = markdown_table(["source", "edit"], [[f"![source]({names['source']})", f"![edit]({names['edit']})"]])
    checks = markdown_table(
        ["principle", "gold", "kept trace"],
        [
            [
                markdown_text(principle.question),
                row.gold.gold[place].value if row.gold is not None else "-",
                verdicts[place].value if verdicts else "-",
            ]
            for place, principle in enumerate(row.context.principles)
        ],
    )
    return "\n\n".join([head, pictures, checks])


def _with(row: Mapping[str, Any], name: str) -> str:
    interval = row[f"{name}_ci95"]
    told = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{_number(row[name])}{told}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
