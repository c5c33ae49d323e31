"""An OpenAI-compatible server on loopback in bad weather, which keeps the books of what it bills.

Answers are those of a filter of hard requests, a decomposer, judges and a verifier, by the model's name ("picker",
"decomposer", "judge-...", "verifier"), and a function of the request: but for the judges not of its seed, so that a run
in fair weather has the same rows. It edits pictures too (`POST /v1/images/edits`, as "editor"). Which request meets
which fault is drawn by its content and the number of times it was sent, so neither time nor order changes it. A token
bucket bounds the answers a second; refusals and other faults take no token.

`python tests/weather_server.py --rate 10 --port 0` runs one by itself (for bench/endpoint_weather.py) and prints its
address; GET /books tells the books.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.utils import format_datetime
from types import MappingProxyType
from typing import Any

from PIL import Image

from edit_r1.records import Principle, Verdict
from edit_r1.verifier.traces import write_gold, write_principles, write_trace

PRINCIPLES = (
    Principle("Is the circle blue?", "Instruction Following"),
    Principle("Is the background grey?", "Feature Preservation"),
    Principle("Is the image sharp?", "Image Quality"),
)
QUESTIONS = [one.question for one in PRINCIPLES]

STORM = MappingProxyType(
    {"429": 0.06, "500": 0.02, "502": 0.02, "503": 0.03, "reset": 0.05, "stall": 0.04, "truncated": 0.03,
     "garbage": 0.03, "length": 0.02}
)  # fmt: skip
"""Shares of requests, 30 % altogether; "length": a list of verdicts that is too short, or no principles at all."""


@dataclass
class Weather:
    faults: Mapping[str, float] = field(default_factory=dict)
    """Share of requests by fault."""
    rate: float | None = None
    """Answers a second; None: without bound."""
    burst_s: float = 3.0
    """The bucket holds the answers of so many seconds."""
    latency_s: float = 0.0
    """Mean of an answer's time, seconds; between half and one and a half of it."""
    stall_s: float = 60.0
    """How long a stalled request is held before its connection is closed without an answer."""
    retry_after_s: float = 1.0
    """Asked for by a 429 that is a fault; as a number or as a date, by turns."""
    seed: int = 0


@dataclass
class Books:
    """What the server did."""

    sent: Counter[str] = field(default_factory=Counter)
    """Requests by identity, the hash of all that was sent."""
    billed: list[str] = field(default_factory=list)
    """Identities in the order of their answers, one for each whole answer that was written."""
    models: Counter[str] = field(default_factory=Counter)
    """Answers by model."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind, "limit" for what the bucket refused."""
    times: list[float] = field(default_factory=list)
    """Of `billed`, seconds since the server began."""
    by: list[str] = field(default_factory=list)
    """Of `billed`, the models."""
    in_flight: int = 0
    most_in_flight: int = 0


