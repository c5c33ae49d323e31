"""The address that a server listens on."""

from __future__ import annotations

import socket


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises ValueError when that is not possible."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port") from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a bound socket, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
