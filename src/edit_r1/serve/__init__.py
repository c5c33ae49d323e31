"""The reward server. Importing this needs no server library; starting it needs the extra `serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edit_r1.serve.settings import ServeSettings

if TYPE_CHECKING:
    from edit_r1.serve.service import Accepts
    from edit_r1.verifier.scoring import Verifier

__all__ = ["ServeSettings", "start_server"]


def start_server(settings: ServeSettings, load: Callable[[], Verifier], accepts: Accepts | None = None) -> None:
    """Opens a verifier and serves it until told to stop; see `edit_r1.serve.run.run`.

    Args:
        load: opens the verifier.
        accepts: why it must not be asked about an item; None when it may be asked about everything.

    Raises:
        ValueError: for an installation without the extra, and as `run` does.
    """
    try:
        from edit_r1.serve.run import run
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: pip install 'edit-r1[serve]'") from error
    run(load, settings, accepts)
