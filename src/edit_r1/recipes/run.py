"""From a recipe's config to a run: reads the data that the config names and calls the stage's one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edit_r1.curate.run import CurateStage, curate
from edit_r1.editors.flow import FlowEditor
from edit_r1.recipes.load import load_recipe
from edit_r1.store import CONTEXTS, PREFERENCES, QUADRUPLES, read_dataset
from edit_r1.train.editor import EditorTraining, train_editor
from edit_r1.train.editor_reward import verifier_reward
from edit_r1.train.editor_stage import EditorRLStage
from edit_r1.train.gcpo import GCPOStage, train_gcpo
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.verifier.scoring import Verifier


@dataclass(frozen=True)
class SFTRecipe:
    """`train sft`: a stage and its data."""

    data: str
    """Dataset of quadruples with targets: a curation's "selected" folder."""
    stage: SFTStage


@dataclass(frozen=True)
class GCPORecipe:
    """`train gcpo`: a stage and its data."""

    data: str
    """Dataset of preferences in our Parquet format."""
    stage: GCPOStage


@dataclass(frozen=True)
class EditorRecipe:
    """`train editor`: a stage, its data, its reward and how its editor is opened."""

    data: str
    """Dataset of contexts with principles."""
    verifier: str
    """Folder of the verifier whose score is the reward."""
    stage: EditorRLStage
    load: Callable[[], FlowEditor[Any]]
    """Opens the editor to train."""
    train: Callable[..., EditorTraining] = train_editor
    """The algorithm: `train.editor.train_editor` (Flow-GRPO) or `train.nft.train_nft` (DiffusionNFT)."""
    out: str = "runs/editor"
    """Folder of the run; the result is `out`/editor."""
    traces: int = 1
    """Of the verifier per image; 1 is greedy."""


def run_curation(stage: CurateStage, out: Path) -> Path:
    """`edit-r1 curate run`: all steps, with a progress bar."""
    with _bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total)

        curate(stage, out, progress)
    return out


def train_by_flags(kind: str, recipe: str, flags: Sequence[str]) -> Path:
    """`edit-r1 train KIND RECIPE FLAGS`: a recipe with its fields set by flags, run; --resume continues a stopped run.

    Raises ValueError for a recipe of another kind; ends the program with code 2 for an unknown flag.
    """
    wanted = {"sft": SFTRecipe, "gcpo": GCPORecipe, "editor": EditorRecipe}[kind]
    config = load_recipe(recipe)
    if not isinstance(config, wanted):
        raise ValueError(
            f"train {kind} takes a recipe that returns {wanted.__name__}, {recipe} returns {type(config).__name__}"
        )
    rest = [flag for flag in flags if flag != "--resume"]
    prog = f"edit-r1 train {kind} {recipe}"
    config = tyro.cli(type(config), default=config, args=rest, prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    return run_training(kind, config, resume="--resume" in flags)


def run_training(kind: str, recipe: Any, resume: bool) -> Path:
    """`edit-r1 train KIND`: returns the folder of the result.

    Raises:
        ValueError: for a recipe of another kind.
    """
    wanted = {"sft": SFTRecipe, "gcpo": GCPORecipe, "editor": EditorRecipe}[kind]
    if not isinstance(recipe, wanted):
        raise ValueError(
            f"train {kind} takes a recipe that returns {wanted.__name__}, this one returns {type(recipe).__name__}"
        )
    with _bar() as bar:
        task = bar.add_task(kind, total=None)

        def progress(done: int, total: int, *_: object) -> None:
            bar.update(task, completed=done, total=total)

        if isinstance(recipe, SFTRecipe):
            return train_sft(recipe.stage, _read(recipe.data, QUADRUPLES), resume, progress)
        if isinstance(recipe, GCPORecipe):
            return train_gcpo(recipe.stage, _read(recipe.data, PREFERENCES), resume, progress)
        assert isinstance(recipe, EditorRecipe)
        reward = verifier_reward(Verifier.load(recipe.verifier), recipe.traces, seed=recipe.stage.seed)
        steps = recipe.stage.steps
        return recipe.train(
            recipe.stage, recipe.load(), _read(recipe.data, CONTEXTS), reward, Path(recipe.out), resume,
            progress=lambda line: progress(line["step"] + 1, steps),
        ).result  # fmt: skip


def _read(folder: str, table: Any) -> list[Any]:
    path = Path(folder)
    return read_dataset(path.parent, path.name, table)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
