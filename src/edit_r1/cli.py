"""The command `edit-r1`: parse, call, print. The contract is in docs/commands.md.

Without --json a command prints for people; with it, one JSON document on stdout and nothing else.
Exit codes: 0 done; 1 it could not be done (one line on stderr); 2 wrong usage; 3 the model answered
but no trace could be parsed; 4 the score is below --fail-under, or a judge is not ready.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from edit_r1.commands.annotate import annotate, annotate_export, annotate_status
from edit_r1.commands.best_of import best_of_command
from edit_r1.commands.curate import curate_look, curate_run, curate_status, curate_weigh
from edit_r1.commands.doctor import doctor
from edit_r1.commands.evaluate_editor import evaluate_editor
from edit_r1.commands.evaluate_gsb import evaluate_gsb
from edit_r1.commands.evaluate_reward import evaluate_reward
from edit_r1.commands.intake import curate_intake
from edit_r1.commands.preferences import (
    preferences_audit,
    preferences_export,
    preferences_import,
    preferences_pool,
    preferences_principles,
)
from edit_r1.commands.readiness import evaluate_readiness
from edit_r1.commands.serve import serve
from edit_r1.commands.shared import (
    BELOW,
    FAILED,
    PACKAGED,
    UNPARSED,
    USAGE,
    Instruction,
    Json,
    Models,
    check_answered,
    check_file,
    check_traces,
    complain,
    missing_extra,
    open_verifier,
    print_json,
    reader_is_gone,
    unparsed,
)
from edit_r1.commands.usage import TRAININGS, is_group, train_usage, usage
from edit_r1.processes import keep_few_kernels, keep_freed_memory
from edit_r1.report.terminal import quiet_libraries
from edit_r1.report.text import plain

Picture = tyro.conf.Positional[Path]
MorePictures = tyro.conf.UseAppendAction[tuple[Path, ...]]


def score(
    source: Picture,
    edited: Picture,
    /,
    instruction: Instruction,
    models: Models = PACKAGED,
    also_source: MorePictures = (),
    principles: Path | None = None,
    traces: int = 1,
    seed: int = 0,
    expected: bool = False,
    fail_under: float | None = None,
    html: Path | None = None,
    json: Json = False,
) -> int:
    """Judge one edited image: a checklist and a score from 0 to 10.

    Args:
        source: the image before the edit.
        edited: the image after it.
        also_source: a further source image, for an edit that combines several.
        principles: JSON file with a list of {"question", "category"}; without it the model writes them.
        traces: 1 is greedy; more are sampled, and the score is their mean.
        expected: also the score expected under the model's probabilities of its digits.
        fail_under: end with code 4 when the score is below this, 0 to 10.
        html: file for a page with the pictures, their difference and the checklist.
        seed: of sampled traces.
    """
    from edit_r1.verifier.batch import endpoint_usage
    from edit_r1.verifier.inputs import read_question
    from edit_r1.verifier.judgments import judgment_json

    check_traces(traces)
    if html is not None:
        check_file(html)
    if fail_under is not None and not 0 <= fail_under <= 10:
        raise ValueError(f"--fail-under {fail_under}: a score is 0 to 10")
    asked = read_question([source, *also_source], [edited], instruction, principles)
    with open_verifier(models, asked.sources, asked.instruction) as verifier:
        judgment = verifier.score(
            asked.sources, asked.edited[0], instruction, asked.principles, traces, None, seed, expected
        )
        usage, repeated = endpoint_usage(verifier), verifier.repeated(asked.sources, instruction)
    check_answered(judgment.outcomes)
    if html is not None:
        from edit_r1.report.judgment_page import write_judgment_page

        write_judgment_page(html, judgment, asked.sources, asked.edited[0], asked.instruction)
    document = {**judgment_json(judgment), "repeated": repeated, "usage": usage}
    if json:
        print_json(document)
    else:
        from edit_r1.report.terminal import checklist
        from edit_r1.report.totals import notes

        Console().print(checklist(document), *notes(usage, repeated), sep="\n")
    if judgment.score is None:
        return unparsed(judgment.outcomes)
    if fail_under is not None and judgment.score < fail_under:
        complain(f"score {judgment.score:.2f} is below --fail-under {fail_under:g}")
        return BELOW
    return 0


def rank(
    source: Picture,
    edited: tyro.conf.Positional[tuple[Path, ...]],
    /,
    instruction: Instruction,
    models: Models = PACKAGED,
    also_source: MorePictures = (),
    principles: Path | None = None,
    traces: int = 1,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Order several edits of one image, best first; those without a score come last.

    Args:
        source: the image before the edits.
        edited: the images after it.
        also_source: a further source image, for an edit that combines several.
        principles: JSON file with a list of {"question", "category"}; without it the model writes them.
        traces: 1 is greedy; more are sampled, and the score is their mean.
        seed: of sampled traces.
    """
    from edit_r1.verifier.batch import endpoint_usage
    from edit_r1.verifier.inputs import read_question
    from edit_r1.verifier.judgments import judgment_json, tie_rates

    if not edited:
        complain("rank needs at least one edited image after the source; edit-r1 rank --help tells more")
        return USAGE
    check_traces(traces)
    asked = read_question([source, *also_source], edited, instruction, principles)
    with open_verifier(models, asked.sources, asked.instruction) as verifier:
        ranked = verifier.rank(asked.sources, asked.edited, instruction, asked.principles, traces, seed=seed)
        usage, repeated = endpoint_usage(verifier), verifier.repeated(asked.sources, instruction)
    outcomes = [outcome for one in ranked for outcome in one.judgment.outcomes]
    check_answered(outcomes)
    rows = [{"path": str(edited[one.index]), **judgment_json(one.judgment)} for one in ranked]
    ties = asdict(tie_rates([[(one.judgment.score, one.judgment.expected_score) for one in ranked]]))
    if json:
        print_json({"ranking": rows, "ties": ties, "repeated": repeated, "usage": usage})
    else:
        from edit_r1.report.terminal import ranking_table
        from edit_r1.report.totals import notes

        Console().print(ranking_table(rows), *notes(usage, repeated, ties), sep="\n")
    if any(row["score"] is not None for row in rows):
        return 0
    return unparsed(outcomes)


