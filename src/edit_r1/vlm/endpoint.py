"""A server that is asked over HTTP, whatever for: its connections, how much it is given at once, what is sent again.

The calls of a program are synchronous, from any thread, also from inside a running event loop; inside,
`httpx.AsyncClient`s work on a private event-loop thread. At most `concurrency` requests are in flight over all calls,
and fewer while the server refuses for load (`openai_pace`). What failed for want of luck (429, 408, 5xx, a time-out, a
dropped connection, a body that is none from a server that has answered before) is sent again, after the pause the
server asks for by Retry-After, which all requests keep, else after a growing pause with jitter; everything else fails
at once. A request that pauses for long holds no place of another. A server that was never reached is not waited for, so
a wrong address is told at once.

The key goes into one header, and stands in no message.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx

from edit_r1.vlm.address import is_loopback
from edit_r1.vlm.errors import ModelError
from edit_r1.vlm.lanes import Lanes
from edit_r1.vlm.openai_failures import Asked, Failed, Unlucky, status_problem
from edit_r1.vlm.openai_pace import START, Pace
from edit_r1.vlm.openai_wire import NoAnswer

QUEUED = 0.1
"""What a refusal with Retry-After counts as of a failed attempt, where others were answered since the last one: such a
request has to queue and is not broken. Above 0, because a server may refuse one request for ever."""

Job = TypeVar("Job")
Result = TypeVar("Result")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Patience:
    """How much a server is given at once, and how long it is waited for."""

    concurrency: int
    """Most requests in flight at once, at least 1."""
    timeout_s: float
    """Seconds for one attempt, from sending to the last byte."""
    max_retries: int
    """How often a request is sent again; to queue while others are answered hardly counts (`QUEUED`)."""
    backoff_s: float
    """The pause before the first retry is up to this, in seconds, then doubles; each is drawn anew."""
    max_wait_s: float
    """Longest pause, seconds; a server that asks for a longer one has failed."""
    start: int = START
    """Requests in flight to begin with, at most `concurrency`."""

    def __post_init__(self) -> None:
        for name, value, least in (("concurrency", self.concurrency, 1), ("max_retries", self.max_retries, 0)):
            if value < least:
                raise ValueError(f"{name}={value}: use {least} or more")
        for name in ("timeout_s", "backoff_s", "max_wait_s"):
            if not (seconds := getattr(self, name)) > 0:
                raise ValueError(f"{name}={seconds}: use seconds above 0")


@dataclass(frozen=True)
class Served:
    """What is asked there, and in which words its refusals are told."""

    address: str
    """With its version, without a slash at the end, as `address.read_address` gives it."""
    host: str
    path: str
    """Of what is asked, below the address: "/chat/completions"."""
    called: str
    """Of the model or editor, for the thread's name."""
    missing: str
    """What a 404 asks the user to check."""
    key: str | None
    key_place: str
    """Where the key is set, for messages."""
    most_bytes: int
    """Largest response that is read."""


