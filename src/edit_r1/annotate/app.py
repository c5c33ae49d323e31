"""The annotation app as an ASGI application: pages, the pictures of the task, and four calls of the page."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from edit_r1 import __version__
from edit_r1.annotate.answers import Given, Undone, record
from edit_r1.annotate.assignment import MAX_AHEAD, Plan, hand_out, release
from edit_r1.annotate.database import Database, TaskError
from edit_r1.annotate.pictures import Pictures
from edit_r1.annotate.progress import measure
from edit_r1.images import picture_mime
from edit_r1.store import StoreError
from edit_r1.verifier.prompts import MAX_PRINCIPLES
from edit_r1.web.answers import Answer, malformed, refused
from edit_r1.web.guard import BodyLimits, Guard
from edit_r1.web.origin import SameOrigin

STATIC = Path(__file__).parent / "static"
PAGES = {"/": "annotate.html", "/progress": "progress.html"}
_MIME = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LIMITS = BodyLimits(max_bytes=2**20, max_bytes_at_once=64 * 2**20, seconds=30)
"""An answer is some 200 bytes; a browser sends at most 200 at once."""
MAX_EVENTS = 500
_FRESH_S = 2.0
"""The progress page's figures are computed at most this often."""

Name = Annotated[str, Field(max_length=200)]
EventId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
PairNumber = Annotated[int, Field(ge=1, lt=2**53)]
Marks = Annotated[list[Literal[0, 1] | None], Field(max_length=MAX_PRINCIPLES)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Joining(_Body):
    """Somebody gives a name."""

    name: Name


class Asking(_Body):
    """A browser wants pairs to show next."""

    task: str = Field(max_length=64)
    name: Name
    having: list[PairNumber] = Field(default=[], max_length=4 * MAX_AHEAD, description="Pairs that it holds.")
    count: int = Field(ge=0, le=MAX_AHEAD)


class Leaving(_Body):
    """A browser closes the page."""

    task: str = Field(max_length=64)
    name: Name


class AnswerEvent(_Body):
    """One answer."""

    kind: Literal["answer"]
    id: EventId
    pair: PairNumber
    choice: Literal["left", "right", "same", "skip"]
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    left: Marks | None = None
    right: Marks | None = None


class UndoEvent(_Body):
    """An answer is taken back."""

    kind: Literal["undo"]
    id: EventId
    answer: EventId


class Sending(_Body):
    """What a browser has to tell, in the order in which it happened."""

    task: str = Field(max_length=64)
    name: Name
    events: list[Annotated[AnswerEvent | UndoEvent, Field(discriminator="kind")]] = Field(max_length=MAX_EVENTS)


@dataclass
class _Figures:
    """The progress page's figures, as they were computed last."""

    document: dict[str, Any] | None = None
    at: float = 0.0


def create_app(database: Database, pictures: Pictures, plan: Plan, tokens: Sequence[str] = ()) -> FastAPI:
    """The application. It owns neither database nor pictures.

    Args:
        tokens: one of them is needed for everything but /health; none means that no token is needed, and that the page
            must be opened by a name of this machine.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    app = FastAPI(title="edit-r1 annotate", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_pages(app, pictures)
    _add_calls(app, database, plan)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(TaskError, _does_not_fit)
    app.add_exception_handler(StoreError, _not_stored)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    app.add_middleware(Guard, limits=LIMITS, tokens=tokens, open_paths=("/health",))
    app.add_middleware(SameOrigin, loopback_only=not tokens)
    return app


def _add_pages(app: FastAPI, pictures: Pictures) -> None:
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in _MIME}

    def page(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        mime = _MIME[Path(name).suffix]
        return Response(files[name], media_type=mime, headers={"Cache-Control": "no-cache"})

    @app.get("/")
    async def annotate() -> Response:
        return page(PAGES["/"])

    @app.get("/progress")
    async def progress() -> Response:
        return page(PAGES["/progress"])

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        return page(name)

    @app.get("/pictures/{picture}")
    def picture(picture: str) -> Response:
        """One picture of the task; it never changes, because its name is its content's hash."""
        try:
            data = pictures.path(picture).read_bytes()
            mime = picture_mime(data)
        except (ValueError, OSError):
            raise HTTPException(404, "no such picture in this task") from None
        return Response(data, media_type=mime, headers={"Cache-Control": "private, max-age=604800, immutable"})


def _add_calls(app: FastAPI, database: Database, plan: Plan) -> None:
    figures = _Figures()
    computing = threading.Lock()
    task = database.task

    def annotator(given_task: str, name: str) -> int:
        if given_task != task:
            raise TaskError("this page belongs to another task: load it again")
        return database.annotator(name)

    @app.get("/health")
    async def health() -> Answer:
        return Answer({"status": "ok", "task": task, "version": __version__})

    @app.post("/api/join")
    def join(body: Joining) -> Answer:
        """The task and the annotator's name as it is kept."""
        number = database.join(body.name)
        (name,) = database.rows("SELECT name FROM annotators WHERE number = ?", (number,))[0]
        (pairs,) = database.rows("SELECT COUNT(*) FROM pairs WHERE active AND gold IS NULL")[0]
        return Answer({"task": task, "name": name, "answered": _answered(database, number), "pairs": pairs})

    @app.post("/api/next")
    def next_pairs(body: Asking) -> Answer:
        """Pairs to show after those that the browser holds."""
        number = annotator(body.task, body.name)
        handed = hand_out(database, number, body.having, body.count, plan, time.time())
        return Answer({"pairs": handed.pairs, "finished": handed.finished, "answered": _answered(database, number)})

    @app.post("/api/answers")
    def answers(body: Sending) -> Answer:
        """Acknowledges answers when they are on the disk; sent again they change nothing."""
        number = annotator(body.task, body.name)
        outcome = record(database, number, [_event(event) for event in body.events], time.time(), plan.lease_seconds)
        return Answer({"stored": outcome.stored, "refused": outcome.refused})

    @app.post("/api/leave")
    def leave(body: Leaving) -> Answer:
        """Pairs that were handed out and not answered may go to others at once."""
        release(database, annotator(body.task, body.name))
        return Answer({})

    @app.get("/api/progress")
    def progress() -> Answer:
        with computing:
            if figures.document is None or time.monotonic() - figures.at > _FRESH_S:
                figures.document = measure(database, time.time())
                figures.at = time.monotonic()
            return Answer(figures.document)


def _answered(database: Database, annotator: int) -> int:
    query = "SELECT COUNT(*) FROM answers WHERE annotator = ? AND undone IS NULL"
    return int(database.rows(query, (annotator,))[0][0])


def _event(event: AnswerEvent | UndoEvent) -> Given | Undone:
    if isinstance(event, UndoEvent):
        return Undone(event.answer)
    return Given(event.id, event.pair, event.choice, event.seconds, event.left, event.right)


async def _does_not_fit(request: Request, error: Exception) -> Answer:
    return Answer({"error": str(error)}, 409)


async def _not_stored(request: Request, error: Exception) -> Answer:
    """The browser keeps its answers and sends them again."""
    return Answer({"error": str(error)}, 503, headers={"Retry-After": "2"})
