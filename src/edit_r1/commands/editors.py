"""The choice of an editor, as flags and as one record; `evaluate editor` and `evaluate readiness` share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from edit_r1.images import image_size
from edit_r1.records import Sample

if TYPE_CHECKING:  # the rest is imported where it is used, so that other commands start without it
    from edit_r1.editors.protocol import EditedImage, Editor
    from edit_r1.evaluate.editor_benchmarks import EditorBenchmark, Task
    from edit_r1.evaluate.editor_runs import MadeEdit
    from edit_r1.verifier.choice import ModelChoice

KEY_VARIABLE = "EDIT_R1_EDITOR_KEY"
"""Holds the editor endpoint's bearer token: one of its own, so that no other service's key is sent to an endpoint."""
MAX_AREA = 1024 * 1024
"""Pixels of an edit by an editor on this machine, for sources that are larger: what they were trained for."""
TINY = "tiny"
"""The packaged editor, which knows EditWorld only."""
TINY_STEPS, TINY_BATCH = 10, 24
STEPS, BATCH = 28, 4
"""Sampling steps, and edits sampled at once, of any other editor of this machine."""
LOCAL_AT_ONCE, SERVED_AT_ONCE = 8, 16
"""Edits asked for in one call, and lost at most by a kill: as many as an endpoint is asked for at a time."""


@dataclass(frozen=True)
class EditorChoice:
    """Which editor makes the edits, or where they lie."""

    editor: str | None = None
    """Folder of a pipeline on this machine (FLUX.1-Kontext, Qwen-Image-Edit and Plus, FLUX.2-klein), or "tiny", the
    packaged one, which knows EditWorld only."""
    editor_endpoint: str | None = None
    """Base of an OpenAI-compatible images API, such as http://host:8000/v1; a token is read from EDIT_R1_EDITOR_KEY."""
    editor_model: str | None = None
    """Name sent to the endpoint."""
    edits: Path | None = None
    """Folder of edits that exist, in the benchmark's official layout, or TASK.png (TASK-sSEED.png for several)."""
    name: str | None = None
    """What the editor is called in results; by default its folder's or model's name."""
    editor_steps: int | None = None
    """Sampling steps of --editor; by default 28, for "tiny" 10."""
    editor_area: int | None = None
    """Pixels of an edit by --editor; by default the source's own size, one megapixel where a source is larger."""
    send_seeds: bool = False
    """Send a seed with every edit; for endpoints that read one."""

    def check(self) -> None:
        """Raises ValueError unless exactly one editor is named."""
        named = [flag for flag, value in (("--editor", self.editor), ("--editor-endpoint", self.editor_endpoint),
                                          ("--edits", self.edits)) if value is not None]  # fmt: skip
        if len(named) != 1:
            told = f" ({', '.join(named)} are given)" if named else ""
            raise ValueError(f"name one editor: --editor PATH, --editor-endpoint URL or --edits DIR{told}")

    def open(
        self, benchmark: EditorBenchmark, first_seed: int, device: str, dtype: str, stack: ExitStack
    ) -> tuple[Editor, dict[str, Any]]:
        """The editor, which `stack` closes, and what shapes its pictures (JSON).

        Raises ValueError when it cannot be opened.
        """
        self.check()
        if self.edits is not None:
            from edit_r1.evaluate.ready_edits import ReadyEdits

            return ReadyEdits(self.edits, benchmark.tasks, first_seed, self.name), {"kind": "ready"}
        if self.editor_endpoint is not None:
            from edit_r1.editors.http import HttpEditor, HttpEditorSettings

            settings = HttpEditorSettings(
                self.editor_model, send_seed=self.send_seeds, api_key=os.environ.get(KEY_VARIABLE)
            )
            served = stack.enter_context(HttpEditor(self.editor_endpoint, settings, self.name))
            return served, {"kind": "endpoint", "model": self.editor_model, "seeds": self.send_seeds}
        return self._local(benchmark, device, dtype)

    def _local(self, benchmark: EditorBenchmark, device: str, dtype: str) -> tuple[Editor, dict[str, Any]]:
        from edit_r1.evaluate.judge_identity import fingerprint

        assert self.editor is not None, "check() saw to it"
        path, name, steps, batch = self.editor, self.name, self.editor_steps or STEPS, BATCH
        if path == TINY and not Path(path).exists():
            from edit_r1.zoo.packaged import weights

            if any(task.sample.hidden is None for task in benchmark.tasks):
                raise ValueError(f"--editor {TINY} knows EditWorld only: name another editor, or evaluate on editworld")
            path, name, batch = str(weights("editor")), name or "tiny-kontext", TINY_BATCH
            steps = self.editor_steps or TINY_STEPS
        area = self.editor_area
        if area is None and any(_pixels(task.sample.source) > MAX_AREA for task in benchmark.tasks):
            area = MAX_AREA
        transformer = Path(path) / "transformer"
        about = {"kind": "local", "weights": fingerprint(transformer) if transformer.is_dir() else path,
                 "steps": steps, "area": area, "dtype": dtype}  # fmt: skip
        called = name or Path(path).name
        return LateEditor(called, lambda: open_local_editor(path, steps, device, dtype, area, called, batch)), about


class LateEditor:
    """An editor that is opened with its first edit: not at all when every edit is on the disk already."""

    simulated = False

    def __init__(self, name: str, opener: Callable[[], Editor]) -> None:
        self.name, self._opener = name, opener
        self._editor: Editor | None = None

    def edit(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[EditedImage]:
        """As the editor's own. Raises ValueError when it cannot be opened."""
        if self._editor is None:
            self._editor = self._opener()
        return self._editor.edit(samples, seeds)


Editors = Annotated[EditorChoice, tyro.conf.arg(name="")]
NO_EDITOR = EditorChoice()


def sampled(
    choice: EditorChoice,
    models: ModelChoice,
    benchmark: EditorBenchmark,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    out: Path,
) -> tuple[str, list[MadeEdit]]:
    """The editor's name, and its edits of `tasks`, kept in `out`; its memory is free again afterwards.

    benchmark: all tasks, some of which are edited: what an editor is set to does not depend on how many.
    Raises ValueError when it cannot be opened, or made no picture at all.
    """
    from edit_r1.evaluate.editor_runs import sample_edits
    from edit_r1.report.totals import batch_progress

    with ExitStack() as stack, batch_progress("editing") as progress:
        editor, about = choice.open(benchmark, seeds[0], models.device.split(",")[0], models.dtype, stack)
        refresh = choice.edits is not None
        at_once = SERVED_AT_ONCE if choice.editor_endpoint is not None else LOCAL_AT_ONCE
        made = sample_edits(out, editor, about, tasks, seeds, at_once, refresh, progress)
    if all(one.path is None for one in made):
        raise ValueError(f"{editor.name} made no picture: {made[0].error}")
    return editor.name, made


def open_local_editor(
    path: str, steps: int, device: str, dtype: str, area: int | None, name: str | None = None, batch: int = BATCH
) -> Editor:
    """A pipeline of this machine as an editor. Raises ValueError for a folder that holds no such pipeline."""
    import torch

    from edit_r1.editors.load import open_editor

    try:
        editor = open_editor(path, device, getattr(torch, dtype), name=name, steps=steps, area=area, batch_size=batch)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: no editor that can be opened ({error}); `edit-r1 doctor --editor` tells more"
        ) from error
    editor.pipeline.set_progress_bar_config(disable=True)
    return editor


def _pixels(image: bytes) -> int:
    width, height = image_size(image)
    return width * height
