"""The address that a server listens on."""

from __future__ import annotations

import socket

import uvicorn


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the address. Raises ValueError when that is not possible.

    It listens at once, because until one does the address may be bound twice: a server that was started again while the
    first reads its data or model would do the same work, and fail at its end. Who connects before the server serves
    waits for it.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port") from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a bound socket, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_config(app: object) -> uvicorn.Config:
    """How our applications are run: quiet, and with connections that stay open between a client's requests."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=5,  # to write answers: what was accepted has been worked on by then
    )
