"""The guard before a small application: bodies are bounded before they are in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message

from edit_r1.web.guard import BodyLimits, Guard, Refusal


async def length(request: Request) -> Response:
    return JSONResponse({"bytes": len(await request.body())})


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def guarded(limits: BodyLimits, **options) -> tuple[Guard, list[str]]:
    kinds: list[str] = []
    app = Starlette(
        routes=[Route("/", length, methods=["GET", "POST"]), Route("/open", length)],
        exception_handlers={HTTPException: refused},
    )
    return Guard(app, limits, on_refusal=kinds.append, **options), kinds


LIMITS = BodyLimits(max_bytes=100, max_bytes_at_once=150, seconds=5)


def pieces(count: int) -> Iterable[bytes]:
    """Sent without a Content-Length."""
    for _ in range(count):
        yield b"x" * 10


def test_bodies_up_to_the_limit_pass() -> None:
    guard, kinds = guarded(LIMITS)
    client = TestClient(guard)
    for _ in range(3):  # what was held is given back
        assert client.post("/", content=b"x" * 100).json() == {"bytes": 100}
        assert client.post("/", content=pieces(10)).json() == {"bytes": 100}
    assert client.get("/").json() == {"bytes": 0}
    assert kinds == []


def test_longer_ones_do_not_announced_or_not() -> None:
    guard, kinds = guarded(LIMITS)
    client = TestClient(guard)
    for body in (b"x" * 101, pieces(11)):
        answer = client.post("/", content=body)
        assert answer.status_code == 413
        assert answer.json() == {"error": "the body has more than 100 bytes: send fewer or smaller images"}
    assert kinds == ["too_large"] * 2


def call(guard: Guard, messages: list[Message | float], headers: list[tuple[bytes, bytes]] = ()) -> list[Message]:
    """Sends ASGI messages, a number being a pause in seconds."""
    sent: list[Message] = []

    async def receive() -> Message:
        while messages and isinstance(messages[0], float):
            await asyncio.sleep(messages.pop(0))
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": list(headers),
        "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    asyncio.run(guard(scope, receive, send))
    return sent


def part(size: int, more: bool) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_body_that_announces_less_than_it_sends_is_counted_as_sent() -> None:
    guard, kinds = guarded(LIMITS)
    sent = call(guard, [part(60, True), part(60, False)], [(b"content-length", b"5")])
    assert (sent[0]["status"], kinds) == (413, ["too_large"])


def test_a_slow_body_ends() -> None:
    guard, kinds = guarded(BodyLimits(100, 150, seconds=0.05))
    sent = call(guard, [part(5, True), 10.0, part(5, False)])
    assert (sent[0]["status"], kinds) == (408, ["slow_body"])


def test_all_bodies_together_are_bounded() -> None:
    kinds: list[str] = []
    statuses: list[int] = []

    async def main() -> None:
        go = asyncio.Event()

        async def app(scope: object, receive: object, send: object) -> None:
            await go.wait()

        guard = Guard(app, LIMITS, on_refusal=kinds.append)

        async def ask() -> None:
            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    assert dict(message["headers"])[b"retry-after"] == b"1"

            scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"80")]}
            await guard(scope, asyncio.Event().wait, send)

        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await second
        go.set()
        await first
        await ask()  # there is room again

    asyncio.run(main())
    assert (kinds, statuses) == (["bytes_at_once"], [503])


def test_tokens_and_open_paths() -> None:
    guard, kinds = guarded(LIMITS, tokens=("a-long-enough-token",), open_paths=("/open",))
    client = TestClient(guard)
    assert client.get("/open").status_code == 200
    assert client.get("/open/../").status_code == client.get("/").status_code == 401
    assert client.get("/", headers={"Authorization": "Bearer a-long-enough-token"}).status_code == 200
    assert kinds == ["unauthorized"] * 2


def test_what_is_refused_is_refused_unread() -> None:
    guard, kinds = guarded(LIMITS, refuse=lambda: Refusal(503, "full", "queue_full", 7))
    client = TestClient(guard)
    answer = client.post("/", content=b"x" * 1000)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (503, "7", {"error": "full"})
    assert client.get("/").status_code == 200  # nothing is read for those
    assert kinds == ["queue_full"]


@pytest.mark.parametrize("announced", [b"-5", b"abc", b"", "\N{SUPERSCRIPT TWO}".encode("latin-1")])
def test_a_malformed_length_is_not_believed(announced: bytes) -> None:
    guard, kinds = guarded(LIMITS)
    sent = call(guard, [part(101, False)], [(b"content-length", announced)])
    assert (sent[0]["status"], kinds) == (413, ["too_large"])
