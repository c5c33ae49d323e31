"""The command `edit-r1`: parse, call, print. The contract is in docs/commands.md.

Without --json a command prints for people; with it, one JSON document on stdout and nothing else.
Exit codes: 0 done; 1 it could not be done (one line on stderr); 2 wrong usage; 3 the model answered
but no trace could be parsed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro
from rich.console import Console

from edit_r1.images import read_image_file
from edit_r1.records import CATEGORIES, Judgment, Principle
from edit_r1.store import read_json

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
    sources = [read_image_file(source)]
    verifier = _verifier(model, sources, instruction)
    judgment = verifier.score(sources, read_image_file(edited), instruction, _principles(principles), traces, seed=seed)
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

    sources = [read_image_file(source)]
    verifier = _verifier(model, sources, instruction)
    images = [read_image_file(path) for path in edited]
    ranked = verifier.rank(sources, images, instruction, _principles(principles), traces, seed=seed)
    rows = [{"path": str(edited[one.index]), **judgment_json(one.judgment)} for one in ranked]
    if json:
        _print_json({"ranking": rows})
    else:
        from edit_r1.report.terminal import ranking_table

        Console().print(ranking_table(rows))
    return UNPARSED if all(row["score"] is None for row in rows) else 0


def principles(source: Picture, /, instruction: Instruction, model: str | None = None, json: bool = False) -> int:
    """Write the principles by which edits of this image will be judged.

    Args:
        model: folder of a vision-language model; without it, the packaged tiny verifier, for EditWorld only.
    """
    from edit_r1.verifier.scoring import UnparsedPrinciples

    sources = [read_image_file(source)]
    verifier = _verifier(model, sources, instruction)
    try:
        written = verifier.principles(sources, instruction)
    except UnparsedPrinciples as error:
        print(f"edit-r1: {error}", file=sys.stderr)
        return UNPARSED
    rows = [{"question": item.question, "category": item.category} for item in written]
    if json:
        _print_json({"principles": rows, "cached": False, "model": verifier.principles_vlm.name})
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

    run_demo(out, seed, size, controls)
    return 0


def curate(recipe: tyro.conf.Positional[str], /, out: Path, engine: Literal["local"] = "local") -> int:
    """Run the four curation steps of a recipe; a run that was stopped continues.

    Args:
        recipe: a built-in name, or path/file.py:function.
        engine: where the steps run.
    """
    from edit_r1.recipes.run import run_curation

    run_curation(_recipe(recipe), out)
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

    preferences = read_dataset(data.parent, data.name, PREFERENCES)
    judgments = judge_candidates(Verifier.load(model), preferences, traces, seed)
    result = asdict(report_pairs("pairs", pair_scores(preferences, judgments)))
    if json:
        _print_json(result)
    else:
        from edit_r1.report.terminal import pairs_table

        Console().print(pairs_table(result))
    return 0


# --- what the commands share ------------------------------------------------------------------------------------


def _verifier(model: str | None, sources: Sequence[bytes], instruction: str) -> Verifier:
    from edit_r1.verifier.scoring import Verifier
    from edit_r1.zoo.packaged import is_editworld, packaged_verifier

    if model is not None:
        return Verifier.load(model)
    if not is_editworld(sources, instruction):
        raise ValueError(
            "without --model only the packaged tiny verifier is at hand, and it knows EditWorld's pictures and "
            "instructions alone: name a vision-language model with --model PATH"
        )
    return packaged_verifier()


def _principles(path: Path | None) -> list[Principle] | None:
    """Principles from a JSON file: a list, or the document that `edit-r1 principles --json` writes."""
    if path is None:
        return None
    rows = read_json(path)
    if isinstance(rows, dict):
        rows = rows.get("principles")
    remedy = f'write a list of {{"question": ..., "category": one of {", ".join(CATEGORIES)}}}'
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds no list of principles; {remedy}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "category")):
            raise ValueError(f"{path}: principle {number} is malformed; {remedy}")
    return [Principle(row["question"], row["category"]) for row in rows]


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
    reasons = [outcome.reason for outcome in judgment.outcomes if hasattr(outcome, "reason")]
    print(f"edit-r1: no trace could be parsed: {reasons[0] if reasons else 'no answer'}", file=sys.stderr)
    return UNPARSED


def _print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2))


def _recipe(name: str) -> Callable[[], Any]:
    """A built-in recipe by its name, or the function of a file ("path/file.py:function")."""
    if ":" in name:
        path, _, function = name.rpartition(":")
        spec = importlib.util.spec_from_file_location("edit_r1_recipe", path)
        if not Path(path).is_file() or spec is None or spec.loader is None:
            raise ValueError(f"recipe {name}: there is no file {path}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module, function = importlib.import_module("edit_r1.recipes"), name
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"recipe {name!r}: not there; built in are {', '.join(_built_in())}, or path/file.py:function")
    return cast(Callable[[], Any], found)


def _built_in() -> list[str]:
    from edit_r1 import recipes

    return sorted(recipes.__all__)


def train(kind: str, arguments: list[str]) -> int:
    """`train KIND RECIPE --out DIR [--resume] [--FIELD VALUE ...]`: any field of the recipe's config can be set."""
    from edit_r1.recipes.run import run_training

    if not arguments or arguments[0].startswith("-"):
        print(f"usage: edit-r1 train {kind} RECIPE --out DIR [--resume] [--FIELD VALUE ...]; recipes: "
              f"{', '.join(_built_in())}, or path/file.py:function", file=sys.stderr)  # fmt: skip
        return 0 if arguments[:1] in (["-h"], ["--help"]) else USAGE
    config = _recipe(arguments[0])()
    resume = "--resume" in arguments
    rest = [argument for argument in arguments[1:] if argument != "--resume"]
    config = tyro.cli(type(config), default=config, args=rest, prog=f"edit-r1 train {kind} {arguments[0]}")
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
        print("edit-r1: interrupted; the same command continues where it can", file=sys.stderr)
        code = 130
    except (ValueError, OSError) as error:
        print(f"edit-r1: {' '.join(str(error).split())}", file=sys.stderr)
        code = FAILED
    sys.exit(code)
