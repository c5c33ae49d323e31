"""Connections of one endpoint, one request on each at a time.

httpx's own pool looks at every connection several times for every request: with 64 of them a request with small
pictures took 5.4 ms of a core, of which 4.7 went there. A client of one connection for each request in flight has
nothing to look for. The one that was free last is taken first, so that few stay open when few are needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import httpx


class Lanes:
    """To be used on one event loop."""

    def __init__(self, headers: Mapping[str, str], timeout: httpx.Timeout, trust_env: bool) -> None:
        self._settings = (dict(headers), timeout, trust_env)
        self._certificates = httpx.create_ssl_context(trust_env=trust_env)  # once: it takes longer than a request
        self._all: list[httpx.AsyncClient] = []
        self._free: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client that nobody else uses meanwhile. One whose request did not come to its end is not used again.

        A request that is cancelled, by a time-out too, can leave its connection taken in httpx's pool for ever: the
        next request of that client would wait for it until its own time-out.
        """
        client = self._free.pop() if self._free else self._open()
        try:
            yield client
        except BaseException:
            self._all.remove(client)
            with suppress(Exception):
                await client.aclose()
            raise
        self._free.append(client)

    async def close(self) -> None:
        for client in self._all:
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        headers, timeout, trust_env = self._settings
        self._all.append(
            httpx.AsyncClient(
                headers=headers,
                timeout=timeout,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                trust_env=trust_env,
                verify=self._certificates,
            )
        )
        return self._all[-1]