def principles(
    source: Picture,
    /,
    instruction: Instruction,
    models: Models = PACKAGED,
    also_source: MorePictures = (),
    json: Json = False,
) -> int:
    """Write the principles by which edits of this image will be judged.

    Args:
        source: the image before the edit.
        also_source: a further source image, for an edit that combines several.
    """
    from edit_r1.verifier.inputs import read_question
    from edit_r1.verifier.scoring import UnparsedPrinciples

    asked = read_question([source, *also_source], [], instruction)
    with open_verifier(models, asked.sources, asked.instruction, principles_only=True) as verifier:
        document: dict[str, Any] = {
            "principles": None, "cached": False, "repeated": 0, "model": verifier.principles_vlm.name
        }  # fmt: skip
        try:
            written = verifier.principles(asked.sources, instruction)
        except UnparsedPrinciples as error:
            if json:
                print_json(document)
            complain(error)
            return UNPARSED
    rows = [{"question": item.question, "category": item.category} for item in written]
    repeated = verifier.repeated(asked.sources, instruction)
    if json:
        cached = verifier.is_cached(asked.sources, instruction)
        print_json({**document, "principles": rows, "cached": cached, "repeated": repeated})
    else:
        from edit_r1.report.totals import repetitions

        for number, row in enumerate(rows, start=1):
            print(f"{number:2}. {plain(row['question'])}  ({row['category']})")
        for line in repetitions(repeated):
            print(line)
    return 0


