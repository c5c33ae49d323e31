"""The reward server. Importing this needs no server library; starting it needs the extra `serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edit_r1.serve.settings import ServeSettings

if TYPE_CHECKING:
    from edit_r1.serve.service import Accepts
    from edit_r1.verifier.scoring import Verifier

__all__ = ["ServeSettings", "start_server"]


def start_server(settings: ServeSettings, stand_in: Callable[[], Verifier], stand_in_accepts: Accepts) -> None:
    """Opens `settings.model` and serves it until told to stop; see `edit_r1.serve.run.run`.

    Args:
        stand_in: opens the verifier that is served when the settings name no model.
        stand_in_accepts: why that one must not be asked about an item; None when it may be.

    Raises:
        ValueError: for an installation without the extra, and as `run` does.
    """
    try:
        from edit_r1.serve.run import run
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: pip install 'edit-r1[serve]'") from error
    if settings.model is None:
        run(stand_in, settings, stand_in_accepts)
    else:
        run(settings.load, settings)
