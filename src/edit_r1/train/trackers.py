"""An editor's training as curves and pictures: TensorBoard, Weights & Biases, Trackio.

They show what metrics.jsonl holds, which stays the source of truth: a tracker that fails is told of once and never
stops a run. Only the first process has trackers. The axis is iterations done: a line "step" of iteration 0 is at 1, an
evaluation after 10 iterations at 10. A resumed run continues the tracker's run of the same folder, named in
OUT/tracker.json. What was logged after the state that it continues from is logged again: TensorBoard hides the first
version, Trackio and Weights & Biases show both.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from edit_r1.images import decode_rgb
from edit_r1.store import read_json, write_json

TrackerName = Literal["tensorboard", "wandb", "trackio"]
RECORD = "tracker.json"


@dataclass(frozen=True)
class TrackerSettings:
    """Where curves are shown besides metrics.jsonl."""

    tracker: tuple[TrackerName, ...] = ("tensorboard",)
    """Any of tensorboard (in OUT/tensorboard, where the package is installed), wandb, trackio; nothing shows none."""
    tracker_project: str = "edit-r1"
    """Of wandb and trackio."""
    tracker_run: str = ""
    """Name of the run there, empty for the folder's; a few random letters are added."""


class Tracker(Protocol):
    """One service. Its methods may raise what they like."""

    def log(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """step: iterations done. pictures: PNG files by name."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder, self.resumed = folder, resumed
        self._writer: Any = None

    def log(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        if self._writer is None:  # only now is it known where a resumed run goes on
            writer = import_module("torch.utils.tensorboard").SummaryWriter
            self._writer = writer(str(self.folder), purge_step=step if self.resumed else None)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, path in pictures.items():
            self._writer.add_image(name, decode_rgb(path.read_bytes()), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """Weights & Biases, by its own account and settings."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any], folder: Path) -> None:
        self._wandb = import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project, id=name, name=name, resume="allow", config=dict(config), dir=str(folder)
        )
        # Its own step may never go back, as a resumed run's does.
        self._run.define_metric("iterations")
        self._run.define_metric("*", step_metric="iterations")

    def log(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        images = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
        self._run.log({"iterations": step, **scalars, **images})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio, on this machine."""

    def __init__(self, project: str, name: str, config: Mapping[str, Any]) -> None:
        self._trackio = import_module("trackio")
        self._run = self._trackio.init(project=project, name=name, resume="allow", config=dict(config), embed=False)

    def log(self, step: int, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        images = {name: self._trackio.Image(str(path)) for name, path in pictures.items()}
        self._run.log({**scalars, **images}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """The trackers of one run; a context manager. Its `log` takes the lines of metrics.jsonl."""

    def __init__(self, trackers: Mapping[str, Tracker], out: Path, tell: Callable[[str], None]) -> None:
        """out: the run's folder, where the validation pictures are. tell: gets a line about each that fails, once."""
        self._trackers, self._out, self._tell = dict(trackers), out, tell
        self._failed: set[str] = set()

    def log(self, line: Mapping[str, Any]) -> None:
        step = int(line["step"]) + (line["kind"] == "step")
        values = {name: value for name, value in line.items() if name not in ("kind", "step")}
        picture = self._out / "validation" / f"step-{step:06d}.png"
        shown = {"validation/edits": picture} if line["kind"] == "validation" and picture.exists() else {}
        scalars = flat_scalars(values, str(line["kind"]))
        for name, tracker in self._trackers.items():
            self._guarded(name, lambda tracker=tracker: tracker.log(step, scalars, shown))  # type: ignore[misc]

    def close(self) -> None:
        for name, tracker in self._trackers.items():
            self._guarded(name, tracker.close)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a boundary: whatever a service raises, the run goes on
            if name not in self._failed:
                self._failed.add(name)
                self._tell(f"{name} failed and is tried on ({_line(error)}); metrics.jsonl has everything")


def check_trackers(settings: TrackerSettings) -> None:
    """Raises ValueError for a tracker that was asked for and is not installed. To be called by every process.

    TensorBoard, the default, may be missing: `open_trackers` tells of it.
    """
    for name in settings.tracker:
        if name != "tensorboard" and find_spec(name) is None:
            raise ValueError(f"--tracker {name}: the package is not installed: pip install {name}, or leave it out")


def open_trackers(
    settings: TrackerSettings, out: Path, resumed: bool, config: Mapping[str, Any], tell: Callable[[str], None]
) -> Trackers:
    """The trackers of a run; for the first process alone.

    resumed: continue the run that OUT/tracker.json names. config: the recipe, JSON values. One that cannot be opened is
    told of and left out.
    """
    name = _run_name(settings, out, resumed)
    opened: dict[str, Tracker] = {}
    for kind in dict.fromkeys(settings.tracker):
        if kind == "tensorboard" and find_spec("tensorboard") is None:
            tell("TensorBoard is not installed, so curves are in metrics.jsonl alone: pip install tensorboard")
            continue
        try:
            if kind == "tensorboard":
                opened[kind] = TensorBoard(out / "tensorboard", resumed)
            elif kind == "wandb":
                opened[kind] = Wandb(settings.tracker_project, name, config, out / "wandb")
            else:
                opened[kind] = Trackio(settings.tracker_project, name, config)
        except Exception as error:  # a boundary, as in `Trackers`
            tell(f"{kind} could not be opened and is left out ({_line(error)}); metrics.jsonl has everything")
    return Trackers(opened, out, tell)


def _run_name(settings: TrackerSettings, out: Path, resumed: bool) -> str:
    record = out / RECORD
    if resumed and record.exists():
        return str(read_json(record)["run"])
    # Random, and no seed's business: two runs of one recipe are two runs.
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', settings.tracker_run or out.resolve().name)}-{uuid.uuid4().hex[:6]}"
    write_json(record, {"run": name})
    return name


def flat_scalars(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers in nested values, by their path: {"a": {"b": [1, None]}} is {"PREFIX/a/b/0": 1.0}.

    True is 1; texts, None and numbers that are not finite are left out; of a list of objects (alerts) its length stays.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= flat_scalars(value, path)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if name == "alerts" or any(isinstance(one, Mapping) for one in value):
                found[path] = float(len(value))
            else:
                found |= flat_scalars({str(place): one for place, one in enumerate(value)}, path)
        elif isinstance(value, int | float) and abs(value) < float("inf"):
            found[path] = float(value)
    return found


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