def score_many(
    data: tyro.conf.Positional[Path],
    /,
    out: Path,
    models: Models = PACKAGED,
    traces: int = 1,
    seed: int = 0,
    expected: bool = False,
    keep_texts: bool = False,
    allow_outside: bool = False,
    json: Json = False,
) -> int:
    """Judge a file of edits, a row each; a run that was stopped continues.

    Args:
        data: a .jsonl or .parquet file with source, edited, instruction, or a folder that holds one.
        out: the results, .jsonl or .parquet, a row for every row.
        traces: 1 is greedy; more are sampled, and the score is their mean.
        expected: also the score expected under the model's probabilities of its digits.
        keep_texts: keep what the model wrote.
        allow_outside: read pictures outside the data's folder too.
        seed: of sampled traces.
    """
    from edit_r1.report.totals import batch_line, batch_progress
    from edit_r1.verifier.batch import BatchOptions, score_file
    from edit_r1.zoo.packaged import open_chosen, refuse_foreign

    check_traces(traces)
    models.check()
    options = BatchOptions(traces, seed, keep_texts, allow_outside, expected, chunk=max(64, 4 * models.concurrency))
    refuse = refuse_foreign if models.model is None else None
    with batch_progress() as progress:
        summary = score_file(lambda: open_chosen(models), data, out, options, models.settings(), refuse, progress)
    if not summary.scored and not summary.unparsed:
        raise ValueError(f"{data}: no row could be judged: {next(iter(summary.reasons.values()))}; {out} tells of each")
    if json:
        print_json(asdict(summary))
    else:
        print(batch_line(asdict(summary)))
    if summary.scored:
        return 0
    complain(f"no trace could be parsed: {summary.reasons['unparsed']}")
    return UNPARSED


def demo(
    out: Path = Path("runs/demo"), seed: int = 0, size: Literal["demo", "micro"] = "demo", controls: bool = False
) -> int:
    """Run the whole loop on EditWorld with the tiny models, and write a report.

    Args:
        out: folder of the run; a run that was stopped continues from its last finished step.
        seed: of the world, its data and all trainings.
        size: micro takes about a minute and measures nothing worth quoting.
        controls: also train the controls at equal compute (about twice the time).
    """
    from edit_r1.demo import run_demo

    quiet_libraries()
    run_demo(out, seed, size, controls)
    return 0


def world_sample(out: Path, count: int = 16, seed: int = 0) -> int:
    """Write EditWorld contexts with flawed candidates, gold verdicts and utilities to a folder.

    Args:
        out: new or empty folder: pictures, and samples.jsonl with a row per candidate.
        count: contexts, of one source and one instruction each.
        seed: of the contexts and the flaws.
    """
    from edit_r1.world.export import write_world_samples

    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    rows = write_world_samples(out, count, seed)
    print(f"{rows} candidates of {count} contexts in {out}/samples.jsonl")
    return 0


def world_pretrain(
    model: tyro.conf.Positional[Literal["verifier-small", "verifier-base", "editor"]],
    /,
    minutes: float = 60.0,
    out: Path | None = None,
    state: Path | None = None,
    seed: int = 0,
    threads: int = 1,
) -> int:
    """Pretrain one of the tiny models from nothing; call again to continue.

    Args:
        minutes: budget of this call; 0 only exports what the state holds.
        model: which one.
        out: folder of the weights; weights/MODEL when not given.
        state: folder of the resumable state; .state/zoo/MODEL when not given.
        seed: of weights, lessons and pairs.
        threads: of torch, for the matrix products.
    """
    from edit_r1.zoo.packaged import pretrain

    out, state = out or Path("weights") / model, state or Path(".state/zoo") / model
    done = pretrain(model, out, state, minutes, seed, threads)
    print(f"finished: {out}" if done else f"paused, its state is in {state}: call again to continue")
    return 0


def report(run: tyro.conf.Positional[Path], /) -> int:
    """Draw a demo's report.html again from what the run has on disk.

    Args:
        run: folder of a finished `edit-r1 demo`.
    """
    if not (run / "metrics.json").is_file():  # said before the models' libraries are imported
        raise ValueError(f"{run}: holds no finished demo; `edit-r1 demo --out {run}` makes or continues one")
    from edit_r1.demo import draw_report

    print(draw_report(run))
    return 0


