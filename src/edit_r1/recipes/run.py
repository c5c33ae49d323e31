"""From a recipe's config to a run: reads the data that the config names and calls the stage's one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress

from edit_r1.editors.flow import FlowEditor
from edit_r1.evaluate.readiness_verdict import ReadinessThresholds
from edit_r1.recipes.curated import bar_of_steps
from edit_r1.recipes.editor_data import editable, open_contexts
from edit_r1.recipes.load import load_recipe
from edit_r1.recipes.readiness_gate import check_ready
from edit_r1.recipes.resumed import check_resumed, shaping
from edit_r1.recipes.watched import keep_out, open_watched, read_regions
from edit_r1.records import Context, Quadruple
from edit_r1.store import PREFERENCES, QUADRUPLES, open_dataset, read_dataset
from edit_r1.train.contexts import DataSettings
from edit_r1.train.data_parallel import Team, is_first, leave_team
from edit_r1.train.editor import train_editor
from edit_r1.train.editor_card import CardFacts, plain, public_name, write_editor_card
from edit_r1.train.editor_policy import contexts_digest
from edit_r1.train.editor_run import EditorTraining, refuse_earlier_run
from edit_r1.train.editor_stage import Algorithm, EditorRLStage, check_checkpoint, left_aside, settled
from edit_r1.train.editor_state import has_state
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage
from edit_r1.train.guards import GuardSettings
from edit_r1.train.head import HeadStage, train_head
from edit_r1.train.judges import JudgeSettings, shared_gpu
from edit_r1.train.nft import train_nft
from edit_r1.train.rewards import CombinedReward, RewardSettings
from edit_r1.train.settings import Unprefixed
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.trackers import Trackers, TrackerSettings, check_trackers, open_trackers


@dataclass(frozen=True)
class SFTRecipe:
    """`train sft`: a stage and its data."""

    data: str
    """Dataset of quadruples with targets: a curation's "selected" folder."""
    stage: Annotated[SFTStage, Unprefixed]


@dataclass(frozen=True)
class GCPORecipe:
    """`train gcpo`: a stage and its data."""

    data: str
    """Dataset of preferences in our Parquet format."""
    stage: Annotated[GCPOStage, Unprefixed]
    replay: str = ""
    """Dataset of quadruples with targets that `replay_weight` replays: what SFT learned from."""


@dataclass(frozen=True)
class HeadRecipe:
    """`train head`: a stage and its data."""

    data: str
    """Dataset of preferences in our Parquet format."""
    stage: Annotated[HeadStage, Unprefixed]


@dataclass(frozen=True)
class EditorRecipe:
    """`train editor`: a stage, its data, its reward and how its editor is opened."""

    data: str
    """Dataset of sources and instructions: a folder, a .jsonl or .parquet file, a hub id (`train.contexts`)."""
    verifier: str
    """The judge whose word is the reward: a folder, PATH@cuda:1, http://HOST:8000/v1#MODEL, or the address of
    `edit-r1 serve` (`edit_r1.train.judges`)."""
    stage: Annotated[EditorRLStage, Unprefixed]
    load: Callable[[], FlowEditor[Any]]
    """Opens the editor to train."""
    train: Callable[..., EditorTraining] = train_editor
    """The algorithm: `train.editor.train_editor` (Flow-GRPO) or `train.nft.train_nft` (DiffusionNFT). Fields of the
    stage that are unset (None) take its own values (`train.editor_stage.OWN`)."""
    out: str = "runs/editor"
    """Folder of the run; the result is `out`/editor, or `out`/adapter with save_as="adapter"."""
    traces: int = 1
    """Of the verifier per image; 1 is greedy. The same as `reward.judge.traces`: give one of them."""
    reward: RewardSettings = field(default_factory=RewardSettings)
    """What of its word is rewarded, and how it is asked; the judge is `verifier` unless it has an address here."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    """What is watched."""
    validation: str = ""
    """Dataset of contexts that the guard edits; empty: the last of `data`, which are then not trained on."""
    regions: str = ""
    """JSON file of where edits may change something (`recipes.watched.read_regions`); empty: what the judge's evidence
    says."""
    heldout: JudgeSettings = field(default_factory=JudgeSettings)
    """A judge that is never trained on; without an address, principles are held out instead."""
    heldout_share: float = 0.25
    """Of every category's principles, kept from training to see whether the reward is earned; 0 keeps none."""
    reading: Annotated[DataSettings, Unprefixed] = field(default_factory=DataSettings)
    """How `data` and `validation` are read."""
    tracking: Annotated[TrackerSettings, Unprefixed] = field(default_factory=TrackerSettings)
    """Where its curves are shown."""
    base_model: str = ""
    """Hub id of the editor before training, for the model card; empty: where it was loaded from."""
    require_ready: Path | None = None
    """The readiness.json of `edit-r1 evaluate readiness`, which must have passed and be about this judge and reward;
    without one nothing is asked."""
    ready: ReadinessThresholds = field(default_factory=ReadinessThresholds)
    """What that verdict must have asked at least; one that was measured by looser thresholds is refused."""


