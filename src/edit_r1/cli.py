"""The command `edit-r1`: parse, call, print. The contract is in docs/commands.md.

Without --json a command prints for people; with it, one JSON document on stdout and nothing else.
Exit codes: 0 done; 1 it could not be done (one line on stderr); 2 wrong usage; 3 the model answered
but no trace could be parsed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from edit_r1.images import read_image_file
from edit_r1.records import CATEGORIES, Judgment, Principle, Trace, Unparsed
from edit_r1.report.terminal import quiet_libraries

if TYPE_CHECKING:
    from edit_r1.verifier.scoring import Verifier

FAILED, USAGE, UNPARSED = 1, 2, 3

Instruction = Annotated[str, tyro.conf.arg(aliases=["-i"], help="What the edit should do.")]
Picture = tyro.conf.Positional[Path]


def score(
    source: Picture,
    edited: Picture,
    /,
    instruction: Instruction,
    model: str | None = None,
    principles: Path | None = None,
    traces: int = 1,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Judge one edited image: a checklist and a score from 0 to 10.

    Args:
        source: the image before the edit.
        edited: the image after it.
        model: folder of a vision-language model; without it, the packaged tiny verifier, for EditWorld only.
        principles: JSON file with a list of {"question", "category"}; without it the model writes them.
        traces: 1 is greedy; more are sampled, and the score is their mean.
    """
    asked = _question(source, [edited], instruction, principles, traces)
    judgment = _verifier(model, asked).score(
        asked.sources, asked.edited[0], instruction, asked.principles, traces, seed=seed
    )
    return _show(judgment, json)