def train(kind: str, arguments: list[str]) -> int:
    """`train KIND RECIPE [--resume] [--FIELD VALUE ...]`: any field of the recipe's config can be set, --out too.

    `train KIND RECIPE --plan` tells what the run would need instead.
    """
    if not arguments or arguments[0].startswith("-"):
        asked = arguments[:1] in (["-h"], ["--help"])
        print(train_usage(kind), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else USAGE
    quiet_libraries()
    if "--plan" in arguments:
        from edit_r1.commands.plan import plan_training

        return plan_training(kind, arguments[0], [flag for flag in arguments[1:] if flag != "--plan"])
    from edit_r1.recipes.run import train_by_flags

    result = train_by_flags(kind, arguments[0], arguments[1:])
    if os.environ.get("RANK", "0") == "0":  # of a launcher's processes one speaks
        print(result)
    return 0


COMMANDS: dict[tuple[str, ...], Callable[..., int]] = {
    ("demo",): demo,
    ("score",): score,
    ("rank",): rank,
    ("best-of",): best_of_command,
    ("principles",): principles,
    ("score-many",): score_many,
    ("curate", "run"): curate_run,
    ("curate", "intake"): curate_intake,
    ("curate", "status"): curate_status,
    ("curate", "look"): curate_look,
    ("curate", "weigh"): curate_weigh,
    ("preferences", "import"): preferences_import,
    ("preferences", "export"): preferences_export,
    ("preferences", "principles"): preferences_principles,
    ("preferences", "pool"): preferences_pool,
    ("preferences", "audit"): preferences_audit,
    ("evaluate", "reward"): evaluate_reward,
    ("evaluate", "editor"): evaluate_editor,
    ("evaluate", "gsb"): evaluate_gsb,
    ("evaluate", "readiness"): evaluate_readiness,
    ("annotate",): annotate,
    ("annotate", "status"): annotate_status,
    ("annotate", "export"): annotate_export,
    ("serve",): serve,
    ("world", "sample"): world_sample,
    ("world", "pretrain"): world_pretrain,
    ("report",): report,
    ("doctor",): doctor,
}


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["train"] and len(arguments) > 1 and arguments[1] in TRAININGS:
        return train(arguments[1], arguments[2:])
    for length in (2, 1):
        words = tuple(arguments[:length])
        if len(words) == length and words in COMMANDS:
            prog = f"edit-r1 {' '.join(words)}"
            return tyro.cli(COMMANDS[words], args=arguments[length:], prog=prog)
    group = arguments[0] if arguments and is_group(COMMANDS, arguments[0]) else None
    asked = arguments[bool(group) :][:1] in (["-h"], ["--help"])
    print(usage(COMMANDS, group), file=sys.stdout if asked else sys.stderr)
    if arguments and not asked:
        print(f"\nedit-r1: no command {' '.join(arguments[:2])!r}", file=sys.stderr)
    return 0 if asked else USAGE


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; an error is one line on stderr."""
    keep_freed_memory()
    keep_few_kernels()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
    except KeyboardInterrupt:
        again = (
            "with --resume continues from the last saved state" if words[:1] == ["train"] else "continues where it can"
        )
        complain(f"interrupted; the same command {again}")
        code = 130
    except (ValueError, OSError) as error:
        if not (isinstance(error, BrokenPipeError) and reader_is_gone()):
            complain(error)
        code = FAILED
    except ModuleNotFoundError as error:
        remedy = missing_extra(error)
        if remedy is None:
            raise
        complain(remedy)
        code = FAILED
    except MemoryError:
        complain("out of memory: use smaller images, fewer traces or a smaller model")
        code = FAILED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; torch itself is not imported here
            raise
        complain(
            f"out of the device's memory ({str(error).splitlines()[0]}): use smaller batches (of an editor's "
            "training: --train-batch, --sample-batch, --checkpointing; of a verifier's: --micro-batch or --batch-size, "
            "--decode-batch, --gradient-checkpointing; --plan tells what it needs), smaller images or a smaller model"
        )
        code = FAILED
    sys.exit(code)
