"""`edit-r1 serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import tyro

from edit_r1.commands.shared import PACKAGED, Models, complain
from edit_r1.serve import ServeSettings, start_server

if TYPE_CHECKING:
    from edit_r1.verifier.choice import ModelChoice
    from edit_r1.verifier.scoring import Verifier

Settings = Annotated[ServeSettings, tyro.conf.arg(name="")]
DEFAULTS = ServeSettings()


def serve(settings: Settings = DEFAULTS, models: Models = PACKAGED) -> int:
    """Serve a verifier over HTTP: ours, Flow-Factory's, UniRL's and OpenAI's protocols."""
    from edit_r1.zoo.packaged import refuse_foreign

    models.check()
    if settings.calls is None and models.endpoint is not None:
        settings = replace(settings, calls=4)
    start_server(settings, lambda: _open(models, settings.batch_size), refuse_foreign if models.model is None else None)
    return 0


def _open(models: ModelChoice, batch_size: int) -> Verifier:
    """The chosen verifier. An endpoint that does not answer is told and no obstacle: it may be started later."""
    from edit_r1.verifier.batch import check_endpoints
    from edit_r1.vlm.errors import ModelError
    from edit_r1.zoo.packaged import open_chosen

    verifier = open_chosen(models, batch_size)
    try:
        check_endpoints(verifier)
    except ModelError as error:
        complain(f"{error}; the server starts all the same, and items have no score until it answers")
    return verifier
