"""What stands before a server's pages: tokens, and bounds on request bodies before they are in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edit_r1.web.access import is_authorized


@dataclass(frozen=True)
class BodyLimits:
    """Bounds on what clients send."""

    max_bytes: int
    """Largest body of one request, in bytes."""
    max_bytes_at_once: int
    """All bodies held at once, in bytes: what is read, queued and judged."""
    seconds: float
    """Longest time from the first byte of a body to its last."""


@dataclass(frozen=True)
class Refusal:
    """An answer given without looking at the request's body."""

    status: int
    reason: str
    """For people, one line."""
    kind: str
    """For the metrics: a word."""
    retry_after: int | None = None
    """Seconds; None when trying again is of no use."""


Refuse = Callable[[], Refusal | None]
"""Whether requests with a body are refused now."""


class Guard:
    """ASGI middleware. Every refusal is a JSON object {"error": reason}."""

    def __init__(
        self,
        app: ASGIApp,
        limits: BodyLimits,
        tokens: Sequence[str] = (),
        open_paths: Sequence[str] = (),
        refuse: Refuse = lambda: None,
        on_refusal: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """
        Args:
            tokens: one of them is needed on every path; none means that no token is needed.
            open_paths: need no token all the same.
            refuse: asked before a body is read, so that a full server does not read what it will not take.
            on_refusal: told the `kind` of each refusal.
        """
        self._app = app
        self._limits = limits
        self._tokens = tuple(tokens)
        self._open_paths = frozenset(open_paths)
        self._refuse = refuse
        self._on_refusal = on_refusal
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            refusal = self._refusal(scope) or body.announce(_header(scope, b"content-length"))
            if refusal is None:
                await self._app(scope, body.receive, send)
            else:
                self._on_refusal(refusal.kind)
                await _answer(send, refusal)
        finally:
            self._held -= body.held

    def _refusal(self, scope: Scope) -> Refusal | None:
        if (
            self._tokens
            and scope["path"] not in self._open_paths
            and not is_authorized(_header(scope, b"authorization"), self._tokens)
        ):
            return Refusal(401, "a token is needed: send the header Authorization: Bearer TOKEN", "unauthorized")
        return self._refuse() if scope["method"] == "POST" else None

    def hold(self, count: int, total: int) -> Refusal | None:
        """Counts `count` more bytes of a body that now has `total`."""
        if total > self._limits.max_bytes:
            return Refusal(
                413, f"the body has more than {self._limits.max_bytes} bytes: send fewer or smaller images", "too_large"
            )
        if self._held + count > self._limits.max_bytes_at_once:
            return Refusal(503, "too many bytes are being judged at once: try again", "bytes_at_once", retry_after=1)
        self._held += count
        return None

    @property
    def seconds(self) -> float:
        return self._limits.seconds

    def refused(self, refusal: Refusal) -> HTTPException:
        """For a refusal in the middle of a body: raised where the body is read, and answered by the application."""
        self._on_refusal(refusal.kind)
        headers = None if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
        return HTTPException(refusal.status, refusal.reason, headers)


class _Body:
    """One request's body, counted while it is read."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard = guard
        self._receive = receive
        self._deadline: float | None = None
        self._complete = False
        self._read = 0
        self.held = 0
        """Bytes counted in the guard's sum."""

    def announce(self, length: bytes | None) -> Refusal | None:
        """Counts a body by its Content-Length, before it comes."""
        if length is None or not length.isdigit():
            return None  # chunked, or none: counted as it comes
        return self._hold(int(length))

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._guard.seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            late = Refusal(408, f"the body did not come within {self._guard.seconds:g} s: send it again", "slow_body")
            raise self._guard.refused(late) from None
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            self._read += len(message.get("body", b""))
            if refusal := self._hold(self._read):
                raise self._guard.refused(refusal)
        return message

    def _hold(self, total: int) -> Refusal | None:
        more = max(0, total - self.held)
        refusal = self._guard.hold(more, total)
        if refusal is None:
            self.held += more
        return refusal


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


async def _answer(send: Send, refusal: Refusal) -> None:
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="edit-r1", charset="UTF-8"'))
    body = json.dumps({"error": refusal.reason}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
