"""How many requests an endpoint is given at once: found out while asking, and never more than the caller allows.

A limit L of requests in flight moves with everything that comes back:

- an answer adds 1 to begin with (doubling, as in slow start), until `LOADED` of what came lately was refused for the
  first time: refusals by chance do not end it, those for load do;
- afterwards it adds 1/L + `GROWTH` (additive increase, as in TCP); 1/L + `FAST` while less than `CALM` of what came
  lately was refused; and 1 again where the last L were all answers, so that it recovers within a few rounds of an
  outage;
- a refusal for load (429, 503, a time-out) takes `CUT` away: half of L when all L in flight are refused (multiplicative
  decrease, never more than once for the same requests), and little for the one in ten that a server refuses at random.
  The decrease in proportion to the share refused is that of DCTCP (RFC 8257).

Where the endpoint is the limit, L settles where a fifth to a quarter of the requests is refused, unless it asks for
pauses: then fewer are. Where a share p is refused at random, L grows without end for p up to 1/6, and fast.
It grows only while requests wait for a place. A pause that the endpoint asks for (Retry-After) is kept by every request
to it. After each pause L requests are sent at once, which is why L has to find its size quickly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

Outcome = Literal["answered", "refused", "other"]
"""refused: for load; other: what says nothing about load, such as a broken connection."""

START = 16
"""The first limit, where as much is allowed."""
GROWTH = 0.1
FAST = 0.3
CALM = 0.2
LOADED = 0.3
"""Above `CALM` by what chance makes of one refusal in eight among the last sixteen answers."""
CUT = 0.5
SHORTEST = 8
"""What came lately is a mean over about L requests, and never over fewer than so many."""


class Pace:
    """The requests of one endpoint; everything is called on one event loop, but for reading `limit`."""

    def __init__(self, most: int, start: int = START) -> None:
        """most: requests in flight that are never exceeded, at least 1. start: the first limit, at most `most`."""
        self.most = most
        self.in_flight = 0
        self.answered = 0
        """Requests that were answered so far."""
        self._limit = float(min(most, start))
        self._starting = True
        """Until too much was refused once."""
        self._in_a_row = 0
        """Answers since the last refusal."""
        self._refused = 0.0
        """Share of what came lately that was refused, 0 to 1: an exponential mean."""
        self._closed_until = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._again: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    async def enter(self, again: bool = False) -> None:
        """Waits until a request may be sent; `leave` gives its place back. again: it goes before new ones."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._again if again else self._new).append(waiter)
        self._wake()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # let in and cancelled at the same instant
                self.leave()
            raise

    def note(self, outcome: Outcome) -> None:
        """What came of a request that has not left yet."""
        if outcome == "other":
            return
        limit, refused = self._limit, outcome == "refused"
        self._refused += (refused - self._refused) / max(SHORTEST, limit)
        self._starting = self._starting and self._refused < LOADED
        if refused:
            self._in_a_row = 0
            limit -= CUT
        else:
            self.answered += 1
            self._in_a_row += 1
            if self._again or self._new:
                fast = 1 / limit + (FAST if self._refused < CALM else GROWTH)
                limit += 1 if self._starting or self._in_a_row > limit else fast
        self._limit = min(float(self.most), max(1.0, limit))

    def leave(self) -> None:
        """A request is no longer in flight."""
        self.in_flight -= 1
        self._wake()

    def close_for(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        loop = asyncio.get_running_loop()
        self._closed_until = max(self._closed_until, loop.time() + seconds)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(self._closed_until, self._open)

    def _open(self) -> None:
        self._alarm = None
        self._wake()

    def _wake(self) -> None:
        if self._alarm is not None:
            return
        while self.in_flight < self.limit and (waiting := self._again or self._new):
            waiter = waiting.popleft()
            if not waiter.done():
                self.in_flight += 1
                waiter.set_result(None)
