"""`edit-r1 serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import tyro

from edit_r1.commands.shared import PACKAGED, Models
from edit_r1.serve import ServeSettings, start_server

Settings = Annotated[ServeSettings, tyro.conf.arg(name="")]
DEFAULTS = ServeSettings()


def serve(settings: Settings = DEFAULTS, models: Models = PACKAGED) -> int:
    """Serve a verifier over HTTP: ours, Flow-Factory's, UniRL's and OpenAI's protocols."""
    from edit_r1.zoo.packaged import open_chosen, refuse_foreign

    models.check()
    if settings.calls is None and models.endpoint is not None:
        settings = replace(settings, calls=4)
    start_server(
        settings, lambda: open_chosen(models, settings.batch_size), refuse_foreign if models.model is None else None
    )
    return 0