ALGORITHMS: Mapping[Callable[..., EditorTraining], Algorithm] = {train_editor: "flow-grpo", train_nft: "diffusion-nft"}
"""Whose own values a recipe's unset fields take; an algorithm of another's settles its stage itself."""


def judge_of(recipe: EditorRecipe) -> JudgeSettings:
    """`reward.judge`, with the recipe's own fields where that leaves something open: address, traces, seed.

    Raises ValueError for two numbers of traces.
    """
    judge = recipe.reward.judge
    if judge.traces != 1 and recipe.traces not in (1, judge.traces):
        raise ValueError(f"traces={recipe.traces} and reward.judge.traces={judge.traces}: give one of them")
    return replace(
        judge,
        address=judge.address or recipe.verifier,
        traces=max(judge.traces, recipe.traces),
        seed=judge.seed or recipe.stage.seed,
    )


_RECIPES: dict[str, Any] = {"sft": SFTRecipe, "gcpo": GCPORecipe, "head": HeadRecipe, "editor": EditorRecipe}


def train_by_flags(kind: str, recipe: str, flags: Sequence[str]) -> Path:
    """`edit-r1 train KIND RECIPE FLAGS`: a recipe with its fields set by flags, run; --resume continues a stopped run.

    Raises as `with_flags` does.
    """
    config = with_flags(kind, recipe, [flag for flag in flags if flag != "--resume"])
    result = run_training(kind, config, resume="--resume" in flags)
    leave_team()
    return result


def with_flags(kind: str, recipe: str, flags: Sequence[str]) -> Any:
    """A recipe's config with its fields set by flags.

    Raises ValueError for a recipe of another kind; ends the program with code 2 for an unknown flag.
    """
    wanted = _RECIPES[kind]
    config = load_recipe(recipe, kind)
    if not isinstance(config, wanted):
        raise ValueError(
            f"train {kind} takes a recipe that returns {wanted.__name__}, {recipe} returns {type(config).__name__}"
        )
    planned = "" if kind == "head" else ", --plan tells what one would need"
    told = f"Fields of this recipe. Beside them --resume continues a stopped run{planned}."
    prog = f"edit-r1 train {kind} {recipe}"
    return tyro.cli(type(config), default=config, args=list(flags), prog=prog, description=told)


def run_training(kind: str, recipe: Any, resume: bool) -> Path:
    """`edit-r1 train KIND`: returns the folder of the result.

    Raises:
        ValueError: for a recipe of another kind.
    """
    wanted = _RECIPES[kind]
    if not isinstance(recipe, wanted):
        raise ValueError(
            f"train {kind} takes a recipe that returns {wanted.__name__}, this one returns {type(recipe).__name__}"
        )
    with progress_bar() as bar:
        task = None if isinstance(recipe, EditorRecipe) else bar.add_task(kind, total=None)

        def progress(done: int, total: int, logged: Mapping[str, Any]) -> None:
            if task is not None:
                bar.update(task, completed=done, total=total)
            for text in logged.get("alarms", ()):
                bar.console.print(f"step {done}: {text}", style="yellow", markup=False, soft_wrap=True)

        if isinstance(recipe, SFTRecipe):
            return train_sft(recipe.stage, _open(recipe.data), resume, progress)
        if isinstance(recipe, HeadRecipe):
            return train_head(recipe.stage, _read(recipe.data, PREFERENCES), resume, progress)
        if isinstance(recipe, GCPORecipe):
            replay = _open(recipe.replay) if recipe.replay else ()
            return train_gcpo(recipe.stage, _read(recipe.data, PREFERENCES), resume, progress, replay=replay)
        assert isinstance(recipe, EditorRecipe)
        return train_watched(recipe, resume, bar)