def number_of(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def mark(identity: str) -> int:
    """The prompt tokens that an answer to the request reports: by them an answer is known again where it is kept."""
    return int(identity[:7], 16)


class WeatherServer:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(self, weather: Weather) -> None:
        self.weather, self.books = weather, Books()
        self.began = time.monotonic()
        self._tokens, self._filled = (weather.rate or 0.0) * weather.burst_s, self.began
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self, port: int = 0) -> WeatherServer:
        self.port = port
        self._thread.start()
        self._ready.wait()
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def wait(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, OSError):
            while await self._one(reader, writer):
                pass
        with suppress(Exception):
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is done with."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if head[0].startswith("GET /books"):
            await self._write(writer, 200, json.dumps(self.told()).encode())
            return True
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(headers["content-length"]))
        if head[0].startswith("POST /v1/images/edits "):
            body = read_form(headers["content-type"], content)
        else:
            body = json.loads(content)
        self.books.in_flight += 1
        self.books.most_in_flight = max(self.books.most_in_flight, self.books.in_flight)
        try:
            return await self._answer(body, writer)
        finally:
            self.books.in_flight -= 1

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        weather, books = self.weather, self.books
        identity = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        times = books.sent[identity]
        books.sent[identity] += 1
        fault = self._fault(identity, times)
        if fault == "" or fault == "length":
            wait = self._take()
            if wait > 0:
                books.faults["limit"] += 1
                await self._write(writer, 429, b'{"error": "rate limit"}', {"Retry-After": str(int(wait) + 1)})
                return True
        if fault:
            books.faults[fault] += 1
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "stall":
            await asyncio.sleep(weather.stall_s)
            return False
        if fault in ("429", "500", "502", "503"):
            headers = {"Retry-After": self._retry_after(identity)} if fault == "429" else {}
            await self._write(writer, int(fault), b'{"error": "bad weather"}', headers)
            return True
        draw = number_of(weather.seed, identity, times, "latency") / 2**48
        await asyncio.sleep(weather.latency_s * (0.5 + draw))
        if fault == "garbage":
            await self._write(writer, 200, b"<html><h1>Bad gateway</h1></html>")
            return True
        payload = json.dumps(answer_to(body, identity, short=fault == "length")).encode()
        if fault == "truncated":
            await self._write(writer, 200, payload, cut=len(payload) // 2)
            return False
        books.billed.append(identity)
        books.models[str(body["model"])] += 1
        books.by.append(str(body["model"]))
        books.times.append(time.monotonic() - self.began)
        await self._write(writer, 200, payload)
        return True

    def _fault(self, identity: str, times: int) -> str:
        draw = number_of(self.weather.seed, identity, times) / 2**48
        for fault, share in self.weather.faults.items():
            draw -= share
            if draw < 0:
                return fault
        return ""

    def _take(self) -> float:
        """Takes a token, or returns the seconds until there is one."""
        rate = self.weather.rate
        if rate is None:
            return 0.0
        now = time.monotonic()
        self._tokens = min(rate * self.weather.burst_s, self._tokens + (now - self._filled) * rate)
        self._filled = now
        if self._tokens < 1:
            return (1 - self._tokens) / rate
        self._tokens -= 1
        return 0.0

    def _retry_after(self, identity: str) -> str:
        seconds = self.weather.retry_after_s
        if number_of(identity, "date") % 2:
            return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        return f"{seconds:g}"

    async def _write(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        payload: bytes,
        headers: Mapping[str, str] = MappingProxyType({}),
        cut: int = 0,
    ) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(payload)}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + (payload[:cut] if cut else payload))
        await writer.drain()
        if cut:
            writer.close()

    def told(self) -> dict[str, Any]:
        """The books as JSON."""
        books, repeats = self.books, Counter(self.books.billed)
        return {
            "seconds": time.monotonic() - self.began,
            "requests": books.sent.total(),
            "billed": len(books.billed),
            "billed_twice": sum(count - 1 for count in repeats.values()),
            "times": books.times,
            "by": books.by,
            "marks": [mark(identity) for identity in books.billed],
            "faults": dict(sorted(books.faults.items())),
            "most_in_flight": books.most_in_flight,
        }


def read_form(kind: str, content: bytes) -> dict[str, Any]:
    """The fields of a multipart form; a file by the hash of its bytes, as the boundary is drawn anew each time."""
    form: dict[str, Any] = {"model": "editor"}
    parts: Any = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content).get_payload()
    for part in parts:
        value = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        form[name] = hashlib.sha256(value).hexdigest() if part.get_filename() else value.decode()
    return form


def answer_to(body: Mapping[str, Any], identity: str, short: bool = False) -> dict[str, Any]:
    """The JSON of an answer; short: one that lacks something."""
    if "prompt" in body:
        pictures = [paint(identity, number) for number in range(int(body["n"]) - short)]
        return {"data": [{"b64_json": base64.b64encode(one).decode()} for one in pictures]}
    message = {"role": "assistant", "content": answer_text(body, short)}
    return {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": mark(identity), "completion_tokens": 50},
    }


def paint(identity: str, number: int) -> bytes:
    """A picture of 8 px, as PNG."""
    pixels = hashlib.shake_256(f"{identity} {number}".encode()).digest(8 * 8 * 3)
    stream = io.BytesIO()
    Image.frombytes("RGB", (8, 8), pixels).save(stream, "PNG")
    return stream.getvalue()


def answer_text(body: Mapping[str, Any], short: bool = False) -> str:
    """What the model says, by its name. short: a list that lacks its end, or nothing that can be read."""
    user = body["messages"][-1]["content"]
    pictures = [part["image_url"]["url"] for part in user if part["type"] == "image_url"]
    if body["model"] == "decomposer":
        return "I cannot say." if short else write_principles(PRINCIPLES, "full")
    if body["model"] == "picker":
        answer = {"reason": "It has two steps.", "hard": True, "category": "multi-step"}
        return "I cannot say." if short else json.dumps(answer)
    count = len(QUESTIONS) - short
    if body["model"] == "verifier":
        draw = number_of(pictures)
        gold = [Verdict(1 if draw >> bit & 1 else 0, "seen") for bit in range(count)]
        return write_gold(gold, QUESTIONS[:count])
    draw = number_of(body["model"], pictures, body["seed"])
    values = [draw >> bit & 1 for bit in range(count)]
    return write_trace(["seen"] * count, values, draw % 101 / 10, "both", "full", QUESTIONS[:count])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--stall", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fair", action="store_true")
    given = parser.parse_args()
    weather = Weather({} if given.fair else STORM, given.rate, latency_s=given.latency, stall_s=given.stall)
    server = WeatherServer(weather).start(given.port)
    print(server.url, flush=True)
    server.wait()


if __name__ == "__main__":
    main()
