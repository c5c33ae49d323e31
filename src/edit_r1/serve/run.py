"""Runs the reward server until it is told to stop, and lets it finish what it accepted."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from edit_r1.serve.app import create_app
from edit_r1.serve.service import Accepts, Service
from edit_r1.serve.settings import ServeSettings
from edit_r1.verifier.scoring import Verifier
from edit_r1.web.access import check_exposure, read_tokens
from edit_r1.web.listen import address, bind, server_config


def run(load: Callable[[], Verifier], settings: ServeSettings, accepts: Accepts | None = None) -> None:
    """Serves until SIGTERM or SIGINT; then refuses new work, answers what was accepted, and returns.

    A second signal, or `grace_seconds` gone, ends the process at once with code 1.

    Args:
        load: opens the model; called after address and token file have proved usable.
        accepts: why the model must not be asked about an item.

    Raises:
        ValueError: for a bad token file, an exposed address without a token, or one that cannot be bound.
    """
    tokens = () if settings.token_file is None else read_tokens(settings.token_file)
    check_exposure(settings.host, tokens)
    with bind(settings.host, settings.port) as listener, load() as verifier:
        app = create_app(verifier, settings, tokens, accepts)
        server = RewardServer(server_config(app), app.state.service)
        server.run(sockets=[listener])
        if server.cut_short:
            print("edit-r1 serve: ended before everything was answered", file=sys.stderr, flush=True)
        if server.cut_short or server.service.batcher.calling:
            os._exit(server.cut_short)  # the model's thread cannot be stopped, and returning would wait for it


class RewardServer(uvicorn.Server):
    """A uvicorn server that on a signal first drains: it answers new work with 503 and what it accepted in full."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.cut_short = False
        """True when it ended before everything accepted was answered."""
        self._give_up: float | None = None

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(list(sockets or []))
        for listener in sockets or []:
            url = address(listener)
            print(f"edit-r1 serve: {self.service.verifier.vlm.name} at {url} ({url}/docs)", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._give_up is not None:
            self._give_up = 0.0
            return
        self._give_up = time.monotonic() + self.service.settings.grace_seconds
        self.service.batcher.stop_accepting()

    async def on_tick(self, counter: int) -> bool:
        if self._give_up is not None:
            late = time.monotonic() > self._give_up
            self.should_exit = self.should_exit or late or self.service.idle
            self.cut_short = self.force_exit = late and not self.service.idle
        return await super().on_tick(counter)