def train_watched(recipe: EditorRecipe, resume: bool, bar: Progress) -> Path:
    """Editor training with its reward, its guard and its trackers; alerts go beside the bar. Returns the folder of the
    result, which has a model card.

    Raises ValueError for data, a judge, a tracker or a stage that cannot be used, and for a resumed run whose recipe
    has changed (`recipes.resumed`).
    """
    check_trackers(recipe.tracking)
    team, out = Team.current(getattr(recipe.load, "device", None)), Path(recipe.out)
    refuse_earlier_run(out, resume)
    check_loading(recipe, team)
    trackers = Trackers({}, out, print)
    task = bar.add_task("editor", total=recipe.stage.steps)

    def tell(text: str) -> None:
        if team.first:
            bar.console.print(text, style="yellow", markup=False, soft_wrap=True)

    def progress(line: dict[str, Any]) -> None:
        trackers.log(line)
        if line["kind"] == "step":
            bar.update(task, completed=line["step"] + 1)
        for alert in line.get("alerts", ()):
            bar.console.print(f"{line['kind']} {line['step']}: {alert['message']}", style="yellow", markup=False)

    recipe, reward = _settled(recipe, tell)
    resumed = resume and has_state(out / "state")
    if resume and not resumed:
        tell(f"{out}: no saved state to resume, so the run starts at its beginning")
    contexts, validation = _contexts(recipe, reward.judge, team, resumed, tell)
    shaped = shaping(
        recipe.train, recipe.load, reward, recipe.heldout, recipe.heldout_share, validation, recipe.guard.seed
    )
    check_resumed(out, shaped, resumed, team.first)
    contexts, rewarded, guard = open_watched(
        reward,
        recipe.guard,
        recipe.heldout,
        recipe.heldout_share,
        contexts,
        validation,
        read_regions(recipe.regions) if recipe.regions else None,
    )
    with rewarded, ExitStack() as stack:
        if isinstance(guard.heldout, CombinedReward) and guard.heldout.judge is not rewarded.judge:
            stack.enter_context(guard.heldout)
        editor = recipe.load()
        contexts = editable(editor, contexts, validation, recipe.reading.broken, tell)
        if team.first:
            trackers = stack.enter_context(open_trackers(recipe.tracking, out, resumed, plain(recipe), tell))
        done = recipe.train(recipe.stage, editor, contexts, rewarded, out, resume, progress=progress, guard=guard)
    if done.stopped:
        tell(
            f"stopped after {done.steps} iterations: the reward rose while the held-out one fell; the result is the "
            "editor that the held-out reward liked best"
        )
    if team.first:
        _write_card(recipe, editor, contexts, done)
    return done.result


def check_loading(recipe: EditorRecipe, team: Team) -> None:
    """Raises ValueError for an editor that could not be trained where it would be loaded, before it is."""
    from edit_r1.editors.checkpoint import EditorCheckpoint

    if isinstance(recipe.load, EditorCheckpoint):
        check_checkpoint(recipe.stage, recipe.load, team.size)
        team.check_own_gpu(recipe.load.device)


def _settled(recipe: EditorRecipe, tell: Callable[[str], None]) -> tuple[EditorRecipe, RewardSettings]:
    """The recipe with its algorithm's own values where it has none, and its reward with its judge, both checked."""
    if recipe.train in ALGORITHMS:
        algorithm = ALGORITHMS[recipe.train]
        if ignored := left_aside(recipe.stage, algorithm):
            tell(ignored)
        recipe = replace(recipe, stage=settled(recipe.stage, algorithm))
    reward = replace(recipe.reward, judge=judge_of(recipe))
    reward.judge.check_address()
    recipe.heldout.check_address()
    if shared := shared_gpu(reward.judge.address):
        tell(shared)
    if recipe.require_ready is not None:
        check_ready(recipe.require_ready, reward, recipe.ready)
    return recipe, reward


def _contexts(
    recipe: EditorRecipe, judge: JudgeSettings, team: Team, resumed: bool, tell: Callable[[str], None]
) -> tuple[list[Context], list[Context]]:
    """What is trained on, and what the guard edits."""

    def read(data: str, name: str) -> list[Context]:
        return open_contexts(data, recipe.reading, judge, Path(recipe.out), name, team, resumed, tell)

    given = read(recipe.validation, "validation_data") if recipe.validation else None
    count, needed = recipe.guard.contexts, recipe.stage.contexts_per_step
    contexts, validation = keep_out(read(recipe.data, "data"), count, needed, given)
    if given is None and len(validation) < count:
        tell(
            f"{len(validation)} validation contexts in place of {count}, as a step trains on {needed}: give more data, "
            "or others with --validation; without any nothing tells whether the reward is earned"
        )
    return contexts, validation


def _write_card(
    recipe: EditorRecipe, editor: FlowEditor[Any], contexts: Sequence[Context], done: EditorTraining
) -> None:
    """Of the result; an editor that is no pipeline of diffusers has no such card."""
    pipeline = getattr(editor, "pipeline", None)
    if pipeline is None:
        return
    # diffusers notes where a pipeline was loaded from.
    origin = recipe.base_model or public_name(str(pipeline.config.get("_name_or_path") or editor.name))
    facts = CardFacts(
        origin, type(pipeline).__name__, recipe.stage.save_as, recipe, contexts_digest(contexts), len(contexts),
        done.metrics, done.steps, done.stopped,
    )  # fmt: skip
    write_editor_card(done.result, facts)


def _read(folder: str, table: Any) -> list[Any]:
    path = Path(folder)
    return read_dataset(path.parent, path.name, table)


def _open(folder: str) -> Sequence[Quadruple]:
    """A curation's quadruples: some millions with two pictures each are more than memory holds."""
    path = Path(folder)
    if (path / "selected.done.json").exists():
        raise ValueError(f"{folder}: is a whole curation: give its quadruples, {path / 'selected'}")
    return open_dataset(path.parent, path.name, QUADRUPLES)


def progress_bar() -> Progress:
    """The bar of every command that works through something; none in all processes but the first."""
    return bar_of_steps(quiet=not is_first())
