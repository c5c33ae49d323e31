"""Your photographs and instructions become a dataset that trains a verifier; docs/curate.md goes through it.

    photographs/rows.jsonl      {"source": "beach.jpg", "instruction": "Remove the parasol on the left."} ...
    photographs/beach.jpg ...

    export CURATE_ENDPOINT=http://127.0.0.1:8000/v1 CURATE_MODEL=my-model CURATE_EDITOR=http://127.0.0.1:8100/v1
    edit-r1 curate run examples/curate_photographs.py:photographs --out runs/cold
    edit-r1 train sft sft_7b_lora_80gb --data runs/cold/selected --out runs/sft

With edits that exist already, in photographs/edits/ID.png (ID as in the rows' "id"), leave CURATE_EDITOR out: no editor
is asked then.
"""

from __future__ import annotations

import os
from pathlib import Path

from edit_r1.recipes.curation import (
    CurateStage,
    Draw,
    Editor,
    HardFilter,
    HttpEditor,
    HttpEditorSettings,
    IntakeChecks,
    JoinedSamples,
    OpenAIVLM,
    ReadyEdits,
    cold_start,
    folder_edits,
    team_samples,
)

DATA = Path(os.environ.get("CURATE_DATA", "photographs"))
CHECKS = IntakeChecks(languages=("en",), most_per_picture=4)


def photographs() -> CurateStage:
    """Every usable row of a folder."""
    samples = team_samples(DATA, licence="CC-BY-4.0", checks=CHECKS)
    editors: list[Editor] = [_editor()] if "CURATE_EDITOR" in os.environ else []
    if (DATA / "edits").is_dir():
        editors.append(folder_edits(DATA / "edits"))
    if not editors:
        raise ValueError(f"no edits: set CURATE_EDITOR, or put ready ones into {DATA / 'edits'}")
    return cold_start(samples, _model(), editors)


def imgedit() -> CurateStage:
    """The paper's start on ImgEdit as it is published: Random and Hard, its own edits as one of the candidates."""
    random = team_samples(DATA, draw=Draw(100_000, seed=0), licence="not stated")
    hard = team_samples(DATA, draw=Draw(100_000, seed=1), hard=HardFilter(_model()), licence="not stated")
    samples = JoinedSamples([random, hard])
    return cold_start(samples, _model(), (_editor(), ReadyEdits(samples.ready_edits, "imgedit")))


def _model() -> OpenAIVLM:
    return OpenAIVLM(_set("CURATE_ENDPOINT"), _set("CURATE_MODEL"))


def _editor() -> HttpEditor:
    return HttpEditor(_set("CURATE_EDITOR"), HttpEditorSettings(), "editor")


def _set(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"{name} is not set: the head of {Path(__file__).name} tells what to export")
    return os.environ[name]
