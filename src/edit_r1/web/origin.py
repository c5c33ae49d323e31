"""Keeps other web sites out of a page that a person has open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from edit_r1.web.access import is_loopback


class SameOrigin:
    """ASGI middleware against requests that a browser sends for another site.

    - A request that changes something (POST) and names an Origin needs the Host's own.
    - Where no token is asked for, the Host must be this machine's own name: a site whose name is made to point to
      127.0.0.1 (DNS rebinding) would otherwise be of the page's own origin.

    Programs send no Origin and may do everything.
    """

    def __init__(self, app: ASGIApp, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := self._refusal(scope)):
            body = json.dumps({"error": reason}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        host = _header(scope["headers"], b"host")
        if self._loopback_only and not _is_this_machine(host):
            return f"host {host!r} is not this machine: open the page by http://127.0.0.1 or localhost"
        origin = _header(scope["headers"], b"origin")
        if scope["method"] == "POST" and origin and not _same(origin, host):
            return f"a page of {origin!r} may not send to this server"
        return None


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _same(origin: str, host: str) -> bool:
    """Whether an Origin's host and port are the Host header's; the scheme may be a proxy's."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