class Endpoint:
    """A server; calls from several threads share the connections and the limit of requests."""

    def __init__(self, served: Served, patience: Patience) -> None:
        """Opens no connection yet."""
        self.served, self.patience = served, patience
        self._reached = False
        self._lanes = Lanes(
            {"Authorization": f"Bearer {served.key}"} if served.key else {},
            httpx.Timeout(patience.timeout_s, connect=min(10.0, patience.timeout_s), pool=None),
            trust_env=not is_loopback(served.host),  # a proxy for the world is none for this machine
        )
        self._pace = Pace(patience.concurrency, patience.start)
        self._open = asyncio.Semaphore(2 * patience.concurrency)  # begun, those that wait to be sent again included
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"edit-r1 {served.called}", daemon=True)
        self._thread.start()
        self._asking: set[Future[None]] = set()
        self._closed = False

    @property
    def limit(self) -> int:
        """Requests that may be in flight at present."""
        return self._pace.limit

    @property
    def answered(self) -> bool:
        """True when a request was answered since the beginning."""
        return self._pace.answered > 0

    def each(self, jobs: Iterable[Job], ask: Callable[[Job], Awaitable[Result]]) -> Iterator[Result]:
        """What came of each job, as it comes. Giving it up cancels what is under way.

        A job is taken from `jobs` when it can be sent, on another thread. What `jobs` raises ends the asking: what is
        under way is still handed over, then it is raised.

        Args:
            ask: has a place when it begins, which it gives back by `post` or `leave`; it runs on the event loop.

        Raises ModelError after `close`, and when `give_up` was called meanwhile.
        """
        arrived: SimpleQueue[tuple[Result] | None] = SimpleQueue()
        future = self._start(self._deal(iter(jobs), ask, arrived))
        self._asking.add(future)
        future.add_done_callback(lambda _: arrived.put(None))  # however it ends, and if it never began
        try:
            while (one := arrived.get()) is not None:
                yield one[0]
            if future.cancelled():
                raise ModelError(f"{self.served.address}: given up")
            future.result()
        finally:
            future.cancel()
            self._asking.discard(future)

    def give_up(self) -> None:
        """Cancels what is under way in whatever thread; those that wait for it by `each` raise ModelError."""
        for future in list(self._asking):
            future.cancel()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Waits for `work` on the event loop. Raises what it raises, and ModelError after `close`."""
        future = self._start(work)
        try:
            return future.result()
        except BaseException:  # Ctrl-C while waiting
            future.cancel()
            raise

    def close(self) -> None:
        """Gives up what is under way and closes the connections."""
        if self._closed:
            return
        self.run(self._shut())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def enter(self, again: bool = False) -> None:
        """Waits for a place. again: before requests that were not sent yet."""
        await self._pace.enter(again)

    def leave(self) -> None:
        """Gives a place back that no request was sent from."""
        self._pace.leave()

    async def post(
        self, content: bytes, kind: str, read: Callable[[bytes], Read]
    ) -> tuple[Read | None, int, Exception | None]:
        """One request, which has a place, with its retries: (what `read` made of the body, or None; how often it was
        sent again; why there is nothing).

        Args:
            kind: of the content, for its Content-Type.
            read: of a body with status 200; raises NoAnswer for what is no answer at all.
        """
        sent, failed, answered = 0, 0.0, self._pace.answered
        while True:
            if sent:
                await self._pace.enter(again=True)
            sent += 1
            try:
                answer = self._read_answer(await self._once(content, kind), read)
                self._pace.note("answered")
                return answer, sent - 1, None
            except Unlucky as error:
                self._pace.note("refused" if error.load else "other")
                queued = error.after is not None and error.load and self._pace.answered > answered
                failed += QUEUED if queued else 1
                if failed > self.patience.max_retries:
                    return None, sent - 1, error
                pause, answered = self._pause(error, failed), self._pace.answered
                if error.after is not None:
                    self._pace.close_for(error.after)
                elif error.load:  # keeping its place for a while: another one would only be refused too
                    kept = min(pause, self.patience.backoff_s)
                    await asyncio.sleep(kept)
                    pause -= kept
            except (Failed, NoAnswer) as error:
                return None, sent - 1, error
            finally:
                self._pace.leave()
            await asyncio.sleep(pause)

    def told(self, reason: str) -> str:
        """One line that begins with the address and never holds the key."""
        line = f"{self.served.address}: {' '.join(reason.split())}"
        return line.replace(self.served.key, "***") if self.served.key else line

    def _start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        if self._closed:
            work.close()
            raise ModelError(f"{self.served.address}: this connection was closed: make a new one")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _shut(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lanes.close()

    async def _deal(
        self,
        jobs: Iterator[Job],
        ask: Callable[[Job], Awaitable[Result]],
        arrived: SimpleQueue[tuple[Result] | None],
    ) -> None:
        """Begins each job when there is a place for it, and hands over what comes."""
        problem: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._open.acquire()
                    try:
                        await self._pace.enter()
                    except asyncio.CancelledError:
                        self._open.release()
                        raise
                    job: Job | None = None
                    try:
                        job = next(jobs, None)
                    except Exception as error:  # the caller's: told to it when what is under way has ended
                        problem = error
                    if job is None:
                        self._pace.leave()
                        self._open.release()
                        break
                    begun = asyncio.Event()
                    task = group.create_task(self._one(job, ask, arrived, begun))
                    task.add_done_callback(partial(self._ended, begun))
            if problem is not None:
                raise problem
        except ExceptionGroup as group:  # of `ask`, the caller's too
            raise group.exceptions[0] from None

    async def _one(
        self,
        job: Job,
        ask: Callable[[Job], Awaitable[Result]],
        arrived: SimpleQueue[tuple[Result] | None],
        begun: asyncio.Event,
    ) -> None:
        begun.set()
        arrived.put((await ask(job),))

    def _ended(self, begun: asyncio.Event, task: asyncio.Task[None]) -> None:
        """However: a task that is cancelled before its first step runs none of its lines."""
        if not begun.is_set():
            self._pace.leave()
        self._open.release()

    def _pause(self, error: Unlucky, failed: float) -> float:
        """Seconds until a request is sent again: what the server asks for and a little more, else up to a growing
        bound."""
        jitter = random.random()  # so that many clients do not come back at the same instant
        if error.after is not None:
            return error.after + jitter * self.patience.backoff_s
        return jitter * min(self.patience.max_wait_s, self.patience.backoff_s * 2 ** (math.ceil(failed) - 1))

    def _read_answer(self, payload: bytes, read: Callable[[bytes], Read]) -> Read:
        """Raises NoAnswer for what is none, Unlucky instead where the server has answered before."""
        try:
            return read(payload)
        except NoAnswer as error:
            told = self.told(str(error))
            raise (Unlucky if self._pace.answered else NoAnswer)(told) from None

    async def _once(self, content: bytes, kind: str) -> bytes:
        """One attempt: the body of a response with status 200."""
        url, timeout_s = self.served.address + self.served.path, self.patience.timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._lanes.one() as client,
                client.stream("POST", url, content=content, headers={"Content-Type": kind}) as response,
            ):
                payload = await self._read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise Unlucky(self.told(f"no answer within {timeout_s:g} s"), load=True) from None
        except httpx.ConnectError as error:
            reason = self.told(f"cannot be reached ({error}): is the server running there?")
            raise (Unlucky if self._reached else Failed)(reason) from None
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Unlucky(self.told(f"the connection broke ({error or type(error).__name__})")) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise Failed(self.told(f"{type(error).__name__} {error}")) from None
        self._reached = True
        served = self.served
        asked = Asked(served.missing, served.key_place, served.key is not None, self.patience.max_wait_s)
        if problem := status_problem(response, payload, asked):
            problem.args = (self.told(str(problem)),)
            raise problem
        return payload

    async def _read(self, response: httpx.Response) -> bytes:
        payload = bytearray()
        async for piece in response.aiter_bytes():
            payload += piece
            if len(payload) > self.served.most_bytes:
                raise Failed(self.told(f"the response is longer than {self.served.most_bytes} bytes"))
        return bytes(payload)
