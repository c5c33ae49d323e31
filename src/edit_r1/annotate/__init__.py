"""The annotation app: people compare edits in a browser.

A task is a folder: what is to be compared (`task`), the pictures as they are shown (`pictures`), and `answers.sqlite`
(`database`), to which people are assigned pairs (`assignment`) and add answers (`answers`). `progress` measures pace,
position bias and agreement, `export` writes preferences. Importing this needs no server library; starting the server
needs the extra `serve`.
"""

from __future__ import annotations

from pathlib import Path

from edit_r1.annotate.settings import AnnotateSettings

__all__ = ["AnnotateSettings", "start_annotating"]


def start_annotating(directory: Path, settings: AnnotateSettings) -> None:
    """Serves a task's folder until told to stop; see `edit_r1.annotate.run.run`.

    Raises:
        ValueError: for an installation without the extra `serve`, and as `run` does.
    """
    try:
        from edit_r1.annotate.run import run
    except ModuleNotFoundError as error:
        raise ValueError(f"annotate needs {error.name}: pip install 'edit-r1[serve]'") from error
    run(directory, settings)
