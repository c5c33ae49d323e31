"""The reward server as an ASGI application; any `Verifier` can stand behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edit_r1 import __version__
from edit_r1.serve.docs_page import add_docs_page
from edit_r1.serve.metrics import Metrics
from edit_r1.serve.protocols import chat, flow_factory, judge, unirl
from edit_r1.serve.service import Accepts, Service
from edit_r1.serve.settings import ServeSettings
from edit_r1.verifier.scoring import Verifier
from edit_r1.web.answers import Answer, malformed, refused
from edit_r1.web.guard import BodyLimits, Guard

ENDPOINTS = frozenset(
    {
        "/v1/judge", "/v1/chat/completions", "/compute", "/score", "/rewards", "/health", "/metrics", "/docs",
        "/openapi.json",
    }
)  # fmt: skip
"""Paths that are counted by name; all others are counted together."""

DESCRIPTION = """\
Judges image edits by checklists of principles. Scores are 0 to 10 at `/v1/judge`; `/compute` and `/score` speak the \
protocols of trainers that want 0 to 1 and give a tenth. A judgment that failed is never a number. With a token file \
every path but `/health` needs `Authorization: Bearer TOKEN`, or Basic authentication with the token as password."""


class Health(BaseModel):
    """Whether to send work here."""

    status: str = Field(description="ok; degraded: the last calls of the model all failed; stopping.")
    rewards: dict[str, list[str]] = Field(description="UniRL's list of replicas per reward.")
    model: str
    queued: int
    failures_in_a_row: int
    version: str


def create_app(
    verifier: Verifier, settings: ServeSettings, tokens: Sequence[str] = (), accepts: Accepts | None = None
) -> FastAPI:
    """The application; its `state.service` is the `Service`.

    Args:
        tokens: one of them is needed on every path but /health; none means that no token is needed.
        accepts: why the model must not be asked about an item (it then fails with that reason).
    """
    service = Service(verifier, settings, accepts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        working = asyncio.create_task(service.batcher.run())
        yield
        service.batcher.stop_accepting()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        service.batcher.close()

    app = FastAPI(
        title="edit-r1 serve",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for protocol in (judge, flow_factory, unirl, chat):
        app.include_router(protocol.routes(service))
    _add_status(app, service)
    add_docs_page(app)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    limits = BodyLimits(settings.max_body_mb * 2**20, settings.max_bodies_mb * 2**20, settings.body_seconds)
    app.add_middleware(
        Guard,
        limits=limits,
        tokens=tokens,
        open_paths=("/health",),
        refuse=service.batcher.refusal,
        on_refusal=lambda kind: service.metrics.rejected.labels(kind).inc(),
    )
    app.add_middleware(_Counted, metrics=service.metrics)
    return app


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=Health, responses={503: {"model": Health}}, summary="Whether to send work here")
    async def health() -> Answer:
        """503 only while stopping: a degraded server still takes work, because that is how it recovers."""
        batcher = service.batcher
        status = "stopping" if not batcher.accepting else "degraded" if batcher.degraded else "ok"
        document = {
            "status": status,
            "rewards": {unirl.REWARD: ["ready" if status == "ok" else status]},
            "model": service.verifier.vlm.name,
            "queued": batcher.queued,
            "failures_in_a_row": batcher.failures_in_a_row,
            "version": __version__,
        }
        return Answer(document, 503 if status == "stopping" else 200)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class _Counted:
    """ASGI middleware: counts answers by endpoint and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(endpoint, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting)
