"""`edit-r1 best-of`: an editor's samples, judged; with --retry, more of them with a clearer instruction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from edit_r1.commands.editors import KEY_VARIABLE, MAX_AREA, open_local_editor
from edit_r1.commands.shared import (
    FAILED,
    PACKAGED,
    UNPARSED,
    Instruction,
    Json,
    Models,
    check_answered,
    check_traces,
    complain,
    open_verifier,
    print_json,
    unparsed,
)
from edit_r1.images import image_size, read_image_file
from edit_r1.records import Sample

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.editors.protocol import Editor
    from edit_r1.evaluate.best_of import Attempt


def best_of_command(
    source: tyro.conf.Positional[Path],
    /,
    instruction: Instruction,
    out: Path,
    models: Models = PACKAGED,
    editor: str | None = None,
    editor_endpoint: str | None = None,
    editor_model: str | None = None,
    editor_steps: int = 28,
    send_seeds: bool = False,
    samples: int = 4,
    retry: int = 0,
    max_chars: int = 1200,
    principles: Path | None = None,
    traces: int = 1,
    seed: int = 0,
    json: Json = False,
) -> int:
    """Let an editor make several edits, keep the best by the verifier, and ask again for what it missed.

    Args:
        source: the image before the edit.
        out: new folder for every edit, best.png and best_of.json.
        editor: folder of a pipeline on this machine: FLUX.1-Kontext, Qwen-Image-Edit (and Plus) or FLUX.2-klein.
        editor_endpoint: base of an OpenAI-compatible images API, such as http://host:8000/v1; a token is read from
            EDIT_R1_EDITOR_KEY.
        editor_model: name sent to the endpoint.
        editor_steps: sampling steps of --editor.
        send_seeds: send a seed with every edit; for endpoints that read one.
        samples: edits in each round.
        retry: further rounds, each asked with what the best edit so far missed.
        max_chars: longest instruction of such a round.
        principles: JSON file with a list of {"question", "category"}; without it the model writes them.
        traces: 1 is greedy; more are sampled, and the score is their mean.
        seed: of the first edit; the others count on.
    """
    from edit_r1.editors.http import HttpEditor, HttpEditorSettings
    from edit_r1.evaluate.best_of import best_of
    from edit_r1.verifier.inputs import read_principles
    from edit_r1.verifier.prompts import check_instruction
    from edit_r1.verifier.scoring import UnparsedPrinciples

    if (editor is None) == (editor_endpoint is None):
        raise ValueError("name one editor: --editor PATH for one on this machine, or --editor-endpoint URL")
    if samples < 1 or retry < 0:
        raise ValueError(f"--samples {samples} --retry {retry}: ask for at least 1 sample and 0 or more repairs")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another --out")
    check_traces(traces)
    sample = Sample(source.stem, read_image_file(source), check_instruction(instruction), "")
    given = None if principles is None else read_principles(principles)
    with ExitStack() as open_things:
        if editor_endpoint is not None:
            settings = HttpEditorSettings(editor_model, send_seed=send_seeds, api_key=os.environ.get(KEY_VARIABLE))
            painter: Editor = open_things.enter_context(HttpEditor(editor_endpoint, settings))
        verifier = open_things.enter_context(open_verifier(models, [sample.source], sample.instruction))
        if editor is not None:
            width, height = image_size(sample.source)
            area = MAX_AREA if width * height > MAX_AREA else None
            painter = open_local_editor(editor, editor_steps, models.device.split(",")[0], models.dtype, area)
        try:
            attempts = best_of(painter, verifier, sample, samples, retry, given, traces, seed, max_chars)
        except UnparsedPrinciples as error:
            complain(error)
            return UNPARSED
    return _finish(attempts, out, json)


def _finish(attempts: Sequence[Attempt], out: Path, as_json: bool) -> int:
    """Writes pictures and document, prints, and gives the exit code."""
    from edit_r1.evaluate.best_of import best_attempt
    from edit_r1.store import write_bytes, write_json
    from edit_r1.verifier.judgments import judgment_json

    best = best_attempt(attempts)
    rows: list[dict[str, Any]] = []
    for attempt in attempts:
        row: dict[str, Any] = {
            "path": None, "round": attempt.round, "seed": attempt.seed, "instruction": attempt.instruction,
            "error": attempt.error,
        }  # fmt: skip
        if attempt.image is not None and attempt.judgment is not None:
            row["path"] = str(out / f"round{attempt.round}-seed{attempt.seed}{_suffix(attempt.image)}")
            write_bytes(row["path"], attempt.image)
            row |= judgment_json(attempt.judgment)
        rows.append(row)
    document: dict[str, Any] = {"best": None, "score": None, "attempts": rows}
    if best is not None and best.image is not None:
        document |= {"best": str(out / f"best{_suffix(best.image)}"), "score": best.score}
        write_bytes(document["best"], best.image)
    write_json(out / "best_of.json", document)
    painted = [row for row in rows if row["path"] is not None]
    if not painted:
        complain(f"the editor made no picture: {rows[0]['error']}")
        return FAILED
    outcomes = [
        outcome for attempt in attempts if attempt.judgment is not None for outcome in attempt.judgment.outcomes
    ]
    check_answered(outcomes)
    if as_json:
        print_json(document)
    else:
        from edit_r1.report.terminal import attempts_table

        Console().print(attempts_table(document))
    if best is not None:
        return 0
    return unparsed(outcomes)


def _suffix(image: bytes) -> str:
    """The file ending of an encoded picture."""
    if image.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if image[8:12] == b"WEBP" else ".jpg"