def rank(
    source: Picture,
    edited: tyro.conf.Positional[tuple[Path, ...]],
    /,
    instruction: Instruction,
    model: str | None = None,
    principles: Path | None = None,
    traces: int = 1,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Order several edits of one image, best first; those without a score come last.

    Args:
        model: folder of a vision-language model; without it, the packaged tiny verifier, for EditWorld only.
        principles: JSON file with a list of {"question", "category"}; without it the model writes them.
        traces: 1 is greedy; more are sampled, and the score is their mean.
    """
    from edit_r1.verifier.judgments import judgment_json

    if not edited:
        _complain("rank needs at least one edited image after the source; edit-r1 rank --help tells more")
        return USAGE
    asked = _question(source, edited, instruction, principles, traces)
    ranked = _verifier(model, asked).rank(asked.sources, asked.edited, instruction, asked.principles, traces, seed=seed)
    rows = [{"path": str(edited[one.index]), **judgment_json(one.judgment)} for one in ranked]
    if json:
        _print_json({"ranking": rows})
    else:
        from edit_r1.report.terminal import ranking_table

        Console().print(ranking_table(rows))
    if any(row["score"] is not None for row in rows):
        return 0
    return _unparsed([outcome for one in ranked for outcome in one.judgment.outcomes])


def principles(source: Picture, /, instruction: Instruction, model: str | None = None, json: bool = False) -> int:
    """Write the principles by which edits of this image will be judged.

    Args:
        model: folder of a vision-language model; without it, the packaged tiny verifier, for EditWorld only.
    """
    from edit_r1.verifier.scoring import UnparsedPrinciples

    asked = _question(source, [], instruction)
    verifier = _verifier(model, asked)
    document: dict[str, Any] = {"principles": None, "cached": False, "model": verifier.principles_vlm.name}
    try:
        written = verifier.principles(asked.sources, instruction)
    except UnparsedPrinciples as error:
        if json:
            _print_json(document)
        _complain(error)
        return UNPARSED
    rows = [{"question": item.question, "category": item.category} for item in written]
    if json:
        _print_json({**document, "principles": rows, "cached": verifier.is_cached(asked.sources, instruction)})
    else:
        for number, row in enumerate(rows, start=1):
            print(f"{number:2}. {row['question']}  ({row['category']})")
    return 0


def demo(
    out: Path = Path("runs/demo"), seed: int = 0, size: Literal["demo", "micro"] = "demo", controls: bool = False
) -> int:
    """Run the whole loop on EditWorld with the tiny models, and write a report.

    Args:
        out: folder of the run; a run that was stopped continues from its last finished step.
        size: micro takes about a minute and measures nothing worth quoting.
        controls: also train the controls at equal compute (about twice the time).
    """
    from edit_r1.demo import run_demo

    quiet_libraries()
    run_demo(out, seed, size, controls)
    return 0


def curate(recipe: tyro.conf.Positional[str], /, out: Path, engine: Literal["local"] = "local") -> int:
    """Run the four curation steps of a recipe; a run that was stopped continues.

    Args:
        recipe: a built-in name, or path/file.py:function.
        engine: where the steps run.
    """
    from edit_r1.curate.run import CurateStage
    from edit_r1.recipes.load import load_recipe
    from edit_r1.recipes.run import run_curation

    quiet_libraries()
    stage = load_recipe(recipe)
    if not isinstance(stage, CurateStage):
        raise ValueError(f"curate takes a recipe that returns CurateStage, {recipe} returns {type(stage).__name__}")
    run_curation(stage, out)
    print(f"done: {out}; `edit-r1 curate status {out}` shows what it holds")
    return 0


def status(folder: tyro.conf.Positional[Path], /, json: bool = False) -> int:
    """Show how far a curation is, with counts and failures by cause."""
    from edit_r1.curate.run import read_status
    from edit_r1.report.terminal import status_table

    rows = read_status(folder)
    if json:
        _print_json({"steps": rows})
    else:
        Console().print(status_table(rows))
    return 0


def world_sample(out: Path, count: int = 16, seed: int = 0) -> int:
    """Write EditWorld contexts with flawed candidates, gold verdicts and utilities to a folder."""
    from edit_r1.world.export import write_world_samples

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
        out: folder of the weights; a folder in the current directory when not given.
        state: folder of the resumable state.
    """
    state = state or Path(".state/zoo") / model
    out = out or Path("weights") / model
    if model == "editor":
        from edit_r1.zoo.editor import pretrain_editor

        done = pretrain_editor(out, state, minutes, seed, threads)
    else:
        from edit_r1.zoo.verifier import pretrain_verifier

        done = pretrain_verifier(model.removeprefix("verifier-"), out, state, minutes, seed, threads)
    print(f"{'finished' if done else 'paused: call again to continue'}: {out}")
    return 0


def report(run: tyro.conf.Positional[Path], /) -> int:
    """Draw a run's report.html again from what the run has on disk."""
    if not (run / "metrics.json").is_file():  # said before the models' libraries are imported
        raise ValueError(f"{run}: holds no finished run; `edit-r1 demo --out {run}` makes or continues one")
    from edit_r1.demo import draw_report

    print(draw_report(run))
    return 0


def evaluate_reward(
    model: str,
    data: Path,
    traces: int = 1,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Accuracy of a verifier on preference pairs.

    Args:
        model: folder of a vision-language model.
        data: a dataset of preferences in our Parquet format (RUN/data/test_pairs).
        traces: 1 is greedy; more are sampled, and the score is their mean.
    """
    from edit_r1.evaluate.reward import judge_candidates, pair_scores, report_pairs
    from edit_r1.store import PREFERENCES, read_dataset
    from edit_r1.verifier.scoring import Verifier

    _check_traces(traces)
    preferences = read_dataset(data.parent, data.name, PREFERENCES)
    quiet_libraries()
    judgments = judge_candidates(Verifier.load(model), preferences, traces, seed)
    result = asdict(report_pairs("pairs", pair_scores(preferences, judgments)))
    if json:
        _print_json(result)
    else:
        from edit_r1.report.terminal import pairs_table

        Console().print(pairs_table(result))
    if result["unparsed"] < result["pairs"]:
        return 0
    return _unparsed([outcome for judgment in judgments.values() for outcome in judgment.outcomes])


# --- what the commands share ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """What a model is asked about, read and checked: a mistake in it is told before any model is opened."""

    sources: tuple[bytes, ...]
    edited: tuple[bytes, ...]
    instruction: str
    principles: tuple[Principle, ...] | None


def _question(
    source: Path, edited: Sequence[Path], instruction: str, principles: Path | None = None, traces: int = 1
) -> _Question:
    from edit_r1.verifier.prompts import check_instruction

    checked = check_instruction(instruction)
    _check_traces(traces)
    given = None if principles is None else _principles(principles)
    return _Question((read_image_file(source),), tuple(map(read_image_file, edited)), checked, given)


def _check_traces(traces: int) -> None:
    from edit_r1.verifier.scoring import MAX_TRACES

    if not 1 <= traces <= MAX_TRACES:
        raise ValueError(f"--traces {traces}: ask for 1 to {MAX_TRACES}")


def _verifier(model: str | None, asked: _Question) -> Verifier:
    if model is None:
        from edit_r1.zoo.packaged import is_editworld, packaged_verifier

        if not is_editworld(asked.sources, asked.instruction):
            raise ValueError(
                "without --model only the packaged tiny verifier is at hand, and it knows EditWorld's pictures and "
                "instructions alone: name a vision-language model with --model PATH"
            )
        quiet_libraries()
        return packaged_verifier()
    from edit_r1.verifier.scoring import Verifier

    quiet_libraries()
    return Verifier.load(model)


def _principles(path: Path) -> tuple[Principle, ...]:
    """Principles from a JSON file: a list, or the document that `edit-r1 principles --json` writes."""
    from edit_r1.verifier.prompts import check_principles

    remedy = f'write a JSON list of {{"question": ..., "category": one of {", ".join(CATEGORIES)}}}'
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}): {remedy}") from error
    if isinstance(rows, dict):
        rows = rows.get("principles")
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds no list of principles: {remedy}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "category")):
            raise ValueError(f"{path}: principle {number} is malformed: {remedy}")
    try:
        return check_principles([Principle(row["question"], row["category"]) for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _show(judgment: Judgment, as_json: bool) -> int:
    from edit_r1.verifier.judgments import judgment_json

    document = judgment_json(judgment)
    if as_json:
        _print_json(document)
    else:
        from edit_r1.report.terminal import checklist

        Console().print(checklist(document))
    if judgment.score is not None:
        return 0
    return _unparsed(judgment.outcomes)


def _unparsed(outcomes: Sequence[Trace | Unparsed]) -> int:
    """Says why no trace could be parsed: the first reason stands for all."""
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, Unparsed)]
    _complain(f"no trace could be parsed: {reasons[0] if reasons else 'no answer'}")
    return UNPARSED


def _complain(message: object) -> None:
    """One line on stderr, whatever the message holds."""
    print(f"edit-r1: {' '.join(str(message).split())}", file=sys.stderr)


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2))


def train(kind: str, arguments: list[str]) -> int:
    """`train KIND RECIPE [--resume] [--FIELD VALUE ...]`: any field of the recipe's config can be set, --out too."""
    from edit_r1.recipes.load import known_recipes, load_recipe
    from edit_r1.recipes.run import EditorRecipe, GCPORecipe, SFTRecipe, run_training

    if not arguments or arguments[0].startswith("-"):
        asked = arguments[:1] in (["-h"], ["--help"])
        usage = f"usage: edit-r1 train {kind} RECIPE --out DIR [--resume] [--FIELD VALUE ...]; {known_recipes()}"
        print(usage, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else USAGE
    quiet_libraries()
    wanted = {"sft": SFTRecipe, "gcpo": GCPORecipe, "editor": EditorRecipe}[kind]
    config = load_recipe(arguments[0])
    if not isinstance(config, wanted):
        raise ValueError(
            f"train {kind} takes a recipe that returns {wanted.__name__}, {arguments[0]} returns "
            f"{type(config).__name__}"
        )
    resume = "--resume" in arguments
    rest = [argument for argument in arguments[1:] if argument != "--resume"]
    prog = f"edit-r1 train {kind} {arguments[0]}"
    config = tyro.cli(type(config), default=config, args=rest, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    print(run_training(kind, config, resume))
    return 0


COMMANDS: dict[tuple[str, ...], Callable[..., int]] = {
    ("demo",): demo,
    ("score",): score,
    ("rank",): rank,
    ("principles",): principles,
    ("curate", "run"): curate,
    ("curate", "status"): status,
    ("evaluate", "reward"): evaluate_reward,
    ("world", "sample"): world_sample,
    ("world", "pretrain"): world_pretrain,
    ("report",): report,
}
TRAININGS = ("sft", "gcpo", "editor")


def _usage() -> str:
    from edit_r1 import __version__

    lines = [f"edit-r1 {__version__}: teach a vision-language model to verify image edits, and editors with it", ""]
    for words, function in COMMANDS.items():
        lines.append(f"  edit-r1 {' '.join(words):17} {(function.__doc__ or '').splitlines()[0]}")
    lines.append(f"  edit-r1 {'train ' + '|'.join(TRAININGS):17}  Train from a recipe; its fields are flags.")
    return "\n".join([*lines, "", "edit-r1 COMMAND --help tells a command's options."])


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["train"] and len(arguments) > 1 and arguments[1] in TRAININGS:
        return train(arguments[1], arguments[2:])
    for length in (2, 1):
        words = tuple(arguments[:length])
        if len(words) == length and words in COMMANDS:
            prog = f"edit-r1 {' '.join(words)}"
            return tyro.cli(COMMANDS[words], args=arguments[length:], prog=prog)
    asked = arguments[:1] in ([], ["-h"], ["--help"])
    print(_usage(), file=sys.stdout if asked and arguments else sys.stderr)
    if not asked:
        print(f"\nedit-r1: no command {' '.join(arguments[:2])!r}", file=sys.stderr)
    return 0 if asked and arguments else USAGE


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; an error is one line on stderr."""
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        _complain("interrupted; the same command continues where it can")
        code = 130
    except (ValueError, OSError) as error:
        _complain(error)
        code = FAILED
    except MemoryError:
        _complain("out of memory: use smaller images, fewer traces or a smaller model")
        code = FAILED
    sys.exit(code)
